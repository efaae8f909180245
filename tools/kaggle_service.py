"""Kaggle's client (`pip install kaggle`) as a process: what it prints, and what fails, in one sentence.

The client finds its own credentials; nothing here reads them, and `mask` removes what looks like one.
"""

import importlib.util
import os
import re
import subprocess
import sys

from tools.kaggle_reasons import REASON
from tools.percent import SyncError

PATIENCE = 600.0  # seconds; the client itself waits without end

_SECRETS = {
    r"\b[0-9a-fA-F]{32}\b": "***",
    r"\bKGAT_\w+": "***",
    r"(?i)\b(basic|bearer) [\w.+/=-]{8,}": r"\1 ***",
    r"""(?i)(key|token|password|secret)(["']?\s*[:=]\s*["']?)[^\s"',}]+""": r"\1\2***",
}


class Unreachable(SyncError):
    """Kaggle did not answer, or not properly: the same call may succeed a minute later."""


class Unknown(SyncError):
    """Kaggle has no notebook of that name, or does not show it."""


# What the client prints, and what it means; the first that is found counts. {0}: the first group; {about}: the notebook
# or contest; {reason}: the service's own words.
_UNEXPLAINED = rf"\S*$(?!\n{REASON})"
_MEANINGS: tuple[tuple[str, str, type[SyncError]], ...] = (
    (
        r"Authentication required to call the Kaggle API|: 401 Client Error",
        "it found no token that Kaggle accepts; run `.venv/bin/kaggle auth login`, or create one at "
        "https://www.kaggle.com/settings/api and save it as ~/.kaggle/access_token",
        SyncError,
    ),
    (
        r"accept (?:the|this) competition(?:'s)? rules|'competitions\.participate'"
        rf"|403 Client Error.*CompetitionApiService{_UNEXPLAINED}",
        "you do not take part in {about}, or the token may only read; accept the rules at "
        "https://www.kaggle.com/competitions/{about}/rules with the token's account",
        SyncError,
    ),
    (
        r"Cannot access kernel|40[34] Client Error.*KernelsApiService",
        "Kaggle shows no notebook {about} to you; check USER, and push it first",
        Unknown,
    ),
    (r"'kernelSessions\.get'", "Kaggle shows no run of this version to you; check USER and VERSION", SyncError),
    (
        rf"404 Client Error.*CompetitionApiService{_UNEXPLAINED}",
        "Kaggle finds no contest {about}, or not this version of the notebook",
        SyncError,
    ),
    (r"(?i)submission allowance|submission limit", "no submission is left for now ({reason})", SyncError),
    (
        r"Max retries exceeded|Failed to establish|Connection (?:refused|aborted|reset)|ProxyError|Read timed out",
        "Kaggle cannot be reached; check the network, and the proxy if you need one",
        Unreachable,
    ),
    (r"(?:^|: )(429 Client Error|5\d\d Server Error)", "Kaggle answers {0}; try again later", Unreachable),
    (
        r"No space left on device",
        "the disk is full; free some space, or write to another disk with OUT=folder",
        SyncError,
    ),
    (r"^Kernel push error: (.+?)\.?$", "Kaggle refused it: {0}", SyncError),
    (
        r"^The following are not valid (.+?) and could not be added to the kernel: (.+)$",
        "Kaggle does not know these {0}, or you may not use them: {1}",
        SyncError,
    ),
    (r"argument \S+: invalid choice: (\S+)", "this version of the client does not know {0}", SyncError),
    (r"^([45]\d\d(?: - .+| \w+ Error: ).*)$", "Kaggle refused it: {reason}", SyncError),
)
# The client ends with 0 when the service refuses a push, or leaves out an input.
_REFUSED = re.compile(r"^(Kernel push error: |The following are not valid |[45]\d\d( - | \w+ Error: ))", re.MULTILINE)


def mask(text: str) -> str:
    """`text` without what looks like a credential, or is in a variable of this process that holds one."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    for pattern, replacement in _SECRETS.items():
        text = re.sub(pattern, replacement, text)
    return text


def failure(command: str, output: str, about: str = "") -> SyncError:
    """What an error of the client means, in one sentence; where that is not known, the client's message is printed."""
    for pattern, sentence, kind in _MEANINGS:
        found = re.search(pattern, output, re.MULTILINE)
        if found:
            said = re.search(f"^{REASON}(.+)$", output, re.MULTILINE)
            reason = (said[1] if said else found[0]).rstrip(".")
            groups = [group or "" for group in found.groups()]
            return kind(mask(f"kaggle {command} failed: {sentence.format(*groups, about=about, reason=reason)}."))
    if len(output) < 300 and "\n" not in output:
        return SyncError(mask(f"kaggle {command} failed; the client said: {output.rstrip('.') or 'nothing'}."))
    print(mask(output))
    return SyncError(f"kaggle {command} failed; see the client's message above.")


def client(words: list[str], success: str, about: str = "", patience: float = PATIENCE) -> str:
    """Run the client.

    Args:
        success: a pattern that begins a line of what it prints when it has done what was asked.
        about: the notebook or contest, for the sentence of an error.
        patience: seconds.

    Returns:
        What it printed, not masked; its warnings go to stderr.

    Raises:
        SyncError: for each of its errors; see `Unreachable` and `Unknown`.
    """
    if importlib.util.find_spec("kaggle") is None:
        raise SyncError("The official client is needed: .venv/bin/python -m pip install kaggle")
    command = " ".join(word for word in words[:2] if not word.startswith("-"))
    call = [sys.executable, "-m", "tools.kaggle_reasons", *words]
    try:
        done = subprocess.run(
            call,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"kaggle {command} failed: no answer within {patience:g} seconds.") from None
    output = f"{done.stdout}\n{done.stderr}".strip()
    if done.returncode or _REFUSED.search(output) or not re.search(f"^{success}", done.stdout, re.MULTILINE):
        raise failure(command, output, about)
    if done.stderr.strip():
        print(mask(done.stderr.strip()), file=sys.stderr)
    return done.stdout.strip()
