# %% [markdown]
# # Fine-tune DeBERTa-v3 on chatbot preferences
#
# Predict which of two chatbot answers a person prefers (a, b or tie), prove that the model learned, and write
# `submission.csv`.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (both train), or any one GPU with 15 GB |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or another DeBERTa-v3 folder in the Transformers format |
# | Runtime | GPU T4 x2, one fold: 33 to 61 minutes, an estimate from counted work; not measured yet |
# | Score | on the leaderboard: not measured yet |

# %% [markdown]
# ## What you get
#
# - `submission.csv`, checked before it is written;
# - `oof.csv`: predictions for the validation rows, for blending;
# - `fold_*/`: the trained models. Attach this notebook's output to a new run, and that run only predicts.
#
# Compare every log loss with the **constant predictor**, which always answers with the class shares of the training
# labels. A model that never gets below that line has learned nothing, whatever its accuracy says.

# %% [markdown]
# ## Configuration
#
# This is the only cell you need to edit. The defaults suit **deberta-v3-base** and all 57k rows; "What to change next"
# at the end lists settings for the small and the large model.

# %%
class CFG:
    # Paths
    input_dir = "/kaggle/input"
    data_dir = ""  # the contest: a folder or a part of its path; needed when several are attached
    model_dir = ""  # the encoder: a folder or a part of its path, such as "base"; needed when several are attached
    output_dir = "."
    # What to do
    mode = "auto"  # "train"; "predict" with an attached finished run; "auto" predicts if one is attached
    resume = "auto"  # use finished folds and checkpoints of the same run; "never" starts from the beginning
    save_fp16 = True  # half of the disk space, predictions within 0.001; False stores the weights in fp32
    # Reading a pair
    style = "pairwise"  # read P+A and P+B and compare; "joint" reads P, A and B in one sequence
    max_length = 512  # tokens in a sequence
    prompt_share = 0.3  # of the tokens; what the prompt leaves goes to the answer
    head_share = 0.6  # of a text that is cut: this share is its beginning, the rest its end
    # Model
    pooling = "mean"  # of the tokens' vectors, or "cls"
    dropout = 0.1  # in the head
    attention = "auto"  # the fastest that this GPU has; "stock", "lean", "sdpa" or "flash" to choose: same outputs
    freeze_embeddings = True  # half the parameters; frees the memory for their gradients and Adam states
    freeze_layers = 0  # lowest layers
    reinit_layers = 0  # top layers; 1 or 2 can stabilise runs on few rows
    side_bias = False  # lets a pairwise model learn that people favour one side
    label_smoothing = 0.0
    # Training
    epochs = 2.0
    lr = 0.0  # 0: chosen by the encoder's size
    head_lr = 0.0  # 0: ten times lr, since the head starts from random weights
    layer_decay = 0.9  # learning rate of a layer against the one above it
    weight_decay = 0.01
    batch_size = 16  # pairs in an optimizer step
    micro_batch = 8  # pairs of full length in a forward pass: what has to fit the GPU
    warmup = 0.1  # share of the steps
    max_grad_norm = 1.0
    evals_per_epoch = 4
    # Machine
    precision = "fp16"  # "bf16" where the GPU supports it natively, or "fp32"
    hours = 8.5  # for everything; Kaggle ends code-competition notebooks after 9
    processes = 0  # 0: one for each GPU
    stop_on_failure = True  # of a check before training, or of the watcher during training
    seed = 0
    # Validation
    n_folds = 5
    folds = [0]  # [0, 1, 2, 3, 4] trains five models and averages them
    temperature = True  # calibrate the submission on the validation rows


# %% [markdown]
# ## Helpers (skip this)
#
# The hidden cells write the functions used below as files, `src_py/...`. To change one, open its cell, edit it, and
# choose *Run All*.

# %% [markdown]
# ## Setup
#
# The configuration is checked before anything is read: misspelt names, wrong types and values out of range stop here.

# %%
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from src_py.config import check_config
from src_py.doctor import check_before_training, judge_training
from src_py.evaluation import (
    apply_temperature, class_shares, class_table, fit_temperature, history_table, plot_learning, plot_predictions,
    read_predictions, score,
)  # fmt: skip
from src_py.kaggle import (
    Clock, Paths, RunFiles, RunSettings, Session, begin_run, choose_precision, describe_hardware, end_run,
    find_finished, free_memory, identify, key_of, recorded_run, require_space, scratch_folder, start_session, write_csv,
)  # fmt: skip
from src_py.model import (
    ModelSettings, SavedSettings, build_model, check_attention, check_max_length, check_precision, choose_attention,
    find_encoder, finished_folds, predict_pairs, predict_saved, save_trained, stopped_folds,
)  # fmt: skip
from src_py.pairs import (
    Reading, Validation, assign_folds, encode_pairs, find_contest, load_pairs, load_tokenizer, prompt_key,
    truncation_report, write_submission,
)  # fmt: skip
from src_py.training import Plan, TrainingSettings, disk_needed, fit, forecast_run, make_trainer

# %%
RECIPE = "finetune_deberta"
kinds = (Paths, RunSettings, Reading, ModelSettings, TrainingSettings, Session, Validation)
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
reading, output, clock = cfg.part(Reading), Path(cfg.output_dir), Clock(cfg.hours)
files = find_contest(cfg.input_dir, cfg.data_dir)
finished = find_finished(cfg.input_dir, RECIPE, cfg.mode, cfg.values())
model_dir = None if finished else find_encoder(cfg.input_dir, cfg.model_dir)
precision = choose_precision(cfg.precision)
if model_dir:
    check_max_length(model_dir, cfg.max_length)
    check_precision(model_dir, precision)
    check_attention(cfg.attention)
start_session(cfg.seed)
print(describe_hardware(precision), files.train, files.test, model_dir or "no encoder needed", sep="\n")

# %% [markdown]
# ## Data
#
# Text cells are JSON lists of turns with `null`s and broken emoji in them. The table counts every repair; no row is
# dropped.

# %%
contest, classes = files.contest, files.contest.classes
train, cleaning = load_pairs(files.train, contest)
test, test_cleaning = load_pairs(files.test, contest, labelled=False, sample=files.sample)
display(train.head(3), cleaning.assign(**{"count in test": test_cleaning["count"]}))
clock.mark("Data")

# %% [markdown]
# ## Validation split
#
# Each prompt stays on one side of the split, and class shares are similar on both. The first row shows the training labels, the
# second the validation labels of the first fold: the shares should agree.

# %%
labels = train["label"].to_numpy()
fold_of = assign_folds(train, cfg.n_folds, cfg.seed)
folds = () if finished else cfg.folds
is_valid = fold_of == cfg.folds[0]
display(class_table(labels[~is_valid], labels[is_valid], classes))

# %% [markdown]
# ## Model
#
# Prompt and answers are cut **separately**, keeping the beginning and the end of each, so that both answers always
# survive; cutting the joined text from the right would remove answer B first. Line breaks become tokens of their own.
# In the table, "rows mostly cut" lose more than half of that text: raise `max_length` if it is large. On a GPU, the line
# below it gives the time of each kind of attention, measured here against the one of transformers; the fastest is used.

# %%
if folds:
    tokenizer = load_tokenizer(model_dir)
    encoded = encode_pairs(train, tokenizer, reading, cache_dir=scratch_folder(output) / "tokens")
    display(truncation_report(encoded))
    rows = cfg.micro_batch * (1 if reading.style == "joint" else 2)
    attention = choose_attention(model_dir, cfg.attention, rows, cfg.max_length, precision)
    model_settings = replace(cfg.part(ModelSettings), attention=attention)
clock.mark("Encode")

# %% [markdown]
# The encoder keeps **fp32 master weights**: the public checkpoints are stored in fp16 and cannot be trained as they
# are. The head starts at the constant predictor. The pairwise head scores both answers with the same weights and
# compares the scores (Bradley–Terry with ties), so swapping A and B swaps its probabilities exactly.


# %%
def new_model(fold: int):
    """A pretrained encoder with a new head; every fold has its own seed."""
    start_session(cfg.seed + fold)
    shares = class_shares(labels[fold_of != fold], len(classes))
    return build_model(model_dir, tokenizer, reading.style, shares, model_settings)


def new_trainer(fold: int):
    """A new model and the Trainer that trains it on all other folds."""
    return make_trainer(
        new_model(fold),
        train=encoded.select(np.flatnonzero(fold_of != fold)),
        valid=encoded.select(np.flatnonzero(fold_of == fold)),
        pad_token_id=tokenizer.pad_token_id,
        output_dir=output / "checkpoints" / f"fold_{fold}",
        settings=cfg.part(TrainingSettings),
        classes=classes,
        precision=precision,
        seed=cfg.seed + fold,
    )


# %% [markdown]
# A fold is trained, predicts its own validation rows, and is saved. A temperature is fitted to these predictions: a
# fine-tuned model is usually overconfident, and log loss punishes that.


# %%
def train_fold(fold: int, until: float) -> None:
    """Train one fold, at most `until` then, and save its model, predictions and history."""
    start_session(cfg.seed + fold)
    trainer = new_trainer(fold)
    rows, folder = fold_of == fold, output / f"fold_{fold}"
    rows_after = (rows.sum() + len(test)) * (1 if reading.style == "pairwise" else 2)
    stopped = fit(trainer, cfg.stop_on_failure, until, int(rows_after), cfg.processes, scratch_folder(output))
    raw = predict_pairs(trainer.model, tokenizer, train[rows], reading, precision=precision)
    temperature = fit_temperature(raw, labels[rows]) if cfg.temperature else 1.0
    print(f"log loss {score(labels[rows], raw)['log_loss']:.4f}, temperature {temperature:.2f}")
    known = pd.DataFrame({"id": train["id"], "fold": fold, "label": labels})[rows].reset_index(drop=True)
    calibrated = pd.DataFrame(apply_temperature(raw, temperature), columns=list(classes))
    write_csv(folder / "validation.csv", known.join(calibrated))
    write_csv(folder / "history.csv", history_table(trainer.state.log_history).reset_index())
    step, steps = trainer.state.global_step, trainer.state.max_steps
    ended = f"step {step} of {steps}" if step < steps and not stopped else ""
    options = (cfg.pooling, cfg.side_bias, temperature, key_of(run), stopped, ended)
    settings = SavedSettings(RECIPE, classes, reading, *options)
    save_trained(trainer.model, tokenizer, folder, settings, cfg.save_fp16)
    shutil.rmtree(output / "checkpoints" / f"fold_{fold}", ignore_errors=True)


# %% [markdown]
# Finished folds and checkpoints of the same run are used again: the same settings, rows, encoder and code, in this
# folder or in an attached output. If something changed, the line below names it and the run starts from the beginning.

# %%
todo = []
names = tuple(f"fold_{fold}" for fold in cfg.folds)
run_files = RunFiles(RECIPE, names, final=("oof.csv", "submission.csv"), temporary=("checkpoints",))
if folds:
    run = identify(cfg, [train, labels, fold_of, encoded._fingerprint], model_dir, [new_model, new_trainer, train_fold])
    begin_run(output, cfg.input_dir, run, run_files, cfg.values(), cfg.resume)
    saved = finished_folds(output, key_of(run))
    if not cfg.stop_on_failure:
        saved = [fold for fold in saved if fold not in stopped_folds(output, folds)]
    todo = [fold for fold in folds if fold not in saved]
    print(f"Folds to train: {todo or 'none'}")

# %% [markdown]
# ## Check before training
#
# The doctor measures, on the real rows and in the precision of the training, 27 known causes of a model that does not
# learn: shattered text, a cut answer, weights in half precision, a warmup that never arrives, and more. It changes
# nothing. A FAIL stops the notebook here, before you waste a night of GPU time.

# %%
for fold in todo[:1]:
    trainer = new_trainer(fold)
    needed = disk_needed(trainer.model, len(todo), cfg.save_fp16)
    require_space(output, needed, f"Training {len(todo)} folds")
    checked = check_before_training(trainer, tokenizer, train[fold_of != fold], train[fold_of == fold])
    display(checked)
    print(f"Training needs up to {needed / 1e6:,.0f} MB of disk, and there is room for it.")
    checked.stop_on_failure(cfg.stop_on_failure)
    del trainer
    free_memory()
clock.mark("Check before training")

# %% [markdown]
# **Will it finish in time?** The notebook measures parts of the real training and prediction for about ten seconds, and
# counts the rest. In the table, compare each forecast with its limit: `hours`, the time of the scoring run, the GPU's
# memory, and Kaggle's 20 GB of disk. A sentence in bold says what does not fit and which field to change; the notebook
# stops only if the memory does not hold a single pair.

# %%
forecast = None
for fold in todo[:1]:
    trainer = new_trainer(fold)
    plan = Plan(folds=len(todo), models=len(folds), test_rows=len(test), processes=cfg.processes)
    forecast = forecast_run(trainer, tokenizer, train, reading, plan, clock)
    display(forecast)
    del trainer
    free_memory()
clock.mark("Forecast")

# %% [markdown]
# ## Train
#
# The checkpoint with the lowest validation **log loss** is used: accuracy often still rises while the model becomes
# overconfident. In each line, compare the log loss with the constant predictor's, and look at the predicted shares: a
# model that always gives the same answer is easy to spot there. Pairs of similar length go through the model together; an optimizer
# step has `batch_size` pairs (the last of an epoch may have fewer), and with two GPUs each computes half of it. A run that would exceed `hours` stops
# early enough to evaluate and submit.

# %%
for number, fold in enumerate(todo):
    if cfg.stop_on_failure and stopped_folds(output, folds):
        break
    print(f"fold {fold}")
    train_fold(fold, until=clock.share(len(todo) - number))
    free_memory()
stopped = stopped_folds(output, folds)
for fold, reason in stopped.items():
    print(f"NOT LEARNED: the watcher stopped fold {fold}. {reason} No further fold is trained.")
folds = tuple(fold for fold in folds if (output / f"fold_{fold}").is_dir())
clock.mark("Train")

# %% [markdown]
# ## Evaluate
#
# Does it learn? Compare the curve with the constant predictor's line. Training loss that falls while validation stays
# at the line is memorising; both at the line is not learning. The verdict compares the model with the constant
# predictor and with a regression that sees only lengths.

# %%
validations = {fold: pd.read_csv(output / f"fold_{fold}/validation.csv", dtype={"id": str}) for fold in folds}
for fold, validation in validations.items():
    history = pd.read_csv(output / f"fold_{fold}/history.csv", index_col="step")
    rest, rows = train[fold_of != fold], train[fold_of == fold]
    verdict = judge_training(rest, rows, validation[list(classes)].to_numpy(), prompt_key(rows), history)
    print(f"fold {fold}: {verdict}")
    lines = {"constant predictor": verdict.constant, "length only": verdict.length_only}
    display(verdict.table, history.round(4), plot_learning(history, lines))

# %% [markdown]
# All validation rows together. In the confusion matrix, the diagonal holds the correct predictions; in the calibration
# plot, a curve below the diagonal means that the model is overconfident.

# %%
oof_path = (finished or output) / "oof.csv"
if folds:
    write_csv(oof_path, pd.concat(validations.values()))
oof = read_predictions(oof_path, classes)
if oof is not None:
    truth, probabilities = oof["label"].to_numpy(), oof[list(classes)].to_numpy()
    constant = np.tile(class_shares(labels, len(classes)), (len(oof), 1))
    scores = {"model": score(truth, probabilities), "constant predictor": score(truth, constant)}
    display(pd.DataFrame(scores).T.round(4), plot_predictions(truth, probabilities, classes))
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The saved models predict the test rows, whether they were trained just now or attached, so this run rehearses the
# scoring run. Every row gets exactly one prediction, in order; the probabilities are checked before the file is written.

# %%
origin = finished or output
key, used = recorded_run(origin, RECIPE) if finished else ("", [f"fold_{fold}" for fold in folds])
if used is None:  # an interrupted run predicts with the folds that it has
    used = [f"fold_{fold}" for fold in finished_folds(origin, key)]
predicted = predict_saved([origin / name for name in used], test, classes, precision, cfg.attention)
submission = write_submission(output / "submission.csv", test["id"], predicted, contest)
if folds:
    end_run(output, run_files, not stopped, used)
if stopped:
    print("NOT LEARNED: this submission comes from a training that was stopped. It is no better than a guess.")
clock.mark("Submission")
display(submission.head(), clock.table())

# %% [markdown]
# Forecast and truth, in minutes. A ratio above 1 means that the stage took longer than was forecast; a training that
# stopped early took less. Starting the processes and loading models are not forecast: in a short run they show.

# %%
if forecast:
    display(forecast.against(clock).round(2))

# %% [markdown]
# ## What to change next
#
# - **Another size**: the learning rate follows it by itself; `micro_batch` has to fit the card:
#
# | encoder | `max_length = 512` | `max_length = 1024` |
# | --- | --- | --- |
# | deberta-v3-small | `micro_batch = 16` (10.7 GB) | `micro_batch = 8` (12.1 GB) |
# | deberta-v3-base | `micro_batch = 8` (11.7 GB) | `micro_batch = 4` (13.1 GB) |
# | deberta-v3-large | `micro_batch = 2` (14.7 GB) | `micro_batch = 1` (11.9 GB) |
#
#   In brackets: what a T4's 15 GB must hold, counted without a card (peak of a step, copy of the gradients for the second
#   GPU, 15% for fragmentation, 1 GB for CUDA). If a card holds less, the step is split by itself.
# - **Large model**: `freeze_layers = 6`, `epochs = 1`. If a run stays at the constant line, try another `seed` or
#   `reinit_layers = 1` first: large encoders sometimes fail to start.
# - **More from the same data**: `folds = [0, 1, 2, 3, 4]` averages five models and completes `oof.csv` for blending.
# - **Longer texts**: `max_length = 1024` if the truncation report shows many rows mostly cut.
# - **Scoring run**: attach this notebook's output as an input; the notebook then only predicts.
# - **Interrupted**: run again, or attach the interrupted output and keep the configuration: it resumes.
