"""What a check looks at and what it says: the vocabulary of the doctor."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from src_py.doctor.repair import Repair, propose
from src_py.doctor.rows import LABEL_NAMES, CannotRead, column, take, token_ids, unpadded
from src_py.doctor.settings import UserSettings, ours, setting, user_settings
from src_py.errors import InputError

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "not checked"
LABEL_ROWS = 3000  # rows read for the labels, where reading one may mean to tokenise it
_COLORS = {PASS: "#1a7f37", WARN: "#9a6700", FAIL: "#cf222e", SKIP: "#57606a"}


@dataclass
class Finding:
    """What one check measured, against which limit, and what to change.

    `change` is the advice as settings, where it is one: the project's names of settings (`settings._NAMES`) -> values.
    """

    check: str
    status: str
    measured: str
    limit: str = ""
    advice: str = ""
    change: dict[str, Any] = field(default_factory=dict)


def judge(
    check: str,
    value: float,
    advice: str,
    warn: tuple[float | None, float | None] = (None, None),
    fail: tuple[float | None, float | None] = (None, None),
    form: str = "{:.3g}",
    note: str = "",
    change: dict[str, Any] | None = None,
) -> Finding:
    """A finding whose status and stated limit both follow from the same numbers.

    Args:
        value: what was measured; NaN counts as outside of every limit.
        advice: what to change; shown only when something is wrong.
        warn, fail: least and greatest value that is still right, and that does not fail; None for no limit.
        form: how a value is written, with its unit.
        note: what stands behind the measured value.
        change: the advice as settings, where it is one.
    """
    status = FAIL if _outside(value, fail) else WARN if _outside(value, warn) else PASS
    measured, limit = form.format(value) + note, _limit(warn, fail, form)
    return Finding(check, status, measured, limit, *(("", {}) if status == PASS else (advice, change or {})))


def _outside(value: float, limits: tuple) -> bool:
    low, high = limits
    return (low is not None and not value >= low) or (high is not None and not value <= high)


def _limit(warn: tuple, fail: tuple, form: str) -> str:
    """For example "2% to 30%", or "at most 0.45 (fails above 0.6)"."""
    inner = tuple(f if w is None else w for w, f in zip(warn, fail))
    low, high = (None if x is None else form.format(x) for x in inner)
    text = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}" if high else ""
    fails = [f"below {form.format(fail[0])}"] if fail[0] is not None else []
    fails += [f"above {form.format(fail[1])}"] if fail[1] is not None else []
    if not fails:
        return text
    return f"{text} (fails otherwise)" if inner == fail else f"{text} (fails {' or '.join(fails)})"


@dataclass
class Setup:
    """What the checks look at: a Trainer that is ready to train and, where known, what it was made from."""

    trainer: Any
    tokenizer: Any = None
    train: pd.DataFrame | None = None  # tables from `load_pairs`, for prompts and raw texts
    valid: pd.DataFrame | None = None
    rows: int = 256
    card_bytes: int | None = None
    seed: int = 0

    @property
    def model(self):
        return self.trainer.model

    @property
    def args(self):
        return self.trainer.args

    @property
    def ours(self) -> bool:
        """Whether this project's recipes made the Trainer."""
        return ours(self.trainer)

    def setting(self, name: str) -> str:
        """What the user of this Trainer calls a setting."""
        return setting(self.trainer, name)

    @property
    def settings(self) -> UserSettings:
        """What is set now; the sequences' greatest length where a check has read them."""
        return user_settings(self.trainer, self.longest if "sample_ids" in vars(self) else None)

    @cached_property
    def sample(self) -> list:
        """Up to `rows` training rows, the same ones every time; a stream's first."""
        return take(self.trainer.train_dataset, self.rows, self.seed)

    @cached_property
    def sample_ids(self) -> list[list[list[int]]]:
        """Token ids of the sample's rows without padding: two sequences a row for pairwise, one otherwise."""
        return self.ids(self.sample)

    def ids(self, rows: list) -> list[list[list[int]]]:
        """Token ids of rows without padding; what holds none is tokenised by the collator.

        Raises:
            CannotRead: when the collator gives no `input_ids` either.
        """
        known = [ids for row in rows if (ids := token_ids(row)) is not None]
        if rows and len(known) == len(rows):
            return known
        found = []
        for start in range(0, len(rows), 16):
            batch = self.collate(rows[start : start + 16])
            if "input_ids" not in batch:
                raise CannotRead("no input_ids in a batch")
            masks = batch.get("attention_mask")
            for i, row in enumerate(batch["input_ids"]):
                found.append(unpadded(row.cpu(), None if masks is None else masks[i].cpu()))
        return found

    @property
    def longest(self) -> int:
        """Tokens of the sample's longest sequence, without padding."""
        return max(len(s) for row in self.sample_ids for s in row)

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the training rows, of a stream's or a lazy dataset's first `LABEL_ROWS`; empty if not found.

        Rows without a label column are asked of the collator, for the sample only.
        """
        data = self.trainer.train_dataset
        known = column(data, [*self.trainer.label_names, *LABEL_NAMES], LABEL_ROWS)
        return self.batch_labels if known is None else known

    @cached_property
    def batch_labels(self) -> np.ndarray:
        """Labels of the sample as the collator gives them to the model; empty if it gives none."""
        batches = [self.collate(self.sample[i : i + 16]) for i in range(0, len(self.sample), 16)]
        name = next((n for n in ("labels", "label") if batches and n in batches[0]), None)
        return np.array([]) if name is None else np.concatenate([np.asarray(b[name].cpu()) for b in batches])

    @cached_property
    def kind(self) -> str:
        """What is predicted: "classes", "regression", "several labels", or "unknown"."""
        config = getattr(self.model, "config", None)
        stated = getattr(config, "problem_type", None)
        if stated in ("regression", "multi_label_classification"):
            return "regression" if stated == "regression" else "several labels"
        labels = self.batch_labels
        if not len(labels):
            return "unknown"
        if labels.ndim > 1:
            return "several labels"
        if getattr(config, "num_labels", None) == 1:
            return "regression"
        return "classes"

    @property
    def n_classes(self) -> int:
        """Outputs of the model's head."""
        known = getattr(getattr(self.model, "head", None), "n_classes", None)
        return known or getattr(getattr(self.model, "config", None), "num_labels", None) or int(self.labels.max()) + 1

    @property
    def micro_batch(self) -> int:
        """Rows of the greatest length that training puts through the model at once; a check takes no more."""
        rows = getattr(self.trainer, "micro_batch", self.args.per_device_train_batch_size)
        return min(rows, getattr(self.trainer, "most", rows))

    def collate(self, rows: list) -> dict:
        """A batch as the Trainer's loader makes it, without the columns that the model does not take."""
        collate = self.trainer._get_collator_with_removed_columns(self.trainer.data_collator)
        return collate([dict(row) if isinstance(row, dict) else row for row in rows])

    def batch(self, rows: list) -> dict:
        """Rows collated and moved as the Trainer will do it."""
        return self.trainer._prepare_inputs(self.collate(rows))

    def loss(self, batch: dict) -> torch.Tensor:
        """The loss as the Trainer computes it, in the precision that training will use.

        Before `accelerator.prepare` nothing runs under autocast, so this opens it as the prepared model will.
        """
        with self.trainer.accelerator.autocast(), self.trainer.compute_loss_context_manager():
            return self.trainer.compute_loss(self.model, dict(batch)).mean()

    def scaler(self):
        """A GradScaler as training will use it; one that does nothing where training needs none."""
        own = getattr(self.trainer.accelerator, "scaler", None)
        used = own is not None and own.is_enabled()
        return torch.amp.GradScaler(self.args.device.type, enabled=used)


def error_line(error: BaseException) -> str:
    """Class and first line of an error, shortened for a table."""
    line = (str(error).strip().splitlines() or [""])[0][:120]
    return f"{type(error).__name__}: {line}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not hold it; on a CPU torch says so with a RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


@dataclass
class Report:
    """Findings, worst first; `table` as a data frame, coloured in a notebook. `settings` is what was set."""

    findings: list[Finding]
    seconds: float
    settings: UserSettings | None = None

    @property
    def table(self) -> pd.DataFrame:
        frame = pd.DataFrame([vars(f) for f in self.findings]).set_index("check")
        return frame[["status", "measured", "limit", "advice"]].rename(columns={"advice": "what to change"})

    def __getitem__(self, check: str) -> Finding:
        return next(f for f in self.findings if f.check == check)

    def failed(self, *statuses: str) -> list[str]:
        """Names of the checks with one of `statuses` (FAIL when none is given), worst first."""
        return [f.check for f in self.findings if f.status in (statuses or (FAIL,))]

    def repair(self) -> Repair:
        """What the doctor would change, as a diff of the user's settings; nothing is changed."""
        alarms = [f for f in self.findings if f.status in (FAIL, WARN)]
        if self.settings is None:  # then all is advice
            return propose([(f.check, f.status, f.advice, {}) for f in alarms], UserSettings(ours=True, values={}))
        return propose([(f.check, f.status, f.advice, f.change) for f in alarms], self.settings)

    def stop_on_failure(self, stop: bool = True) -> None:
        """Raise `InputError` when a check failed: better now than after the night."""
        bad = [f"{f.check} ({f.measured}): {f.advice}" for f in self.findings if f.status == FAIL]
        if bad and stop:
            raise InputError("Stopped before training. " + " | ".join(bad))

    def __repr__(self) -> str:
        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            return f"{self.table.to_string()}\n{len(self.findings)} checks in {self.seconds:.1f} s"

    def _repr_html_(self) -> str:
        styled = self.table.style.map(lambda s: f"color: {_COLORS[s]}; font-weight: bold", subset=["status"])
        styled = styled.set_properties(**{"text-align": "left"})
        return styled.to_html() + f"<p>{len(self.findings)} checks in {self.seconds:.1f} s</p>"
