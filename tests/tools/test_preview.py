"""A notebook as Kaggle shows it: hidden cells folded, in both themes."""

import re

import nbformat
import pytest
from PIL import Image

from tools.percent import SyncError
from tools.preview import SLICE, _pictures, find_browser, main, page


@pytest.fixture
def notebook():
    hidden = {"_kg_hide-input": True, "_kg_hide-output": True}
    printed = nbformat.v4.new_output("stream", text="written by the hidden cell\n")
    return nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# A title"),
            nbformat.v4.new_code_cell("shown = 1"),
            nbformat.v4.new_code_cell("folded = 2", metadata=hidden, outputs=[printed], execution_count=1),
        ]
    )


def _folded(html: str) -> str:
    return "".join(re.findall(r"<details>.*?</details>", html, re.DOTALL))


def test_what_kaggle_hides_is_folded_and_nothing_else(notebook):
    html = page(notebook, "light")
    assert "folded" in _folded(html)
    assert "written by the hidden cell" in _folded(html)
    assert "shown" not in _folded(html)
    assert "<h1" in html


def test_a_page_asks_the_internet_for_nothing_and_has_a_theme(notebook):
    light, dark = (page(notebook, theme) for theme in ("light", "dark"))
    assert not re.search(r'<script src="https?:', light)
    assert 'data-jp-theme-light="true"' in light
    assert 'data-jp-theme-light="false"' in dark


def test_what_is_not_a_notebook_is_refused_in_one_sentence(tmp_path, capsys):
    odd = tmp_path / "odd.ipynb"
    odd.write_text("not a notebook", encoding="utf-8")
    assert main([f"--notebook={odd}", f"--out={tmp_path / 'out'}"]) == 1
    assert "cannot be read as a notebook" in capsys.readouterr().err


def test_a_cell_that_cannot_be_shown_is_named_in_one_sentence(notebook, tmp_path, capsys):
    notebook.cells.append(nbformat.v4.new_markdown_cell("![a plot](attachment:none.png)"))
    nbformat.write(notebook, tmp_path / "odd.ipynb")
    assert main([f"--notebook={tmp_path / 'odd.ipynb'}", f"--out={tmp_path / 'out'}"]) == 1
    said = capsys.readouterr().err
    assert "cannot be shown" in said
    assert "none.png" in said
    assert said.count("\n") == 1


def test_a_folder_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(SystemExit):
        main([f"--out={tmp_path / 'file' / 'a' / 'b'}"])
    assert "cannot be a folder to write to" in capsys.readouterr().err


def test_a_browser_that_takes_no_picture_is_not_believed(tmp_path):
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\ncase \"$*\" in *dump-dom*) echo '<title>height 100</title>';; *) exit 1;; esac\n")
    browser.chmod(0o755)
    (tmp_path / "a.html").write_text("<p>x</p>", encoding="utf-8")
    with pytest.raises(SyncError, match=r"took no picture of a\.html"):
        _pictures(str(browser), tmp_path / "a.html", 400)


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")
def test_pictures_show_the_whole_page_in_both_widths(notebook, tmp_path):
    notebook.cells += [nbformat.v4.new_markdown_cell("\n\n".join(["A paragraph."] * 150))]
    file = tmp_path / "long.ipynb"
    nbformat.write(notebook, file)
    assert main([f"--notebook={file}", f"--out={tmp_path / 'out'}"]) == 0
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert {path.name.split("-")[2] for path in pictures} == {"1200", "400"}
    second = Image.open(tmp_path / "out" / "long-light-1200-2.png").convert("L")
    assert second.size == (1200, SLICE)
    assert second.getextrema()[0] < 128, "the second slice shows the text further down"
