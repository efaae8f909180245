"""The fixed anatomy of every recipe."""

import ast
import re
from pathlib import Path

import jupytext
import pytest

from tools.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))


def cells(recipe, kind):
    return [cell.source for cell in jupytext.read(recipe).cells if cell.cell_type == kind]


def test_every_recipe_has_one_entry():
    assert sorted(RECIPES) == [path.stem for path in SOURCES]


@pytest.mark.parametrize("recipe", SOURCES, ids=lambda path: path.stem)
class TestAnatomy:
    def test_the_first_cell_says_what_it_is(self, recipe):
        first = cells(recipe, "markdown")[0]
        assert first.startswith("# ")
        for row in ("Accelerator", "Internet", "Inputs to attach", "Runtime", "Score"):
            assert f"| {row} |" in first

    def test_sections_come_in_order(self, recipe):
        found = re.findall(r"^## (.+)$", "\n".join(cells(recipe, "markdown")), re.MULTILINE)
        assert found == list(RECIPES[recipe.stem].sections)

    def test_cells_are_short(self, recipe):
        lengths = [len(source.splitlines()) for source in cells(recipe, "code")]
        config = [i for i, source in enumerate(cells(recipe, "code")) if "class CFG" in source]
        assert len(config) == 1
        assert max(n for i, n in enumerate(lengths) if i not in [0, *config]) <= 25

    def test_every_setting_is_used_and_explained_by_its_name_or_a_comment(self, recipe):
        source = "\n".join(cells(recipe, "code"))
        tree = ast.parse(source)
        config = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "CFG")
        rest = source.replace(ast.get_source_segment(source, config), "")
        for field in config.body:
            assert isinstance(field, ast.AnnAssign), "CFG holds no logic"
            assert re.search(rf"""cfg\.{field.target.id}\b|["']{field.target.id}["']""", rest), field.target.id
