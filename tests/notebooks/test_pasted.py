"""The last cell of `why_is_it_not_learning`, with a Trainer pasted into it as its Markdown says."""

from dataclasses import replace
from pathlib import Path

import jupytext
import pytest

from src_py.ablation.posted import posted_config, posted_trainer
from src_py.doctor import check_before_training
from src_py.errors import InputError
from src_py.pairs import prompt_key

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/why_is_it_not_learning.py"
LAST = jupytext.read(NOTEBOOK).cells[-1].source
MARK = "if trainer is None:\n"
TOKENS = ("<[PROMPT]>", "<[RESP_A]>", "<[RESP_B]>")
SOUND = replace(posted_config(), added_tokens=TOKENS, max_length=128, lr=1e-3, batch_size=8, epochs=1.0)  # no FAIL


def paste(config, tiny, pairs, folder, judged=None):
    """Run the cell with the posted Trainer; returns its variables, and what it displayed.

    Args:
        judged: rows of `valid` that the notebook has; by default all that the Trainer has.
    """
    shown: list = []
    train, rest = pairs[:96], pairs[96:180]
    valid = rest[~prompt_key(rest).isin(set(prompt_key(train)))].reset_index(drop=True)
    names = {"check_before_training": check_before_training, "display": shown.append, "train": train}
    names["valid"] = valid[:judged]
    names["make"] = lambda: posted_trainer(tiny, train, valid, folder, config)
    before, after = LAST.split(MARK)
    exec(f"{before}\ntrainer, tokenizer = make()\n{MARK}{after}", names)
    return names, shown


def test_without_a_trainer_it_says_so(capsys):
    exec(LAST, {})
    assert "There is no Trainer of yours yet" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pasted_trainer_is_checked_watched_and_judged(tiny, pairs, tmp_path, capsys):
    """Of a rate at which it learns nothing the verdict gives advice: in the words of a plain Trainer."""
    names, shown = paste(replace(SOUND, lr=2e-5), tiny, pairs, tmp_path)
    assert names["trainer"].state.global_step == 12
    assert len(shown) == 3
    said = capsys.readouterr().out
    assert "to constant" in said, "the watcher's line"
    assert str(names["verdict"]) in said
    assert names["verdict"].name == "constant predictor"
    assert "see what check_before_training says" in said
    assert "CFG" not in said


@pytest.mark.slow
def test_a_pasted_trainer_with_other_validation_rows_is_stopped_before_it_trains(tiny, pairs, tmp_path, capsys):
    with pytest.raises(InputError, match=r"Your eval_dataset has .* rows and `valid` has 30"):
        paste(SOUND, tiny, pairs, tmp_path, judged=30)
    assert "step" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_pasted_trainer_that_cannot_learn_is_stopped_before_it_trains(tiny, pairs, tmp_path):
    with pytest.raises(InputError, match="Stopped before training"):
        paste(replace(posted_config(), max_length=64), tiny, pairs, tmp_path)
