"""What the doctor would change, shown as a diff of the user's own settings; nothing is changed."""

import html
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from src_py.doctor.settings import CODE, UserSettings

# How a place is written in the diff: the line above its fields, a field, and the line below.
_FORMS = {
    "CFG": ("class CFG:", "    {} = {!r}", ""),
    "TrainingArguments": ("TrainingArguments(", "    {}={!r},", ")"),
    "tokenizer": ("tokenizer(", "    {}={!r},", ")"),
    "from_pretrained": ("from_pretrained(", "    {}={!r},", ")"),
    "model": ("", "model.{} = {!r}", ""),
}
_COLORS = {"-": "#d73a49", "+": "#22863a"}  # readable on white and on black


@dataclass(frozen=True)
class Change:
    """One field that gets another value.

    Attributes:
        place: where the user sets it: "CFG", "TrainingArguments", "tokenizer" or "from_pretrained" (arguments of their
            calls), or "model" (an attribute of it, set before the Trainer is made).
        field: its name there.
        old, new: values.
    """

    place: str
    field: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Remedy:
    """What one finding asks for.

    Attributes:
        check, status, advice: of the finding.
        fields: (place, field) of the settings that it wants to change; empty where no setting would do.
        changes: of settings, beyond those of the remedies before it.
        code: where no setting would do, a line to replace (or "") and the new line; else empty.
    """

    check: str
    status: str
    advice: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    code: tuple[str, ...] = ()

    @property
    def by_hand(self) -> bool:
        """Whether neither a setting nor a line of code would do."""
        return not self.fields and not self.code

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """New values by place and field: `TrainingArguments(**mine | remedy.settings["TrainingArguments"])`."""
        return _by_place(self.changes)


@dataclass(frozen=True)
class Repair:
    """All remedies, in the order of the findings. Each continues where the one before it ends, so that they can be
    applied one after the other; `changes` and `settings` are of all together."""

    remedies: list[Remedy]
    changes: list[Change]

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """New values by place and field."""
        return _by_place(self.changes)

    @property
    def by_hand(self) -> list[Remedy]:
        """Remedies that neither a setting nor a line of code would be."""
        return [remedy for remedy in self.remedies if remedy.by_hand]

    @property
    def diff(self) -> str:
        """The settings that change, old and new, and lines of code to add; with the checks that ask for each."""
        lines: list[str] = []
        for name, changes in groupby(self.changes, key=lambda change: change.place):
            above, form, below = _FORMS[name]
            lines += [f" {above}"] if above else []
            for change in changes:
                lines.append("-" + form.format(change.field, change.old))
                lines.append("+" + form.format(change.field, change.new) + f"  # {', '.join(self._asked(change))}")
            lines += [f" {below}"] if below else []
        for old, new, check in [(*remedy.code, remedy.check) for remedy in self.remedies if remedy.code]:
            lines += [f"-{old}"] * bool(old) + [f"+{new}  # {check}"]
        return "\n".join(lines)

    def _asked(self, change: Change) -> list[str]:
        return [remedy.check for remedy in self.remedies if (change.place, change.field) in remedy.fields]

    def __repr__(self) -> str:
        hand = [f"  {number}. {r.check} ({r.status}): {r.advice}" for number, r in enumerate(self.by_hand, 1)]
        lines = [self._heading, self.diff, *(["By hand:", *hand] if hand else [])]
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str:
        text = f"<p>{self._heading}</p>"
        if self.diff:
            lines = (html.escape(line) for line in self.diff.splitlines())
            shown = "\n".join(f'<span style="color: {_COLORS.get(line[0], "inherit")}">{line}</span>' for line in lines)
            text += f'<pre style="text-align: left">{shown}</pre>'
        if self.by_hand:
            told = ((html.escape(r.check), r.status, html.escape(r.advice)) for r in self.by_hand)
            items = "".join(f"<li><b>{check}</b> ({status}): {advice}</li>" for check, status, advice in told)
            text += f'<p>By hand:</p><ol style="text-align: left">{items}</ol>'
        return text

    @property
    def _heading(self) -> str:
        if not self.remedies:
            return "Nothing to change."
        return "What the doctor would change (nothing has been changed):"


def propose(alarms: list[tuple[str, str, str, dict[str, Any]]], now: UserSettings) -> Repair:
    """The remedies of findings.

    Args:
        alarms: (check, status, advice, change) of each, the first to be repaired first. Where two want the same
            setting, the first one's value holds.
        now: what is set.
    """
    start = now.shown()
    remedies: list[Remedy] = []
    wanted: dict[str, Any] = {}
    before = start
    for check, status, advice, change in alarms:
        code = change.get(CODE, ())
        change = {name: value for name, value in change.items() if name != CODE}
        wanted = change | wanted
        after = now.changed(**wanted).shown()
        # A change that the user has no setting for, or that is nothing new, leaves the advice.
        own = _changes(start, now.changed(**change).shown())
        fields = [(one.place, one.field) for one in own]
        remedies.append(Remedy(check, status, advice, fields, _changes(before, after), code))
        before = after
    return Repair(remedies, _changes(start, before))


def _changes(before: dict, after: dict) -> list[Change]:
    changed = [Change(place, name, old, after[place, name]) for (place, name), old in before.items()]
    changed = [change for change in changed if change.new != change.old]
    return sorted(changed, key=lambda change: list(_FORMS).index(change.place))


def _by_place(changes: list[Change]) -> dict[str, dict[str, Any]]:
    places: dict[str, dict[str, Any]] = {}
    for change in changes:
        places.setdefault(change.place, {})[change.field] = change.new
    return places
