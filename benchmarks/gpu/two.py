"""Two GPUs against one: the same training, in less time."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.rows import NEEDS_TWO, Row, judged, skipped, wished
from benchmarks.gpu.scale import Scale
from src_py.kaggle.session import start_session
from src_py.model.attention import default_attention
from src_py.training.processes import fit

STEPS, PAIRS = 8, 16
# Two halves of a step round otherwise than one whole; dropout is off.
TOLERANCE = {"fp16": 2e-3, "fp32": 1e-4}
APART = 0.05  # of the way that the head's weights have gone
FASTER = 1.7  # what two cards are worth at least, with one exchange of gradients a step


def two_against_one(scale: Scale) -> Iterator[Row]:
    """Loss, weights and time of a few steps; for a toy two processes on the CPU."""
    if scale.cuda and scale.gpus < 2:
        yield skipped("two GPUs against one", NEEDS_TWO)
        return
    kind = default_attention()
    losses, seconds, weights = {}, {}, {}
    for processes in (1, 2):
        start_session(0)
        options = {"layers": 2 if scale.toy else 6, "vocabulary": 1000, "dropout": 0.0}
        model = scale.model("base", kind, **options)
        rows = scale.dataset(PAIRS * (2 if scale.toy else STEPS), scale.tokens(512))
        with tempfile.TemporaryDirectory() as folder:
            trainer = scale.trainer(model, Path(folder), rows, rows.select(range(8)), batch_size=PAIRS)
            start = next(model.head.parameters()).detach().cpu().clone()
            fit(trainer, stop=False, until=time.time() + 3600, rows_after=0, processes=processes)
        ended = next(entry for entry in reversed(trainer.state.log_history) if "train_loss" in entry)
        losses[processes], seconds[processes] = ended["train_loss"], ended["train_runtime"]
        weights[processes] = next(trainer.model.head.parameters()).detach().cpu().clone()
    limit = TOLERANCE[scale.precision]
    yield judge("two against one: loss", losses[1], losses[2], limit)
    share = float((weights[1] - weights[2]).norm() / (weights[1] - start).norm())
    yield judge("two against one: difference of the head's weights, share of its way", 0.0, share, APART)
    factor, name = seconds[1] / seconds[2], "two against one: time"
    if scale.toy:
        yield skipped(name, "one CPU stands for both")
    else:
        yield wished(name, f"at least {FASTER} times as fast", f"{factor:.2f} times", factor >= FASTER)


def judge(name: str, one: float, two: float, limit: float) -> Row:
    """The same figure from one process and from two."""
    return judged(name, f"{one:.5f} ± {limit:g}", f"{two:.5f}", abs(one - two) <= limit)
