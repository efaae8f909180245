"""The doctor's findings as a page to read: what to do first, the alarms, and last what passed or was not checked."""

from html import escape
from typing import Any

from src_py.evaluation.banner import BAD, COLORS, DOUBT, TEXT

NOTHING = "Nothing found that would keep this from learning."
REPAIR = "Its repair(), as in checked.repair(), shows the settings to change as a diff, and changes nothing."
_BADGES = {"FAIL": COLORS[BAD], "WARN": COLORS[DOUBT]}
_FAINT = "border-top:1px solid rgba(128,128,128,.45)"
# Columns that stand side by side where there is room, and below each other where there is not.
_ROW = f"display:flex;flex-wrap:wrap;gap:.15em 1.2em;padding:.55em 0;{_FAINT}"
_WIDTHS = ("flex:1 1 13em;min-width:0", "flex:1.3 1 15em;min-width:0", "flex:2 1 22em;min-width:0")


def headline(alarms: list) -> str:
    """How many checks fail and warn, and what to do first; `alarms` are findings, the first of them first."""
    if not alarms:
        return NOTHING
    counts = [(sum(f.status == "FAIL" for f in alarms), "FAIL"), (sum(f.status == "WARN" for f in alarms), "warning")]
    said = ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)
    first = alarms[0]
    return f"{said}. First: {first.check} ({_line(first.measured)}). {_line(first.advice)}".rstrip()


def as_text(alarms: list, passed: list, skipped: list, seconds: float) -> str:
    """The page in plain text, for logs."""
    lines = [headline(alarms), ""] if alarms else [NOTHING]
    for finding in alarms:
        lines.append(f"{finding.status}  {finding.check}: {_measured(finding)}")
        lines += [f"      {_line(finding.advice)}"] if finding.advice else []
    lines += [REPAIR] if _settings(alarms) else []
    lines += [""] if alarms else []
    lines.append(f"{len(passed)} of {len(alarms) + len(passed) + len(skipped)} checks passed, in {seconds:.1f} s.")
    lines += [f"{len(skipped)} not checked:"] if skipped else []
    return "\n".join([*lines, *(f"  {finding.check}: {_reason(finding)}" for finding in skipped)])


def as_html(alarms: list, passed: list, skipped: list, seconds: float) -> str:
    """The page for a notebook: the same, with what passed and what was not checked folded. Without scripts or styles
    for the page around it, so that every viewer shows it."""
    rows = "".join(
        _row(
            f"{_badge(finding.status)} <b>{_html(finding.check)}</b>",
            _html_measured(finding),
            _html(finding.advice),
        )
        for finding in alarms
    )
    count = len(alarms) + len(passed) + len(skipped)
    return (
        f'<div style="{TEXT};max-width:75em"><p style="margin:.4em 0 .8em"><b>{_html(headline(alarms))}</b></p>{rows}'
        + (f'<p style="margin:0;padding:.55em 0;{_FAINT}">{REPAIR}</p>' if _settings(alarms) else "")
        + _folded(f"{len(passed)} of {count} checks passed, in {seconds:.1f} s", passed, _html_measured)
        + _folded(f"{len(skipped)} not checked", skipped, lambda finding: _html(_reason(finding)))
        + "</div>"
    )


def _settings(alarms: list) -> bool:
    """Whether an alarm's advice is a setting."""
    return any(finding.change for finding in alarms)


def _folded(title: str, findings: list, describe) -> str:
    if not findings:
        return ""
    rows = "".join(_row(_html(finding.check), describe(finding)) for finding in findings)
    return (
        f'<details style="padding:.55em 0;{_FAINT}"><summary style="cursor:pointer">{title}</summary>'
        f'<div style="padding:.4em 0 0 1em">{rows}</div></details>'
    )


def _row(*cells: str) -> str:
    # Of two cells the second takes the room of the last.
    widths = _WIDTHS if len(cells) == 3 else (_WIDTHS[0], "flex:3 1 22em;min-width:0")
    return f'<div style="{_ROW}">' + "".join(f'<div style="{w}">{c}</div>' for w, c in zip(widths, cells)) + "</div>"


def _badge(status: str) -> str:
    style = f"background:{_BADGES[status]};color:#fff;border-radius:.25em;padding:.1em .45em;font-weight:bold"
    return f'<span style="{style}">{status}</span>'


def _html_measured(finding: Any) -> str:
    limit = f'<div style="opacity:.8">right: {_html(finding.limit)}</div>' if finding.limit else ""
    return _html(finding.measured) + limit


def _measured(finding: Any) -> str:
    return _line(finding.measured) + (f"; right: {_line(finding.limit)}" if finding.limit else "")


def _reason(finding: Any) -> str:
    """Why nothing was checked; a limit adds what would be needed where it says so ("for classes only")."""
    return _line(finding.measured) + (f", {_line(finding.limit)}" if finding.limit.startswith("for ") else "")


def _html(text: str) -> str:
    """Texts quote the user's data and errors: no character of theirs is markup."""
    return escape(_line(text))


def _line(text: str) -> str:
    return " ".join(str(text).split())
