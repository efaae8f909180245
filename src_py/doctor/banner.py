"""The verdicts of a run at a glance."""

from collections.abc import Mapping

from src_py.doctor.verdict import Verdict
from src_py.evaluation.banner import BAD, DOUBT, GOOD, Banner, Strip

# Any other verdict is that of a model that did not learn, or of a run that is broken.
_KINDS = {
    "learned": GOOD,
    "learned little more than answer length": DOUBT,
    "learned little more than the counts": DOUBT,
    "not enough rows to tell": DOUBT,
    "not checked": DOUBT,
}


def verdict_banner(verdicts: Mapping[str, Verdict], stopped: Mapping[str, str] | None = None) -> Banner:
    """The verdicts of a run's models, by name, as a banner.

    Args:
        stopped: models whose training the watcher stopped, and why. Their best weights were kept: where these learned,
            the strip says so in amber; else it is red.
    """
    strips = []
    for name, verdict in verdicts.items():
        kind, word = _KINDS.get(verdict.name, BAD), verdict.name
        if name in (stopped or {}):
            if verdict.name == "learned":
                kind, word = DOUBT, "stopped by the watcher; its best weights learned"
            else:
                kind, word = BAD, f"stopped by the watcher: {verdict.name}"
        if verdict.name == "not checked":
            strips.append(Strip(kind, word, name))
        else:
            strips.append(Strip(kind, word, name, verdict.model, verdict.constant, verdict.over_constant))
    return Banner(strips)
