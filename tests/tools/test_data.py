"""A contest's files outside Kaggle: the real client against a stub, `datasets` on a folder; no network."""

import io
import re
import zipfile
from collections import namedtuple
from pathlib import Path

import pandas as pd
import pytest

from src_py.pairs.contest import LMSYS, find_contest
from src_py.pairs.load import load_pairs, prompt_key
from tools import data
from tools.data import ARENA, FILES, HELD_OUT, Files, check, from_public, main
from tools.kaggle_service import failure
from tools.percent import SyncError

ROOT = Path(__file__).resolve().parents[2]
SLUG = "llm-classification-finetuning"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """As many rows as the tests' own contest has."""
    monkeypatch.setitem(FILES, SLUG, Files(LMSYS, "csv", 300, 40, ARENA))


@pytest.fixture
def kaggle(account, stub, contest, tmp_path, capsys):
    """Runs `make data` with the stub; returns the exit code, the output and the errors."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in contest.glob("*.csv"):
            archive.write(path, path.name)
        archive.writestr("folder/../../escaped.csv", "x")
    stub.archive = packed.getvalue()
    stub.answers["ListDataFiles"] = [{"files": [{"name": "train.csv", "totalBytes": 1_000_000}]}]

    def run(*words):
        code = main(list(words), tmp_path)
        said = capsys.readouterr()
        assert "made-up-key" not in said.out + said.err
        return code, said.out, said.err

    run.out = tmp_path / "data" / SLUG
    return run


def test_the_readme_says_what_is_checked(monkeypatch):
    monkeypatch.undo()  # the real numbers
    text = (ROOT / "data/README.md").read_text(encoding="utf-8")
    rows = {
        slug: line for line in text.splitlines() for slug in re.findall(r"\| `([\w-]+)` \| (?:csv|parquet) \|", line)
    }
    assert rows.keys() == FILES.keys()
    for slug, files in FILES.items():
        assert f"| {files.suffix} |" in rows[slug]
        train, test = re.search(r"([\d,]+) train", rows[slug]), re.search(r"([\d,]+) visible test", rows[slug])
        assert (train and train[1]) == (files.train_rows and f"{files.train_rows:,}")
        assert (test and test[1]) == (files.test_rows and f"{files.test_rows:,}")
        assert not files.public or files.public in text
    columns = re.search(r"train\.csv +(.+)", text)[1]
    assert set(LMSYS.columns) <= set(re.findall(r"\w+", columns))


def test_downloaded_data_is_not_committed():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/data/*" in ignored
    assert "!/data/README.md" in ignored


def test_the_files_are_fetched_checked_and_found_by_the_notebooks(kaggle, stub, contest):
    code, out, err = kaggle()
    assert (code, err) == (0, "")
    assert "300 training rows and 40 test rows." in out
    assert f"DATA={kaggle.out}" in out
    assert "Left out, since the notebooks do not read it: folder/../../escaped.csv" in out
    assert not list(kaggle.out.parents[2].rglob("escaped.csv"))
    for path in contest.glob("*.csv"):
        assert (kaggle.out / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in kaggle.out.iterdir()} == {path.name for path in contest.glob("*.csv")}
    assert find_contest(kaggle.out).contest is LMSYS
    sent = next(body for call, body, _ in stub.requests if call == "DownloadDataFiles")
    assert sent["competitionName"] == SLUG
    before = len(stub.requests)
    code, out, err = kaggle()
    assert (code, err) == (0, "")
    assert "holds files of a contest already; they are checked" in out
    assert len(stub.requests) == before, "nothing is fetched twice"


@pytest.mark.parametrize("call", ["ListDataFiles", "DownloadDataFiles"])
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            (403, "You must accept this competition's rules before you'll be able to download files."),
            "accept the rules",
        ),
        ((401, None), "it found no token that Kaggle accepts; run `.venv/bin/kaggle auth login`"),
        ((404, None), f"Kaggle finds no contest {SLUG}"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(kaggle, stub, call, answer, sentence):
    stub.answers[call] = [answer]
    code, _, err = kaggle()
    assert code == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert not kaggle.out.exists() or not list(kaggle.out.iterdir())


def test_a_disk_that_is_too_small_is_said_before_the_download(kaggle, stub, monkeypatch):
    monkeypatch.setattr(data.shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 10**6, 10**6))
    code, _, err = kaggle()
    assert code == 1
    assert "There is no space for it on the disk of" in err
    assert "2 MB are needed and 1 MB are free; free some, or set OUT=folder elsewhere." in err
    assert "DownloadDataFiles" not in stub.calls()


def test_an_archive_that_is_cut_off_leaves_nothing(kaggle, stub):
    stub.archive = stub.archive[: len(stub.archive) // 2]
    code, _, err = kaggle()
    assert code == 1
    assert "What Kaggle sent is not a whole archive" in err
    assert not list(kaggle.out.iterdir())


def packed(files, flags=0, method=zipfile.ZIP_STORED):
    """An archive whose first member claims these flags and this method."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in files:
            archive.writestr(name, "x")
    data = bytearray(file.getvalue())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(magic) + at
        data[start], data[start + 2] = flags, method
    return bytes(data)


TABLES = ("train.csv", "test.csv")


@pytest.mark.parametrize(
    ("archive", "sentence"),
    [
        (packed(TABLES, flags=1), r"cannot be unpacked here \(.*encrypted"),
        (packed(TABLES, method=99), r"cannot be unpacked here \(.*not supported"),
        (packed(("data/train.csv", "data/test.csv")), r"no train table at its top \(it holds data/train\.csv, "),
        (packed(("train.csv",)), r"no test table at its top"),
    ],
)
def test_an_archive_that_cannot_be_unpacked_is_left_to_the_user(archive, sentence, tmp_path):
    (tmp_path / "files.zip").write_bytes(archive)
    with pytest.raises(SyncError, match=sentence) as caught:
        data._unpack(tmp_path / "files.zip", SLUG, tmp_path, tmp_path / "out")
    assert f"competitions/{SLUG}/data, unpack them into {tmp_path / 'out'}, and run the command" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "size"),
    [
        ({"size": "176000000"}, 176_000_000),
        ({"size": "176MB"}, 176 * 2**20),
        ({"totalBytes": "1.5 KiB"}, 1536),
        ({"size": ""}, None),
        ({"name": "train.csv"}, None),
    ],
)
def test_a_size_is_read_however_the_client_writes_it(row, size):
    assert data._bytes(row) == size


def test_a_file_of_the_users_own_is_not_overwritten(kaggle, stub):
    kaggle.out.mkdir(parents=True)
    (kaggle.out / "sample_submission.csv").write_text("my own", encoding="utf-8")
    code, _, err = kaggle()
    assert code == 1
    assert "sample_submission.csv is there already, and nothing is fetched beside it; move it" in err
    assert not stub.requests
    assert (kaggle.out / "sample_submission.csv").read_text(encoding="utf-8") == "my own"


def test_a_disk_that_fills_up_during_the_download_is_one_sentence():
    error = failure("competitions download", "Traceback\nOSError: [Errno 28] No space left on device", SLUG)
    assert "the disk is full; free some space, or write to another disk with OUT=folder." in str(error)


@pytest.fixture
def public(contest, tmp_path):
    """A folder in the place of the public data set."""
    folder = tmp_path / "public"
    folder.mkdir()
    rows = pd.read_csv(contest / "train.csv")
    rows.to_csv(folder / "train.csv", index=False)
    return folder


def test_the_public_set_gives_the_same_rows_and_some_are_held_apart(public, contest, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "HELD_SHARE", 5)
    out = tmp_path / "out"
    from_public(SLUG, out, str(public))
    assert {path.name for path in out.iterdir()} == {"train.csv", "test.csv", HELD_OUT}
    said = check(SLUG, out)
    assert "the public set has no test rows: test.csv has them without labels" in said
    found = find_contest(out)
    train, _ = load_pairs(found.train, LMSYS)
    test, _ = load_pairs(found.test, LMSYS, labelled=False)
    assert 0 < len(test) < 150
    whole, _ = load_pairs(contest / "train.csv", LMSYS)
    both = pd.concat([train, test]).set_index("id").loc[whole["id"]]
    assert both["response_a"].tolist() == whole["response_a"].tolist()
    assert not set(prompt_key(train)) & set(prompt_key(test))
    answers = pd.read_csv(out / HELD_OUT, dtype={"id": str})
    assert answers["id"].tolist() == test["id"].tolist()
    truth = whole.set_index("id").loc[answers["id"], "label"]
    assert (answers[list(LMSYS.label_columns)].to_numpy().argmax(1) == truth.to_numpy()).all()


def test_a_public_set_with_other_rows_or_columns_is_refused(public, tmp_path):
    rows = pd.read_csv(public / "train.csv")
    rows.iloc[:-1].to_csv(public / "train.csv", index=False)
    with pytest.raises(SyncError, match=r"has 299 rows, and data/README\.md says 300"):
        from_public(SLUG, tmp_path / "out", str(public))
    rows.drop(columns="winner_tie").to_csv(public / "train.csv", index=False)
    with pytest.raises(SyncError, match="has no column winner_tie"):
        from_public(SLUG, tmp_path / "out", str(public))
    with pytest.raises(SyncError, match="No public data set"):
        from_public("wsdm-cup-multilingual-chatbot-arena", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_set_that_cannot_be_fetched_is_one_sentence(tmp_path):
    with pytest.raises(SyncError, match=r"could not be fetched \(.+\); check the network") as caught:
        from_public(SLUG, tmp_path / "out", str(tmp_path / "absent"))
    assert "\n" not in str(caught.value)


def test_files_that_differ_from_the_table_are_refused(contest, tmp_path, capsys):
    out = tmp_path / "a folder"
    out.mkdir()
    for path in contest.glob("*.csv"):
        (out / path.name).write_bytes(path.read_bytes())
    assert main([f"--out={out}"], tmp_path) == 0
    assert f"DATA='{out}' MODEL" in capsys.readouterr().out
    rows = pd.read_csv(out / "test.csv")
    rows.iloc[:-1].to_csv(out / "test.csv", index=False)
    (out / "sample_submission.csv").unlink(missing_ok=True)
    assert main([f"--out={out}"], tmp_path) == 1
    said = capsys.readouterr().err
    assert "test.csv has 39 rows, and data/README.md says 40; remove the folder" in said
    assert f"{out} and run the command again, or choose another one with OUT=folder; if the number stays" in said
    rows.drop(columns="prompt").to_csv(out / "test.csv", index=False)
    assert main([f"--out={out}"], tmp_path) == 1
    said = capsys.readouterr().err
    assert "prompt" in said
    assert f"To fetch the files again, remove the folder {out} and run the command again" in said
    assert main([f"--out={out}", "--contest=wsdm-cup-multilingual-chatbot-arena"], tmp_path) == 1
    assert "is not the training file of wsdm-cup" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("--contest=titanic", "there is no contest 'titanic' here; CONTEST is one of"), ("--source=x", "write kaggle or")],
)
def test_what_is_not_known_is_refused(word, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([word], tmp_path)
    assert sentence in capsys.readouterr().err
