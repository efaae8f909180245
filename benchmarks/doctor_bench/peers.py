"""Other tools for the same purpose, on the same set-ups, as far as they are installed.

They are no requirement of this project: `pip install --no-deps --target build/doctor-bench/peers torch-audit==0.3.0
neural_net_checklist==1.1.0 defaultplusplus==0.4.1` makes them known here (`--no-deps`: torch is there already).
"""

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.doctor_bench.case import Case
from benchmarks.doctor_bench.setups import Setup

STEPS = 4  # of training that torch-audit watches
CHECKLIST_STEPS = 128  # of learning a batch by heart; its own limit is 65,536

# The findings of each that name a fault's cause.
RIGHT: dict[str, dict[str, tuple[str, ...]]] = {
    "torch-audit": {
        "a weight is nan": ("TA100",),
        "loss becomes nan on the way": ("TA100",),
        "nan hidden in the log": ("TA100",),
        "rate a hundred times too high": ("TA102",),
        "sum instead of mean": ("TA102",),
        "everything frozen": ("TA104",),
        "graph detached": ("TA104",),
        "encoder without gradients": ("TA104",),
        "loss without a graph": ("TA104",),
        "layer norm of zero": ("TA103", "TA105"),
        "decay on norms and biases": ("TA402",),
        "two rows a step": ("TA304",),
        "constant column": ("TA302",),
        "weights in fp16": ("TA203",),
        "weights in bf16": ("TA203",),
    },
    "neural_net_checklist": {
        "head starts loud": ("loss at the start", "calibrated at the start"),
        "a weight is nan": ("loss at the start",),
        "graph detached": ("gradients",),
        "encoder without gradients": ("gradients",),
        "encoder frozen": ("gradients",),
        "head frozen": ("gradients",),
        "everything frozen": ("gradients",),
        "layer norm of zero": ("gradients",),
        "rows pooled together": ("rows are independent",),
        "constant column": ("inputs matter",),
    },
    "defaultplusplus": {
        "activation missing": ("ffn",),
        "layer norm of zero": ("layernorm",),
        "embeddings not loaded": ("embedding",),
        "attention mask missing": ("masking",),
        "attention mask of ones": ("masking",),
        "attention mask inverted": ("masking",),
        "attention mask hides half": ("masking",),
        "positions without meaning": ("positional",),
        "attention overflows fp16": ("score",),
        "outputs exchanged in evaluation": ("output",),
        "head starts loud": ("output",),
    },
}


def installed(folder: Path) -> bool:
    """Whether there are any in the folder where results are kept."""
    return any((folder / "peers").glob("*"))


def look(setup: Setup, folder: Path) -> dict:
    """For each peer: its findings as strings, the seconds it took, and why it was not tried."""
    path = str((folder / "peers").resolve())
    if path not in sys.path:
        sys.path.append(path)
    found = {}
    tools = {"torch-audit": _torch_audit, "neural_net_checklist": _checklist, "defaultplusplus": _default_plus}
    for name, tool in tools.items():
        started = time.perf_counter()
        try:
            case = setup.make(folder).build()
            found[name] = {"findings": tool(case), "error": ""}
        except Exception as error:  # its own, or that of the set-up
            found[name] = {"findings": [], "error": f"{type(error).__name__}: {str(error)[:150]}"}
        found[name]["seconds"] = time.perf_counter() - started
    return found


def _torch_audit(case: Case) -> list[str]:
    """Static and initial rules, and those of a few training steps; WARN and above."""
    from torch_audit import Auditor

    trainer, seen = case.trainer, []
    trainer.create_optimizer()
    auditor = Auditor(trainer.model, optimizer=trainer.optimizer, every_n_steps=1)
    with auditor:
        auditor.audit_static()
        auditor.audit_init()
        trainer.model.train()
        for number, batch in enumerate(trainer.get_train_dataloader()):
            if number == STEPS:
                break
            for part in batch.get("parts", [batch])[:1]:
                inputs = trainer._prepare_inputs(part)
                auditor.forward(**inputs)
                auditor.backward(trainer.compute_loss(trainer.model, dict(inputs)))
                auditor.optimizer_step()
                trainer.model.zero_grad()
    for finding in auditor.finish().findings:
        if finding.severity.value != "INFO":
            seen.append(finding.rule_id)
    return sorted(set(seen))


def _checklist(case: Case) -> list[str]:
    """Its assertions for classification, each on a fresh copy of the model; those for inputs that are real numbers
    (backward batch independence) cannot be asked of token ids."""
    from neural_net_checklist import torch_diagnostics as peer

    trainer = case.trainer
    rows = [trainer.train_dataset[i] for i in range(8)]
    batch = trainer._prepare_inputs(trainer._get_collator_with_removed_columns(trainer.data_collator)(rows))
    labels = batch.pop("labels")
    ids, mask = batch["input_ids"], batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    given = torch.stack([ids, mask], 1), labels
    names = ["loss at the start", "calibrated at the start", "rows are independent", "gradients", "inputs matter"]
    classes = {"num_classes": case.classes}

    def model() -> torch.nn.Module:
        return _Stacked(copy.deepcopy(trainer.model))

    asserted: list[Callable] = [
        lambda: peer.assert_balanced_classification_cross_entropy_loss_at_init(model(), given, **classes),
        lambda: peer.assert_balanced_classification_cross_entropy_init_calibrated(model(), given, **classes),
        lambda: peer.assert_forward_batch_independence(model, given),
        lambda: peer.assert_non_zero_gradients(model(), given),
        lambda: peer.assert_input_independent_baseline_worse(model, given, max_steps=CHECKLIST_STEPS // 4),
        lambda: peer.assert_overfit_to_batch(model(), given, max_steps=CHECKLIST_STEPS, threshold=0.1),
    ]
    return [name for name, one in zip([*names, "learns a batch by heart"], asserted) if not _holds(one)]


def _default_plus(case: Case) -> list[str]:
    """Its pretrained diagnosis of encoders, from what its callback sees in an epoch of training; the category and the
    root cause where it finds a fault."""
    from defaultplusplus import DEFaultPlusCallback
    from defaultplusplus.diagnosis import load_pretrained
    from defaultplusplus.processing import RuntimeNormalizer

    trainer, callback = case.trainer, DEFaultPlusCallback()
    compute = trainer.compute_loss

    def seen(model, inputs, return_outputs=False, **kwargs):
        callback.capture_inputs(dict(inputs))
        loss, outputs = compute(model, inputs, return_outputs=True, **kwargs)
        callback.capture_outputs(outputs)
        return (loss, outputs) if return_outputs else loss

    trainer.compute_loss = seen
    trainer.add_callback(callback)
    trainer.args.num_train_epochs, trainer.args.save_strategy = 1, "no"
    trainer.train()
    features = RuntimeNormalizer.load("encoder").encode(callback.feature_vector, mode="raw")
    diagnosis = load_pretrained("encoder").predict(features)
    return [str(diagnosis.category), str(diagnosis.root_cause)] if diagnosis.is_faulty else []


class _Stacked(torch.nn.Module):
    """A model whose only input holds token ids and mask, as that tool has it; it returns the logits."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, both: torch.Tensor) -> torch.Tensor:
        ids, mask = both.unbind(1)
        return self.model(input_ids=ids, attention_mask=mask)["logits"]


def _holds(assertion: Callable) -> bool:
    try:
        assertion()
    except AssertionError:
        return False
    return True
