"""Find what is attached."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from src_py.config import Settings, setting
from src_py.errors import InputError

DATA_SUFFIXES = (".csv", ".csv.gz", ".csv.zip", ".zip", ".parquet")
TRAINED_MARKER = "preference.json"
EARLIER = "earlier_runs"  # results that another run left and that nothing may find


@dataclass(frozen=True)
class DataPaths(Settings):
    """Where inputs are attached and results go."""

    input_dir: str = setting("/kaggle/input", folder=True)
    data_dir: str = setting("")
    output_dir: str = setting(".")


@dataclass(frozen=True)
class Paths(DataPaths):
    """The same, and which encoder to use."""

    model_dir: str = setting("")


def tables_in(folder: Path, stem: str) -> list[Path]:
    """The files `stem` + suffix in `folder`, in the order of `DATA_SUFFIXES`."""
    return [path for suffix in DATA_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]


def choose_folder(root: str | Path, wanted: str, stems: list[tuple[str, str]]) -> Path:
    """The folder that holds both tables of one of the pairs in `stems`, such as train and test.

    Args:
        root: where inputs are attached, wherever Kaggle mounts them.
        wanted: CFG.data_dir: "" when there is only one such folder; a part of its path below `root`; or a folder,
            which is taken if it holds the tables itself and otherwise searched.

    Raises:
        InputError: when `root` is missing, no such folder is found, several are, or `wanted` matches none.
    """
    what = " or ".join(" and ".join(pair) for pair in stems) + f" ({', '.join(DATA_SUFFIXES)})"
    below = Path(root) / wanted  # `wanted` alone if it is absolute
    if wanted and below.is_dir():
        found = _at_or_below(below, stems)
    else:
        everything = _with_tables(root, stems)
        found = [folder for folder in everything if wanted in folder.relative_to(root).as_posix()]
        if not found and wanted and Path(wanted).is_dir():
            found = _at_or_below(Path(wanted), stems)
        elif not found and everything:
            raise InputError(
                f"CFG.data_dir is {wanted!r}, which is neither a folder nor a part of the path of one that holds "
                f"{what}; set it to one of {', '.join(map(str, everything))}."
            )
    if not found:
        raise InputError(
            f"No folder below {below} holds {what}; attach the competition data (Add Input), which may take a minute "
            f"to appear, or set {'CFG.data_dir' if wanted else 'CFG.input_dir'}."
        )
    if len(found) > 1:
        raise InputError(
            f"Several folders hold {what}: {', '.join(map(str, found))}; set CFG.data_dir to one of them, or to a part "
            "of its path."
        )
    return found[0]


def find_named(root: str | Path, name: str) -> list[Path]:
    """All files called `name` below `root`, in order of their path."""
    return sorted(folder / name for folder, names in walk(root) if name in names)


def find_extra(root: str | Path, name: str, setting_name: str = "extra_files") -> Path:
    """A further file below `root`, by its name; or a path, which is taken as it is.

    Args:
        setting_name: the field of CFG that names it, for the message.

    Raises:
        InputError: when there is none, or more than one.
    """
    if Path(name).is_file():
        return Path(name)
    found = find_named(root, name)
    if len(found) != 1:
        where = f"several files ({', '.join(map(str, found))}) are" if found else "no file is"
        raise InputError(f"CFG.{setting_name}: {where} called {name} below {root}; give the whole path, or attach it.")
    return found[0]


def walk(root: str | Path) -> Iterator[tuple[Path, set[str]]]:
    """Every folder at or below `root`, links followed, and the names of the files in it.

    Raises:
        InputError: when `root` is missing.
    """
    if not Path(root).is_dir():
        raise InputError(
            f"The input folder {root} does not exist; set CFG.input_dir, or run this cell again if the inputs were "
            "attached just now."
        )
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        above = {os.path.realpath(parent) for parent in (here, *here.parents)}
        entered = (name for name in subfolders if name != EARLIER and os.path.realpath(here / name) not in above)
        subfolders[:] = sorted(entered)  # links must not lead in circles
        yield here, set(names)


def _with_tables(root: str | Path, stems: list[tuple[str, str]]) -> list[Path]:
    return [folder for folder, _ in walk(root) if any(all(tables_in(folder, stem) for stem in pair) for pair in stems)]


def _at_or_below(folder: Path, stems: list[tuple[str, str]]) -> list[Path]:
    found = _with_tables(folder, stems)
    return [folder] if folder in found else found
