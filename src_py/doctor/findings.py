"""What a check looks at and what it says: the vocabulary of the doctor."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from src_py.errors import InputError

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "not checked"
_COLORS = {PASS: "#1a7f37", WARN: "#9a6700", FAIL: "#cf222e", SKIP: "#57606a"}


@dataclass
class Finding:
    """What one check measured, against which limit, and what to change."""

    check: str
    status: str
    measured: str
    limit: str = ""
    advice: str = ""


def judge(
    check: str, value: float, warn: bool, fail: bool, limit: str, advice: str, form: str = "{:.3g}", note: str = ""
) -> Finding:
    """A finding whose status follows from two conditions; advice is shown only when something is wrong."""
    status = FAIL if fail else WARN if warn else PASS
    return Finding(check, status, form.format(value) + note, limit, advice if status != PASS else "")


@dataclass
class Setup:
    """What the checks look at: a Trainer that is ready to train and, where known, what it was made from."""

    trainer: object
    tokenizer: object = None
    train: pd.DataFrame | None = None  # tables from `load_pairs`, for prompts and raw texts
    valid: pd.DataFrame | None = None
    rows: int = 256
    card_bytes: int | None = None
    seed: int = 0
    _sample: object = field(default=None, repr=False)

    @property
    def model(self):
        return self.trainer.model

    @property
    def args(self):
        return self.trainer.args

    @property
    def sample(self):
        """Up to `rows` training rows, the same ones every time."""
        if self._sample is None:
            data = self.trainer.train_dataset
            rows = np.random.default_rng(self.seed).permutation(len(data))[: self.rows]
            self._sample = [data[int(i)] for i in rows]
        return self._sample

    def labels(self, dataset=None) -> np.ndarray:
        """The label column of a dataset, whichever of its usual names it has."""
        dataset = self.trainer.train_dataset if dataset is None else dataset
        name = next((n for n in ("labels", "label") if n in dataset.column_names), None)
        return np.array([]) if name is None else np.asarray(dataset[name])

    @property
    def n_classes(self) -> int:
        """Outputs of the model's head."""
        known = getattr(getattr(self.model, "head", None), "n_classes", None)
        return known or getattr(getattr(self.model, "config", None), "num_labels", None) or int(self.labels().max()) + 1

    def batch(self, rows: list[dict]) -> dict:
        """Rows collated and moved as the Trainer will do it, without the columns that the model does not take."""
        collate = self.trainer.data_collator
        if self.args.remove_unused_columns:
            collate = self.trainer._get_collator_with_removed_columns(collate)
        return self.trainer._prepare_inputs(collate([dict(row) for row in rows]))

    def loss(self, batch: dict) -> torch.Tensor:
        """The loss as the Trainer computes it, in the precision that training will use."""
        with self.trainer.compute_loss_context_manager():
            return self.trainer.compute_loss(self.model, dict(batch))


def sequences(row: dict) -> list[list[int]]:
    """Token ids of a row: two sequences for pairwise, one otherwise."""
    return row["sequences"] if "sequences" in row else [row["input_ids"]]


@dataclass
class Report:
    """Findings, worst first; `table` as a data frame, coloured in a notebook."""

    findings: list[Finding]
    seconds: float

    @property
    def table(self) -> pd.DataFrame:
        frame = pd.DataFrame([vars(f) for f in self.findings]).set_index("check")
        return frame[["status", "measured", "limit", "advice"]].rename(columns={"advice": "what to change"})

    def __getitem__(self, check: str) -> Finding:
        return next(f for f in self.findings if f.check == check)

    def failed(self, *statuses: str) -> list[str]:
        """Names of the checks with one of `statuses` (FAIL when none is given), worst first."""
        return [f.check for f in self.findings if f.status in (statuses or (FAIL,))]

    def stop_on_failure(self, stop: bool = True) -> None:
        """Raise `InputError` when a check failed: better now than after the night."""
        bad = [f"{f.check} ({f.measured}): {f.advice}" for f in self.findings if f.status == FAIL]
        if bad and stop:
            raise InputError("This set-up would not learn. " + " | ".join(bad))

    def __str__(self) -> str:
        with pd.option_context("display.max_colwidth", None, "display.width", 200):
            return f"{self.table.to_string()}\n{len(self.findings)} checks in {self.seconds:.1f} s"

    def _repr_html_(self) -> str:
        styled = self.table.style.map(lambda s: f"color: {_COLORS[s]}; font-weight: bold", subset=["status"])
        styled = styled.set_properties(**{"text-align": "left"})
        return styled.to_html() + f"<p>{len(self.findings)} checks in {self.seconds:.1f} s</p>"
