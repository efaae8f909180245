"""One version, whose place is src_py/__init__.py; and the issue form, which asks for it."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

import src_py
from tools.build import recipes
from tools.kaggle_client import header
from tools.recipes import RECIPES
from tools.version import FORM, main, problems, version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    """A copy of the files that name the version."""
    for folder in ("src_py", "notebooks", ".github/ISSUE_TEMPLATE"):
        (tmp_path / folder).mkdir(parents=True)
    named = [ROOT / name for name in ("src_py/__init__.py", "CHANGELOG.md", "CITATION.cff", FORM)]
    for path in [*named, *recipes(ROOT)]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_changelog_citation_and_notebooks_name_the_version(capsys):
    assert problems(ROOT) == []
    assert version(ROOT) == src_py.__version__
    assert all(header(path)["Version"] == src_py.__version__ for path in recipes(ROOT))
    assert main(ROOT) == 0
    assert f"Version {src_py.__version__} everywhere" in capsys.readouterr().out


def test_a_new_version_has_to_be_written_everywhere(project, capsys):
    change(project / "src_py/__init__.py", f'"{src_py.__version__}"', '"9.9.9"')
    found = problems(project)
    assert len(found) == 3 + len(RECIPES)
    assert all(f"{src_py.__version__}, and src_py/__init__.py has 9.9.9; write 9.9.9 there" in line for line in found)
    assert main(project) == 1
    assert "the first cell of notebooks/finetune_deberta.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("src_py/__init__.py", "__version__", "VERSION", "has no line `__version__`"),
        ("CHANGELOG.md", "## [", "## ", "the newest entry of CHANGELOG.md has version none"),
        ("CITATION.cff", "date-released: 2", "date-released: 1", "CITATION.cff does not have the date"),
        (FORM, f"placeholder: {src_py.__version__}", "placeholder: 9.9.9", f"the example in {FORM} has version 9.9.9"),
        (FORM, f"      placeholder: {src_py.__version__}\n", "", f"the example in {FORM} has version none"),
        ("notebooks/finetune_deberta.py", "# | Version |", "# | Edition |", "finetune_deberta.py has version none"),
    ],
)
def test_each_place_is_looked_at(project, name, old, new, sentence):
    change(project / name, old, new)
    assert [sentence in line for line in problems(project)] == [True]


def test_a_quoted_version_is_the_same_and_a_missing_citation_is_named(project):
    citation = project / "CITATION.cff"
    change(citation, f"version: {src_py.__version__}", f'version: "{src_py.__version__}"')
    assert problems(project) == []
    citation.unlink()
    assert "CITATION.cff has version none" in problems(project)[0]


def test_the_citation_has_what_the_format_asks_for():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["license"] == "Apache-2.0"
    assert all("name" in author for author in cited["authors"])


def test_the_changelog_names_every_recipe_and_only_commands_that_exist():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in RECIPES)
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = re.search(r"^- Commands: (.+?)(?=^- )", text, re.MULTILINE | re.DOTALL)[1]
    named = [name.removeprefix("make ") for name in re.findall(r"`([^`]+)`", commands)]
    assert set(named) <= set(targets)


def test_the_issue_form_asks_for_what_one_needs_to_help():
    folder = ROOT / ".github/ISSUE_TEMPLATE"
    form = yaml.safe_load((folder / "broken.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = {part["id"]: part for part in form["body"] if part["type"] != "markdown"}
    assert {"recipe", "version", "doctor", "forecast", "error", "accelerator"} <= fields.keys()
    assert all(part["attributes"]["label"] for part in fields.values())
    assert set(RECIPES) <= set(fields["recipe"]["attributes"]["options"])
    required = {name for name, part in fields.items() if part.get("validations", {}).get("required")}
    assert {"recipe", "version", "error"} <= required
    assert {"doctor", "forecast"}.isdisjoint(required), "a run may stop before it shows them"
    config = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
    assert all(link.keys() == {"name", "url", "about"} for link in config["contact_links"])
