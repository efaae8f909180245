"""CFG: a plain class, checked before anything is read; every mistake is one sentence that names the field."""

from dataclasses import dataclass

import pytest

from src_py.config import Settings, check_config, setting
from src_py.errors import InputError
from src_py.kaggle import Paths, Session
from src_py.pairs import Reading, Validation
from src_py.training import TrainingSettings


@dataclass(frozen=True)
class Some(Settings):
    epochs: float = setting(1.0, above=0, most=10)
    folds: tuple[int, ...] = setting((0,), least=0)
    freeze: bool = setting(True)
    groups: tuple[str, ...] = setting(("length",), choices=("length", "tfidf"))
    style: str = setting("pairwise", choices=("pairwise", "joint"))
    folder: str = setting(".", folder=True)
    rows: int = setting(5, least=1)


GOOD = {"epochs": 2, "folds": [0, 3], "freeze": False, "groups": ["tfidf"], "style": "joint", "folder": ".", "rows": 3}


def check(overrides="", without=(), **values):
    values = {name: value for name, value in (GOOD | values).items() if name not in without}
    return check_config(type("CFG", (), values), Some, overrides=overrides)


def test_a_plain_class_with_lists_and_no_annotations_is_fine(capsys):
    cfg = check()
    assert (cfg.epochs, cfg.folds, cfg.groups) == (2.0, (0, 3), ("tfidf",))
    assert cfg.part(Some) == Some(2.0, (0, 3), False, ("tfidf",), "joint", ".", 3)
    assert capsys.readouterr().out == ""


def test_values_set_later_or_in_a_subclass_count():
    base = type("CFG", (), GOOD)
    base.rows = 7
    assert check_config(type("Mine", (base,), {"epochs": 3}), Some).values() == check(rows=7, epochs=3).values()


def test_overrides_win_and_are_parsed_by_the_fields_type():
    cfg = check("epochs=3 folds=1,2 freeze=yes 'style=joint' groups=length,tfidf rows=9")
    assert (cfg.epochs, cfg.folds, cfg.freeze, cfg.groups, cfg.rows) == (3.0, (1, 2), True, ("length", "tfidf"), 9)


def test_a_function_in_cfg_is_usable_and_no_value_of_the_run():
    cfg = check(scale=lambda x: 2 * x, note="v2", table={"a": [1]})
    assert cfg.scale(2) == 4
    assert "scale" not in cfg.values()
    assert cfg.values()["note"] == "v2"


def test_what_others_call_a_setting_is_recognised():
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        check(num_train_epochs=3)


def test_an_added_name_is_said_and_usable(capsys):
    assert check(my_note="x").my_note == "x"
    assert "CFG.my_note is not a setting of this notebook" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epoch": 3}, r"CFG has no setting 'epoch'; did you mean 'epochs'\?"),
        ({"freze": 3}, r"did you mean 'freeze'\?"),
        ({"epochs": "2"}, r"CFG\.epochs must be a number, but is '2'; remove the quotes\.$"),
        ({"epochs": "two"}, r"CFG\.epochs must be a number, but is 'two'\.$"),
        ({"epochs": None}, r"CFG\.epochs must be a number"),
        ({"epochs": float("nan")}, r"CFG\.epochs must be a finite number"),
        ({"epochs": 0}, r"CFG\.epochs is 0\.0; it must be at most 10 and above 0"),
        ({"epochs": True}, r"CFG\.epochs must be a number"),
        ({"rows": 2.0}, r"CFG\.rows must be a whole number, but is 2\.0"),
        ({"rows": 0}, r"CFG\.rows is 0; it must be at least 1"),
        ({"freeze": 1}, r"CFG\.freeze must be True or False"),
        ({"folds": 0}, r"CFG\.folds is 0; write a list, such as \[0\]"),
        ({"folds": [0, "1"]}, r"CFG\.folds must be a list, each item a whole number"),
        ({"folds": [-1]}, r"CFG\.folds is -1; it must be at least 0"),
        ({"groups": ["length", "length"]}, r"CFG\.groups is .*; use some of 'length', 'tfidf', each once"),
        ({"groups": ["words"]}, r"CFG\.groups is \['words'\]"),
        ({"style": "both"}, r"CFG\.style is 'both'; use one of 'pairwise', 'joint'"),
        ({"folder": "/nowhere"}, r"The folder /nowhere does not exist; set CFG\.folder"),
    ],
)
def test_each_mistake_is_one_sentence(values, sentence):
    with pytest.raises(InputError, match=sentence) as found:
        check(**values)
    assert "\n" not in str(found.value)


def test_a_missing_setting_is_named_with_its_default():
    with pytest.raises(InputError, match=r"CFG\.epochs is missing; put it back, for example epochs = 1\.0"):
        check(without=["epochs"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch=2", r"did you mean 'epochs'\?"),
        ("num_train_epochs=2", r"did you mean 'epochs'\?"),
        ("nothing_like_it=2", "CFG has no setting 'nothing_like_it'; use one of epochs, folds, freeze, groups, style"),
        ("epochs=two", r"CFG\.epochs must be a number"),
        ("epochs=11", "at most 10"),
        ("freeze=maybe", r"CFG\.freeze must be True or False"),
        ("folds=a", r"CFG\.folds must be a whole number"),
        ("epochs", "write key=value"),
    ],
)
def test_overrides_go_through_the_same_check(text, sentence):
    with pytest.raises(InputError, match=sentence):
        check(text)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Validation(folds=(5,)), r"CFG\.folds is \[5\]; use some of 0 to 4, each once"),
        (lambda: Validation(folds=()), r"CFG\.folds"),
        (lambda: Validation(folds=(0, 0)), r"CFG\.folds"),
        (lambda: Reading(max_length=8), r"CFG\.max_length"),
        (lambda: Reading(prompt_share=1.0), r"CFG\.prompt_share"),
        (lambda: TrainingSettings(batch_size=0), r"CFG\.batch_size"),
        (lambda: Session(hours=0.0), r"CFG\.hours"),
        (lambda: Session(precision="half"), r"CFG\.precision"),
        (lambda: Paths(input_dir="/nowhere"), r"The folder /nowhere does not exist"),
    ],
)
def test_the_rooms_settings_check_themselves(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
