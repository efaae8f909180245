"""What the doctor is worth: recall with the right cause, false alarms, and what each fault really costs."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np

from benchmarks.doctor_bench.fault import FAULTS
from benchmarks.doctor_bench.peers import RIGHT
from benchmarks.doctor_bench.setups import HEALTHY_GROUP, LIMITS, SINGLE, TWIN, Setup

COSTLY = 0.02  # nats a row: a fault that costs less need not be named
NO_BETTER = 0.003  # of the constant predictor: what learned nothing
ALARMS = ("FAIL", "WARN")
LEARNED = ("learned", "learned little more than answer length")
NO_OPINION = ("", "not enough rows to tell")


@dataclass
class Row:
    """One set-up, scored.

    Attributes:
        stops: the error that ended the training, or kept the set-up from being built; "" for none.
        cost: test loss above the healthy twin's, in nats a row, with its 95 % interval; None where there is no model.
        misreport: how much further than the twin's the last reported validation loss is from the true loss.
        alarms: (check, status) of the check before training, in the order in which they are shown.
        named: for each fault, the alarm that names it: "FAIL", "WARN", "during", "after" or "" for none.
        before: place of the first true cause among the alarms before training, from 1; None where it is not there.
        rank: the same among all that is said: those alarms, then each sentence of the watcher, then the verdict.
        stopped: share of the steps after which the watcher would have stopped; None where it would not.
    """

    setup: Setup
    stops: str = ""
    cost: float | None = None
    interval: tuple[float, float] | None = None
    misreport: float = 0.0
    loss: float | None = None
    constant: float | None = None
    alarms: list[tuple[str, str]] = field(default_factory=list)
    checks: int = 0
    named: dict[str, str] = field(default_factory=dict)
    before: int | None = None
    rank: int | None = None
    stopped: float | None = None
    noted: list[str] = field(default_factory=list)
    verdict: str = ""
    seconds: float = 0.0
    training_seconds: float = 0.0
    unchanged: bool = True
    identical: bool | None = None
    peers: dict[str, tuple[bool, bool]] = field(default_factory=dict)  # (names the cause, says anything) of other tools
    early: float | None = None  # share of the steps after which early stopping alone would have ended the run

    @property
    def harm(self) -> float:
        """The larger of cost and misreport; infinite where an error ends the training."""
        return math.inf if self.cost is None else max(self.cost, self.misreport)

    @property
    def useless(self) -> bool:
        """The run ends no better than the constant predictor."""
        return self.loss is not None and self.constant is not None and self.loss >= self.constant - NO_BETTER

    @property
    def failed(self) -> bool:
        """The check before training ends the run: `stop_on_failure`."""
        return any(status == "FAIL" for _, status in self.alarms)

    @property
    def alarmed(self) -> bool:
        """Anything is said, by the check, the watcher or the verdict."""
        told = bool(self.alarms) or self.stopped is not None or bool(self.noted)
        return told or self.verdict not in (*LEARNED, *NO_OPINION)

    def as_dict(self) -> dict:
        values = asdict(self) | {"key": self.setup.key, "half": self.setup.half, "harm": self.harm}
        return values | {"harm": None if math.isinf(self.harm) else self.harm}


def score(
    setup: Setup, check: dict, run: dict, twin: dict | None = None, alone: dict | None = None, peers: dict | None = None
) -> Row:
    """The row of one set-up from its stored parts; `twin`: those of the healthy set-up that it is compared with."""
    row = Row(setup, stops=check.get("failed") or check["error"] or run.get("failed") or run["error"])
    found = check.get("findings", [])
    row.alarms, row.checks = [(f[0], f[1]) for f in found if f[1] in ALARMS], sum(f[1] != "not checked" for f in found)
    row.seconds, row.training_seconds = check.get("seconds", 0.0), run.get("seconds", 0.0)
    row.unchanged, row.verdict = check.get("unchanged", True), run.get("verdict", [""])[0]
    row.noted = run.get("notes", [])
    if events := run.get("events"):
        row.stopped = events[0][0] / max(1, run["max_steps"])
    row.early = early_stopping(run.get("evaluations", []), run.get("max_steps", 0))
    row.constant, losses = run.get("constant"), run.get("losses")
    if losses is not None:
        row.loss = float(np.mean(losses))
    if losses is not None and twin and twin.get("losses"):
        row.cost, row.interval = difference(losses, twin["losses"])
        row.misreport = _misreport(run) - _misreport(twin)
    sentences = [text for _, text in run.get("events", [])] + row.noted
    for name in setup.faults:
        row.named[name] = _named(name, row, sentences)
    right = {check for name in setup.faults for check in FAULTS[name].before}
    row.before = next((place for place, (check, _) in enumerate(row.alarms, 1) if check in right), None)
    row.rank = row.before or _rank_after(row, sentences)
    for tool, said in (peers or {}).items():
        if tool in RIGHT and not said["error"]:
            causes = {cause for name in setup.faults for cause in RIGHT[tool].get(name, ())}
            row.peers[tool] = bool(causes & set(said["findings"])), bool(said["findings"])
    if alone is not None and not row.stops:
        row.identical = row.unchanged and alone["weights"] == run["weights"]
    return row


def _named(name: str, row: Row, sentences: list[str]) -> str:
    fault = FAULTS[name]
    for check, status in row.alarms:
        if check in fault.before:
            return status
    if any(word in sentence for word in fault.during for sentence in sentences):
        return "during"
    return "after" if row.verdict in fault.after else ""


def _rank_after(row: Row, sentences: list[str]) -> int | None:
    """Place of the first sentence during or after training that names a cause, behind all alarms before it."""
    faults = [FAULTS[name] for name in row.setup.faults]
    for place, sentence in enumerate(sentences, 1):
        if any(word in sentence for fault in faults for word in fault.during):
            return len(row.alarms) + place
    after = any(row.verdict in fault.after for fault in faults)
    return len(row.alarms) + len(sentences) + 1 if after else None


def _misreport(run: dict) -> float:
    """Distance between the last reported validation loss and the loss on the test rows."""
    if not run.get("evaluations") or not run.get("losses"):
        return 0.0
    reported = run["evaluations"][-1][1]
    return abs(min(reported, 5.0) - float(np.mean(run["losses"]))) if math.isfinite(reported) else 5.0


def difference(losses: list[float], twin: list[float]) -> tuple[float, tuple[float, float]]:
    """Mean difference of paired losses and its 95 % interval; of unpaired ones where the rows are not the same."""
    a, b = np.array(losses), np.array(twin)
    if len(a) == len(b):
        mean, error = (a - b).mean(), (a - b).std() / math.sqrt(len(a))
    else:
        mean, error = a.mean() - b.mean(), math.hypot(a.std() / math.sqrt(len(a)), b.std() / math.sqrt(len(b)))
    return float(mean), (float(mean - 1.96 * error), float(mean + 1.96 * error))


def early_stopping(evaluations: list, max_steps: int, patience: int = 3) -> float | None:
    """After which share of the steps `EarlyStoppingCallback` with this patience would end the run; None: not at all."""
    best, waited = math.inf, 0
    for step, loss in evaluations:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss) if math.isfinite(loss) else best
        if waited >= patience and step < max_steps:
            return step / max_steps
    return None


@dataclass(frozen=True)
class Share:
    """`hits` of `count`, with Wilson's 95 % interval."""

    hits: int
    count: int

    @classmethod
    def of(cls, values: Iterable[bool]) -> "Share":
        listed = list(values)
        return cls(sum(map(bool, listed)), len(listed))

    @property
    def value(self) -> float:
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.count:
            return math.nan, math.nan
        z, n, p = 1.96, self.count, self.value
        middle, wide = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - wide) / (1 + z * z / n), (middle + wide) / (1 + z * z / n)

    def __str__(self) -> str:
        if not self.count:
            return "none"
        low, high = self.interval
        return f"{self.value:.0%} ({self.hits} of {self.count}; {low:.0%} to {high:.0%})"


def cost_of_alarms(rows: list[Row]) -> dict[str, float]:
    """For each check, the median harm of the single faults that it names (at most 5), among those of the half that
    limits were chosen on."""
    costs: dict[str, list[float]] = {}
    for row in rows:
        if row.setup.group == SINGLE and row.setup.half == LIMITS:
            told = {check for check, _ in row.alarms} & set(FAULTS[row.setup.faults[0]].before)
            for check in told:
                costs.setdefault(check, []).append(min(row.harm, 5.0))
    return {check: round(float(np.median(values)), 2) for check, values in sorted(costs.items())}


def measures(rows: list[Row]) -> dict[str, Share]:
    """The benchmark's measures over these rows, by name, in the order of the table."""
    single = [row for row in rows if row.setup.group == SINGLE and row.harm >= COSTLY]
    several = [row for row in rows if len(row.setup.faults) > 1]
    sound = [row for row in rows if row.setup.group in (TWIN, HEALTHY_GROUP)]
    learned = [row for row in sound if row.loss is not None and not row.useless]
    useless = [row for row in rows if row.setup.faults and row.useless]
    asked = [row for row in (*single, *sound) if row.peers]
    others = {}
    for tool in RIGHT if asked else ():
        own = [r for r in single if tool in r.peers]
        others[f"right cause named by {tool}, of the faults it was asked about"] = Share.of(
            r.peers[tool][0] for r in own
        )
        others[f"any alarm by {tool}, of these"] = Share.of(r.peers[tool][1] for r in own)
        others[f"any alarm by {tool} on a healthy set-up"] = Share.of(
            r.peers[tool][1] for r in sound if tool in r.peers
        )
    return {
        "right cause named, single faults that cost 0.02 nats or more": Share.of(any(r.named.values()) for r in single),
        "the same, by the check before training alone": Share.of(r.before is not None for r in single),
        "any alarm, single faults that cost 0.02 nats or more": Share.of(r.alarmed for r in single),
        "true cause first or second, single faults": Share.of((r.rank or 99) <= 2 for r in single),
        "all causes named, pairs and triples": Share.of(all(r.named.values()) for r in several),
        "a cause named, of those in pairs and triples": Share.of(bool(v) for r in several for v in r.named.values()),
        "a FAIL on a healthy set-up": Share.of(r.failed for r in sound),
        "WARN, of all checks on healthy set-ups": Share(
            sum(s == "WARN" for r in sound for _, s in r.alarms), sum(r.checks for r in sound)
        ),
        "healthy runs that learned, stopped by the watcher": Share.of(r.stopped is not None for r in learned),
        "healthy runs that learned, judged otherwise": Share.of(
            r.verdict not in (*LEARNED, *NO_OPINION) for r in learned
        ),
        "runs no better than constant, ended before half of their steps, by a FAIL or by the watcher": Share.of(
            r.failed or (r.stopped is not None and r.stopped <= 0.5) for r in useless
        ),
        "the same by the watcher alone": Share.of(r.stopped is not None and r.stopped <= 0.5 for r in useless),
        "the same by early stopping alone (patience of three evaluations)": Share.of(
            r.early is not None and r.early <= 0.5 for r in useless
        ),
        "healthy runs that learned, ended by early stopping alone": Share.of(r.early is not None for r in learned),
        "bit-identical with and without the doctor": Share.of(r.identical for r in sound if r.identical is not None),
        "weights and random state untouched by the check": Share.of(r.unchanged for r in rows),
        **others,
    }
