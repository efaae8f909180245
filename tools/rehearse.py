"""Rehearse a recipe as Kaggle runs it, twice: Save & Run All, then the scoring run with the hidden test rows.

python -m tools.rehearse [--recipe NAME]

The committed notebook by papermill in an empty folder: inputs that must stay untouched, first in the new and then in
the old mount layout, no repository, no `evaluate`, no network (run it through tools.offline). The scoring run has
25,000 test rows and the first run's output attached; it may only predict.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import papermill

from tools import arguments
from tools.demo_data import make_pairs, write_contest, write_foreign, write_tiny_deberta
from tools.recipes import RECIPES, Recipe
from tools.run import report

ROOT = Path(__file__).resolve().parent.parent
SLUG = "llm-classification-finetuning"
SCORING_ROWS = 25_000


def rehearse(recipe: Recipe, folder: Path) -> None:
    """Both runs, or the first of a recipe that submits nothing; `folder` is emptied first.

    Raises:
        AssertionError: for a result that Kaggle would not score, or an input that was changed.
    """
    _unlock(folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "absent").mkdir(parents=True)
    (folder / "absent/evaluate.py").write_text("raise ModuleNotFoundError(\"No module named 'evaluate'\")\n")
    truth = write_contest(folder / "contest", recipe.rehearsal_rows, 40)
    write_tiny_deberta(folder / "model", hidden_size=32)

    new = folder / "new/input"
    _mount(folder / "contest", new / "competitions" / SLUG, _visible(folder / "contest"))
    _mount(folder / "model", new / "models/microsoft/deberta-v3/transformers/tiny/1")
    members = _members(recipe, folder, new, truth)
    for member in members:
        _mount(member, new / "notebooks/somebody" / member.name)
    first = _run(recipe, folder, "save", new, {})
    if recipe.submits:
        _check(first, new, 3)
    assert not recipe.traces or any(list(first.glob(trace)) for trace in recipe.traces), "the first run trains"
    if not recipe.submits:  # nobody scores it
        assert not (first / "submission.csv").exists(), "a recipe that does not submit leaves nothing to submit"
        _unlock(folder)
        return

    old = folder / "old/input"
    _mount(folder / "contest", old / SLUG, _hidden(folder / "contest"))
    _mount(folder / "model", old / "debertav3tiny")
    for member in members:
        _mount(member, old / member.name)
    _mount(first, old / recipe.name.replace("_", "-"))
    second = _run(recipe, folder, "scoring", old, {"KAGGLE_IS_COMPETITION_RERUN": "1"})
    _check(second, old, SCORING_ROWS)
    left = [path.name for trace in recipe.traces for path in second.glob(trace)]
    assert not left, f"the scoring run has trained: {left}"
    _unlock(folder)


def _members(recipe: Recipe, folder: Path, inputs: Path, truth: pd.DataFrame) -> list[Path]:
    """Outputs that the recipe needs, made by the other recipes, and somebody's predictions of the visible rows."""
    made = []
    for number, (name, cfg) in enumerate(recipe.members):
        other = replace(RECIPES[name], rehearsal_cfg=f"{RECIPES[name].rehearsal_cfg} {cfg}")
        working = _run(other, folder, f"member-{number}", inputs, {})
        made.append(working.rename(working.with_name(f"{name.replace('_', '-')}-{number}")))
    if recipe.foreign:
        visible = recipe.rehearsal_rows + len(pd.read_csv(next(inputs.rglob("test.csv"))))
        write_foreign(folder / "somebodys-llm", truth[:visible], recipe.rehearsal_rows)
        made.append(folder / "somebodys-llm")
    return made


def _visible(contest: Path) -> pd.DataFrame:
    """Three rows, each with a trap: nothing but emptiness, 50,000 characters, scripts no tokenizer was trained on."""
    rows = pd.read_csv(contest / "test.csv")[:3]
    rows.loc[0, ["prompt", "response_a", "response_b"]] = ['[""]', "[null]", "[]"]
    rows.loc[1, "response_a"] = json.dumps(["abc def " * 6250])
    rows.loc[2, ["response_a", "response_b"]] = [json.dumps(["ᚠᛇᚻ᛫ᛒᛦᚦ 𒀀𒁀"]), json.dumps(["\ud83d", None])]
    return rows


def _hidden(contest: Path) -> pd.DataFrame:
    rows, _ = make_pairs(1000, seed=7)
    rows = pd.concat([_visible(contest), *[rows] * (SCORING_ROWS // len(rows))])[:SCORING_ROWS]
    return rows[["id", "prompt", "response_a", "response_b"]].assign(id=np.arange(SCORING_ROWS) + 10**6)


def _mount(source: Path, target: Path, test: pd.DataFrame | None = None) -> None:
    """A copy that nobody may write to; `test` takes the place of test.csv."""
    shutil.copytree(source, target)
    if test is not None:
        test.to_csv(target / "test.csv", index=False)
        sample = pd.read_csv(target / "sample_submission.csv")
        sample = pd.DataFrame({"id": test["id"]} | dict.fromkeys(sample.columns[1:], 1 / 3))
        sample.to_csv(target / "sample_submission.csv", index=False)
    for path in [*target.rglob("*"), target]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def _unlock(folder: Path) -> None:
    """Make it removable again."""
    for path in [folder, *folder.rglob("*")] if folder.exists() else []:
        if path.is_dir():
            path.chmod(0o755)


def _run(recipe: Recipe, folder: Path, name: str, inputs: Path, extra: dict[str, str]) -> Path:
    """Execute in an empty folder; returns it."""
    working = folder / name / "working"
    working.mkdir(parents=True)
    before, begun = _digest(inputs), time.monotonic()
    model = "model_dir=tiny" if recipe.takes_encoder else ""
    cfg = f"{shlex.quote(f'input_dir={inputs}')} {model} {recipe.rehearsal_cfg}"
    environment = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "RECIPE_CFG": cfg} | extra
    paths = [str(folder / "absent"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    saved = dict(os.environ)
    os.environ.update(environment)
    executed = folder / name / "executed.ipynb"
    try:
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{recipe.name}.ipynb"), str(executed), cwd=str(working), progress_bar=False
        )
    finally:
        os.environ.clear()
        os.environ.update(saved)
        if executed.is_file():
            report(executed, folder / name / "report.html")
    assert (working / "src_py/__init__.py").is_file(), "the notebook brings its helpers along"
    assert _digest(inputs) == before, "an input was changed"
    print(f"{recipe.name}, {name}: {time.monotonic() - begun:.0f} s")
    return working


def _check(working: Path, inputs: Path, rows: int) -> None:
    expected = pd.read_csv(next(inputs.rglob("test.csv")))["id"]
    found = pd.read_csv(working / "submission.csv")
    assert found["id"].tolist() == expected.tolist(), "every test row once, in order"
    assert len(found) == rows
    values = found.drop(columns="id").to_numpy()
    assert np.isfinite(values).all()
    assert np.allclose(values.sum(1), 1, atol=1e-6)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.rehearse", description="Rehearse a recipe as Kaggle runs it.")
    arguments.add_recipe(parser)
    chosen = parser.parse_args(words)
    rehearse(chosen.recipe, ROOT / "build" / "rehearse" / chosen.recipe.name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
