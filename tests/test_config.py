"""CFG overrides: parsed by type, refused with the nearest name."""

from dataclasses import dataclass

import pytest

from src_py.config import check_folds, configure
from src_py.errors import InputError


@dataclass
class CFG:
    epochs: float = 1.0
    folds: tuple[int, ...] = (0,)
    freeze_embeddings: bool = True
    model_dir: str = ""


def test_overrides_are_parsed_by_the_fields_type():
    cfg = configure(CFG(), "epochs=2 folds=0,3 freeze_embeddings=false 'model_dir=/a b/c'")
    assert cfg == CFG(2.0, (0, 3), False, "/a b/c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch=2", "'epochs'"),
        ("epochs=two", "CFG.epochs wants a number"),
        ("freeze_embeddings=maybe", "CFG.freeze_embeddings wants True or False"),
        ("folds=a", "CFG.folds wants a whole number"),
        ("epochs", "key=value"),
    ],
)
def test_bad_overrides_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        configure(CFG(), text)


@pytest.mark.parametrize("change", [{"epochs": "1"}, {"folds": [0]}, {"freeze_embeddings": 1}, {"model_dir": None}])
def test_a_wrong_type_edited_into_the_cell_is_refused(change):
    with pytest.raises(InputError, match=f"CFG.{next(iter(change))} wants"):
        configure(CFG(**change))


@pytest.mark.parametrize("folds", [(), (5,), (0, 0), (-1,)])
def test_impossible_folds_are_refused(folds):
    with pytest.raises(InputError, match=r"CFG\.folds"):
        check_folds(folds, 5)
