"""Any Trainer: the doctor, the watcher and the verdict raise on no task and no model, and alarm on no healthy one."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from transformers import Trainer

from src_py.doctor import check_before_training, check_eval_rows, judge_training, watch
from src_py.doctor.checks_schedule import check_steps
from src_py.doctor.findings import Setup
from src_py.errors import InputError
from tests.doctor import tasks
from tests.doctor.learners import collate, plain_trainer
from tests.doctor.tasks import ROWS, TASKS, VALID


def build(folder, task, **arguments):
    options = {"train": ROWS, "valid": VALID} | TASKS[task]() | arguments
    tokenizer = options.pop("tokenizer", None)
    return plain_trainer(folder, **options), tokenizer


def digest(model) -> str:
    """Of all weights and buffers."""
    values = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        values.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return values.hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_no_task_raises_or_alarms_or_is_changed(task, tmp_path):
    if task.startswith("LoRA"):
        pytest.importorskip("peft")
    digests, report, watcher = [], None, None
    for looked_at in (False, True):
        trainer, tokenizer = build(tmp_path, task, max_steps=3, eval_steps=3)
        if looked_at:
            trainer.args.max_steps = 120  # what the doctor sees; three of them are taken
            report, watcher = check_before_training(trainer, tokenizer), watch(trainer)
            trainer.args.max_steps = 3
        trainer.train()
        digests.append(digest(trainer.model))
    assert report.failed("FAIL", "WARN") == [], str(report)
    # A check that does not apply says why in a sentence; an error's name means that it broke.
    assert [f for f in report.findings if "Error" in f.measured or not f.measured] == [], str(report)
    assert watcher.events == []
    assert digests[0] == digests[1]
    assert report.repair().changes == []


NOT_FOR = {
    "causal language model": {"labels", "loss at the start", "loss of known predictions", "padding", "metrics"},
    "labels of pixels": {"labels", "sequence length", "padding", "learning rate"},
    "images, no config": {"sequence length", "padding", "learning rate"},
    "reward model": {"labels", "loss at the start", "rows of a batch"},
    "own head, regression": {"loss at the start", "signal in labels"},
    "masked language model": {"tokens in a batch"},
}


@pytest.mark.parametrize("task", NOT_FOR)
def test_what_does_not_apply_is_not_checked_and_says_why(task, tmp_path):
    report = check_before_training(build(tmp_path, task, max_steps=120)[0])
    for check in NOT_FOR[task]:
        assert report[check].status == "not checked", report[check]
        assert len(report[check].measured.split()) > 1 or report[check].limit.startswith("for "), report[check]


APPLY = {
    "GPT-2": {"labels", "loss of known predictions", "padding", "memorises a batch", "gradients", "learning rate"},
    "T5": {"labels", "loss of known predictions", "padding", "memorises a batch", "gradients"},
    "multiple choice": {"labels", "loss of known predictions", "rows of a batch"},
    "images, ViT": {"labels", "loss of known predictions", "rows of a batch", "memorises a batch", "first steps"},
    "no config, tuple": {"labels", "loss of known predictions", "padding", "training and evaluation mode"},
    "own compute_loss": {"loss of known predictions", "training and evaluation mode", "first steps"},
    "LoRA": {"trained parts", "gradients", "first steps", "memorises a batch"},
    "BatchEncoding": {"tokens per character", "special tokens", "tokens in a batch", "labels in a batch"},
}


@pytest.mark.parametrize("task", APPLY)
def test_what_applies_is_checked(task, tmp_path):
    trainer, tokenizer = build(tmp_path, task, max_steps=120)
    report = check_before_training(trainer, tokenizer)
    assert {check: report[check].status for check in APPLY[task]} == dict.fromkeys(APPLY[task], "PASS")


def broken_loss(trainer):
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: -tasks.loss_function(outputs, labels)


def frozen_head(trainer):
    trainer.model.get_submodule("score").requires_grad_(False)


def reads_padding(trainer):
    trainer.data_collator = lambda rows: {name: x for name, x in collate(rows).items() if name != "attention_mask"}
    trainer.model.config.pad_token_id = 63  # not the one that pads: the last token of a short text is then padding


@pytest.mark.parametrize(
    ("task", "edit", "check"),
    [
        ("GPT-2", broken_loss, "loss of known predictions"),
        ("GPT-2", frozen_head, "trained parts"),
        ("GPT-2", reads_padding, "padding"),
        ("Qwen2", broken_loss, "loss of known predictions"),
        ("T5", broken_loss, "loss of known predictions"),
        ("images, ViT", broken_loss, "loss of known predictions"),
        ("LoRA", broken_loss, "loss of known predictions"),
    ],
)
def test_faults_of_other_models_are_named(task, edit, check, tmp_path):
    trainer, _ = build(tmp_path, task, max_steps=120)
    edit(trainer)
    report = check_before_training(trainer)
    assert report[check].status in ("FAIL", "WARN"), report


class OldLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        return super().compute_loss(model, inputs, return_outputs)


@pytest.mark.parametrize(
    ("kind", "what", "words"),
    [
        (OldLoss, "Training would stop", "num_items_in_batch"),
        (tasks.OnlyLoss, "The first evaluation would stop", "TypeError"),
    ],
)
def test_what_would_stop_the_training_later_stops_it_now(kind, what, words, tmp_path):
    report = check_before_training(plain_trainer(tmp_path, train=ROWS, valid=VALID, kind=kind, max_steps=120))
    assert report.failed() == ["first step"]
    assert words in report["first step"].measured
    assert what in report["first step"].advice


@pytest.mark.parametrize("task", ["images, ViT", "own head, classes", "T5"])
def test_labels_that_the_model_has_no_output_for(task, tmp_path):
    """On a GPU nothing runs after such a step, so that it is not tried."""
    options = TASKS[task]()
    shifted = [row | {"labels": row["labels"] + 1} for row in options.get("train", ROWS)]
    report = check_before_training(plain_trainer(tmp_path, **options | {"train": shifted, "max_steps": 120}))
    assert report.failed() == ["labels"]
    assert report["labels"].measured == "1 to 3"
    assert report["first step"].status == "not checked"


def test_no_training_rows(tmp_path):
    trainer = plain_trainer(tmp_path, train=ROWS, valid=VALID)
    trainer.train_dataset = None
    report = check_before_training(trainer)
    assert report.failed() == ["first step"]
    assert report["first step"].measured == "The Trainer has no training rows; pass train_dataset."


def test_a_decoder_without_a_padding_token_is_quoted(tmp_path):
    trainer, _ = build(tmp_path, "GPT-2", max_steps=120)
    trainer.model.config.pad_token_id = None
    report = check_before_training(trainer)
    assert "first step" in report.failed()
    assert "padding" in report["first step"].measured


def test_a_head_of_ones_own_counts_and_not_the_config(tmp_path):
    """config.num_labels is 2 unless somebody sets it."""
    for task, kind, outputs in (("own head, classes", "classes", 3), ("own head, regression", "regression", 1)):
        targets = Setup(build(tmp_path, task)[0]).targets
        assert (targets.kind, targets.outputs) == (kind, outputs)


# --- The watcher ---


@pytest.mark.parametrize("task", ["causal language model", "labels of tokens", "labels of pixels", "generated text"])
def test_predictions_of_tokens_are_not_gathered(task, tmp_path, capsys):
    """Those of a language model, rows x tokens x vocabulary, would fill the memory."""
    trainer, _ = build(tmp_path, task, max_steps=2, eval_steps=2)
    watcher = watch(trainer)
    trainer.train()
    assert trainer.compute_metrics is None
    assert "spread" not in capsys.readouterr().out
    assert len(watcher.run.evaluations) == 1


def test_another_loss_is_not_compared_with_a_log_loss(tmp_path):
    """A loss ten times as large is above the constant predictor's log loss for ever; nothing is lost."""

    def ten_times(outputs, labels, num_items_in_batch=None):
        return 10 * tasks.loss_function(outputs, labels)

    options = {"trainer_options": {"compute_loss_func": ten_times}, "prediction_loss_only": True}
    trainer = plain_trainer(tmp_path, train=ROWS, valid=VALID, max_steps=24, eval_steps=3, **options)
    watcher = watch(trainer)
    trainer.train()
    assert watcher.run.evaluations[-1]["log_loss"] > 5
    assert watcher.constant is None
    assert watcher.events == []


# --- The verdict ---


@pytest.mark.parametrize("task", ["GPT-2", "images, ViT", "no config, dict"])
def test_the_verdict_needs_labels_only(task, tmp_path):
    trainer, _ = build(tmp_path, task, max_steps=2, eval_steps=2)
    trainer.train()
    probabilities = softmax(trainer.predict(trainer.eval_dataset).predictions.astype(float), axis=1)
    train, valid = (pd.DataFrame({"label": [row["labels"] for row in rows]}) for rows in (ROWS, VALID))
    verdict = judge_training(train, valid, probabilities)
    assert np.isfinite(verdict.model)
    assert "length-only logistic regression" not in verdict.table.index
    learned = judge_training(train, valid, np.eye(3)[valid["label"]] * 0.9 + 1 / 30)
    assert learned.name == "learned"
    assert "answer length" not in learned.sentence


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [(np.linspace(0, 1, 60), np.ones((60, 1))), ([[1, 0]] * 60, np.full((60, 2), 0.7)), ([[0, 1, 1]] * 60, None)],
)
def test_the_verdict_on_what_are_no_classes(labels, predictions):
    table = pd.DataFrame({"label": list(labels)})
    verdict = judge_training(table, table, predictions)
    assert verdict.name == "not checked"
    assert "classes" in verdict.sentence
    assert str(verdict).startswith("NOT CHECKED: ")
    assert verdict.table.empty


def test_validation_rows_that_are_not_those_of_the_table_are_said_before_the_training(tmp_path):
    trainer = plain_trainer(tmp_path, eval_strategy="no")
    check_eval_rows(trainer, pd.DataFrame(index=range(120)))
    with pytest.raises(InputError, match="Your eval_dataset has 120 rows and `valid` has 60: set `valid` to the table"):
        check_eval_rows(trainer, pd.DataFrame(index=range(60)))
    trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset}
    with pytest.raises(InputError, match="holds 2 sets: give it only the one"):
        check_eval_rows(trainer, pd.DataFrame(index=range(120)))
    trainer.eval_dataset = None
    with pytest.raises(InputError, match="Your Trainer has no eval_dataset: give it one"):
        check_eval_rows(trainer, pd.DataFrame(index=range(120)))


def test_fewer_rows_a_step_are_only_advised_where_there_are_more_than_enough(tmp_path):
    few, many = (
        check_steps(Setup(plain_trainer(tmp_path, num_train_epochs=1, per_device_train_batch_size=rows)))
        for rows in (16, 32)
    )
    assert "take fewer a step, towards 16" in many.advice
    assert few.advice == "Raise TrainingArguments.num_train_epochs, or train on more rows."
