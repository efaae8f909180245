"""Notebooks and their sources: built alike, checked, and written by the notebook as they stand."""

import subprocess
import sys

import nbformat
import pytest

from tests.tools.project import ROOT, commit, copy_sources, edited, sources
from tools.build import HELPERS, SETUP, build, needed_modules, recipes
from tools.helper_files import split_files
from tools.percent import SyncError
from tools.pull import pull
from tools.sync import main

RECIPES = pytest.mark.parametrize("name", [path.stem for path in recipes(ROOT)])


@pytest.fixture
def repo(tmp_path):
    return copy_sources(tmp_path / "repo")


def test_the_committed_notebooks_are_in_step():
    assert main(["check"], ROOT) == 0


def test_a_stale_notebook_fails_the_check_with_a_diff(repo, capsys):
    assert main(["build"], repo) == 0
    helper = repo / "src_py/pairs/split.py"
    helper.write_text(helper.read_text() + "# changed\n")
    assert main(["check"], repo) == 1
    assert "+" in capsys.readouterr().out
    main(["build"], repo)
    assert main(["check"], repo) == 0


def test_no_notebook_is_written_when_one_cannot_be_built(repo, capsys):
    assert main(["build"], repo) == 0
    before = {path: path.read_bytes() for path in repo.glob("notebooks/*.ipynb")}
    assert len(before) >= 3
    (repo / "src_py/pairs/split.py").write_text((repo / "src_py/pairs/split.py").read_text() + "# changed\n")
    last = recipes(repo)[-1]
    last.write_text(last.read_text() + "\n# %%\nfrom src_py.nowhere import nothing\n")
    assert main(["build"], repo) == 1
    assert "src_py.nowhere" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}


@RECIPES
def test_building_twice_gives_the_same_bytes_without_outputs(repo, name):
    text = build(repo / f"notebooks/{name}.py", repo)
    assert text == build(repo / f"notebooks/{name}.py", repo)
    notebook = nbformat.reads(text, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)
    assert sum(cell.source.startswith((HELPERS, SETUP)) for cell in notebook.cells) <= 10


@RECIPES
def test_every_recipe_comes_back_as_it_was(repo, tmp_path, name):
    before = sources(repo)
    assert pull(edited(repo, tmp_path / "back.ipynb", recipe=name), repo).changed == []
    assert sources(repo) == before


@pytest.fixture
def rooms(tmp_path):
    """A few empty rooms."""
    for name in ("src_py", "src_py/pairs", "src_py/model", "src_py/cellar"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    return tmp_path


def test_modules_are_found_through_imports(rooms):
    (rooms / "src_py/pairs/first.py").write_text("from src_py.pairs.second import x\n")
    (rooms / "src_py/pairs/second.py").write_text("x = 1\n")
    expected = [f"src_py/{name}.py" for name in ("__init__", "pairs/first", "pairs/second")]
    for line in (
        "from src_py.pairs.first import x",
        "from src_py.pairs import first",
        "import src_py.pairs.first as f",
    ):
        assert needed_modules(line, rooms) == expected
    (rooms / "src_py/model/__init__.py").write_text("from src_py.model.encoder import load\n")
    (rooms / "src_py/model/encoder.py").write_text("from src_py.pairs.second import x as load\n")
    expected = ["src_py/__init__.py", "src_py/pairs/second.py", "src_py/model/__init__.py", "src_py/model/encoder.py"]
    for line in ("from src_py.model import load", "import src_py.model"):
        assert needed_modules(line, rooms) == expected
    expected.remove("src_py/model/__init__.py")  # the room itself is not imported
    assert needed_modules("from src_py.model.encoder import load", rooms) == expected
    (rooms / "src_py/pairs/second.py").write_text("import src_py.pairs.first\n")
    with pytest.raises(SyncError, match="cycle"):
        needed_modules("from src_py.pairs.first import x", rooms)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("from src_py.pairs.nowhere import x\n", "no file of that name"),
        ("from . import split\n", "relative import"),
        ("x = (\n", r"src_py/pairs/new\.py is not valid Python, line 1"),
        ("import src_py.cellar.wine\n", "unknown room"),
    ],
)
def test_a_helper_that_cannot_travel_is_refused(rooms, text, sentence):
    (rooms / "src_py/cellar/wine.py").write_text("x = 1\n")
    (rooms / "src_py/pairs/new.py").write_text(text)
    with pytest.raises(SyncError, match=sentence):
        needed_modules("import src_py.pairs.new", rooms)


@pytest.mark.parametrize(
    "text",
    [
        'x = """\n# ==== src_py/pairs/other.py ====\n"""\n',
        'x = """\n# ==== anything ====\n"""\n',
        "x = 1",
        "\nx = 1\n",
        "x = 1\r\n",
    ],
)
def test_a_helper_that_would_not_come_back_is_refused(repo, text):
    (repo / "src_py/pairs/split.py").write_bytes(text.encode())
    with pytest.raises(SyncError, match="would not come back"):
        build(repo / "notebooks/finetune_deberta.py", repo)


def test_a_notebook_that_kaggle_would_not_save_is_refused(repo):
    recipe = repo / "notebooks/finetune_deberta.py"
    with open(repo / "src_py/pairs/encode.py", "a", encoding="utf-8") as file:
        file.write("# a long remark\n" * 40_000)
    with pytest.raises(
        SyncError, match=r"finetune_deberta.py has 1,[0-9,]* bytes; Kaggle does not save one of 1,000,000"
    ):
        build(recipe, repo)


def test_a_recipe_that_would_not_come_back_is_refused(repo):
    recipe = repo / "notebooks/finetune_deberta.py"
    text = recipe.read_text()
    for broken in (text + "\n\n\n\nx = 1\n", text.replace("# ## Data\n", "## Data\n"), text + "# %%\n%%\n"):
        recipe.write_text(broken)
        with pytest.raises(SyncError, match=r"would not come back|not valid Python"):
            build(recipe, repo)
    for broken in (text.replace("# ## Helpers", "# ## Tools"), text + "\n# %% [markdown]\n# ## Helpers\n"):
        recipe.write_text(broken)
        with pytest.raises(SyncError, match="one Markdown cell that begins"):
            build(recipe, repo)


ODD = {
    "quotes": "x = '''a \"\"\" b'''\ny = \"\\\\n\\t\\x41\"  # a backslash: \\\n",
    "magic": 's = """\n%%writefile x\n%cd /\n!ls\n?x\n"""\n',
    "shell": "$x = `id`; {y}\n",
    "prompts": '"""\n>>> 1 + 1\n2\nIn [1]: x\n"""\n',
    "text": 's = "ü\u2028\x0c\x85"  # ünï\n\n\n\n# end\n',
    "empty": "",
}
SCRIPT = """
import json, pathlib, sys
import nbformat
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
def run(text):
    result = shell.run_cell(text)
    result.raise_error()
cells = nbformat.read(sys.argv[1], as_version=4).cells
for cell in cells:
    if cell.source.startswith(("# Helpers", "%%helpers")):
        run(cell.source)
exec(pathlib.Path(sys.argv[2]).read_text())
"""


def run_in_shell(notebook, folder, more=""):
    folder.mkdir()
    (folder.parent / "more.py").write_text(more)
    (folder.parent / "script.py").write_text(SCRIPT)
    words = [sys.executable, "../script.py", str(notebook), "../more.py"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_the_magic_in_a_real_shell_writes_the_sources_byte_for_byte(repo, tmp_path):
    for name, text in ODD.items():
        if name != "shell":  # not Python, and so not to be imported
            (repo / f"src_py/pairs/odd_{name}.py").write_bytes(text.encode())
    recipe = repo / "notebooks/finetune_deberta.py"
    imports = "".join(f"import src_py.pairs.odd_{name}\n" for name in ODD if name != "shell")
    recipe.write_text(recipe.read_text().replace("# %%\nimport os\n", f"# %%\nimport os\n\n{imports}\n", 1))
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(recipe)], check=True)
    commit(repo)
    notebook = edited(repo, tmp_path / "run.ipynb")
    done = run_in_shell(notebook, tmp_path / "working")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "", "helper cells print nothing"
    written = sources(tmp_path / "working")
    needed = needed_modules(recipe.read_text(), repo)
    assert {str(path): text for path, text in written.items()} == {name: (repo / name).read_bytes() for name in needed}
    assert pull(notebook, repo).changed == []


@pytest.mark.parametrize("text", [*ODD.values(), "a\n\n# ==== note\n# === x ===\n"])
def test_the_parser_gives_back_what_was_joined(text):
    cell = f"# ==== src_py/a.py ====\nx = 1\n\n# ==== src_py/pairs/b.py ====\n{text}\n# ==== src_py/c.py ====\ny = 2\n"
    assert split_files(cell)["src_py/pairs/b.py"] == text
    assert split_files(cell.replace("\n", "\r\n")) == split_files(cell)


def test_an_edited_helper_takes_effect_on_the_next_import(repo, tmp_path):
    """Also where the new text is as long as the old one and the clock has not moved on."""
    (repo / "src_py/value.py").write_text("VALUE = 1\n")
    (repo / "src_py/user.py").write_text("from src_py.value import VALUE\n")
    recipe = repo / "notebooks/finetune_deberta.py"
    line = "# %%\nimport os\n"
    recipe.write_text(recipe.read_text().replace(line, f"{line}\nimport src_py.user\n\n", 1))
    assert "src_py.user" in recipe.read_text()
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(recipe)], check=True)
    more = """
import os
sys.dont_write_bytecode = False
cell = next(cell.source for cell in cells if cell.source.startswith("%%helpers src_py/\\n"))
sys.path.insert(0, "")
run("from src_py.user import VALUE; first = VALUE")
first_import = sys.modules["src_py.user"]
run(cell)
assert sys.modules["src_py.user"] is first_import, "nothing changed, nothing is imported anew"
before = os.stat("src_py/value.py")
run(cell.replace("VALUE = 1", "VALUE = 2"))
os.utime("src_py/value.py", ns=(before.st_atime_ns, before.st_mtime_ns))
run("from src_py.user import VALUE; second = VALUE")
assert (shell.user_ns["first"], shell.user_ns["second"]) == (1, 2)
outside = cell.replace("# ==== src_py/value.py", "# ==== ../value.py")
above = cell.replace("src_py/\\n", "src_py/\\nx\\n", 1)
for broken in (outside, above):
    result = shell.run_cell(broken)
    assert isinstance(result.error_in_exec, ValueError), result
"""
    done = run_in_shell(edited(repo, tmp_path / "run.ipynb"), tmp_path / "working", more)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sync_imports_no_helper(repo):
    """Building, checking and pulling only read the sources."""
    for name in ("errors", "config"):
        (repo / f"src_py/{name}.py").write_text("raise SystemExit('executed')\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from tools.sync import main; from pathlib import Path\n"
    code += "code = main(['build'], Path(sys.argv[2])); assert not any(n.startswith('src_py') for n in sys.modules)\n"
    code += "sys.exit(code)"
    words = [sys.executable, "-c", code, str(ROOT), str(repo)]
    done = subprocess.run(words, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
