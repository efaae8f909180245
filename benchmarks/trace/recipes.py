"""From the roofline of single calls to an estimate of a recipe's hours on two T4s."""

from dataclasses import dataclass

import numpy as np

from benchmarks.trace.card import T4
from benchmarks.trace.limits import pairs_of
from benchmarks.trace.measure import trace_call, trace_memory, trace_predicting, trace_update
from benchmarks.trace.models import BEST, v3
from benchmarks.trace.tracer import Work
from src_py.model.length_groups import CALL, length_groups
from src_py.pairs.encode import round_up
from src_py.training.batches import PooledBatches, TokenBudget
from src_py.training.trainer import TrainingSettings

DEFAULTS = TrainingSettings()

ROWS, FOLDS, TEST_ROWS = 57_477, 5, 25_000  # of the contest; the scoring run's test file
GPUS = 2
STEPS = 200  # optimizer steps of an epoch that are looked at
# Assumed, not measured: what the host needs to start a kernel from Python, and the rate at which two cards without
# NVLink exchange gradients.
LAUNCH_SECONDS = 18e-6
EXCHANGE = 5e9
# Tokens of prompt and of an answer: log-normal, the logarithms' means and standard deviations. Assumed: about a quarter
# of the sequences are longer than 512 tokens. The contest's texts were not at hand.
PROMPT, ANSWER = (4.3, 1.0), (5.35, 0.75)
TEXTS = "texts of log-normal length (median prompt 74, answer 211 tokens), cut at max_length"


@dataclass
class CallTime:
    """Seconds of an encoder call with n sequences of L tokens: a + b n L + c n L², but at least what the host needs.

    Fitted to traces of some shapes; `error` is the greatest relative difference from them.
    """

    coefficients: np.ndarray
    host: float
    error: float

    def __call__(self, sequences: int, tokens: int) -> float:
        return max(self.host, float(_terms(sequences, tokens) @ self.coefficients))


def call_time(trace) -> CallTime:
    """Fit `CallTime` to `trace`, a function from lengths of pairs to the call's `Work`."""
    shapes = [(pairs, tokens) for tokens in (64, 128, 256, 512) for pairs in (1, 4)]
    found: list[Work] = [trace(pairs_of(*shape)) for shape in shapes]
    seconds = np.array([work.seconds for work in found])
    terms = np.array([_terms(2 * pairs, tokens) for pairs, tokens in shapes])
    relative = terms / seconds[:, None]
    coefficients = np.linalg.lstsq(relative, np.ones(len(seconds)), rcond=None)[0]
    error = float(np.abs(relative @ coefficients - 1).max())
    return CallTime(coefficients, max(work.kernels for work in found) * LAUNCH_SECONDS, error)


def draw_lengths(rows: int, max_length: int, seed: int = 0) -> np.ndarray:
    """Tokens of both sequences of every pair, int (rows, 2), from the assumed distribution."""
    rng = np.random.default_rng(seed)
    prompt, answers = rng.lognormal(*PROMPT, (rows, 1)), rng.lognormal(*ANSWER, (rows, 2))
    return (prompt + answers).astype(int).clip(20, max_length)


def finetune(size: str = "base", max_length: int = 512, settings: TrainingSettings = DEFAULTS) -> dict[str, float]:
    """Estimated minutes of `finetune_deberta` on the contest's rows, one fold, by stage."""
    config = v3(size)
    train = call_time(lambda lengths: trace_call(config, lengths, BEST).total)
    predict = call_time(lambda lengths: trace_predicting(config, lengths, BEST)[0])
    update, gradients = trace_update(config), trace_memory(config, pairs_of(1, 64)).gradients
    rows = ROWS * (FOLDS - 1) // FOLDS
    lengths = draw_lengths(rows, max_length)
    steps = list(PooledBatches(lengths.max(1).tolist(), settings.batch_size, 0))
    looked_at = steps[:: max(1, len(steps) // STEPS)]
    step = np.mean([_step_seconds(lengths[ids], train, settings.micro_batch, max_length) for ids in looked_at])
    step += max(update.seconds, update.kernels * LAUNCH_SECONDS) + gradients / EXCHANGE
    row = _seconds_a_row(lengths, predict)
    evaluations = int(settings.epochs * settings.evals_per_epoch)
    return {
        "training": settings.epochs * len(steps) * step / 60,
        f"{evaluations} evaluations": evaluations * (ROWS - rows) * row / 60,
        "validation rows": (ROWS - rows) * row / 60,
        "25,000 test rows": TEST_ROWS * row / 60,
    }


def embed(size: str = "base", max_length: int = 512) -> dict[str, float]:
    """Estimated minutes that `embed_deberta_lightgbm` spends in the encoder."""
    predict = call_time(lambda lengths: trace_predicting(v3(size), lengths, BEST)[0])
    row = 1.5 * _seconds_a_row(draw_lengths(ROWS, max_length), predict)  # the prompt alone, and with each answer
    return {"embedding 57,477 rows": ROWS * row / 60, "25,000 test rows": TEST_ROWS * row / 60}


def _step_seconds(lengths: np.ndarray, call: CallTime, micro_batch: int, max_length: int) -> float:
    """Of one optimizer step: the slower of two cards, each with its share of the rows."""
    rows = [{"length": max(pair), "sequences": pair} for pair in lengths.tolist()]
    seconds = []
    for process in range(GPUS):
        parts = TokenBudget(lambda part: part, micro_batch * max_length * 2, process, GPUS)(rows)["parts"]
        flat = [[tokens for row in part for tokens in row["sequences"]] for part in parts]
        seconds.append(sum(_part_seconds(part, call) for part in flat))
    return max(seconds)


def _seconds_a_row(lengths: np.ndarray, call: CallTime) -> float:
    """Of predicting in batches of 32 equally long pairs, on both cards."""
    ordered = lengths[np.argsort(lengths.max(1))]
    batches = [ordered[at : at + 32].ravel().tolist() for at in range(0, len(ordered) - 32, len(ordered) // 100)]
    return float(np.mean([_part_seconds(batch, call) for batch in batches])) / 32 / GPUS


def _part_seconds(lengths: list[int], call: CallTime) -> float:
    """Of the encoder calls that a batch of sequences is cut into, as `PreferenceModel.encode` does it."""
    groups = length_groups(lengths, CALL["cuda"])
    return sum(call(len(group), round_up(longest)) for group, longest in groups)


def _terms(sequences: int, tokens: int) -> np.ndarray:
    return np.array([1.0, sequences * tokens, sequences * tokens**2])


def estimates() -> list[dict]:
    """One row a recipe: minutes by stage, in all, and the range of the roofline's uncertainty."""
    rows = []
    for name, minutes in (("finetune_deberta", finetune()), ("embed_deberta_lightgbm, encoder only", embed())):
        total = sum(minutes.values())
        low, high = total * (1 - T4.uncertainty), total * (1 + T4.uncertainty)
        rows.append({"recipe": name, "minutes": minutes, "total": total, "from": low, "to": high})
    return rows
