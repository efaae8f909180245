"""The real `kaggle` client against a stub of the service on loopback; nobody's credentials are read."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.tools.project import add_headings
from tools import kaggle_client, kaggle_service
from tools.build import recipes
from tools.kaggle_client import MACHINES, header, metadata
from tools.kaggle_service import mask
from tools.percent import SyncError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = pytest.mark.parametrize("recipe", recipes(ROOT), ids=lambda path: path.stem)


@pytest.fixture
def client(account, tmp_path):
    """Runs tools.kaggle_client in a folder's copy of the project, with a made-up key."""
    root = tmp_path / "project"
    ignored = (".venv", ".git", "build", "data", ".*cache", "__pycache__", ".hypothesis")
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*ignored))
    add_headings(root)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)

    def run(target, *words):
        environment = ["make", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready"]
        command = [*environment, target, "RECIPE=finetune_deberta", *words]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert "made-up-key" not in done.stdout + done.stderr
        return done

    run.root = root
    return run


@RECIPES
def test_the_header_is_the_source_of_the_metadata(recipe):
    described = metadata(recipe, "someone")
    assert described["id"] == f"someone/{recipe.stem.replace('_', '-')}"
    assert described["enable_internet"] is False
    assert described["enable_gpu"] is True
    assert described["machine_shape"] == "NvidiaTeslaT4"
    assert described["competition_sources"] == ["llm-classification-finetuning"]
    assert all(name.count("/") == 4 for name in described["model_sources"])
    assert described["is_private"] is True


def test_a_header_that_says_too_little_is_refused(tmp_path):
    source = (ROOT / "notebooks/finetune_deberta.py").read_text(encoding="utf-8")
    recipe = tmp_path / "finetune_deberta.py"
    recipe.write_text(source.replace("| Internet | off |", "| Internet | perhaps |"))
    assert header(recipe)["Internet"] == "perhaps"
    with pytest.raises(SyncError, match="Internet"):
        metadata(recipe, "someone")
    recipe.write_text(source.replace("competition `", "competition "))
    with pytest.raises(SyncError, match="competition"):
        metadata(recipe, "someone")
    with pytest.raises(SyncError, match="user name"):
        metadata(ROOT / "notebooks/finetune_deberta.py", "a/b")


def test_only_machines_that_kaggle_offers_are_named():
    assert set(MACHINES) == {"GPU T4 x2", "none"}


def test_push_sends_the_notebook_and_pull_brings_an_edit_back(client, stub):
    done = client("push", "USER=someone", "SECONDS=3600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "successfully pushed" in done.stdout
    call, sent, authorization = stub.requests[-1]
    assert call == "SaveKernel"
    assert authorization
    assert sent["slug"] == "someone/finetune-deberta"
    assert sent["enableInternet"] is False
    assert (sent["machineShape"], sent["sessionTimeoutSeconds"]) == ("NvidiaTeslaT4", 3600)
    assert sent["competitionDataSources"] == ["llm-classification-finetuning"]
    notebook = nbformat.reads(sent["text"], as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)

    edited = next(cell for cell in notebook.cells if "class CFG" in cell.source)
    edited.source = re.sub(r"(\bepochs\b[^=\n]*= )[\d.]+", r"\g<1>1.25", edited.source)
    sent["text"] = nbformat.writes(notebook)
    done = client("pull-kaggle", "USER=someone")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pulled notebooks/finetune_deberta.py" in done.stdout
    text = (client.root / "notebooks/finetune_deberta.py").read_text(encoding="utf-8")
    assert re.search(r"\bepochs\b[^=\n]*= 1\.25\b", text)


def test_a_refusal_of_the_service_is_an_error_here(client, stub):
    stub.refuse = "Maximum weekly GPU quota of 30.00 hours reached."
    done = client("push", "USER=someone")
    assert done.returncode != 0
    assert "Kaggle refused it: Maximum weekly GPU quota of 30.00 hours reached." in done.stderr


def test_an_input_that_the_service_leaves_out_is_an_error(client, stub):
    stub.invalid = ["someone/no-such-dataset"]
    done = client("push", "USER=someone")
    assert done.returncode != 0
    assert "Kaggle does not know these dataset sources" in done.stderr
    assert "no-such-dataset" in done.stderr


def test_without_credentials_nothing_is_sent(client, stub, account):
    shutil.rmtree(account)
    done = client("push", "USER=someone")
    assert done.returncode != 0
    assert "it found no token that Kaggle accepts" in done.stderr
    assert not stub.requests


def test_whose_account_has_to_be_said(client, stub):
    done = client("push")
    assert done.returncode != 0
    assert "Say whose account" in done.stderr
    assert not stub.requests


@pytest.fixture
def instead(tmp_path, monkeypatch):
    """Puts a client in the real one's place that says what it is given, ends with a code, and writes nothing."""
    package = tmp_path / "client/kaggle"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "client"))

    def place(text, code=0):
        (package / "__main__.py").write_text(f"import sys\n\nprint({text!r})\nsys.exit({code})\n")

    return place


@pytest.fixture
def saying(client, instead, monkeypatch):
    """The command with such a client."""

    def run(target, text, code=0, **variables):
        instead(text, code)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return client(target, "USER=someone")

    return run


PUSHED = "Kernel version 2 successfully pushed.  Please check progress at https://www.kaggle.com/code/someone/x"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("403 - Forbidden", 0),
        ("403 - Forbidden\n" + PUSHED, 0),
        ("403 Client Error: Forbidden for url: https://www.kaggle.com/api", 1),
        ("Kernel push error: see previous output", 0),
        ("Kernel push error: Notebook not found\n" + PUSHED, 0),
        ("The following are not valid model sources and could not be added to the kernel: ['x']\n" + PUSHED, 0),
        ("The notebook on Kernel version 2 successfully pushed", 0),
        ("", 0),
        (PUSHED, 1),
    ],
)
def test_what_the_client_says_is_read_as_it_is_meant(instead, text, code):
    instead(text, code)
    with pytest.raises(SyncError, match="kaggle kernels push failed"):
        kaggle_service.client(["kernels", "push"], kaggle_client.PUSHED)


def test_a_word_that_reads_like_an_error_is_none(saying):
    done = saying("push", f"Warning: terrorism, errors and 403 invalid words\n{PUSHED}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_notebook_of_an_earlier_pull_is_not_taken(saying, client):
    stale = client.root / "build/pull/finetune_deberta/finetune-deberta.ipynb"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    done = saying("pull-kaggle", "Source code downloaded to somewhere")
    assert done.returncode != 0
    assert "wrote 0 notebooks" in done.stderr
    assert not stale.exists()


KEY = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Invalid: {KEY}", KEY),
        ("KGAT_" + "0123456789abcdefghij is not valid", "0123456789abcdefghij"),
        ("Authorization: Bearer abcdefgh.ijk", "abcdefgh.ijk"),
        ("Authorization: Basic c29tZW9uZTptYWRlLXVw", "c29tZW9uZTptYWRlLXVw"),
        ('{"username": "someone", "key": "made-up"}', "made-up"),
        ("token=abc", "abc"),
        ("Using key: 12!34", "12!34"),
        ("It is my-own-secret", "my-own-secret"),
    ],
)
def test_what_looks_like_a_key_is_masked(text, secret, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "my-own-secret")
    assert secret in text
    assert secret not in mask(text)
    assert "***" in mask(text)


@pytest.mark.parametrize("code", [0, 1])
def test_a_key_that_the_client_echoes_is_masked(saying, code):
    done = saying("push", f"Invalid key {KEY}, my-own-key\n{PUSHED}", code, KAGGLE_KEY="my-own-key")
    assert (done.returncode == 0) == (code == 0)
    assert "***" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert "my-own-key" not in done.stdout + done.stderr


def test_what_is_no_secret_is_shown():
    text = f"{PUSHED}\nKernel push error: Maximum weekly GPU quota of 30.00 hours reached."
    assert mask(text) == text
