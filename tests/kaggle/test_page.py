"""What a page shows while it runs: sentences that wrap, and progress that fits who is watching."""

import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from src_py.kaggle import page
from src_py.kaggle.page import RELAY, FoldedLog, Meter, Sentences, is_live, say


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves: `now.seconds`."""
    moved = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(page, "time", SimpleNamespace(monotonic=lambda: moved.seconds))
    return moved


@pytest.fixture
def kernel(monkeypatch):
    """As in a Jupyter kernel, with the front ends of this test only."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    for name in ("KAGGLE_KERNEL_RUN_TYPE", *page._FRONT_ENDS):
        monkeypatch.delenv(name, raising=False)


def test_a_sentence_is_printed_whole_in_a_log_and_wraps_at_spaces_on_a_page(capsys):
    sentence = "A sentence of <b>somebody's</b> " + "words and " * 30
    say(sentence, "", 7)
    assert capsys.readouterr().out == f"{sentence}\n7\n"
    html = Sentences([sentence])._repr_html_()
    assert "&lt;b&gt;somebody&#x27;s&lt;/b&gt;" in html
    assert "white-space:normal" in html
    say("")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "live"),
    [
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "JPY_SESSION_NAME": "x.ipynb"}, False),
        ({"JPY_SESSION_NAME": "x.ipynb"}, True),
        ({}, False),
    ],
)
def test_who_is_watching(kernel, monkeypatch, variables, live):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_live() == live


def test_a_script_is_not_live(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert not is_live()


def work(meter, now, seconds):
    for second in range(seconds):
        now.seconds += 1
        if meter.due():
            meter.show(second / seconds, f"second {second}")


def test_where_nobody_watches_there_is_at_most_a_line_a_minute(now, capsys):
    work(Meter(), now, 600)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 10
    assert said[0] == "second 59"


def test_another_process_relays_its_progress_and_other_lines_pass(now, monkeypatch, capsys):
    with monkeypatch.context() as worker:
        worker.setenv(RELAY, "1")
        meter = Meter()
    work(meter, now, 130)
    meter.show(1.0, "the end")
    relayed = capsys.readouterr().out
    assert len(relayed.splitlines(keepends=True)) >= 130
    parent = Meter()
    assert not parent.receive("step 3/9  log loss 1.09\n")
    for line in relayed.split("\n")[:-1]:
        now.seconds += 1
        assert parent.receive(f"{line}\n")
    assert capsys.readouterr().out.splitlines() == ["second 59", "second 119", "the end"]


@pytest.mark.parametrize("state", ["garbage text", "", "nan x", "0.5000.1", "-1.0 x"])
def test_a_damaged_line_of_progress_is_shown_as_text_and_ends_nothing(now, capsys, state):
    now.seconds += 1000
    assert not Meter().receive(f"{page.MARK}{state}\n")
    assert not capsys.readouterr().out


def test_what_utf8_cannot_hold_is_shown_as_its_number(now, capsysbinary):
    text = "train\ud83d.csv"
    say(text)
    log = FoldedLog()
    log(text)
    log.warn(text)
    Meter().show(0.5, text)
    assert capsysbinary.readouterr().out == b"train\\ud83d.csv\n" * 4
    Sentences(log.lines + log.warnings)._repr_html_().encode()


@pytest.mark.slow
def test_in_a_live_notebook_one_bar_is_replaced_and_lines_stay(tmp_path, monkeypatch):
    code = """
from src_py.kaggle.page import Meter, say
meter = Meter()
meter.show(0.25, "step 1 of 4 <x>")
print("an evaluation")
meter.show(1.0, "step 4 of 4")
say("a sentence")
"""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("PYTHONPATH", ".")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3").execute()
    bar, line, sentence = notebook.cells[0].outputs
    assert 'value="1.0000"' in bar["data"]["text/html"]
    assert "step 4 of 4" in bar["data"]["text/html"]
    assert line["text"] == "an evaluation\n"
    assert sentence["data"]["text/plain"] == "a sentence"


def test_a_long_log_is_folded_at_its_end_and_warnings_stay_in_sight(tmp_path, monkeypatch):
    code = """
from src_py.kaggle.page import FoldedLog
log = FoldedLog()
log("a trial <x>")
log.warn("one was left out")
log.fold("Trials")
"""
    monkeypatch.setenv("PYTHONPATH", ".")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3").execute()
    folded, warning = notebook.cells[0].outputs
    assert folded["data"]["text/html"].startswith("<details")
    assert "<summary>Trials (1)</summary><div>a trial &lt;x&gt;</div>" in folded["data"]["text/html"]
    assert warning["data"]["text/plain"] == "one was left out"


def test_a_log_of_a_script_is_printed_as_it_comes(capsys):
    log = FoldedLog()
    log("a trial")
    assert capsys.readouterr().out == "a trial\n"
    log.fold("Trials")
    assert not capsys.readouterr().out
