"""What a notebook's page shows while it runs: sentences that wrap at spaces, and how far the work is."""

import os
import re
import sys
import time
from html import escape
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 60.0  # between two lines of progress where nobody sees them replaced
REFRESH_SECONDS = 1.0  # between two states of a bar
RELAY = "SRC_PY_RELAY_PROGRESS"  # set for a process whose output a notebook reads: its progress comes as marked lines
MARK = "\x1eprogress "
# Set by Jupyter's server, Colab and VS Code for a notebook that someone has open; not by papermill or nbconvert.
_FRONT_ENDS = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID")
_WRAPPED = "white-space:normal;overflow-wrap:break-word;line-height:1.45;max-width:75em"


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process, so that what is displayed becomes part of a page."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def is_live() -> bool:
    """Whether someone can see an output being replaced: not in Kaggle's Save & Run All, papermill or a script."""
    if not in_notebook():
        return False
    kind = os.environ.get("KAGGLE_KERNEL_RUN_TYPE")
    return kind == "Interactive" if kind else any(name in os.environ for name in _FRONT_ENDS)


class Sentences:
    """Sentences for `display`. Kaggle breaks lines of printed text within words where a page is narrow."""

    def __init__(self, sentences: list[str]):
        self.sentences = sentences

    def __repr__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(sentence)}</div>" for sentence in self.sentences)
        return f'<div style="{_WRAPPED}">{lines}</div>'


def say(*sentences: object) -> None:
    """Show sentences, each on a line of its own: in a notebook as text that wraps at spaces, elsewhere printed."""
    shown = Sentences([_encodable(str(sentence)) for sentence in sentences if str(sentence)])
    if not shown.sentences:
        return
    if in_notebook():
        from IPython.display import display

        display(shown)
    else:
        print(shown, flush=True)


def _encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold, as half of an emoji in a file's name, written as its number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class FoldedLog:
    """Lines that are printed as they come, and at the end folded in a notebook, where a long list would fill the page.

    What a reader must not miss goes to `warn`: it stays in sight.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(_encodable(line))
        print(self.lines[-1], flush=True)

    def warn(self, line: str) -> None:
        self.warnings.append(_encodable(line))
        print(self.warnings[-1], flush=True)

    def fold(self, title: str) -> None:
        """Replace the output of the cell by the lines, folded, and the warnings."""
        if not in_notebook():
            return
        from IPython.display import HTML, clear_output, display

        clear_output()
        if self.lines:
            rows = "".join(f"<div>{escape(line)}</div>" for line in self.lines)
            summary = f"<summary>{escape(title)} ({len(self.lines)})</summary>"
            display(HTML(f'<details style="{_WRAPPED}">{summary}{rows}</details>'))
        say(*self.warnings)


class Meter:
    """Shows how far work is: one bar that is replaced where someone watches, else at most a line a minute."""

    def __init__(self) -> None:
        self.relays, self.live = RELAY in os.environ, is_live()
        self.seconds = REFRESH_SECONDS if self.relays or self.live else LINE_SECONDS
        self.last = time.monotonic() - (self.seconds if self.live else 0)
        self._handle: Any = None

    def due(self) -> bool:
        """Whether the last state is old enough to be replaced."""
        return time.monotonic() - self.last >= self.seconds

    def show(self, share: float, text: str) -> None:
        """Show this state now. `share`: of the work, 0 to 1."""
        self.last, text = time.monotonic(), _encodable(text)
        if self.relays:
            print(f"{MARK}{share:.4f} {text}", flush=True)
        elif self.live:
            self._replace(share, text)
        else:
            print(text, flush=True)

    def receive(self, line: str) -> bool:
        """Show the state in a line that another process has relayed; False for a line that holds no whole one."""
        if not line.startswith(MARK):
            return False
        share, _, text = line.removeprefix(MARK).rstrip("\n").partition(" ")
        if not re.fullmatch(r"[01]\.\d+", share):  # two processes may write into one line
            return False
        if self.due() or float(share) >= 1:
            self.show(float(share), text)
        return True

    def _replace(self, share: float, text: str) -> None:
        from IPython.display import HTML, display

        bar = f'<progress value="{share:.4f}" max="1" style="width:min(24em,100%)"></progress>'
        page = HTML(f'<div style="{_WRAPPED}">{bar} {escape(text)}</div>')
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)


def progress_bar(title: str, total: int, unit: str, done: int = 0, shown: bool = True) -> tqdm:
    """A bar for work on several threads; a new state at most each minute where nobody watches."""
    seconds = REFRESH_SECONDS if is_live() else LINE_SECONDS
    pace = {"mininterval": seconds, "maxinterval": seconds}
    return tqdm(desc=title, total=total, unit=f" {unit}", initial=done, disable=not shown, file=sys.stdout, **pace)
