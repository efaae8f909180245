"""The doctor's list for the posted notebook becomes trainings, and these a table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from src_py.ablation import remedies
from src_py.ablation.posted import posted_config, posted_trainer
from src_py.ablation.remedies import LINE_BREAK, RemedySettings, Step, describe_left, known_remedies, load_problem
from src_py.ablation.remedy_runs import Tried, describe_forecast, plot_tried, run_step, tried_table
from src_py.doctor.findings import FAIL, PASS, WARN, Finding, Report
from src_py.errors import InputError
from src_py.kaggle import Paths

DOCTOR = Path(remedies.__file__).parents[1] / "doctor"


def report(**statuses):
    """The doctor's, with checks named by their words joined with underscores."""
    return Report([Finding(name.replace("_", " "), status, "") for name, status in statuses.items()], 1.0)


def test_each_remedy_answers_a_check_and_changes_the_posted_settings(problem):
    sources = "".join(path.read_text(encoding="utf-8") for path in DOCTOR.glob("checks_*.py"))
    for check, remedy in known_remedies(problem.settings, 1e-3).items():
        assert f'"{check}"' in sources, check
        assert replace(posted_config(), **remedy.changes) != posted_config(), check


def test_remedies_follow_the_doctors_list_and_add_up(problem, monkeypatch):
    """What trains at all comes first; what a FAIL had hidden comes from the second look, and is applied once."""
    looks = iter([report(warmup=WARN, weights=PASS, embedding_rows=WARN), report(signal_in_labels=WARN)])
    monkeypatch.setattr(remedies, "check_posted", lambda *_: next(looks))
    first = report(rows_mostly_cut=FAIL, weights=FAIL, one_answer_cut_more=WARN, warmup=WARN, labels=PASS)
    posted = posted_config()
    given = replace(problem, settings=replace(problem.settings, lr=0.002))
    steps, left = remedies.plan_steps(given, posted, first)
    names = ["as posted", "+ weights in float32", "+ parts cut separately", "+ warmup", "+ matrix not shrunk"]
    assert [step.name for step in steps] == [*names, "recipe without counts", "recipe"]
    expected = [posted, replace(posted, float32=True)]
    for change in ({"cut": "parts"}, {"warmup": 0.1}, {"shrink": False}):
        expected.append(replace(expected[-1], **change))
    assert [step.config for step in steps[:5]] == expected
    assert [step.arm for step in steps[5:]] == ["recipe-features", "recipe"]
    assert describe_left(left)[0] == "With all remedies the doctor still says:"


def test_what_is_left_is_said_with_its_advice():
    found = [Finding("steps", WARN, "40", "at least 100", "Raise epochs."), Finding("labels", PASS, "fine")]
    assert describe_left(Report(found, 1.0))[1:] == ["WARN steps: 40. Raise epochs."]
    assert describe_left(Report(found[1:], 1.0)) == ["With all remedies the doctor has nothing more to say."]


def test_accumulation_comes_with_a_loss_that_is_divided(problem):
    wide = replace(problem.settings, batch_size=16, micro_batch=16)
    assert known_remedies(wide, 1e-3)["pairs in a step"].changes == {"batch_size": 16, "accumulation": 1}
    narrow = known_remedies(replace(wide, micro_batch=4), 1e-3)["pairs in a step"]
    assert narrow.changes == {"batch_size": 4, "accumulation": 4, "accepts_loss_kwargs": False}
    assert "gradient_accumulation_steps=4; model.accepts_loss_kwargs = False" in narrow.code


def test_every_change_reaches_the_posted_trainer(problem, tmp_path):
    half = AutoModelForSequenceClassification.from_pretrained(problem.model_dir, num_labels=3).half()
    half.save_pretrained(tmp_path / "half")
    for name in ("spm.model", "tokenizer_config.json"):
        (tmp_path / "half" / name).write_bytes((problem.model_dir / name).read_bytes())
    posted = replace(posted_config(), max_length=40)
    mended = replace(posted, added_tokens=LINE_BREAK, cut="parts", shrink=False, copy_rows=True, float32=True)
    mended = replace(mended, accepts_loss_kwargs=False, one_gpu=True, evaluations=4, seed=7, epochs=1.0)
    made = [
        posted_trainer(tmp_path / "half", problem.train[:16], problem.valid[:8], tmp_path / "out", config)
        for config in (posted, mended)
    ]
    (before, old), (after, new) = made
    assert {p.dtype for p in after.model.parameters()} == {torch.float32}
    assert {p.dtype for p in before.model.parameters()} == {torch.float16}
    rows = [trainer.model.get_input_embeddings().weight for trainer in (before, after)]
    assert len(rows[0]) == len(old) < len(rows[1])
    marker = new.convert_tokens_to_ids("<[PROMPT]>")
    assert torch.equal(rows[1][marker], rows[1][new.sep_token_id])
    kept = [trainer.train_dataset["response_b_kept"] for trainer in (before, after)]
    assert sum(kept[0]) < sum(kept[1])
    assert len(new("wezo pemo")["input_ids"]) < len(old("wezo pemo")["input_ids"])
    assert after.model.accepts_loss_kwargs is False
    assert (after.args.eval_strategy, after.args.eval_steps, after.args.seed) == ("steps", 2, 7)
    assert before.args.eval_strategy == "epoch"


@pytest.mark.slow
def test_a_training_that_raises_has_no_result_and_is_said(problem, capsys):
    """A learning rate below zero raises in the optimizer, before the first step."""
    config = replace(posted_config(), lr=-1.0, max_length=32, evaluations=1, epochs=1.0)
    tried = run_step(replace(problem, train=problem.train[:8], valid=problem.valid[:8]), Step("x", "", "", config))
    assert (tried.verdict, tried.ended) == ("no result", "an error at 1")
    assert np.isnan(tried.probabilities).all()
    assert "It ends with an error: ValueError: Invalid learning rate" in capsys.readouterr().out


@pytest.fixture
def tried(problem, outcome):
    """Nothing learned, no result, something learned."""
    found = [outcome(0.0).probabilities[0], np.full((len(problem.valid), 3), np.nan), outcome(1.0).probabilities[0]]
    names = ("as posted", "+ broken", "+ mended")
    return [Tried(Step(name, "", ""), p, "", "4 of 4", 0.1) for name, p in zip(names, found)]


def test_the_table_compares_with_the_last_row_that_has_a_result(problem, tried):
    table = tried_table(problem, tried)
    assert list(table.index) == ["as posted", "+ broken", "+ mended"]
    assert table.loc["+ broken", ["log loss", "brings", "to constant", "most given answer"]].isna().all()
    losses = table["log loss"]
    assert table.columns[0] == "verdict", "what a narrow page shows"
    assert table.loc["as posted", ["brings", "± (95 %)"]].isna().all(), "there is nothing above it"
    assert table.loc["+ mended", "brings"] == pytest.approx(losses["as posted"] - losses["+ mended"], abs=2e-4)
    assert table.loc["+ mended", "brings"] > table.loc["+ mended", "± (95 %)"] > 0
    assert table.loc["as posted", "to constant"] == pytest.approx(0, abs=0.01)
    assert table.loc["+ mended", "to constant"] < -0.1, "as in the watcher's line"


def test_the_picture_names_every_training(problem, tried):
    axes = plot_tried(problem, tried).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as posted", "+ broken", "+ mended"]
    assert " no result" in [text.get_text() for text in axes.texts]


def test_the_forecast_adds_up():
    assert describe_forecast({"a": 1.5, "b": 2.6}).startswith("2 trainings take about 4.1 minutes on this machine, the")


def test_the_problem_is_the_attached_rows(contest, tiny):
    paths = Paths(input_dir=str(contest), model_dir=str(tiny))
    problem = load_problem(paths, RemedySettings(rows=50, valid_rows=30, max_length=32, seed=3))
    assert (len(problem.train), len(problem.valid)) == (50, 30)
    assert not set(problem.prompts) & set(remedies.prompt_key(problem.train))
    shares = problem.train["label"].value_counts(normalize=True)
    assert shares.min() > 0.2
    with pytest.raises(InputError, match="at least 16"):
        RemedySettings(max_length=4)
