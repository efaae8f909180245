"""Checks of what the collator and the loader make of the rows: labels, mask, tokens, and which rows come together."""

from itertools import islice

import numpy as np
import torch

from src_py.doctor.checks_rows import labels_of
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.rows import row_count, token_ids
from src_py.doctor.untouched import no_dropout

ROWS = 16  # rows looked at in a batch
SAME = 0.005  # of the spread of the predictions over rows: what rounding in float32 never reaches
TRIES = 3  # passes in training mode, to see whether they are random without dropout
STEPS = 12  # steps looked at for their labels
LEAST_ROWS_USED = 0.9  # of the training rows in an epoch: a last step that is not complete may be dropped


def check_batch_labels(setup: Setup) -> Finding:
    """The labels of a batch are those of its rows, in their order."""
    name, limit = "labels in a batch", "those of the rows"
    rows = setup.sample[:ROWS]
    own, batch = labels_of(setup, rows), setup.collate(rows)
    if own is None or "labels" not in batch:
        return Finding(name, SKIP, "rows or batches without a label column", limit)
    found = np.asarray(batch["labels"].cpu(), dtype=float).reshape(len(rows), -1)[:, 0]
    wrong = float((found != np.asarray(own)).mean())
    advice = "The collator changes labels or their order, so that texts and labels no longer belong together: "
    advice += f"use {setup.setting('collator')}, or compare yours with it."
    return judge(name, wrong, advice, fail=(None, 0), form="{:.0%} of rows differ")


def check_batch_tokens(setup: Setup) -> Finding:
    """Every token of a row is in the batch and the mask shows it; the mask hides the padding, and nothing else."""
    name, limit = "tokens in a batch", "each row's, and the mask shows them alone"
    rows = setup.sample[:ROWS]
    known = [ids for row in rows if (ids := token_ids(row)) is not None]
    batch, again = setup.collate(rows), setup.collate(rows)
    if len(known) < len(rows) or "input_ids" not in batch:
        return Finding(name, SKIP, "rows without token ids", limit)
    if not torch.equal(batch["input_ids"], again["input_ids"]):
        return Finding(name, SKIP, "the collator changes tokens at random", limit)
    width = batch["input_ids"].shape[-1]
    ids = batch["input_ids"].cpu().reshape(-1, width)
    own = [sequence for row in known for sequence in row]
    if len(own) != len(ids):
        return Finding(name, SKIP, "a batch of another shape", limit)
    padded = any(len(sequence) < width for sequence in own)
    if "attention_mask" not in batch:
        advice = f"The batch has no attention_mask: the model reads the padding. Use {setup.setting('collator')}."
        return Finding(name, WARN if padded else PASS, "no mask", limit, advice if padded else "")
    shown = batch["attention_mask"].cpu().reshape(-1, width).bool()
    cut = np.mean([len(sequence) > width or not _contains(row, sequence) for row, sequence in zip(ids, own)])
    if cut:
        advice = "The collator cuts or changes tokens of the rows, and the model never sees them: "
        advice += f"use {setup.setting('collator')}, or compare yours with it."
        return Finding(name, FAIL if cut > 0.5 else WARN, f"{cut:.0%} of sequences changed", limit, advice)
    mask = f"it has to be 1 at every token and 0 at the padding, as {setup.setting('collator')} makes it."
    hidden = np.mean([int(mask.sum()) < len(sequence) for mask, sequence in zip(shown, own)])
    if hidden:
        advice = f"attention_mask hides tokens of the rows: {mask}"
        return Finding(name, FAIL if hidden > 0.5 else WARN, f"{hidden:.0%} of sequences partly hidden", limit, advice)
    wrong = np.mean([mask.sum() != len(s) or row[mask].tolist() != list(s) for row, mask, s in zip(ids, shown, own)])
    advice = f"attention_mask is 1 at the padding, or 0 at tokens: {mask}"
    status = FAIL if wrong > 0.5 else WARN if wrong else PASS
    return Finding(name, status, f"{wrong:.0%} of masks wrong", limit, advice if wrong else "")


def check_steps_rows(setup: Setup) -> list[Finding]:
    """Which rows come together in a step, and how many are seen in an epoch; the loader is not asked for a batch."""
    names = ("rows used", "classes in a step")
    loader = setup.trainer.get_train_dataloader()
    sampler, rows = getattr(loader, "batch_sampler", None), row_count(setup.trainer.train_dataset)
    if sampler is None or rows is None:
        return [Finding(name, SKIP, "a stream") for name in names]
    steps = [[int(i) for i in step] for step in islice(iter(sampler), 100_000)]
    flat = np.concatenate([np.asarray(step) for step in steps]) if steps else np.array([], dtype=int)
    used = len(np.unique(flat)) / min(rows, max(1, len(flat)))
    used = min(used, float(np.mean([len(set(step)) / len(step) for step in steps])))  # once a step, too
    expected = _expected_use(getattr(sampler, "sampler", None), rows, len(flat))
    used = used if expected is None else len(np.unique(flat)) / expected
    advice = "An epoch sees a part of the rows only, some more than once: "
    drops = setup.settings.values.get("drop_last", False)
    advice += f"set {setup.setting('drop_last')} to False." if drops else "check sampler and subsets."
    limits: dict = {"warn": (LEAST_ROWS_USED, None), "fail": (0.6, None), "form": "{:.0%} in an epoch"}
    found = [judge(names[0], used, advice, **limits, change={"drop_last": False} if drops else {})]
    looked = [step for step in steps[:: max(1, len(steps) // STEPS)] if len(step) > 3]
    read = (labels_of(setup, [setup.trainer.train_dataset[i] for i in step]) for step in looked)
    labels = [one for one in read if one is not None]
    if setup.kind != "classes" or len(looked) < 4 or len(labels) < len(looked):
        return [*found, Finding(names[1], SKIP, "few steps, or rows without a label column")]
    shares = np.unique(np.concatenate(labels), return_counts=True)[1] / sum(map(len, labels))
    single = np.mean([len(set(one)) == 1 for one in labels])
    expected = np.mean([(shares ** len(step)).sum() for step in looked])
    advice = "Steps hold rows of one class: shuffle the training rows."
    limits = {"warn": (None, 0.2), "fail": (None, 0.5), "form": "{:.0%} of steps have one"}
    return [*found, judge(names[1], float(single - expected), advice, **limits, note=" (beyond chance)")]


def check_rows_alone(setup: Setup) -> list[Finding]:
    """A row's prediction does not depend on the rows beside it, nor on how much padding they make necessary."""
    names = ("padding", "rows of a batch")
    order = np.argsort(setup.lengths, kind="stable")
    if setup.micro_batch < 3 or len(order) < 8:
        return [Finding(name, SKIP, "fewer than three rows in a forward pass") for name in names]
    a, b, c, longest = (setup.sample[i] for i in (*order[:3], order[-1]))
    no_dropout(setup.model)
    each = [_logits(setup, [row]) for row in (a, b, c, longest)]
    if any(one.ndim != 2 or len(one) != 1 or one.shape != each[0].shape for one in each):
        return [Finding(name, SKIP, "the model does not make one prediction for each row") for name in names]
    alone = torch.cat(each[:3])
    spread = max(float(alone.std(0).mean()), float(alone.abs().mean()) * 0.01, 1e-6)

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().max()) / spread

    if apart(alone[:1], _logits(setup, [a])) > SAME:
        return [Finding(name, SKIP, "evaluation or collator is random") for name in names]
    # Sums in another order change the sixth digit; what reads padding changes predictions as much as the text does.
    limits: dict = {"warn": (None, SAME), "fail": (None, 0.5), "form": "{:.1%}", "note": " of the spread over rows"}
    # With another row behind it, and with another one before it; there is as much padding in all four.
    behind = [_logits(setup, [a, other, longest])[0] for other in (b, c)]
    before = [_logits(setup, [other, a, longest])[1] for other in (b, c)]
    others = max(apart(*behind), apart(*before))
    advice = "Predictions change with the other rows of the batch: is a mean taken over the wrong axis?"
    beside = judge(names[1], others, advice, **limits)
    if others > SAME:
        return [Finding(names[0], SKIP, "rows depend on each other"), beside]
    if not setup.reads_tokens:
        return [Finding(names[0], SKIP, "the batches have no input_ids: no text"), beside]
    padded = torch.stack([_logits(setup, [row, longest])[0] for row in (a, b, c)])
    advice = "Predictions change with the padding: does pooling or attention read it? Pass attention_mask on, pool the "
    advice += "tokens that it shows, and pad on the side that the model expects."
    return [judge(names[0], apart(alone, padded), advice, **limits), beside]


def check_modes(setup: Setup) -> Finding:
    """eval() makes predictions repeatable, train() turns dropout on, and without dropout both say the same."""
    name, limit = "training and evaluation mode", "the same but for dropout"
    batch = setup.batch(setup.sample[: max(2, min(8, setup.micro_batch))])
    model = setup.model
    model.eval()
    first, second = setup.predict(batch), setup.predict(batch)
    spread = max(float(first.std(0).mean()), float(first.abs().mean()) * 0.01, 1e-6)
    if float((first - second).abs().max()) > SAME * spread:
        advice = "Two evaluations of the same rows differ: let model.eval() turn dropout off, in every module."
        return Finding(name, FAIL, "evaluation is random", limit, advice)
    model.train()
    if not any(module.training for module in model.modules()):
        advice = "Dropout stays off in training: let model.train() turn it on, in every module."
        return Finding(name, WARN, "training is evaluation", limit, advice)
    held = [(m, name, getattr(m, name)) for m in model.modules() for name in _shares_dropped(m)]
    other = any("ropout" in type(m).__name__ and not _shares_dropped(m) for m in model.modules())
    try:
        for module, share, _ in held:
            setattr(module, share, 0.0)
        trained = [first] if other else [setup.predict(batch) for _ in range(TRIES)]
    finally:
        for module, share, value in held:
            setattr(module, share, value)
    both = trained[0]
    if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return Finding(name, SKIP, "batch norm computes something else in training, and is meant to", limit)
    if any(float((one - both).abs().max()) > SAME * spread for one in trained):
        return Finding(name, SKIP, "training is random without dropout too", limit)
    apart = float((both - first).abs().max()) / spread
    advice = (
        "The model computes something else in evaluation than in training, dropout aside: predictions are not what "
    )
    return judge(name, apart, advice + "was trained.", warn=(None, SAME), fail=(None, 0.5), form="{:.1%} apart")


BATCH_CHECKS = (check_batch_labels, check_batch_tokens, check_steps_rows)
ROWS_TOGETHER_CHECKS = (check_rows_alone, check_modes)


def _expected_use(sampler, rows: int, draws: int) -> float | None:
    """How many rows a sampler that draws with replacement is meant to use, by its weights; None for any other."""
    if not getattr(sampler, "replacement", False) or not draws:
        return None
    weights = getattr(sampler, "weights", None)
    shares = np.full(rows, 1 / rows) if weights is None else np.asarray(weights, dtype=float)
    return max(1.0, float((1 - (1 - shares / shares.sum()) ** draws).sum()))


def _shares_dropped(module: torch.nn.Module) -> list[str]:
    """Names of a module's attributes that say how much is dropped in training."""
    names = ("p",) if isinstance(module, torch.nn.Dropout) else ("attention_dropout", "dropout_prob")
    return [name for name in names if isinstance(getattr(module, name, None), float)]


def _contains(row: torch.Tensor, sequence: list[int]) -> bool:
    """Whether a padded row holds the sequence, on its left or on its right."""
    wanted = torch.as_tensor(sequence)
    return any(torch.equal(part, wanted) for part in (row[: len(wanted)], row[len(row) - len(wanted) :]))


def _logits(setup: Setup, rows: list) -> torch.Tensor:
    """(rows, outputs) without autocast, whose rounding would be seen, and in the mode that the model is in."""
    batch = setup.batch(rows)
    if setup.ours:  # this project's model leaves padding out where it knows the lengths; to be seen, it has to be there
        batch = {name: value for name, value in batch.items() if name != "lengths"}
    return setup.predict(batch)
