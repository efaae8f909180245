"""Every stop says what to do, or docs/kaggle-errors.md does."""

import ast
import re
from pathlib import Path

import pytest

from tools.arguments import setting_names

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "kaggle-errors.md").read_text(encoding="utf-8")
# What a sentence begins with that tells the reader what to do.
ACTIONS = (
    "add attach check choose close correct define did free give in is keep leave lower make measure mend name open "
    "pass put quote raise remove rename run save see set store take train use write"
).split()
SOURCES = sorted((ROOT / "src_py").rglob("*.py")) + sorted((ROOT / "notebooks").glob("*.py"))


def _text(node: ast.expr) -> str:
    """The constant part of a message; "…" where something is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def _messages(source: str) -> list[str]:
    """The messages of all `InputError`s that the source raises with a sentence of its own."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    raised = [_text(c.args[0]) for c in calls if getattr(c.func, "id", "") == "InputError" and c.args]
    # What is only handed on, or ends in a part that another line gives, has its remedy there.
    return [text for text in raised if not text.rstrip(" .").endswith("…")]


def says_what_to_do(message: str) -> bool:
    """Whether a part of the sentence, after its first, is an instruction; or a setting is named that it must have."""
    parts = re.split(r"[;:.,(]\s+|\sand\s|\sor\s|\swhere\s", message)
    instructed = any(part.split(maxsplit=1)[0].lower() in ACTIONS for part in parts[1:] if part.strip())
    return instructed or bool(re.search(r"\b(must|needs?|wants?|wanted|can be|at most)\b", message))


def on_the_page(message: str) -> bool:
    starts = [text.strip("… ").split("…") for text in re.findall(r"`([^`]+)`", PAGE) if len(text) > 12]
    return any(re.match(".*".join(map(re.escape, parts)), message.strip("… ")) for parts in starts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_stop_says_what_to_do(path):
    silent = [
        text
        for text in _messages(path.read_text(encoding="utf-8"))
        if not says_what_to_do(text) and not on_the_page(text)
    ]
    assert not silent, "say what to do, or add a line to docs/kaggle-errors.md"


def test_a_stop_without_a_remedy_is_found():
    assert _messages('raise InputError(f"{path} is wrong.")') == ["… is wrong."]
    assert not says_what_to_do("… is wrong.")
    assert not on_the_page("… is wrong.")


def test_the_page_names_only_settings_that_a_recipe_has():
    known = {name for path in (ROOT / "notebooks").glob("*.py") for name in setting_names(path)}
    named = set(re.findall(r"CFG\.(\w+)", PAGE))
    assert named
    assert named <= known


def test_notebooks_and_readme_link_to_the_page():
    for path in [ROOT / "README.md", *(ROOT / "notebooks").glob("*.py")]:
        assert "docs/kaggle-errors.md" in path.read_text(encoding="utf-8"), path.name
