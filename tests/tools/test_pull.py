"""An edited notebook back into its sources: everything or nothing, and nothing but its own sources."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.tools.project import ROOT, commit, copy_sources, edited, helper_cell, sources
from tools.build import HELPERS, SETUP, digest
from tools.percent import SyncError
from tools.pull import pull, write_all

SPLIT = "# ==== src_py/pairs/split.py ===="
RECIPE = "notebooks/finetune_deberta.py"


@pytest.fixture
def repo(tmp_path):
    return copy_sources(tmp_path / "repo")


@pytest.fixture
def notebook(repo, tmp_path):
    """Builds the edited notebook: `notebook(change)`."""
    return lambda change=lambda cells: None: edited(repo, tmp_path / "edited.ipynb", change)


def add_to_split(cells, text="# edited helper"):
    cell = helper_cell(cells, "pairs")
    above, below = cell.source.split(SPLIT, 1)
    cell.source = f"{above}{SPLIT}\n{text}{below}"


def refused(repo, path, sentence):
    """The pull raises SyncError with that sentence, and no source has changed."""
    before = sources(repo)
    with pytest.raises(SyncError, match=sentence):
        pull(path, repo)
    assert sources(repo) == before


def test_pull_writes_back_exactly_what_was_built(repo, notebook):
    before, path = sources(repo), notebook()
    # The stamps are made to fit changed files, so that pull has to write every one of them anew.
    text = path.read_text()
    built = re.findall(r"# built from (\S+) [0-9a-f]{12}", text)
    for name in built:
        (repo / name).write_bytes((repo / name).read_bytes() + b"# older\n")
        text = re.sub(rf"(# built from {re.escape(name)}) [0-9a-f]{{12}}", rf"\1 {digest(repo / name)}", text)
    path.write_text(text)
    commit(repo)
    assert set(pull(path, repo).changed) == set(built)
    assert len(built) > 10
    assert sources(repo) == before


def test_edits_on_kaggle_come_back(repo, notebook):
    def change(cells):
        add_to_split(cells)
        cells[-1].source += "\n\nAn edited line."

    assert pull(notebook(change), repo).changed == ["src_py/pairs/split.py", RECIPE]
    assert (repo / "src_py/pairs/split.py").read_text().startswith("# edited helper\n")
    assert (repo / RECIPE).read_text().endswith("# An edited line.\n")


def test_a_new_helper_is_written_and_a_lost_one_reported(repo, notebook):
    def change(cells):
        cell = helper_cell(cells, "pairs")
        cell.source = cell.source.replace(SPLIT, f"# ==== src_py/pairs/added.py ====\nEXTRA = 1\n\n{SPLIT}")
        at = cell.source.index("# ==== src_py/pairs/tokenizer.py")
        cell.source = cell.source[:at]

    found = pull(notebook(change), repo)
    assert found.changed == ["src_py/pairs/added.py"]
    assert (repo / "src_py/pairs/added.py").read_text() == "EXTRA = 1\n"
    assert "src_py/pairs/tokenizer.py is not in the notebook" in str(found)
    assert (repo / "src_py/pairs/tokenizer.py").is_file()


def test_pull_refuses_to_overwrite(repo, notebook):
    path, helper = notebook(add_to_split), repo / "src_py/pairs/split.py"
    helper.write_text(helper.read_text() + "# ours\n")
    refused(repo, path, r"uncommitted changes \(src_py/pairs/split\.py\)")
    commit(repo)
    refused(repo, path, r"src_py/pairs/split\.py changed since")


def test_the_notebook_itself_may_be_what_has_changed(repo, notebook):
    path = notebook(add_to_split)
    target = repo / "notebooks/finetune_deberta.ipynb"
    target.write_bytes(path.read_bytes())
    assert pull(target, repo).changed == ["src_py/pairs/split.py"]


def restamp(pattern, replacement):
    def change(cells):
        setup = next(cell for cell in cells if cell.source.startswith(SETUP))
        setup.source = re.sub(pattern, replacement, setup.source)
        add_to_split(cells)

    return change


def put(text, cell_type="code"):
    def change(cells):
        cells.append(nbformat.v4.new_code_cell(text) if cell_type == "code" else nbformat.v4.new_markdown_cell(text))

    return change


def marker(path, text="x = 1"):
    return put(f"{HELPERS}src_py/pairs\n# ==== {path} ====\n{text}\n")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (restamp(r"# built from src_py/pairs/split.py \w+\n", ""), "no stamp"),
        (restamp(r"# built from notebooks\S+ \w+\n", ""), "which recipe"),
        (restamp(r"# built from notebooks/\w+", "# built from notebooks/other"), "not a recipe here"),
        (restamp(r"# built from notebooks/\w+", "# built from notebooks/../../x"), "not a recipe here"),
        (restamp(r"\A.*", "# Some cell"), "0 cells that begin"),
        (lambda cells: cells.append(next(c for c in cells if c.source.startswith(SETUP))), "2 cells that begin"),
        (marker("../evil.py"), r"would write \.\./evil\.py"),
        (marker("/tmp/evil.py"), r"would write /tmp/evil\.py"),
        (marker("tools/evil.py"), r"would write tools/evil\.py"),
        (marker("src_py/pairs/../../evil.py"), "would write"),
        (marker("src_py/pairs/deep/evil.py"), "would write"),
        (marker("notebooks/finetune_deberta.py"), "would write"),
        (marker("src_py/pairs/evil.py.txt"), "would write"),
        (marker("src_py/pairs/\u00e4.py"), "would write"),
        (marker("src_py/cellar/wine.py"), "the rooms of src_py are"),
        (marker("src_py/pairs/split.py"), "twice"),
        (put(f"{HELPERS}src_py/pairs\nx = 1\n# ==== src_py/pairs/new.py ====\ny = 1"), "text above"),
        (marker("src_py/pairs/new.py", "x = ("), r"src_py/pairs/new\.py is not valid Python, line 1"),
        (marker("src_py/pairs/new.py", "x = '\ud83d'"), "surrogate"),
        (marker("src_py/pairs/new.py", "x = 1\0"), "new.py"),
        (marker("src_py/pairs/new.py", "(" * 5000), "new.py"),
        (put("x = ("), "not valid Python"),
        (put("x = '\ud83d'"), "surrogate"),
        (put("x = 1\n# %% [markdown]\n# y"), r"Own cell \d+ \('x = 1'\) would not come back"),
        (put("%%\nx", "markdown"), "would not come back"),
        (put("from src_py.nowhere import x"), "could not be built again"),
        (lambda cells: cells.remove(next(c for c in cells if c.source.startswith("## Helpers"))), "built again"),
    ],
)
def test_what_cannot_be_pulled_is_refused_in_words(repo, notebook, change, sentence):
    refused(repo, notebook(lambda cells: (add_to_split(cells, "# good edit"), change(cells))), sentence)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"{}", b'{"cells": 1}', b'{"cells": [1]}', b'{"cells": [{"cell_type": "code"}]}',
     b'{"cells": [], "nbformat": 3}', b"[" * 100_000, "half"],
)  # fmt: skip
def test_a_damaged_notebook_is_refused(repo, notebook, tmp_path, content):
    path = notebook()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    refused(repo, path, r"not a (whole )?notebook|begin with")
    refused(repo, tmp_path / "absent.ipynb", "cannot be read")


def test_links_are_not_followed(repo, notebook, tmp_path):
    path, outside = notebook(add_to_split), tmp_path / "outside"
    helper = repo / "src_py/pairs/split.py"
    (tmp_path / "stolen.py").write_bytes(helper.read_bytes())
    helper.unlink()
    helper.symlink_to(tmp_path / "stolen.py")
    commit(repo)
    refused(repo, path, r"src_py/pairs/split\.py is a link")
    helper.unlink()
    helper.write_bytes((tmp_path / "stolen.py").read_bytes())
    (repo / "src_py/pairs").rename(outside)
    (repo / "src_py/pairs").symlink_to(outside)
    commit(repo)
    before = (outside / "split.py").read_bytes()
    with pytest.raises(SyncError, match="src_py/pairs is a link"):
        pull(path, repo)
    assert (outside / "split.py").read_bytes() == before


def test_a_pulled_notebook_is_never_executed(repo, notebook, tmp_path):
    """Neither by the pull, nor by the build that follows it."""
    mark = tmp_path / "executed"
    code = f"import pathlib\n\npathlib.Path({str(mark)!r}).touch()\n"

    def change(cells):
        for room, name in (("", "errors"), ("", "__init__"), ("kaggle", "files"), ("pairs", "split")):
            cell = helper_cell(cells, room)
            line = f"# ==== {Path('src_py', room, name).as_posix()}.py ===="
            assert line in cell.source
            cell.source = cell.source.replace(line, f"{line}\n{code}", 1)
        cells.append(nbformat.v4.new_code_cell(code))

    path = notebook(change)
    script = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from tools.sync import main\n"
    script += "sys.exit(main(['pull', sys.argv[3]], Path(sys.argv[2])) or main(['build'], Path(sys.argv[2])))"
    words = [sys.executable, "-c", script, str(ROOT), str(repo), str(path)]
    done = subprocess.run(words, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pulled src_py/") == 4
    assert not mark.exists()


def test_after_a_failure_in_the_middle_everything_is_as_before(repo, notebook, monkeypatch):
    def change(cells):
        add_to_split(cells)
        cells.append(nbformat.v4.new_code_cell(f"{HELPERS}src_py/kaggle\n# ==== src_py/kaggle/new.py ====\nx = 1"))
        cells[-2].source += "\n\nAn edited line."

    path, before = notebook(change), sources(repo)
    real, count = Path.replace, 0

    def fails_at_the_last(self, target):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fails_at_the_last)
    with pytest.raises(SyncError, match=r"Nothing was written: .*No space left"):
        pull(path, repo)
    assert count == 3
    monkeypatch.undo()
    assert sources(repo) == before
    assert not subprocess.run(["git", "-C", str(repo), "status", "--porcelain"], capture_output=True).stdout
    assert len(pull(path, repo).changed) == 3


def test_new_folders_are_removed_after_a_failure(tmp_path):
    (tmp_path / "b").write_text("a file")
    with pytest.raises(SyncError, match="Nothing was written"):
        write_all({tmp_path / "a/new.py": "x", tmp_path / "b/new.py": "y"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    write_all({tmp_path / "c/d/new.py": "x"}, tmp_path)
    assert (tmp_path / "c/d/new.py").read_text() == "x"
    (tmp_path / "c/d/new.py").chmod(0o640)
    write_all({tmp_path / "c/d/new.py": "y"}, tmp_path)
    assert oct(os.stat(tmp_path / "c/d/new.py").st_mode)[-3:] == "640"


def rewritten(path, change):
    """The notebook's JSON after `change` of each cell's text."""
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["source"] = change("".join(cell["source"]))
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: "\n\n" + text + "\n\n",
        lambda text: re.sub(r"^(# ==== src_py.*)$", r"\n\n\1  ", text, flags=re.MULTILINE),
        lambda text: text.splitlines(keepends=True),
        lambda text: text if text.startswith(("%%", SETUP)) or "\n" not in text else text.replace("\n\n", "  \n\n", 1),
    ],
    ids=["CRLF", "BOM", "blank lines around cells", "around markers", "lists of lines", "trailing spaces"],
)
def test_what_editors_do_to_cells_comes_back_as_it_was(repo, notebook, change):
    path = rewritten(notebook(), change)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = pull(path, repo)
    assert (found.changed, found.notes) == ([], [])


def test_cells_of_a_user_come_along(repo, notebook):
    def change(cells):
        cells.insert(-1, nbformat.v4.new_code_cell("plt.show();"))
        cells.insert(-1, nbformat.v4.new_code_cell("%%time\n!pip list\nx = 1"))
        cells.insert(-1, nbformat.v4.new_code_cell("s = '''\n# %% not a cell\n'''"))
        cells.insert(-1, nbformat.v4.new_markdown_cell("A break here:  \nnext line "))
        cells.append(nbformat.v4.new_code_cell(""))
        cells[0]["attachments"] = {"a.png": {}}

    found = pull(notebook(change), repo)
    assert found.changed == [RECIPE]
    assert len(found.notes) == 2
    assert "pictures" in found.notes[0]
    assert "end the line with a backslash" in found.notes[1]
    text = (repo / RECIPE).read_text()
    assert "# %%time\n# !pip list\nx = 1\n\n# %%\n" in text
    assert 's = """\n# %% not a cell\n"""' in text
    assert "plt.show()\n\n# %%" in text
    commit(repo)
    assert pull(notebook(), repo).changed == []


def test_a_dirty_name_is_reported_whatever_it_is(repo, notebook):
    (repo / "a b\n'c'.txt").write_text("x")
    refused(repo, notebook(add_to_split), "uncommitted changes")


def test_an_edited_setup_cell_is_said(repo, notebook):
    def change(cells):
        next(cell for cell in cells if cell.source.startswith(SETUP)).source += "\nprint('mine')"

    assert any("setup cell differs" in note for note in pull(notebook(change), repo).notes)
    assert not any("setup cell differs" in note for note in pull(notebook(), repo).notes)
