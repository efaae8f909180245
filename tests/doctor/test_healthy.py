"""Set-ups that learn, of every kind: the doctor fails none, changes nothing, and says what it cannot check."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset as TorchStream
from torch.utils.data import TensorDataset

from src_py.doctor.check import check_before_training
from src_py.doctor.untouched import untouched
from src_py.doctor.watch import watch
from tests.doctor.learners import FAMILIES, collate, make_model, make_rows, plain_trainer

ROWS = make_rows(320, 1)


class Lazy(TorchDataset):
    """A torch dataset without columns."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


class Stream(TorchStream):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from self.rows


class OnceOnly(TorchStream):
    """A stream that cannot be looked at: what is read is gone."""

    def __init__(self, rows):
        self.rows = iter(rows * 20)

    def __iter__(self):
        yield from self.rows


def padded(rows, length=24):
    return [
        {
            "input_ids": row["input_ids"] + [0] * (length - len(row["input_ids"])),
            "attention_mask": [1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])),
            "labels": row["labels"],
        }
        for row in rows
    ]


def padded_collator(rows):
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def tensors(rows):
    rows = padded(rows)
    return TensorDataset(
        *(torch.tensor([row[name] for row in rows]) for name in ("input_ids", "attention_mask", "labels"))
    )


def tuple_collator(rows):
    return dict(zip(("input_ids", "attention_mask", "labels"), map(torch.stack, zip(*rows))))


def text_collator(rows):
    """Tokenises in the collator: letters are words."""
    return collate([{"input_ids": [ord(c) for c in row["text"]], "labels": row["labels"]} for row in rows])


def texts(rows):
    return [{"text": "".join(map(chr, row["input_ids"])), "labels": row["labels"]} for row in rows]


def float_collator(rows):
    return collate(rows) | {"labels": torch.tensor([row["labels"] for row in rows], dtype=torch.float32)}


def regression():
    rows = [row | {"labels": row["labels"] / 2.0} for row in ROWS]
    return {"model": make_model(num_labels=1), "train": rows, "valid": rows[:60], "collator": float_collator}


def several_labels():
    rows = [row | {"labels": [float(row["labels"] == k) for k in range(3)]} for row in ROWS]
    model = make_model(problem_type="multi_label_classification")
    return {"model": model, "train": rows, "valid": rows[:60], "collator": float_collator}


def zero_head():
    model = make_model()
    torch.nn.init.zeros_(model.classifier.weight)
    return {"model": model}


def frozen_encoder():
    model = make_model()
    model.bert.requires_grad_(False)
    return {"model": model, "learning_rate": 1e-2}


HEALTHY = {
    **{family: (lambda family=family: {"model": make_model(family)}) for family in FAMILIES},
    "two classes": lambda: {
        "model": make_model(num_labels=2), "train": make_rows(320, 1, 2), "valid": make_rows(60, 2, 2),
    },
    "five classes": lambda: {
        "model": make_model(num_labels=5), "train": make_rows(320, 1, 5), "valid": make_rows(60, 2, 5),
    },
    "no warmup": lambda: {"warmup_steps": 0},
    "reduce_lr_on_plateau": lambda: {
        "lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval_loss",
    },
    "cosine": lambda: {"lr_scheduler_type": "cosine"},
    "cosine_with_min_lr": lambda: {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-5}},
    "batch of 4": lambda: {"per_device_train_batch_size": 4},
    "accumulation": lambda: {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    "padded to max_length": lambda: {
        "train": Dataset.from_list(padded(ROWS)), "valid": Dataset.from_list(padded(ROWS[:60])),
        "collator": padded_collator,
    },
    "list": lambda: {"train": ROWS, "valid": ROWS[:60]},
    "torch dataset": lambda: {"train": Lazy(ROWS), "valid": Lazy(ROWS[:60])},
    "tensor dataset": lambda: {"train": tensors(ROWS), "valid": tensors(ROWS[:60]), "collator": tuple_collator},
    "torch stream": lambda: {"train": Stream(ROWS * 4), "valid": Stream(ROWS[:60]), "max_steps": 80},
    "stream that can be read once": lambda: {"train": OnceOnly(ROWS), "valid": ROWS[:60], "max_steps": 80},
    "stream of datasets": lambda: {
        "train": IterableDataset.from_generator(lambda: iter(ROWS * 4)), "valid": ROWS[:60], "max_steps": 80,
    },
    "text tokenised in the collator": lambda: {
        "train": texts(ROWS), "valid": texts(ROWS[:60]), "collator": text_collator, "remove_unused_columns": False,
    },
    "dict of evaluation sets": lambda: {"valid": {"one": ROWS[:60], "two": ROWS[60:120]}},
    "DatasetDict of evaluation sets": lambda: {"valid": DatasetDict(one=Dataset.from_list(ROWS[:60]))},
    "no evaluation set": lambda: {"valid": "none", "eval_strategy": "no"},
    "regression": regression,
    "several labels": several_labels,
    "label smoothing": lambda: {"label_smoothing_factor": 0.1},
    "head that starts at zero": zero_head,
    "frozen encoder": frozen_encoder,
    "SGD": lambda: {"optim": "sgd", "learning_rate": 0.1},
    "one class is most": lambda: {"train": [r for r in ROWS if r["labels"] == 0] * 3 + ROWS},
    "bf16": lambda: {"bf16": True},
    "activations computed again": lambda: {"gradient_checkpointing": True},
}  # fmt: skip


def build(name, folder, **arguments):
    options = HEALTHY[name]() | arguments
    trainer = plain_trainer(folder, **options)
    if options.get("valid") == "none":
        trainer.eval_dataset = None
    return trainer


@pytest.mark.parametrize("name", HEALTHY)
def test_no_healthy_set_up_fails_or_is_changed(name, tmp_path):
    """Six steps with and without doctor and watcher are bit-identical."""
    weights, report, events = [], None, []
    for looked_at in (False, True):
        trainer = build(name, tmp_path, max_steps=6, eval_steps=3)
        if looked_at:
            trainer.args.max_steps = 80  # what the doctor sees; six of them are taken
            report, events = check_before_training(trainer), watch(trainer).events
            trainer.args.max_steps = 6
        trainer.train()
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert report.failed() == [], str(report)
    # A check that does not fit says so in its own words; an error's name means that it broke.
    assert [f for f in report.findings if "Error" in f.measured] == [], str(report)
    assert events == []
    assert all(torch.equal(*pair) for pair in zip(*weights))


class RandomCollator:
    """Masks words by generators of its own and counts its calls."""

    def __init__(self):
        self.torch_generator = torch.Generator().manual_seed(1)
        self.parts = {"numpy": np.random.default_rng(2)}
        self.calls = 0

    def __call__(self, rows):
        batch = collate(rows)
        self.calls += 1
        ids = batch["input_ids"]
        hidden = torch.rand(ids.shape, generator=self.torch_generator) < 0.1 + 0.1 * (self.calls % 2)
        batch["input_ids"] = torch.where(hidden & (ids > 2), 3 + int(self.parts["numpy"].integers(5)), ids)
        return batch


def with_memory(model):
    """A model with a buffer that is not saved, changed by every forward pass in training mode."""
    model.register_buffer("seen", torch.zeros(()), persistent=False)

    def count(module, inputs, output):
        if module.training:
            module.seen += 1
            output["loss"] = output["loss"] * (1 + 0.01 * module.seen)
        return output

    model.register_forward_hook(count)
    return model


def test_training_is_bit_identical_with_a_collator_and_a_model_that_remember(tmp_path):
    weights = []
    for looked_at in (False, True):
        collator = RandomCollator()
        trainer = plain_trainer(tmp_path, with_memory(make_model()), ROWS, ROWS[:60], collator, max_steps=8)
        trainer.model.classifier.weight.grad = torch.ones_like(trainer.model.classifier.weight)
        trainer.model.bert.encoder.layer[0].eval()
        if looked_at:
            check_before_training(trainer)
            watch(trainer)
            assert trainer.model.classifier.weight.grad.eq(1).all()
            assert trainer.model.seen == 0
            assert collator.calls == 0
            assert not trainer.model.bert.encoder.layer[0].training
        trainer.train()
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*weights))


def test_generators_in_closures_and_globals_are_restored(tmp_path):
    generator = torch.Generator().manual_seed(3)

    def shuffling(rows):
        torch.rand(3, generator=generator)
        GLOBAL.random()
        return collate(rows)

    trainer = plain_trainer(tmp_path, collator=shuffling)
    before = generator.get_state().clone(), GLOBAL.bit_generator.state
    check_before_training(trainer)
    assert torch.equal(before[0], generator.get_state())
    assert before[1] == GLOBAL.bit_generator.state


GLOBAL = np.random.default_rng(0)


def test_running_out_of_memory_in_a_check_is_not_checked(tmp_path):
    trainer = plain_trainer(tmp_path)
    compute, calls = trainer.compute_loss, []

    def short_of_memory(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:  # the first step fits
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(*args, **kwargs)

    trainer.compute_loss = short_of_memory
    report = check_before_training(trainer)
    assert report.failed() == []
    assert (
        report["memorises a batch" if "memorises a batch" in report.table.index else "memorises"].status
        == "not checked"
    )


def test_no_check_copies_the_weights_but_the_one_that_changes_them(tmp_path, monkeypatch):
    trainer = plain_trainer(tmp_path)
    copies = []
    monkeypatch.setattr(
        "src_py.doctor.checks_learning.weights_restored", lambda p: copies.append(1) or untouched(trainer)
    )
    check_before_training(trainer)
    assert len(copies) == 1


def kept_for_backward(trainer, act) -> int:
    """The most bytes that one forward pass of `act` keeps for its backward pass."""
    most = [0]

    def look(module, inputs):
        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            most[0] = max(most[0], sum(kept.values()))
            return tensor

        module.hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        module.hooks.__enter__()

    def leave(module, inputs, output):
        module.hooks.__exit__()

    handles = [trainer.model.register_forward_pre_hook(look), trainer.model.register_forward_hook(leave)]
    act()
    for handle in handles:
        handle.remove()
    return most[0]


@pytest.mark.parametrize("again", [pytest.param(False, marks=pytest.mark.slow), True])
def test_no_check_keeps_more_for_the_backward_pass_than_training_does(tmp_path, again):
    """In eval mode, or before the Trainer has started, a model with checkpointing would keep everything."""
    trainer = plain_trainer(tmp_path, max_steps=20, gradient_checkpointing=again, eval_strategy="no")
    checked = kept_for_backward(trainer, lambda: check_before_training(trainer))
    assert 0 < checked <= kept_for_backward(trainer, trainer.train)


def test_optimizer_states_are_put_back_after_a_look(tmp_path):
    trainer = plain_trainer(tmp_path, max_steps=3, eval_strategy="no")
    trainer.train()
    (before,) = {id(p): s for p, s in trainer.optimizer.state.items() if p is trainer.model.classifier.weight}.values()
    before = {name: value.clone() for name, value in before.items()}
    with untouched(trainer):
        trainer.optimizer.state[trainer.model.classifier.weight]["exp_avg"].fill_(7)
    after = trainer.optimizer.state[trainer.model.classifier.weight]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_doctor_measures_in_the_precision_of_the_training(tmp_path):
    """accelerate turns fp16 off on a CPU; set by hand it is what a GPU does."""
    trainer = plain_trainer(tmp_path, fp16=True)
    trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu")
    seen = set()
    dense = trainer.model.bert.encoder.layer[0].output.dense
    dense.register_forward_hook(lambda m, i, out: seen.add((torch.is_grad_enabled(), out.dtype)))
    assert check_before_training(trainer).failed() == []
    assert {dtype for with_gradients, dtype in seen if with_gradients} == {torch.float16}


def test_an_overflow_that_only_fp16_has_is_found(tmp_path):
    trainer = plain_trainer(tmp_path, fp16=True)
    for layer in trainer.model.bert.encoder.layer:
        layer.intermediate.dense.weight.data.mul_(1e6)
    assert "fp16 head-room" not in check_before_training(trainer).failed()  # on a CPU this trains in float32
    trainer.accelerator.native_amp, trainer.accelerator.scaler = True, torch.amp.GradScaler("cpu")
    failed = check_before_training(trainer).failed()
    assert {"fp16 head-room", "gradients"} & set(failed)


def test_advice_names_what_the_user_sets(tmp_path):
    report = check_before_training(plain_trainer(tmp_path, learning_rate=1.0, warmup_steps=0, num_train_epochs=1))
    advice = " ".join(f.advice for f in report.findings)
    assert "TrainingArguments.learning_rate" in advice
    assert "TrainingArguments.warmup_steps" in advice
    assert "CFG" not in advice


def test_a_crash_in_the_forward_pass_fails_and_is_quoted(tmp_path):
    trainer = plain_trainer(tmp_path)

    def broken(module, inputs):
        raise RuntimeError("sizes do not fit")

    trainer.model.classifier.register_forward_pre_hook(broken)
    report = check_before_training(trainer)
    assert report.failed() == ["first step"]
    assert "sizes do not fit" in report["first step"].measured
