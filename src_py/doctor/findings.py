"""What a check looks at and what it says: the vocabulary of the doctor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from src_py.doctor.page import as_html, as_text
from src_py.doctor.repair import Repair, propose
from src_py.doctor.rows import LABEL_NAMES, CannotRead, column, ids_of, take
from src_py.doctor.settings import UserSettings, ours, setting, user_settings
from src_py.doctor.targets import Targets, predict, predictions, read_targets
from src_py.doctor.texts import known_texts
from src_py.errors import InputError

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "not checked"
LABEL_ROWS = 3000  # rows read for the labels, where reading one may mean to tokenise it


@dataclass
class Finding:
    """What one check measured, against which limit, and what to change.

    `change` is the advice as settings, where it is one: the project's names of settings (`settings._NAMES`) -> values;
    where no setting would do, `CODE` -> (line to replace, or "", and the new line).
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
    runs: bool = True  # whether rows can be put through the model: on a GPU a crash takes all later checks with it

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
        """What is set now; the sequences' greatest length where a check has read them.

        Nothing where a Trainer is too unusual to tell: then every remedy is done by hand.
        """
        try:
            return user_settings(self.trainer, self.longest if vars(self).get("sample_ids") else None)
        except (AttributeError, TypeError, ValueError):
            return UserSettings(self.ours, {})

    @cached_property
    def sample(self) -> list:
        """Up to `rows` training rows, the same ones every time; a stream's first."""
        return take(self.trainer.train_dataset, self.rows, self.seed)

    @cached_property
    def sample_ids(self) -> list[list[list[int]]]:
        """Token ids of the sample's rows without padding: two sequences a row for pairwise, one otherwise."""
        return self.ids(self.sample)

    @cached_property
    def sample_texts(self) -> list[str] | None:
        """See `texts.known_texts`."""
        if not self.reads_tokens:
            return None
        data, tokenizer = self.trainer.train_dataset, self.tokenizer
        return known_texts(data, self.sample, self.seed, self.sample_ids, tokenizer, self.train)

    def ids(self, rows: list) -> list[list[list[int]]]:
        """See `rows.ids_of`."""
        return ids_of(rows, self.collate)

    @cached_property
    def reads_tokens(self) -> bool:
        """Whether rows are texts as token ids, and not images or numbers."""
        try:
            return bool(self.ids(self.sample[:1]))
        except CannotRead:
            return False

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of the longest sequence of each row of the sample; zeros where rows hold no tokens."""
        if not self.reads_tokens:
            return [0] * len(self.sample)
        return [max(map(len, ids)) for ids in self.sample_ids]

    @property
    def longest(self) -> int:
        """Tokens of the sample's longest sequence, without padding."""
        return max(len(s) for row in self.sample_ids for s in row)

    @cached_property
    def targets(self) -> Targets:
        """What is predicted, and the sample's labels as the model gets them."""
        return read_targets(self)

    @property
    def kind(self) -> str:
        """What is predicted, as `Targets` names it."""
        return self.targets.kind

    @property
    def batch_labels(self) -> np.ndarray:
        """Labels of the sample as the collator gives them to the model; empty if it gives none."""
        return self.targets.labels

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the training rows, of a stream's or a lazy dataset's first `LABEL_ROWS`; empty if not found.

        Rows without a label column are asked of the collator, for the sample only.
        """
        if self.kind.startswith("labels of"):
            return self.batch_labels
        data = self.trainer.train_dataset
        known = column(data, [*self.trainer.label_names, *LABEL_NAMES], LABEL_ROWS)
        # Names of classes are numbers in a batch only.
        return known if known is not None and np.issubdtype(known.dtype, np.number) else self.batch_labels

    @property
    def n_classes(self) -> int:
        """Outputs of the model's head; one more than the greatest label where they are not known."""
        return self.targets.outputs or int(self.labels.max()) + 1

    def predict(self, batch) -> torch.Tensor:
        """See `targets.predict`."""
        return predict(self, batch)

    @property
    def micro_batch(self) -> int:
        """Rows of the greatest length that training puts through the model at once; a check takes no more."""
        rows = getattr(self.trainer, "micro_batch", self.args.per_device_train_batch_size)
        return min(rows, getattr(self.trainer, "most", rows))

    def collate(self, rows: list):
        """A batch as the Trainer's loader makes it, without the columns that the model does not take.

        A dict (of a BatchEncoding too); what is none stays what it is.
        """
        collate = self.trainer._get_collator_with_removed_columns(self.trainer.data_collator)
        made = collate([dict(row) if isinstance(row, dict) else row for row in rows])
        return dict(made) if isinstance(made, Mapping) else made

    def batch(self, rows: list):
        """Rows collated and moved as the Trainer will do it."""
        return self.trainer._prepare_inputs(self.collate(rows))

    def loss(self, batch) -> torch.Tensor:
        """The loss as the Trainer computes it, in the precision that training will use.

        Before `accelerator.prepare` nothing runs under autocast, so this opens it as the prepared model will.
        """
        with self.trainer.accelerator.autocast(), self.trainer.compute_loss_context_manager():
            # The number of labels is passed as training passes it: older losses of users' own do not take it.
            return self.trainer.compute_loss(self.model, self.again(batch), num_items_in_batch=None).mean()

    def loss_and_predictions(self, batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss, and what the model predicted for it; a loss of the user's own may return no outputs."""
        outputs: list = []
        handle = self.model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            loss = self.loss(batch)
        finally:
            handle.remove()
        return loss, predictions(outputs[-1]) if outputs else None

    @staticmethod
    def again(batch):
        """A batch to be given away: a loss of the user's own may take the labels out of it."""
        return dict(batch) if isinstance(batch, Mapping) else batch

    def scaler(self):
        """A GradScaler as training will use it; one that does nothing where training needs none."""
        own = getattr(self.trainer.accelerator, "scaler", None)
        used = own is not None and own.is_enabled()
        return torch.amp.GradScaler(self.args.device.type, enabled=used)


def error_line(error: BaseException) -> str:
    """Class and first line of an error, shortened for a table; only the line where the doctor wrote it."""
    line = (str(error).strip().splitlines() or [""])[0][:120]
    return line if isinstance(error, (CannotRead, InputError)) else f"{type(error).__name__}: {line}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory did not hold it; on a CPU torch says so with a RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


@dataclass
class Report:
    """Findings, worst first; `table` as a data frame; `settings` is what was set.

    Shown, it says what to do first, and folds what passed.
    """

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
        alarms, passed, skipped = self._groups()
        return as_text(alarms, passed, skipped, self.seconds)

    def _repr_html_(self) -> str:
        alarms, passed, skipped = self._groups()
        return as_html(alarms, passed, skipped, self.seconds)

    def _groups(self) -> list[list[Finding]]:
        """Alarms, what passed, and what was not checked, each in the order of the findings."""
        return [[f for f in self.findings if f.status in group] for group in ((FAIL, WARN), (PASS,), (SKIP,))]
