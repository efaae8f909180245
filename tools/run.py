"""Run a recipe's notebook headless, as Kaggle does, and leave a readable report beside its results.

python -m tools.run run [--recipe NAME] --data DIR [--out DIR] [--model DIR] [--cfg 'key=value ...']
python -m tools.run demo [--recipe NAME]
"""

import argparse
import json
import logging
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

import nbconvert
import nbformat
import pandas as pd
import papermill

from src_py.evaluation.baselines import constant_log_loss
from src_py.evaluation.metrics import score
from src_py.pairs.contest import LMSYS
from src_py.pairs.load import load_pairs
from tools import arguments
from tools.build import HELPERS, SETUP, build
from tools.demo_data import bayes_log_loss, write_contest, write_foreign, write_tiny_deberta
from tools.percent import SyncError
from tools.recipes import RECIPES, Recipe

ROOT = Path(__file__).resolve().parent.parent
DEMO_TRAIN_ROWS, DEMO_TEST_ROWS = 2500, 300


def run_notebook(recipe: str, out: Path, overrides: dict[str, str], cfg: str = "") -> Path:
    """Execute the built notebook of `recipe` in the folder `out`; returns the path of report.html.

    Args:
        overrides: CFG fields given by the caller of this function, such as paths.
        cfg: further overrides as text, which win.

    Raises:
        SyncError: for a name in `cfg` that is no setting of the recipe.
    """
    arguments.check_cfg(cfg, ROOT / "notebooks" / f"{recipe}.py")
    out.mkdir(parents=True, exist_ok=True)
    built, executed = out / f"{recipe}.ipynb", out / "executed.ipynb"
    built.write_text(build(ROOT / "notebooks" / f"{recipe}.py", ROOT), encoding="utf-8")
    os.environ["RECIPE_CFG"] = " ".join([*(shlex.quote(f"{k}={v}") for k, v in overrides.items()), cfg])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("papermill.translators", "traitlets", "nbclient"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            str(built), str(executed), cwd=str(out), kernel_name="python3", log_output=True, progress_bar=False
        )
    finally:
        if executed.is_file():
            report(executed, out / "report.html")
    return out / "report.html"


def report(executed: Path, target: Path) -> None:
    """The executed notebook as one HTML page, without the helper modules' source."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith((HELPERS, SETUP))]
    page, _ = nbconvert.HTMLExporter(template_name="lab").from_notebook_node(notebook)
    target.write_text(page, encoding="utf-8")


def demo(recipe: Recipe) -> None:
    """The recipe's main job on generated data and a tiny random DeBERTa, in mounts like Kaggle's."""
    out = ROOT / "build" / "demo" / recipe.name
    shutil.rmtree(out, ignore_errors=True)
    mounts = out / "kaggle" / "input"
    contest = mounts / "competitions" / "llm-classification-finetuning"
    truth = write_contest(contest, DEMO_TRAIN_ROWS, DEMO_TEST_ROWS, length_scale=recipe.length_scale)
    write_tiny_deberta(mounts / "models/microsoft/deberta-v3/transformers/tiny/1")
    started = time.monotonic()
    inputs = {"input_dir": str(mounts), "model_dir": "tiny"}
    made = out / "members"  # moved to the mounts only when all are made: a run predicts with what is attached
    for number, (name, cfg) in enumerate(recipe.members):
        run_notebook(name, made / f"{name.replace('_', '-')}-{number}", inputs, f"{RECIPES[name].demo_cfg} {cfg}")
    for folder in made.glob("*"):
        shutil.move(folder, mounts / folder.name)
    if recipe.foreign:
        write_foreign(mounts / "somebodys-llm", truth, DEMO_TRAIN_ROWS)
    run_notebook(recipe.name, out, inputs if recipe.takes_encoder else {"input_dir": str(mounts)}, recipe.demo_cfg)
    print("\nGenerated data, tiny random DeBERTa (no statement about real data or leaderboard scores):")
    for name in recipe.shows:
        print(f"{name}\n{_shown(out / name)}")
    if recipe.predictions:
        _compare(out, contest, truth, recipe.predictions)
    print(f"{time.monotonic() - started:.0f} s. Open {(out / 'report.html').relative_to(ROOT)}")


def _shown(path: Path) -> str:
    if path.suffix == ".csv":
        return pd.read_csv(path).round(4).to_string(index=False)
    return path.read_text(encoding="utf-8")


def _compare(out: Path, contest: Path, truth: pd.DataFrame, file: str) -> None:
    """Print the log loss of the out-of-fold predictions between the constant predictor's and the Bayes-optimal one."""
    oof = pd.read_csv(out / file, dtype={"id": str})
    known = truth.set_index("id").loc[oof["id"], ["a", "b", "tie"]].to_numpy()
    bayes = bayes_log_loss(known)
    labels = load_pairs(contest / "train.csv", LMSYS)[0]["label"]
    constant = constant_log_loss(labels.to_numpy(), oof["label"].to_numpy(), 3)
    model = score(oof["label"].to_numpy(), oof[["a", "b", "tie"]].to_numpy())["log_loss"]
    closed = (constant - model) / (constant - bayes)
    print(f"{file}: log loss of {len(oof)} validation rows")
    print(f"  constant predictor {constant:.4f}\n  model              {model:.4f}\n  Bayes-optimal      {bayes:.4f}")
    print(f"  {closed:.0%} of the distance closed")
    figures = {"constant": constant, "model": model, "bayes": bayes}
    (out / "demo.json").write_text(json.dumps(figures), encoding="utf-8")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.run", description="Run a recipe headless.")
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run")
    arguments.add_recipe(running)
    running.add_argument(
        "--data", required=True, type=arguments.checked(arguments.existing_folder), help="folder with train and test"
    )
    running.add_argument(
        "--model",
        type=arguments.checked(arguments.existing_folder),
        help="encoder folder; searched below the data when absent",
    )
    running.add_argument("--out", type=arguments.checked(arguments.new_folder), help="default: build/run/RECIPE")
    running.add_argument("--cfg", default="", help="'key=value ...'")
    arguments.add_recipe(actions.add_parser("demo"))
    chosen = parser.parse_args(words)
    try:
        if chosen.action == "demo":
            demo(chosen.recipe)
            return 0
        overrides = {"input_dir": str(chosen.data.resolve())}
        if chosen.recipe.takes_encoder:
            overrides["model_dir"] = str(chosen.model.resolve()) if chosen.model else ""
        elif chosen.model:
            raise SyncError(f"{chosen.recipe.name} takes no MODEL; put the encoder's folder below DATA.")
        out = chosen.out or ROOT / "build" / "run" / chosen.recipe.name
        print(f"Open {run_notebook(chosen.recipe.name, out.resolve(), overrides, chosen.cfg)}")
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
