"""The gallery: an executed notebook as a page for GitHub, and a check that pages are in step with the recipes."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tests.tools.project import copy_sources
from tools import gallery, gallery_check
from tools.build import HELPERS, SETUP, build, digest
from tools.gallery import main, write_index, write_page
from tools.gallery_check import check
from tools.gallery_page import github_html, page, small_picture
from tools.percent import SyncError
from tools.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
NAME = "why_is_it_not_learning"
TABLE = (
    "<div>\n<style scoped>\n .dataframe {color: red}\n</style>\n"
    '<table border="1" class="dataframe">\n  <tr style="text-align: right;">\n    <th></th>\n'
    "    <td>5 &lt; 6 for $5\n and $6</td>\n  </tr>\n\n</table>\n</div>"
)
BANNER = (
    '<div style="background:#1b6e3c;color:#fff"><div><b>✓ LEARNED</b> <span>fold_0</span></div>'
    '<div style="display:flex"><span>log loss <b>0.9</b></span><span>gain <b>+0.1</b></span></div></div>'
)


def png(mode="RGB"):
    """A picture like a plot: areas of few colours with soft edges."""
    areas = np.random.default_rng(0).choice([0, 120, 255], (6, 8, len(mode))).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(areas, mode).resize((80, 60), 0).resize((320, 240), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def code(source, *outputs):
    return new_code_cell(source, outputs=list(outputs), execution_count=1)


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", data={mime.replace("_", "/"): text for mime, text in data.items()})


@pytest.fixture
def notebook():
    bar = new_output(
        "display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Tokenising: 0%"}
    )
    return new_notebook(
        cells=[
            new_markdown_cell("# A title"),
            code(f"{SETUP}\n# built from notebooks/{NAME}.py aaaaaaaaaaaa\n# built from src_py/x.py bbbbbbbbbbbb"),
            code(f"{HELPERS}src_py/kaggle\nhelper = 1", printed("from a helper cell")),
            code("class CFG:\n    rows = 0"),
            new_markdown_cell("## Evaluate\n\nIs it ```good```?"),
            code(
                "evaluate()",
                printed("\rPredicting:   0%|   | 0/2 [00:00<?]"),
                bar,
                printed("\rPredicting: 100%|███| 2/2 [00:00<00:00, 6.1it/s]\n\x1b[31mlate\x1b[0m\n"),
                printed("a warning\n", "stderr"),
                shown(text_html=TABLE, text_plain="the table as text"),
                shown(image_png=base64.b64encode(png()).decode(), text_plain="<Figure>"),
                shown(text_markdown="**Data or code?** The code."),
                printed("a sentence " * 20 + "\n" + "step  1  " * 20),
            ),
        ]
    )


def test_a_page_shows_outputs_folds_code_and_leaves_helpers_out(notebook):
    text, pictures = page(notebook, NAME)
    assert text.startswith("# A title\n")
    assert "helper" not in text
    assert "built from" not in text
    assert "<details><summary>Configuration, 2 lines</summary>\n\n```python\nclass CFG:" in text
    assert "<details><summary>Code, 1 line</summary>\n\n```python\nevaluate()\n```\n\n</details>" in text
    visible = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "evaluate()" not in visible
    assert "```text\nlate\na warning\n```\n" in text
    assert "%|" not in text
    assert "Tokenising" not in text
    assert "the table as text" not in text
    assert (
        text.index("<table>")
        < text.index(f"![{NAME}: Evaluate, picture 1]({NAME}-1.png)")
        < text.index("\n**Data or code?** The code.\n")
    )
    assert len(pictures) == 1
    lines = visible.splitlines()
    assert max(len(line) for line in lines if line.startswith("a sentence")) <= 110
    assert any(len(line) > 110 for line in lines if line.startswith("step")), (
        "the columns of a table stay in their line"
    )


def test_html_is_one_block_that_github_shows():
    html = github_html(TABLE)
    assert "<td>5 &lt; 6 for &#36;5 and &#36;6</td>" in html
    assert "red" not in html
    assert "style" not in html
    assert "\n\n" not in html
    folded = github_html(
        "<details open><summary>The change</summary><pre>- a\n\n+ b &lt;</pre></details><script>x</script>"
    )
    assert folded == "<details open><summary>The change</summary>\n<pre>- a&#10;&#10;+ b &lt;</pre></details>"


def test_a_row_of_boxes_is_a_row_of_a_table_and_a_coloured_box_is_a_quotation():
    html = github_html(BANNER)
    assert html.startswith("<blockquote>\n<div><b>✓ LEARNED</b> fold_0</div>")
    assert "<tr><td>log loss <b>0.9</b></td><td>gain <b>+0.1</b></td></tr></table></blockquote>" in html
    row = '<div style="display:flex"><div>a</div><div>b</div></div>'
    assert github_html(row + row) == "<table>\n<tr><td>a</td><td>b</td></tr>\n<tr><td>a</td><td>b</td></tr></table>"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_picture_gets_smaller_and_looks_the_same(mode):
    before = png(mode)
    after = small_picture(before)
    assert len(after) < len(before)
    old, new = (np.asarray(Image.open(io.BytesIO(data)).convert(mode), float) for data in (before, after))
    assert old.shape == new.shape
    assert np.abs(old - new).mean() < 6


@pytest.mark.parametrize("fault", ["error", "not run", "interrupted"])
def test_a_run_that_did_not_end_gets_no_page(notebook, fault):
    cell = notebook.cells[-1]
    if fault == "error":
        cell.outputs.append(new_output("error", ename="InputError", evalue="x", traceback=[]))
    elif fault == "not run":
        cell.execution_count = None
    else:
        cell.metadata["papermill"] = {"status": "running"}
    with pytest.raises(SyncError, match=r"the cell 'evaluate\(\)' did not run to its end"):
        page(notebook, NAME)


def save(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def test_no_path_of_a_machine_is_on_a_page(notebook, tmp_path):
    run = tmp_path / "run"
    link = run / "kaggle/input/data/pairs"
    link.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    text = f"{run}/kaggle/input/a/train.csv\n{tmp_path}/elsewhere/test.csv\n{run}/x.csv\n{sys.prefix}/lib\n"
    text += "<f at 0x7f00aa11>"
    notebook.cells[-1].outputs = [printed(text)]
    target = write_page(RECIPES[NAME], save(notebook, run / "executed.ipynb"), tmp_path / "out", "x", "y")
    written = target.read_text(encoding="utf-8")
    assert f"of {NAME}.ipynb, recorded" in written, "a link from outside would show where the project lies"
    lines = ["/kaggle/input/a/train.csv", "/kaggle/input/pairs/test.csv", "/kaggle/working/x.csv", "/lib", "<f at 0x…>"]
    assert "```text\n" + "\n".join(lines) + "\n```" in written
    notebook.cells[-1].outputs = [printed("/ho" + "me/somebody/data")]
    with pytest.raises(SyncError, match="holds a personal path"):
        write_page(RECIPES[NAME], save(notebook, run / "executed.ipynb"), tmp_path / "out", "x", "y")
    assert target.read_text(encoding="utf-8") == written, "the page from before stays"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The notebook as `make demo` would leave it, with a picture, of a project of its own."""
    root = copy_sources(tmp_path_factory.mktemp("project"))
    text = build(root / f"notebooks/{NAME}.py", root)
    (root / f"notebooks/{NAME}.ipynb").write_text(text, encoding="utf-8")
    executed = nbformat.reads(text, as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.metadata = 1, {"papermill": {"status": "completed"}}
    executed.cells[-1].outputs = [shown(image_png=base64.b64encode(png()).decode())]
    return root, executed


@pytest.fixture
def project(built, tmp_path, monkeypatch):
    """A project with a demo that has run, and a gallery of this one recipe."""
    root, executed = built
    for name in ("notebooks", "src_py"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    save(executed, tmp_path / f"build/demo/{NAME}/executed.ipynb")
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    for module in (gallery, gallery_check):
        monkeypatch.setattr(module, "RECIPES", {NAME: RECIPES[NAME]})
    return tmp_path


def test_the_page_of_a_demo_says_what_it_is_and_passes_the_check(project, capsys):
    assert check(project) == [f"gallery/{NAME}.md is missing; run `make gallery RECIPE={NAME}`."]
    assert main([f"--recipe={NAME}"]) == 0
    assert "the demo of these sources has run already" in capsys.readouterr().out
    text = (project / f"gallery/{NAME}.md").read_text(encoding="utf-8")
    top = text[: text.index("# Why is it not learning?")]
    for part in (
        "generated pairs",
        "tiny DeBERTa",
        "on a CPU",
        RECIPES[NAME].demo_cfg,
        f"`make gallery RECIPE={NAME}`",
    ):
        assert part in top
    linked = re.search(r"\[why_is_it_not_learning\.ipynb\]\((.+?)\)", top)[1]
    assert (project / "gallery" / linked).is_file()
    assert check(project) == []
    index = (project / "gallery/README.md").read_text(encoding="utf-8")
    assert f"[Why is it not learning?]({NAME}.md)" in index
    assert f"]({NAME}-1.png)" in index
    before = {path.name: path.read_bytes() for path in (project / "gallery").iterdir()}
    assert main([f"--recipe={NAME}"]) == 0
    assert before == {path.name: path.read_bytes() for path in (project / "gallery").iterdir()}


def test_the_check_names_what_is_out_of_step(project, capsys, monkeypatch):
    main([f"--recipe={NAME}"])
    target, picture = project / f"gallery/{NAME}.md", project / f"gallery/{NAME}-1.png"
    good, again = target.read_text(encoding="utf-8"), f"run `make gallery RECIPE={NAME}`."
    target.write_text(good.replace(digest(project / f"notebooks/{NAME}.py"), "0" * 12), encoding="utf-8")
    assert check(project) == [f"gallery/{NAME}.md is older than notebooks/{NAME}.py; {again}"]
    target.write_text(re.sub(r"helpers \w+", "helpers " + "0" * 12, good), encoding="utf-8")
    capsys.readouterr()
    assert check(project) == []
    assert f"gallery/{NAME}.md was made with earlier helpers" in capsys.readouterr().out
    changed = f"gallery/{NAME}.md or one of its pictures was changed after it was made; {again}"
    target.write_text(good.replace("CPU", "GPU"), encoding="utf-8")
    assert check(project) == [changed]
    target.write_text(good[good.index("\n") + 1 :], encoding="utf-8")
    assert check(project) == [f"gallery/{NAME}.md does not begin with its mark; {again[:-1]}, which makes it anew."]
    target.write_text(good.replace(f"gallery: {NAME}", "gallery: finetune_deberta"), encoding="utf-8")
    assert check(project) == [f"gallery/{NAME}.md holds the page of finetune_deberta; {again}"]
    target.write_text(good, encoding="utf-8")
    plot = picture.read_bytes()
    picture.write_bytes(png("RGBA"))
    assert check(project) == [changed]
    picture.write_bytes(plot)
    orphan = picture.with_name(f"{NAME}-2.png")
    orphan.write_bytes(plot)
    assert check(project) == [f"gallery/{NAME}-2.png is on no page; remove it."]
    orphan.unlink()
    listed = project / "gallery/README.md"
    listed.write_text("# Gallery\n", encoding="utf-8")
    assert "does not list these pages" in check(project)[0]
    listed.unlink()
    assert "gallery/README.md is missing or" in check(project)[0]
    write_index(project / "gallery")
    assert check(project) == []
    (project / "gallery/real").mkdir()
    (project / "gallery/real/odd.md").write_text("# Odd", encoding="utf-8")
    assert check(project) == ["gallery/real/odd.md is not a page of a recipe; remove it."]
    (project / "gallery/real/odd.md").unlink()
    picture.unlink()
    assert check(project) == [f"gallery/{NAME}.md shows {NAME}-1.png, which is missing; {again}"]
    picture.write_bytes(plot)
    monkeypatch.setattr(gallery_check, "LIMIT", 1000)
    assert "at most 1,000 are committed" in check(project)[0]
    assert gallery_check.main(project) == 1


def test_a_project_without_its_notebooks_is_told_to_build_them(project):
    main([f"--recipe={NAME}"])
    sources = project / "notebooks"
    here = sources.resolve()
    sources.unlink()
    sources.mkdir()
    (sources / f"{NAME}.py").write_bytes((here / f"{NAME}.py").read_bytes())
    assert check(project) == [f"notebooks/{NAME}.ipynb is missing; run `make sync`."]


def test_a_page_with_a_coloured_banner_says_that_its_colour_is_not_shown(notebook, tmp_path):
    notice = "GitHub shows the coloured banner without its colour."
    executed = tmp_path / "run/executed.ipynb"
    texts = []
    for outputs in ([], [shown(text_html=BANNER)]):
        notebook.cells[-1].outputs += outputs
        target = write_page(RECIPES[NAME], save(notebook, executed), tmp_path / "out", "x", "y")
        texts.append(target.read_text(encoding="utf-8"))
    assert [text.count(notice) for text in texts] == [0, 1]
    assert texts[1].index(notice) < texts[1].index("# A title")


def test_a_demo_of_other_sources_is_run_again(project, monkeypatch):
    ran = []
    monkeypatch.setattr(gallery, "demo", ran.append)
    executed = project / f"build/demo/{NAME}/executed.ipynb"
    text = executed.read_text(encoding="utf-8")
    executed.write_text(text.replace(digest(project / "src_py/errors.py"), "0" * 12), encoding="utf-8")
    main([f"--recipe={NAME}"])
    assert ran == [RECIPES[NAME]]


def test_an_index_lists_the_pages_that_are_there(tmp_path):
    (tmp_path / "finetune_deberta.md").write_text("x")
    write_index(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## [Fine-tune DeBERTa-v3 on chatbot preferences](finetune_deberta.md)" in text
    assert "write `submission.csv`." in text
    assert NAME not in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--cfg=epochs=1"], "give DATA=folder too"), (["--cfg=epochs=1", "--data=."], "give RECIPE=name too")],
)
def test_settings_without_what_they_are_for_are_refused(words, sentence, capsys):
    assert main(words) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_of_given_data(contest, tiny, tmp_path):
    """`make gallery` with data and a model runs the recipe on them."""
    cfg = "rows=160 valid_rows=60 max_length=16 epochs=1 evaluations=1"
    make = ["make", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready", "--no-print-directory", "gallery"]
    words = [f"RECIPE={NAME}", f"DATA={contest}", f"MODEL={tiny}", f"CFG={cfg}", f"OUT={tmp_path}"]
    done = subprocess.run([*make, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = (tmp_path / f"{NAME}.md").read_text(encoding="utf-8")
    assert f"the data `{contest.name}` and the encoder `tiny`. Changed settings: `{cfg}`" in text
    assert str(contest) not in text
    assert len(list(tmp_path.glob("*.png"))) == text.count(f"({NAME}-")
    assert f"source {digest(ROOT / f'notebooks/{NAME}.py')}," in text
