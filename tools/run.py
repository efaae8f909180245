"""Run a recipe's notebook headless, as Kaggle does, and leave a readable report beside its results.

python -m tools.run run RECIPE --data DIR --out DIR [--model DIR] [--cfg 'key=value ...']
python -m tools.run demo [RECIPE]
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
from src_py.pairs.load import load_pairs
from tools.demo_data import bayes_log_loss, write_contest, write_tiny_deberta
from tools.sync import HELPERS, SETUP, build

ROOT = Path(__file__).resolve().parent.parent
# The recipe's own defaults, scaled down for a random model of two layers.
DEMO_CFG = {
    "finetune_deberta": "max_length=128 epochs=3 lr=0.002 head_lr=0.002 batch_size=32 micro_batch=32",
    "ablate_subset_vs_full": "max_length=64 epochs=3 lr=0.002 head_lr=0.002 batch_size=32 micro_batch=32 "
    "valid_rows=300 evaluations=2 sizes=125,250,500,1000 repairs=pairwise,rates budget_minutes=2",
    "embed_deberta_lightgbm": "max_length=64 search_minutes=0",
}
DEMO_TRAIN_ROWS, DEMO_TEST_ROWS = 2500, 300
DEMO_LENGTH_SCALE = {"embed_deberta_lightgbm": 5.0}  # so that more than one group of features has something to say


def run_notebook(recipe: str, out: Path, overrides: dict[str, str], cfg: str = "") -> Path:
    """Execute the built notebook of `recipe` in the folder `out`; returns the path of report.html.

    Args:
        overrides: CFG fields given by the caller of this function, such as paths.
        cfg: further overrides as text, which win.
    """
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


def demo(recipe: str) -> None:
    """The recipe's main job on generated data and a tiny random DeBERTa, in mounts like Kaggle's."""
    out = ROOT / "build" / "demo" / recipe
    shutil.rmtree(out, ignore_errors=True)
    mounts = out / "kaggle" / "input"
    contest = mounts / "competitions" / "llm-classification-finetuning"
    truth = write_contest(contest, DEMO_TRAIN_ROWS, DEMO_TEST_ROWS, length_scale=DEMO_LENGTH_SCALE.get(recipe, 0.0))
    write_tiny_deberta(mounts / "models/microsoft/deberta-v3/transformers/tiny/1")
    started = time.monotonic()
    run_notebook(recipe, out, {"input_dir": str(mounts)}, DEMO_CFG[recipe])

    {"finetune_deberta": _show_score, "ablate_subset_vs_full": _show_answer, "embed_deberta_lightgbm": _show_models}[
        recipe
    ](out, contest, truth)
    print(f"{time.monotonic() - started:.0f} s. Open {(out / 'report.html').relative_to(ROOT)}")


def _show_score(out: Path, contest: Path, truth: pd.DataFrame, file: str = "oof.csv") -> None:
    oof = pd.read_csv(out / file, dtype={"id": str})
    known = truth.set_index("id").loc[oof["id"], ["a", "b", "tie"]].to_numpy()
    bayes = bayes_log_loss(known)
    labels = load_pairs(contest / "train.csv")[0]["label"]
    constant = constant_log_loss(labels, oof["label"], 3)
    model = score(oof["label"], oof[["a", "b", "tie"]].to_numpy())["log_loss"]
    closed = (constant - model) / (constant - bayes)
    print(f"\nGenerated data, tiny random DeBERTa (no statement about leaderboard scores), {len(oof)} validation rows:")
    print(f"  constant predictor {constant:.4f}\n  model              {model:.4f}\n  Bayes-optimal      {bayes:.4f}")
    print(f"  {closed:.0%} of the distance closed")
    figures = {"constant": constant, "model": model, "bayes": bayes}
    (out / "demo.json").write_text(json.dumps(figures), encoding="utf-8")


def _show_answer(out: Path, contest: Path, truth: pd.DataFrame) -> None:
    print("\nGenerated data, tiny random DeBERTa (no statement about real data):")
    print((out / "answer.md").read_text(encoding="utf-8"))


def _show_models(out: Path, contest: Path, truth: pd.DataFrame) -> None:
    print("\nGenerated data, tiny random DeBERTa (no statement about real data): out-of-fold log loss")
    print(pd.read_csv(out / "models.csv").round(4).to_string(index=False))
    _show_score(out, contest, truth, "oof_lightgbm.csv")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.run", description="Run a recipe headless.")
    actions = parser.add_subparsers(dest="action", required=True)
    running = actions.add_parser("run")
    running.add_argument("recipe", choices=sorted(path.stem for path in (ROOT / "notebooks").glob("*.py")))
    running.add_argument("--data", required=True, type=Path, help="folder with train and test")
    running.add_argument("--model", type=Path, help="encoder folder; searched below the data when absent")
    running.add_argument("--out", required=True, type=Path)
    running.add_argument("--cfg", default="", help="'key=value ...'")
    demonstrating = actions.add_parser("demo")
    demonstrating.add_argument("recipe", nargs="?", default="finetune_deberta", choices=sorted(DEMO_CFG))
    chosen = parser.parse_args(words)
    if chosen.action == "demo":
        demo(chosen.recipe)
        return 0
    overrides = {"input_dir": str(chosen.data.resolve())}
    if chosen.model:
        overrides["model_dir"] = str(chosen.model.resolve())
    page = run_notebook(chosen.recipe, chosen.out.resolve(), overrides, chosen.cfg)
    print(f"Open {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
