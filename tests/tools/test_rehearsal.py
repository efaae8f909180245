"""What Kaggle does with each notebook, twice."""

import ast
import json
import sys
from pathlib import Path

import pytest

from tests.notebooks.test_readme import make
from tools.build import recipes
from tools.hygiene import problems
from tools.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
RUNS = ("save", "scoring")
# Gone in Python 3.12 and 3.13: Kaggle runs 3.13, this machine may not.
GONE = set(
    "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib "
    "ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib".split()
)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", recipes(ROOT), ids=lambda path: path.stem)
def test_rehearsal(recipe):
    done = make("rehearse", f"RECIPE={recipe.stem}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{recipe.stem}, save:" in done.stdout
    assert (f"{recipe.stem}, scoring:" in done.stdout) == RECIPES[recipe.stem].submits
    records = (ROOT / "build/rehearse" / recipe.stem / run / "working/blend_submissions_run.json" for run in RUNS)
    if recipe.stem == "blend_submissions":  # somebody's file answers the visible rows only
        visible, hidden = (json.loads(record.read_text()) for record in records)
        assert visible["weights"]["somebodys-llm"] > 0
        assert "somebodys-llm" not in hidden["members"]


def test_nothing_is_imported_that_python_3_13_does_not_have():
    for path in [path for folder in ("src_py", "notebooks", "tools") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & GONE, path
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("token = 'hf_" + "a" * 34 + "'", "Hugging Face"),
        ('{"username": "x", "key": "' + "0f" * 16 + '"}', "Kaggle key"),
        ("open('/home" + "/someone/data.csv')", "personal path"),
        ("C:" + "\\Users\\someone", "personal path"),
    ],
)
def test_secrets_and_personal_paths_are_found(text, sentence):
    assert sentence in problems("a.py", "\n" + text)[0]
    assert "a.py:2" in problems("a.py", "\n" + text)[0]
    assert not problems("a.py", "/kaggle/input/x and ~/data and https://example.org/home/page")


def test_outputs_in_a_notebook_are_found():
    cell = '{"cells": [{"cell_type": "code", "source": "1", "outputs": [%s], "execution_count": null}]}'
    assert "has outputs" in problems("a.ipynb", cell % '{"output_type": "stream"}')[0]
    assert not problems("a.ipynb", cell % "")
