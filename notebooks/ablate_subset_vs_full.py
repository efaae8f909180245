# %% [markdown]
# # Is it the data, or the code?
#
# Train the posted settings and this collection's recipe on growing subsets of your own data, and see which of the two
# keeps DeBERTa from learning, how much each repair is worth, and what more rows would bring.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (cells of the grid run side by side) or any one GPU |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or any DeBERTa-v3 folder; to go on, this notebook's earlier output |
# | Runtime | what you set as `budget_minutes`; on a T4: not measured yet |
# | Score | measures learning, not a leaderboard place: not measured yet |

# %% [markdown]
# ## What you get
#
# - `ablation.csv`: one row a trained model, and two pictures: learning curves, and the worth of each repair;
# - `answer.md`: a few sentences that answer the question from these figures, or say "cannot tell";
# - `cells/`: every finished run, stored as it ends. A notebook that was broken off goes on where it stopped, here or
#   with its output attached;
# - `submission.csv` from the recipe on the most rows that were trained.
#
# "It only learned once I trained on everything" mixes two things up: all rows also bring **more optimizer steps**. A
# control arm trains small subsets for as many steps as the largest gets, and keeps them apart.

# %%
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from src_py.ablation.answer import answer
from src_py.ablation.arms import REPAIRS
from src_py.ablation.plots import plot_curves, plot_repairs
from src_py.ablation.results import baselines, curve_table, repair_table, results_table
from src_py.ablation.schedule import list_cells, plan, plan_table, run_cells, time_cells
from src_py.ablation.trials import CellStore, Problem, Settings, find_cells
from src_py.config import configure, pick
from src_py.evaluation.report import class_table
from src_py.kaggle.clock import Clock
from src_py.kaggle.files import write_csv
from src_py.kaggle.inputs import find_data, find_extra, find_model, find_trained
from src_py.kaggle.session import choose_precision, describe_hardware, start_session, visible_gpus
from src_py.model.predict import predict_pairs
from src_py.model.saved import load_trained
from src_py.pairs.contest import write_submission
from src_py.pairs.load import class_names, load_pairs, prompt_key
from src_py.pairs.split import add_rows, assign_folds, log_spaced, nested_order
from src_py.pairs.tokenizer import load_tokenizer

# %% [markdown]
# ## Configuration
#
# The only cell to edit. `arms` are measured at every size: `posted`, `recipe`, `posted+batch`, `recipe-pairwise-head`
# and so on; the first and the last are compared. `repairs` are added to `posted` and taken from `recipe`, one by one.


# %%
@dataclass
class CFG:
    # Paths
    input_dir: str = "/kaggle/input"
    model_dir: str = "small"  # a folder, or a part of the path that picks among attached ones
    output_dir: str = "."
    # Grid
    arms: tuple[str, ...] = ("posted", "recipe")
    repairs: tuple[str, ...] = ("pairwise", "batch", "rates", "line_break", "cut", "head", "warmup", "frozen")
    sizes: tuple[int, ...] = ()  # training rows; empty: n_sizes, equally far apart on a log axis
    n_sizes: int = 5
    smallest_share: float = 0.01  # of all training rows
    seeds: int = 3  # each draws its own subsets
    control: bool = True  # small subsets for as many steps as the largest
    extra_files: tuple[str, ...] = ()  # further training files, such as lmsys-33k.csv, added after all rows
    budget_minutes: float = 480.0  # Kaggle's limit is 720 for a GPU notebook
    # Reading and training
    max_length: int = 512  # tokens in a sequence; twice that where one sequence holds both answers
    epochs: float = 2.0
    batch_size: int = 16  # the recipe's pairs in an optimizer step; the posted settings have 2
    micro_batch: int = 4  # pairs of full length in a forward pass: what has to fit the GPU
    lr: float = 0.0  # the recipe's; 0: by the encoder's size
    head_lr: float = 0.0  # 0: ten times lr
    freeze_layers: int = 0  # lowest ones, in all arms
    evaluations: int = 3  # of the validation rows in a run
    precision: str = "fp16"
    # Validation
    n_folds: int = 5
    valid_rows: int = 2000  # of the first fold, at most
    seed: int = 0


cfg = configure(CFG(), os.environ.get("RECIPE_CFG", ""))
precision = choose_precision(cfg.precision)
output = Path(cfg.output_dir)
clock = Clock()
start_session(cfg.seed)
print(describe_hardware(precision))
display(pd.Series(REPAIRS, name="what a repair does").to_frame())

# %% [markdown]
# ## Data
#
# Files are searched below the input folder. Rows of extra files come after all rows of the competition, so that the
# curve shows what *they* add.

# %%
files = find_data(cfg.input_dir)
classes = class_names(files.train)
table, cleaning = load_pairs(files.train)
test, _ = load_pairs(files.test, labelled=False)
extra = {name: load_pairs(find_extra(cfg.input_dir, name))[0] for name in cfg.extra_files}
print(files.train, files.test, sep="\n")
display(table.head(3), cleaning)
clock.mark("Data")

# %% [markdown]
# ## Validation split
#
# One fixed fold, split by prompt, measures every run. Subsets are **nested** (a larger one contains the smaller) and
# stratified by label; each seed draws its own. Extra rows whose prompt is among the validation rows are left out.

# %%
fold_of = assign_folds(table, cfg.n_folds, cfg.seed)
train, valid = (table[side].reset_index(drop=True) for side in (fold_of != 0, fold_of == 0))
valid = valid.iloc[nested_order(valid["label"], cfg.seed)[: cfg.valid_rows]].reset_index(drop=True)
own_rows = len(train)
train, marks = add_rows(train, extra, without=table[fold_of == 0])
sizes = cfg.sizes or log_spaced(own_rows, cfg.smallest_share, cfg.n_sizes)
sizes = tuple(sorted({*sizes, *marks.values()}))
display(class_table(train["label"], valid["label"], classes))
print("sizes:", *(f"{size:,}" for size in sizes), *(f"{name} up to row {size:,}" for name, size in marks.items()))

# %% [markdown]
# ## Model
#
# All arms share the encoder, the number of epochs and the amount of text; a configuration that reads a pair as one
# sequence may use twice the tokens. `posted` is the notebook of the discussion: its tokens, its reading, its rates.

# %%
model_dir = find_model(cfg.input_dir, cfg.model_dir)
settings = Settings(
    precision=precision,
    **pick(cfg, "max_length", "epochs", "batch_size", "micro_batch", "lr", "head_lr", "freeze_layers", "evaluations"),
)
blocks = (own_rows, *list(marks.values())[:-1]) if marks else ()
problem = Problem(
    train, valid, prompt_key(valid), model_dir, len(classes), settings, blocks, save_dir=output / "trained"
)
store = CellStore(output / "cells", problem.key(), attached=find_cells(cfg.input_dir))
trained = find_trained(cfg.input_dir)
budget = 0.0 if trained and os.environ.get("KAGGLE_IS_COMPETITION_RERUN") else cfg.budget_minutes
print(f"{model_dir}; the scoring run only predicts" if budget == 0 else f"{model_dir}; {budget:g} minutes to spend")

# %% [markdown]
# ## Check before training
#
# A short training of each way to read and batch gives the minutes of every cell. The plan runs the most informative
# cells first: curves of all arms with the first seed, then the control arm, then the repairs, then further seeds. No
# cell may take more than a quarter of the budget. `as rows` is the control arm: the subset is trained for as many
# steps as that many rows get.

# %%
gpus = visible_gpus()
cells = list_cells(cfg.arms, cfg.repairs, sizes, cfg.seeds, cfg.control)
done = store.done(cells)
minutes = time_cells(problem, [cell for cell in cells if cell not in done]) if budget else {}
planned = plan(cells, minutes, budget, done, workers=max(1, len(gpus)))
with pd.option_context("display.max_rows", None):
    display(plan_table(planned))
clock.mark("Check before training")
print(f"{len(done)} of {len(cells)} cells are done, {(planned['plan'] == 'run').sum()} will run")

# %% [markdown]
# ## Grid
#
# Each finished cell is stored at once; one that is broken off is done again from its beginning. The loss of a run is
# read at its best evaluation, which is chosen on one half of the validation prompts and read on the other.

# %%
run_cells(problem, planned, store, budget, gpus)
clock.mark("Grid")

# %% [markdown]
# The curve against the constant predictor's line is the answer to "does it learn?". Error bars are the spread over
# seeds, every dot is a trained model. Solid: the configuration's own epochs. Dashed: the control arm.

# %%
outcomes = {cell: outcome for cell in cells if (outcome := store.load(cell))}
results = results_table(problem, outcomes)
write_csv(output / "ablation.csv", results)
curve = curve_table(problem, outcomes)
lines = {name: losses.mean() for name, losses in baselines(problem).items()}
if len(curve):
    answered = answer(problem, outcomes, results, curve, cfg.arms)
    figure = plot_curves(curve, results, cfg.arms, lines, answered.laws, marks)
    figure.savefig(output / "learning_curve.png", dpi=120)
    display(figure, curve.round(4))
    (output / "answer.md").write_text(f"{answered}\n", encoding="utf-8")
    display(Markdown(str(answered)))
else:
    print("Cannot tell: no cell was finished. Raise CFG.budget_minutes, or lower CFG.sizes or CFG.max_length.")

# %% [markdown]
# What a repair is worth depends on what else is broken: added to the posted settings it may do nothing while another
# fault remains; taken from the recipe it shows what the recipe would lose.

# %%
repairs = repair_table(problem, outcomes)
repair_figure = plot_repairs(repairs)
if repair_figure:
    repair_figure.savefig(output / "repairs.png", dpi=120)
    display(repair_figure, repairs.round(4))
with pd.option_context("display.max_rows", None):
    display(results.round(4))
clock.mark("Answer")

# %% [markdown]
# ## Submission
#
# The recipe's model on the most rows answers the test rows. It is there to close the loop; for a good score train
# `finetune_deberta` with what was learned here.

# %%
(output / "trained").mkdir(exist_ok=True)
folders = sorted([*trained, *find_trained(output / "trained")], key=lambda folder: folder.name)  # by rows
if folders:
    model, told = load_trained(folders[-1])
    tokenizer = load_tokenizer(folders[-1])
    reading = {key: told[key] for key in ("style", "max_length", "prompt_share", "head_share")}
    predicted = predict_pairs(model, tokenizer, test, **reading, batch_size=32, precision=precision)
    display(write_submission(output / "submission.csv", test["id"], predicted).head())
else:
    print("No submission: no trained model of the arm `recipe` is here; attach the earlier run's whole output.")
clock.mark("Submission")
display(clock.table())

# %% [markdown]
# ## What to change next
#
# - **Nothing learns, at any size**: run `finetune_deberta`; its doctor names the fault.
# - **The intervals include zero**: more `seeds`, or more `valid_rows`; attach this run's output and run again, finished
#   cells are not repeated.
# - **Are extra rows worth it?** Name the files in `extra_files`: the curve goes on after the competition's own rows.
# - **Your own settings against the recipe**: add an arm such as `recipe-rates` to `arms`.
# - **Quicker**: `arms=("recipe",)`, `repairs=()`, `control=False`, a smaller `max_length`.
