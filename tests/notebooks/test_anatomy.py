"""The fixed anatomy of every recipe."""

import ast
import importlib
import re
from dataclasses import fields
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
        for row in ("Accelerator", "Internet", "Inputs to attach", "Runtime", "Score", "Version"):
            assert f"| {row} |" in first

    def test_sections_come_in_order(self, recipe):
        found = re.findall(r"^## (.+)$", "\n".join(cells(recipe, "markdown")), re.MULTILINE)
        assert found == list(RECIPES[recipe.stem].sections)

    def test_cells_are_short(self, recipe):
        """At most 25 lines, but for the configuration and a cell of imports."""
        sources = cells(recipe, "code")
        assert sum("class CFG" in source for source in sources) == 1
        for source in sources:
            only_imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)
            assert len(source.splitlines()) <= 25 or only_imports or "class CFG" in source, source

    def test_every_setting_is_a_plain_value_that_something_reads(self, recipe):
        source = "\n".join(cells(recipe, "code"))
        tree = ast.parse(source)
        config = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "CFG")
        rest = source.replace(ast.get_source_segment(source, config), "")
        parts = fields_of_parts(tree)
        for field in config.body:
            assert isinstance(field, ast.Assign | ast.AnnAssign), "CFG holds no logic"
            ast.literal_eval(field.value)
            name = (field.targets[0] if isinstance(field, ast.Assign) else field.target).id
            assert name in parts or re.search(rf"""cfg\.{name}\b|["']{name}["']""", rest), name


def fields_of_parts(tree):
    """Names of the fields of the dataclasses in the notebook's `kinds = (...)`, imported from where it has them."""
    modules = {alias.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
    named = [n.value for n in ast.walk(tree) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "kinds"]
    kinds = [name.id for value in named for name in value.elts]
    return {field.name for kind in kinds for field in fields(getattr(importlib.import_module(modules[kind]), kind))}
