"""A contest's files, outside Kaggle: with Kaggle's own client, or its training rows from their public data set.

python -m tools.data [--contest SLUG] [--source kaggle|public] [--out FOLDER]
"""

import argparse
import errno
import re
import shlex
import shutil
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from src_py.errors import InputError
from src_py.kaggle.inputs import tables_in
from src_py.pairs.contest import LMSYS, WSDM, Contest, find_contest
from src_py.pairs.read import read_cells
from tools import arguments
from tools.kaggle_service import client
from tools.kaggle_submit import read_table
from tools.percent import SyncError

PATIENCE = 3600.0  # seconds that the download may take
HELD_OUT = "held_out_answers.csv"
HELD_SHARE = 50  # of so many prompts, one is held apart


@dataclass(frozen=True)
class Files:
    """What data/README.md says of a contest's files; a test holds that it says the same.

    Attributes:
        suffix: of the training file.
        train_rows, test_rows: None where data/README.md gives no number.
        public: a public data set that holds the training rows; "": none is known.
    """

    contest: Contest
    suffix: str
    train_rows: int | None = None
    test_rows: int | None = None
    public: str = ""


ARENA = "lmarena-ai/arena-human-preference-55k"  # it was called lmsys/lmsys-arena-human-preference-55k
FILES = {
    "llm-classification-finetuning": Files(LMSYS, "csv", 57_477, 3, ARENA),
    "lmsys-chatbot-arena": Files(LMSYS, "csv", 57_477, None, ARENA),
    "wsdm-cup-multilingual-chatbot-arena": Files(WSDM, "parquet"),
}


def fetch(slug: str, public: bool, out: Path) -> None:
    """`from_public` or `from_kaggle`; a full disk, or a folder that cannot be written, is a `SyncError` too."""
    try:
        if public:
            from_public(slug, out)
        else:
            from_kaggle(slug, out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_space(out, "") from error
        why = error.strerror or error
        raise SyncError(f"{out} cannot be written ({why}); choose another folder with OUT=folder.") from error


def from_kaggle(slug: str, out: Path) -> None:
    """Download a contest's files and unpack them into `out`.

    Raises:
        SyncError: one sentence for each of the client's errors (no token, rules that are not accepted, no network), a
            disk without enough space, or an archive that is damaged, cannot be unpacked or lacks a table.
    """
    listing = ["competitions", "files", "-c", slug, "--csv", "--page-size", "100"]
    sizes = [_bytes(row) for row in read_table(client(listing, r"\S*name,|No files", slug), "name")]
    size = sum(size or 0 for size in sizes)
    out.mkdir(parents=True, exist_ok=True)
    needed, free = 2 * size, shutil.disk_usage(out).free  # the archive, and what is in it
    if free < needed:
        raise _no_space(out, f": {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")
    work = _work_folder(out)
    try:
        known = f"Downloading {size / 1e6:,.0f} MB of files, packed"
        unknown = "Downloading files of a size that Kaggle does not say: see that the disk has space"
        print(f"{unknown if None in sizes else known}; it prints nothing meanwhile.", flush=True)
        client(["competitions", "download", "-c", slug, "-p", str(work), "-q"], "", slug, PATIENCE)
        archive = next(work.glob("*.zip"), None)
        if archive is None:
            raise SyncError(f"The client wrote no archive of {slug}; run the command again.")
        _unpack(archive, slug, work, out)
        _move(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def from_public(slug: str, out: Path, name: str = "") -> None:
    """Write the public data set's rows into `out`: train.csv, and test.csv from rows that are held apart.

    Of about one prompt in `HELD_SHARE`, all rows are held apart: in test.csv without labels, their labels in
    `HELD_OUT`. Which ones, the prompt alone decides.

    Args:
        name: of the data set, or a folder with its files; "": the contest's.

    Raises:
        SyncError: there is none; it cannot be fetched; its rows or columns are not the contest's.
    """
    files = FILES[slug]
    if not (name or files.public):
        raise SyncError(f"No public data set with the rows of {slug} is known; leave out SOURCE.")
    frame = _public_rows(name or files.public, out)
    missing = [column for column in files.contest.columns if column not in frame]
    if missing:
        raise SyncError(f"{name or files.public} has no column {', '.join(missing)}; it is not {slug}'s any more.")
    _check_rows(name or files.public, len(frame), files.train_rows, "run the command again")
    held = frame["prompt"].map(_is_held)
    answers = [files.contest.id_column, *files.contest.label_columns]
    work = _work_folder(out)
    try:
        frame[~held].to_csv(work / "train.csv", index=False)
        frame.loc[held, [files.contest.id_column, *files.contest.text_columns]].to_csv(work / "test.csv", index=False)
        frame.loc[held, answers].to_csv(work / HELD_OUT, index=False)
        _move(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check(slug: str, out: Path) -> str:
    """Count the rows in `out`, and compare them and the columns with `FILES`.

    Returns:
        What was found, in one or two sentences.

    Raises:
        SyncError: where something differs.
    """
    files = FILES[slug]
    again = f"remove the folder {out} and run the command again, or choose another one with OUT=folder"
    try:
        found = find_contest(out)
        if found.train.parent != out or found.contest is not files.contest:
            raise SyncError(f"{found.train} is not the training file of {slug}; choose another folder with OUT=folder.")
        train = len(read_cells(found.train, list(files.contest.columns))[files.contest.id_column])
        columns = [files.contest.id_column, *files.contest.text_columns]
        test = len(read_cells(found.test, columns)[files.contest.id_column])
    except InputError as error:
        raise SyncError(f"{error} To fetch the files again, {again}.") from error
    if (out / HELD_OUT).is_file():
        _check_rows(str(out), train + test, files.train_rows, again)
        return (
            f"{train:,} training rows, and {test:,} rows that are held apart, since the public set has no test rows: "
            f"test.csv has them without labels, {HELD_OUT} has the labels. All rows of a prompt are on the same side."
        )
    _check_rows(str(found.train), train, files.train_rows, again)
    _check_rows(str(found.test), test, files.test_rows, again)
    return f"{train:,} training rows and {test:,} test rows."


def _public_rows(name: str, out: Path) -> pd.DataFrame:
    """The rows, fetched with `datasets`, which leaves nothing behind."""
    import datasets  # slow to import, and only this needs it

    work = _work_folder(out)
    try:
        return datasets.load_dataset(name, split="train", cache_dir=str(work)).to_pandas()
    except OSError as error:
        if error.errno == errno.ENOSPC or "disk space" in str(error):
            raise _no_space(out, "") from error
        raise _not_fetched(name, error) from error
    except Exception as error:  # its kinds of trouble have no class in common
        raise _not_fetched(name, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _not_fetched(name: str, error: Exception) -> SyncError:
    why = (str(error).strip().splitlines() or [""])[0].rstrip(".")[:300]
    return SyncError(
        f"The data set {name} could not be fetched ({type(error).__name__}: {why}); check the network, and the proxy "
        "if you need one, or leave out SOURCE to fetch the contest's files from Kaggle."
    )


def _is_held(prompt: str) -> bool:
    """Whether the rows of a prompt are held apart; case and white space do not count."""
    return zlib.crc32(" ".join(str(prompt).casefold().split()).encode("utf-8", "replace")) % HELD_SHARE == 0


def _bytes(row: dict[str, str]) -> int | None:
    """The size in a row of the client's list; its versions name and write it differently. None: it says none."""
    said = (row.get("size") or row.get("totalBytes") or "").strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)i?B?", said, re.ASCII | re.IGNORECASE)
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) if found else None


def _unpack(archive: Path, slug: str, work: Path, out: Path) -> None:
    """The contest's tables, out of the archive, which is removed."""
    contest = FILES[slug].contest
    by_hand = (
        f"download the files from https://www.kaggle.com/competitions/{slug}/data, unpack them into {out}, and run the "
        "command again"
    )
    try:
        with zipfile.ZipFile(archive) as packed:
            names = packed.namelist()
            for name in names:
                if Path(name).name == name and name.split(".")[0] in (contest.train, contest.test, contest.sample):
                    packed.extract(name, work)
                else:
                    print(f"Left out, since the notebooks do not read it: {name}")
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise SyncError(f"What Kaggle sent is not a whole archive ({error}); run the command again.") from error
    except RuntimeError as error:  # encrypted; NotImplementedError: packed by a method that Python does not know
        raise SyncError(f"What Kaggle sent cannot be unpacked here ({error}); {by_hand}.") from error
    archive.unlink()
    for stem in (contest.train, contest.test):
        if not tables_in(work, stem):
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            raise SyncError(f"The archive of {slug} has no {stem} table at its top (it holds {shown}); {by_hand}.")


def _check_rows(what: str, rows: int, expected: int | None, again: str) -> None:
    if expected is not None and rows != expected:
        raise SyncError(
            f"{what} has {rows:,} rows, and data/README.md says {expected:,}; {again}; if the number stays, correct "
            "FILES in tools/data.py and data/README.md."
        )


def _check_free(contest: Contest, out: Path) -> None:
    """A file that a download would replace, or that would be taken for a part of it, may be the user's own."""
    for path in [*tables_in(out, contest.sample), out / HELD_OUT]:
        if path.exists():
            raise SyncError(f"{path} is there already, and nothing is fetched beside it; move it, or set OUT=folder.")


def _work_folder(out: Path) -> Path:
    """An empty folder below `out`, so that nothing half written has the name of a whole file."""
    work = out / ".fetching"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def _move(work: Path, out: Path) -> None:
    for path in sorted(work.iterdir()):
        path.replace(out / path.name)


def _no_space(out: Path, figures: str) -> SyncError:
    return SyncError(f"There is no space for it on the disk of {out}{figures}; free some, or set OUT=folder elsewhere.")


def _known_contest(text: str) -> str:
    if text not in FILES:
        raise ValueError(f"there is no contest {text!r} here; CONTEST is one of {', '.join(FILES)}")
    return text


def _known_source(text: str) -> str:
    if text not in ("kaggle", "public"):
        raise ValueError(f"SOURCE is {text!r}; write kaggle or public")
    return text


def main(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser(prog="tools.data", description="A contest's files, outside Kaggle.")
    parser.add_argument("--contest", type=arguments.checked(_known_contest), default="llm-classification-finetuning")
    parser.add_argument("--source", type=arguments.checked(_known_source), default="kaggle")
    parser.add_argument(
        "--out", type=arguments.checked(arguments.new_folder), help="default: data/CONTEST, or data/CONTEST-public"
    )
    chosen = parser.parse_args(words)
    slug, public = chosen.contest, chosen.source == "public"
    out = (chosen.out or root / "data" / (f"{slug}-public" if public else slug)).absolute()
    contest = FILES[slug].contest
    try:
        if tables_in(out, contest.train) or tables_in(out, contest.test):
            print(f"{out} holds files of a contest already; they are checked, and nothing is fetched.")
        else:
            _check_free(contest, out)
            fetch(slug, public, out)
        print(check(slug, out))
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    shown = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    print(f"make run RECIPE=finetune_deberta DATA={shlex.quote(str(shown))} MODEL=folder-of-an-encoder")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent))
