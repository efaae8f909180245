"""Notebooks and their sources: built alike, checked, and pulled back byte for byte."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from tools.sync import SyncError, build, main, needed_modules, pull, recipes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def repo(tmp_path):
    root = tmp_path / "repo"
    for folder in ("notebooks", "src_py"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    commit(root)
    return root


def commit(root):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(root), *who, "commit", "-qm", "x"], check=True)


def edited(repo, tmp_path, change=lambda cells: None):
    """The built notebook as Kaggle gives it back: with outputs, without metadata and ids."""
    notebook = nbformat.reads(build(repo / "notebooks/finetune_deberta.py", repo), as_version=4)
    for i, cell in enumerate(notebook.cells):
        cell.metadata, cell["id"] = {}, f"other{i}"
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="x")], i
    notebook.metadata = {}
    change(notebook.cells)
    nbformat.write(notebook, tmp_path / "edited.ipynb")
    return tmp_path / "edited.ipynb"


def tree(repo):
    return {path: path.read_bytes() for path in sorted(repo.rglob("*.py"))}


def test_the_committed_notebooks_are_in_step():
    assert main(["check"], ROOT) == 0


def test_a_stale_notebook_fails_the_check_with_a_diff(repo, capsys):
    helper = repo / "src_py" / "split.py"
    helper.write_text(helper.read_text() + "# changed\n")
    assert main(["check"], repo) == 1
    assert "+" in capsys.readouterr().out
    main(["build"], repo)
    assert main(["check"], repo) == 0


def test_building_twice_gives_the_same_bytes_without_outputs():
    for recipe in recipes(ROOT):
        text = build(recipe, ROOT)
        assert text == build(recipe, ROOT)
        notebook = nbformat.reads(text, as_version=4)
        assert notebook.metadata.kernelspec.name == "python3"
        assert not any(cell.get("outputs") for cell in notebook.cells)
        assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)


def test_helpers_come_in_dependency_order(repo):
    (repo / "src_py/one.py").write_text("from src_py.two import x\n")
    (repo / "src_py/two.py").write_text("x = 1\n")
    assert needed_modules("from src_py.one import x", repo) == ["src_py/__init__.py", "src_py/two.py", "src_py/one.py"]
    (repo / "src_py/two.py").write_text("import src_py.one\n")
    with pytest.raises(SyncError, match="cycle"):
        needed_modules("from src_py.one import x", repo)


def test_the_round_trip_is_byte_identical(repo, tmp_path):
    assert pull(edited(repo, tmp_path), repo) == []


def test_pull_writes_back_exactly_what_was_built(repo, tmp_path):
    before, notebook = tree(repo), edited(repo, tmp_path)
    # The stamps are made to fit emptied files, so that pull has to write every one of them anew.
    text = notebook.read_text()
    for path in before:
        path.write_text("")
    empty = hashlib.sha256(b"").hexdigest()[:12]
    notebook.write_text(re.sub(r"(# built from \S+) [0-9a-f]{12}", rf"\1 {empty}", text))
    commit(repo)
    pull(notebook, repo)
    built = set(re.findall(r"# built from (\S+)", text))
    assert len(built) > 10
    assert all(path.read_bytes() == before[path] for path in before if str(path.relative_to(repo)) in built)


def test_edits_on_kaggle_come_back(repo, tmp_path):
    def change(cells):
        helper = next(cell for cell in cells if cell.source.startswith("%%writefile src_py/split.py"))
        helper.source += "\n# edited helper"
        cells[-1].source += "\n\nAn edited line."

    assert pull(edited(repo, tmp_path, change), repo) == ["src_py/split.py", "notebooks/finetune_deberta.py"]
    assert (repo / "src_py/split.py").read_text().endswith("\n# edited helper\n")
    assert (repo / "notebooks/finetune_deberta.py").read_text().endswith("# An edited line.\n")


def test_pull_refuses_to_overwrite(repo, tmp_path):
    def change(cells):
        next(c for c in cells if c.source.startswith("%%writefile src_py/split.py")).source += "\n# theirs"

    notebook = edited(repo, tmp_path, change)
    helper = repo / "src_py" / "split.py"
    helper.write_text(helper.read_text() + "# ours\n")
    with pytest.raises(SyncError, match="uncommitted"):
        pull(notebook, repo)
    commit(repo)
    with pytest.raises(SyncError, match=r"src_py/split\.py changed since"):
        pull(notebook, repo)
    assert helper.read_text().endswith("# ours\n")


def test_pull_refuses_paths_outside_the_project(repo, tmp_path):
    def change(cells):
        cells.append(nbformat.v4.new_code_cell("%%writefile ../evil.py\nx = 1"))

    with pytest.raises(SyncError, match=r"would write \.\./evil\.py"):
        pull(edited(repo, tmp_path, change), repo)


@pytest.mark.parametrize("name", [path.stem for path in recipes(ROOT)])
def test_every_recipe_comes_back_as_it_was(repo, tmp_path, name):
    before = tree(repo)
    notebook = nbformat.reads(build(repo / f"notebooks/{name}.py", repo), as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, tmp_path / "back.ipynb")
    assert pull(tmp_path / "back.ipynb", repo) == []
    assert tree(repo) == before
