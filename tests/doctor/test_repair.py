"""Findings come in the order of their effect; `repair` shows in the user's own terms what would make them go away."""

import copy
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertForSequenceClassification, get_scheduler

from src_py.ablation.posted import posted_config, posted_trainer
from src_py.doctor import check_before_training, effect
from src_py.doctor.checks_text import check_tokens_per_character
from src_py.doctor.effect import ORDER, in_order
from src_py.doctor.findings import FAIL, WARN, Finding, Report, Setup
from src_py.doctor.repair import propose
from src_py.doctor.settings import setting, user_settings
from src_py.evaluation.baselines import class_shares
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import Reading, encode_pairs
from src_py.training.trainer import TrainingSettings, make_trainer
from tests.doctor.learners import make_model, make_rows, plain_trainer

USUAL = {"train": make_rows(160, 1), "valid": make_rows(60, 2), "num_train_epochs": 10}  # a hundred steps


def plain(folder, dtype=None, config=None, **arguments):
    """A plain Trainer of a saved model, as `from_pretrained` makes it."""
    if not (folder / "saved").exists():
        make_model().save_pretrained(folder / "saved")
    model = BertForSequenceClassification.from_pretrained(
        folder / "saved", dtype=dtype or torch.float32, **config or {}
    )
    model.accepts_loss_kwargs = False
    return plain_trainer(folder, model=model, **USUAL | arguments)


def repaired(make, arguments, repair):
    """The Trainer that `make` builds when the proposed settings are used."""
    new = repair.settings.get("from_pretrained", {})
    config = {name: value for name, value in new.items() if name != "dtype"}
    return make(dtype=new.get("dtype"), config=config, **arguments | repair.settings.get("TrainingArguments", {}))


FAULTS = {
    "rate, batch, weights": (
        {"learning_rate": 0.5, "per_device_train_batch_size": 2},
        torch.float16,
        {},
        ["weights", "pairs in a step", "learning rate"],
    ),
    "decay, dropout, warmup": (
        {"weight_decay": 10.0, "warmup_steps": 0.99},
        None,
        {"hidden_dropout_prob": 0.9},
        ["weight decay", "dropout", "warmup"],
    ),
    "smoothing, clipping, momentum": (
        {"label_smoothing_factor": 0.9, "max_grad_norm": 1e-13, "adam_beta1": 0.999},
        None,
        {},
        ["loss of known predictions", "first steps", "momentum"],
    ),
    "no Adam, NaN hidden, few steps": (
        {"optim": "sgd", "logging_nan_inf_filter": True, "num_train_epochs": 2},
        None,
        {},
        ["first steps", "optimizer steps", "NaN in the log"],
    ),
}


SLOW = ("smoothing, clipping, momentum", "no Adam, NaN hidden, few steps")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in FAULTS])
def test_several_faults_at_once_go_away_with_the_settings_proposed(case, tmp_path):
    arguments, dtype, config, wanted = FAULTS[case]
    report = check_before_training(plain(tmp_path, dtype, config, **arguments))
    alarms = report.failed("FAIL", "WARN")
    assert [check for check in alarms if check in wanted] == wanted, str(report)
    repair = report.repair()
    assert "CFG" not in str(repair) + str(report)
    after = check_before_training(repaired(lambda **new: plain(tmp_path, **new), arguments, repair))
    assert not after.failed("FAIL"), f"{repair}\n{after}"
    assert not set(after.failed("FAIL", "WARN")) & set(wanted), f"{repair}\n{after}"


def test_a_recipe_is_repaired_in_the_names_of_its_cfg(tiny, tokenizer, pairs, tmp_path):
    def check(**cfg):
        values = {"max_length": 128, "label_smoothing": 0.0} | cfg
        rows = encode_pairs(pairs, tokenizer, Reading("pairwise", values.pop("max_length")))
        train, valid = rows.select(range(200)), rows.select(range(200, len(rows)))
        built = ModelSettings(label_smoothing=values.pop("label_smoothing"))
        model = build_model(tiny, tokenizer, "pairwise", list(class_shares(pairs["label"], 3)), built)
        options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "micro_batch": 4, "evals_per_epoch": 2} | values
        pad, settings = tokenizer.pad_token_id, TrainingSettings(**options)
        trainer = make_trainer(model, train, valid, pad_token_id=pad, output_dir=tmp_path, settings=settings)
        return check_before_training(trainer, tokenizer)

    broken = {"lr": 0.1, "batch_size": 2, "max_length": 16, "warmup": 0.0}
    report = check(**broken)
    wanted = ["pairs in a step", "learning rate", "rows mostly cut", "warmup"]  # two FAILs, two WARNs
    assert [check for check in report.failed("FAIL", "WARN") if check in wanted] == wanted, str(report)
    repair = report.repair()
    assert set(repair.settings) == {"CFG"}
    new = repair.settings["CFG"]
    assert (new["lr"], new["batch_size"], new["warmup"]) == (1e-3, 16, 0.1)
    assert new["max_length"] > 16
    assert "class CFG:\n" in repair.diff
    assert "TrainingArguments" not in str(repair)
    after = check(**broken | new)
    assert after.failed() == [], str(after)
    assert not set(after.failed("FAIL", "WARN")) & set(wanted), str(after)


def test_nothing_is_changed(tmp_path):
    trainer = plain(tmp_path, learning_rate=0.5, logging_nan_inf_filter=True)
    report = check_before_training(trainer)
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    arguments, found = trainer.args.to_dict(), copy.deepcopy(report.findings)
    repair = report.repair()
    assert repair.changes
    assert "learning_rate" in str(repair)
    assert trainer.args.to_dict() == arguments
    assert report.findings == found
    assert all(torch.equal(weights[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_the_diff_has_the_old_value_the_new_one_and_who_asks(tmp_path):
    repair = check_before_training(plain(tmp_path, learning_rate=0.5, per_device_train_batch_size=2)).repair()
    assert repair.diff.splitlines() == [
        " TrainingArguments(",
        "-    learning_rate=0.5,",
        "+    learning_rate=0.001,  # learning rate",
        "-    gradient_accumulation_steps=1,",
        "+    gradient_accumulation_steps=8,  # pairs in a step",
        " )",
    ]
    assert "+    learning_rate=0.001,  # learning rate" in repair._repr_html_()


def test_what_is_no_setting_is_listed_to_do_by_hand(tmp_path):
    trainer = plain(tmp_path)
    trainer.eval_dataset = trainer.eval_dataset[:8]
    repair = check_before_training(trainer).repair()
    assert [remedy.check for remedy in repair.by_hand] == ["validation rows"]
    assert re.search(r"By hand:\n  1\. validation rows \(WARN\): On so few rows", str(repair))
    assert "By hand" in repair._repr_html_()


def test_where_no_setting_would_do_it_is_a_line_of_code(tmp_path):
    trainer = plain(tmp_path)
    trainer.model.classifier.requires_grad_(False)
    repair = check_before_training(trainer).repair()
    assert repair.diff == "+model.classifier.requires_grad_(True)  # trained parts"
    exec(repair.remedies[0].code[1], {"model": trainer.model})
    assert check_before_training(trainer).failed("FAIL", "WARN") == []


def test_the_posted_line_break_is_shown_as_the_posted_line_and_the_right_one(tiny, pairs, tmp_path):
    config = replace(posted_config(), max_length=64)
    setup = Setup(*posted_trainer(tiny, pairs[:40], pairs[40:60], tmp_path, config))
    report = Report([check_tokens_per_character(setup)], 0.0, setup.settings)
    assert report.failed() == ["tokens per character"]
    assert report.repair().diff.splitlines() == [
        "-tokenizer.add_tokens(['\\n'])",
        "+tokenizer.add_tokens([AddedToken('\\n', normalized=False)])  # tokens per character",
    ]


def test_a_healthy_set_up_has_nothing_to_change(tmp_path):
    repair = check_before_training(plain(tmp_path)).repair()
    assert (repair.settings, str(repair)) == ({}, "Nothing to change.")


def test_remedies_are_applied_one_after_the_other(tmp_path):
    """Each says what it changes beyond those before it; together they are the whole repair."""
    settings = user_settings(plain(tmp_path, per_device_train_batch_size=4))
    alarms = [
        ("pairs in a step", WARN, "", {"batch_size": 16}),
        ("memory", WARN, "", {"micro_batch": 2}),
        ("learning rate", WARN, "", {"lr": 1e-4}),
        ("weight decay", WARN, "", {"lr": 1e-4}),
    ]
    repair = propose(alarms, settings)
    batch = [{"gradient_accumulation_steps": 4}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}]
    assert [remedy.settings.get("TrainingArguments") for remedy in repair.remedies] == [
        *batch, {"learning_rate": 1e-4}, None,
    ]  # fmt: skip
    assert repair.settings == {"TrainingArguments": {**batch[1], "learning_rate": 1e-4}}
    assert repair.by_hand == []
    assert "# learning rate, weight decay" in repair.diff


def test_only_the_module_of_the_names_names_a_setting():
    """Else a user of a plain Trainer is told to change CFG, or one of a recipe TrainingArguments."""
    folder = Path(effect.__file__).parent
    found = {
        path.name for path in folder.glob("*.py") if re.search(r"(CFG|TrainingArguments)\.\w", path.read_text("utf-8"))
    }
    assert found == {"settings.py"}


def test_an_optimizer_of_ones_own_is_not_changed_by_arguments(tmp_path):
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    scheduler = get_scheduler("constant", optimizer)
    trainer = plain_trainer(tmp_path, model, trainer_options={"optimizers": (optimizer, scheduler)}, **USUAL)
    report = check_before_training(trainer)
    assert "lr of your optimizer" in report["learning rate"].advice
    assert "warmup of your scheduler" in report["warmup"].advice
    assert {"learning rate", "warmup"} <= {remedy.check for remedy in report.repair().by_hand}
    assert "TrainingArguments" not in report.repair().settings


def test_the_trainer_s_own_optimizer_is_changed_by_arguments(tmp_path):
    trainer = plain(tmp_path, max_steps=2, eval_strategy="no")
    trainer.train()
    assert trainer.optimizer is not None
    assert setting(trainer, "lr") == "TrainingArguments.learning_rate"
    assert setting(trainer, "warmup") == "TrainingArguments.warmup_steps"


def test_a_constant_schedule_needs_one_with_a_warmup(tmp_path):
    arguments = {"lr_scheduler_type": "constant"}
    repair = check_before_training(plain(tmp_path, **arguments)).repair()
    assert repair.settings["TrainingArguments"]["lr_scheduler_type"] == "constant_with_warmup"
    after = check_before_training(repaired(lambda **new: plain(tmp_path, **new), arguments, repair))
    assert after["warmup"].status == "PASS"


def test_memory_is_won_by_fewer_rows_at_once(tmp_path):
    report = check_before_training(plain(tmp_path), card_bytes=1_200_000)
    needed, new = report["memory"], report.repair().settings["TrainingArguments"]
    assert needed.status == FAIL
    assert new["per_device_train_batch_size"] * new["gradient_accumulation_steps"] == 16
    assert check_before_training(plain(tmp_path, **new), card_bytes=1_200_000)["memory"].status == "PASS"


def test_accumulation_that_multiplies_the_loss_is_a_line_of_code(tmp_path):
    trainer = plain(tmp_path, gradient_accumulation_steps=4, per_device_train_batch_size=4)
    trainer.model_accepts_loss_kwargs = True
    finding = Finding("logged loss", WARN, "4", "", "Set it.", {"accepts_loss_kwargs": False})
    report = Report([finding], 0.0, user_settings(trainer))
    assert "+model.accepts_loss_kwargs = False  # logged loss" in report.repair().diff


@pytest.mark.parametrize(
    ("now", "precision", "diff"),
    [
        ({"bf16": True}, "fp16", ["fp16", "bf16"]),
        ({"fp16": True}, "fp32", ["fp16"]),
        ({}, "fp32", []),
    ],
)
def test_a_precision_is_two_arguments_of_a_plain_trainer(now, precision, diff, tmp_path):
    repair = propose([("bf16", FAIL, "", {"precision": precision})], user_settings(plain(tmp_path, **now)))
    new = repair.settings.get("TrainingArguments", {})
    assert list(new) == diff
    assert all(value == (name == precision) for name, value in new.items())
    assert bool(repair.by_hand) == (not diff)


def test_a_trainer_whose_settings_cannot_be_read_is_repaired_by_hand(tmp_path):
    trainer = plain(tmp_path, learning_rate=0.5)
    assert Setup(trainer).settings.values["lr"] == 0.5
    trainer.args = SimpleNamespace(learning_rate=0.5)
    settings = Setup(trainer).settings
    change = {"lr": 1e-3, "dtype": torch.float32, "batch_size": 16}
    repair = propose([("learning rate", FAIL, "Lower it.", change)], settings)
    assert (repair.settings, [remedy.advice for remedy in repair.by_hand]) == ({}, ["Lower it."])


def test_an_unknown_name_of_a_setting_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="learning_rat"):
        user_settings(plain(tmp_path)).changed(learning_rat=1.0)


def test_findings_come_by_status_and_then_causes_first():
    said = [Finding("warmup", FAIL, ""), Finding("labels", WARN, ""), Finding("a new one", FAIL, "")]
    said += [Finding("first steps", FAIL, ""), Finding("optimizer", FAIL, "")]
    assert [f.check for f in in_order(said)] == ["optimizer", "first steps", "warmup", "a new one", "labels"]


def test_every_check_has_a_place(tmp_path):
    assert len(ORDER) == len(set(ORDER))
    report = check_before_training(plain(tmp_path), card_bytes=10**12)
    assert {finding.check for finding in report.findings} <= set(ORDER)
