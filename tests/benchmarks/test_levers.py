"""`make levers`: measured, stored, resumed, and what fails is said."""

import re

import pytest

from benchmarks import levers

CFG = "lever_rows=48 seeds=2 evaluations=1 epochs=1 max_length=32 lr=0.002 head_lr=0.002 valid_rows=40 batch_size=16"


def run(contest, tiny, tmp_path, *more):
    words = [f"--data={contest}", f"--model={tiny}", f"--out={tmp_path / 'out'}", *more]
    return levers.main(words, store=tmp_path / "store")


@pytest.mark.slow
def test_levers_are_measured_and_a_second_run_trains_nothing(contest, tiny, tmp_path, capsys):
    # 200 layers cannot be frozen: that arm is left out, and the others are trained.
    cfg = f"--cfg={CFG} levers=label_smoothing,freeze_layers=200"
    assert run(contest, tiny, tmp_path, cfg) == 0
    told = (tmp_path / "out/levers.md").read_text()
    assert "| label_smoothing | 2 |" in told
    assert "Left out: freeze_layers=200. CFG.freeze_layers" in told
    assert "48 of" in told
    assert "of a kind held out (holdout topic)" in told
    assert (tmp_path / "out/levers.png").stat().st_size > 1000
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "store/trials").glob("*.npz")}
    assert len(stored) == 4
    capsys.readouterr()
    assert run(contest, tiny, tmp_path, cfg) == 0
    assert "4 of 6 trials are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store/trials").glob("*.npz")} == stored


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("levers=pooling=meen", "use one of"),
        ("levers=soft_labels", "needs a teacher's probabilities; name their file in CFG.soft_labels"),
        ("lever_rows=100000", "there are .* training rows"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(contest, tiny, tmp_path, capsys, setting, sentence):
    assert run(contest, tiny, tmp_path, f"--cfg={CFG} {setting}") == 1
    error = capsys.readouterr().err.strip()
    assert re.search(sentence, error)
    assert "\n" not in error
