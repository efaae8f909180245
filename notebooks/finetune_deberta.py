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
# | Version | 0.1.0 |

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
    # Rows
    rows = 0  # such as 2000 for a quick trial, whose files are marked as such; 0: all
    extra_files = []  # further labelled files, such as "lmsys-33k.csv"
    pseudo_files = []  # further pairs with class probabilities in place of labels
    soft_labels = ""  # a file with a teacher's probabilities for the training rows, such as another recipe's oof.csv
    soft_weight = 0.5  # the teacher's share in the loss of these rows
    # Reading a pair
    style = "pairwise"  # read P+A and P+B and compare; "joint" reads P, A and B in one sequence
    features = "on"  # counts of length and format beside the text; "alone": in place of it; "off"
    max_length = 512  # tokens in a sequence
    predict_max_length = 0  # in prediction, when it should be longer; 0: as in training
    prompt_share = 0.3  # of the tokens; what the prompt leaves goes to the answer
    head_share = 0.6  # of a text that is cut: this share is its beginning, the rest its end
    # Model
    pooling = "mean"  # of the tokens' vectors; or "cls", "attention", "last4"
    head = "bradley_terry"  # a score for each answer; "network" reads both vectors together (pairwise only)
    dropout = 0.1  # in the head
    encoder_dropout = -1.0  # in the encoder; -1: its own
    lora_rank = 0  # such as 16: train low-rank adapters in place of the encoder's weights
    attention = "auto"  # the fastest that this GPU has; "stock", "lean", "sdpa" or "flash" to choose: same outputs
    freeze_embeddings = True  # half the parameters; frees the memory for their gradients and Adam states
    freeze_layers = 0  # lowest layers
    reinit_layers = 0  # top layers; 1 or 2 can stabilise runs on few rows
    side_bias = False  # lets a pairwise model learn that people favour one side
    label_smoothing = 0.0
    soft_temperature = 1.0  # at which the model is compared with a teacher
    names_loss = 0.0  # such as 0.2: also learn to name the chatbots, where the file names them (pairwise only)
    # Training
    seeds = 1  # models a fold, whose predictions are averaged
    epochs = 2.0
    lr = 0.0  # 0: chosen by the encoder's size
    head_lr = 0.0  # 0: ten times lr, since the head starts from random weights
    layer_decay = 0.9  # learning rate of a layer against the one above it
    weight_decay = 0.01
    batch_size = 16  # pairs in an optimizer step
    micro_batch = 8  # pairs of full length in a forward pass: what has to fit the GPU
    warmup = 0.1  # share of the steps
    schedule = "linear"  # fall of the learning rate, or "cosine"
    ema = 0.0  # such as 0.99: average the weights over the last steps
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
    split = "prompt"  # "topic" or "length" hold out whole topics or lengths: how the model does on unlike rows
    temperature = True  # calibrate the submission on the validation rows
    trivial_prior = False  # predict empty and identical answers by their class shares


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
from src_py.doctor import check_before_training, judge_training, verdict_banner
from src_py.evaluation import (
    Calibration, class_shares, class_table, counts_of, fit_calibration, group_table, history_table, history_view,
    plot_groups, plot_learning, plot_predictions, read_predictions, score, validation_table,
)  # fmt: skip
from src_py.kaggle import (
    Clock, Paths, RunFiles, RunSettings, Session, begin_run, choose_precision, describe_hardware, end_run, find_extra,
    find_finished, free_memory, identify, key_of, recorded_run, require_space, say, scratch_folder, start_session,
    write_csv,
)  # fmt: skip
from src_py.model import (
    ModelSettings, PredictionSettings, SavedSettings, build_model, check_attention, check_max_length, check_options,
    check_precision, choose_attention, find_encoder, finished_models, model_names, predict_counts, predict_pairs,
    predict_saved, save_trained, stopped_models, without_text,
)  # fmt: skip
from src_py.pairs import (
    ExtraRows, Reading, Validation, add_extra, assign_folds, audit_extra, calibration_groups, check_teacher, debug_line,
    debug_rows, encode_pairs, excerpt, find_contest, fit_trivial, judge_trivial, load_extra, load_pairs, load_pseudo, load_soft, load_tokenizer,
    prompt_key, soft_labels, file_name, training_rows, truncation_report, write_submission,
)  # fmt: skip
from src_py.training import Plan, TrainingSettings, disk_needed, fit, forecast_run, make_trainer

# %%
RECIPE = "finetune_deberta"
kinds = (
    Paths, RunSettings, ExtraRows, Reading, ModelSettings, TrainingSettings, PredictionSettings, Session, Validation,
)  # fmt: skip
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
reading, output, clock = cfg.part(Reading), Path(cfg.output_dir), Clock(cfg.hours)
predict_reading = cfg.part(PredictionSettings).reading(reading)
files = find_contest(cfg.input_dir, cfg.data_dir)
finished = find_finished(cfg.input_dir, RECIPE, cfg.mode, cfg.values())
debug_size = 0 if finished else cfg.rows  # a finished run predicts as it was trained
model_dir = None if finished else find_encoder(cfg.input_dir, cfg.model_dir)
precision = choose_precision(cfg.precision)
if model_dir:
    check_max_length(model_dir, cfg.max_length)
    check_max_length(model_dir, cfg.predict_max_length, "predict_max_length")
    check_precision(model_dir, precision)
    check_attention(cfg.attention)
    check_options(cfg.style, cfg.features, cfg.part(ModelSettings))
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
display(excerpt(train), cleaning.assign(**{"count in test": test_cleaning["count"]}))
clock.mark("Data")

# %% [markdown]
# A **teacher** (`soft_labels`) gives class probabilities for training rows; the file has one row an id. A **debug run**
# (`rows`) uses some training rows and all test rows, and marks its files.

# %%
debug = debug_line(debug_size, len(train))
if cfg.soft_labels and not finished:
    path = find_extra(cfg.input_dir, cfg.soft_labels, "soft_labels")
    train = soft_labels(train, *load_soft(path, train, contest, test["id"]), cfg.soft_weight)
train, test = debug_rows(train, test, debug_size, cfg.seed)
if debug_size:
    say(debug)

# %% [markdown]
# ## Validation split
#
# Each prompt stays on one side of the split, and class shares are similar on both. The first row shows the training
# labels, the second the validation labels of the first fold: the shares should agree.

# %%
labels = train["label"].to_numpy()
fold_of = assign_folds(train, cfg.n_folds, cfg.seed, cfg.split)
folds = () if finished else cfg.folds
is_valid = fold_of == cfg.folds[0]
if folds:  # a run that only predicts holds nothing out
    display(class_table(labels[~is_valid], labels[is_valid], classes))

# %% [markdown]
# **Extra rows** (`extra_files`, `pseudo_files`) are compared with the contest's first: copies are left out, and so are
# pairs whose prompt is held out. They are never validated on. In the table, look at copies, class shares and lengths:
# rows of another kind than the contest's can make the model worse. A teacher must not have seen the rows that it
# teaches, nor the validation rows; a line says what its file tells of that.

# %%
if folds and cfg.soft_labels:
    say(*check_teacher(train, fold_of, cfg.folds, len(classes)))
if folds and (cfg.extra_files or cfg.pseudo_files):
    paths = {name: find_extra(cfg.input_dir, name, "extra_files") for name in cfg.extra_files}
    guessed = {name: find_extra(cfg.input_dir, name, "pseudo_files") for name in cfg.pseudo_files}
    extra = load_extra(paths, contest) + load_pseudo(guessed, contest, test)
    extra, audit = audit_extra(extra, train, is_valid, test, classes, cfg.seed)
    display(audit)
    train, _ = add_extra(train, extra, rows=debug_size, seed=cfg.seed)
    fold_of = np.append(fold_of, np.full(len(train) - len(fold_of), -1))  # of no fold: never held out
    labels = train["label"].to_numpy()
own, models = fold_of >= 0, model_names(cfg.folds, cfg.seeds)
outside = np.stack([class_shares(labels[own & (fold_of != fold)], len(classes)) for fold in range(cfg.n_folds)])

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
# are. The head starts at the constant predictor; with `features`, at a small network on counts of length and format, which
# is fitted first, since it takes more epochs than an encoder. The pairwise head scores both answers with the same weights and
# compares the scores (Bradley–Terry with ties), so swapping A and B swaps its probabilities exactly.


# %%
def new_model(rows: np.ndarray, seed: int):
    """A pretrained encoder with a new head, for the training rows with these numbers."""
    start_session(seed)
    shares = class_shares(labels[rows], len(classes))
    options = {"features": reading.features, "train": encoded.select(rows), "seed": seed}
    return build_model(model_dir, tokenizer, reading.style, shares, model_settings, **options)


# %%
def new_trainer(name: str):
    """A new model and the Trainer that trains it on all other folds; each has random numbers of its own."""
    fold, number = models[name]
    rows, seed = training_rows(train, fold_of, fold), cfg.seed + fold + 1000 * number
    return make_trainer(
        new_model(rows, seed),
        train=encoded.select(rows),
        valid=encoded.select(np.flatnonzero(fold_of == fold)),
        pad_token_id=tokenizer.pad_token_id,
        output_dir=output / "checkpoints" / name,
        settings=cfg.part(TrainingSettings),
        classes=classes,
        precision=precision,
        seed=seed,
    )


# %% [markdown]
# A model is trained, predicts the rows of its own fold, and is saved. A temperature is fitted to these predictions: a
# fine-tuned model is usually overconfident, and log loss punishes that. New rows may be unlike these, so a temperature
# (or a shift of the ties) is chosen by how it suits topics, lengths and scripts that were left out of its fit.


# %%
def calibrate(raw: np.ndarray, held: pd.DataFrame) -> Calibration:
    """What `held` rows, which the model has not seen, say of its confidence."""
    if not cfg.temperature:
        return Calibration()
    groups = calibration_groups(held, cfg.seed)
    chosen = fit_calibration(raw, held["label"].to_numpy(), groups, prompt_key(held))
    say(chosen.reason)
    return chosen.calibration


# %%
def train_model(name: str, until: float) -> None:
    """Train one model, at most `until` then, and save it with its predictions and history."""
    trainer, fold, folder = new_trainer(name), models[name][0], output / name
    held, rest = train[fold_of == fold], train[own & (fold_of != fold)]
    counted = encoded.select(np.flatnonzero(fold_of == fold))
    start = predict_counts(trainer.model, counted)
    rows_after = (len(held) + len(test)) * (1 if reading.style == "pairwise" else 2)
    stopped = fit(trainer, cfg.stop_on_failure, until, int(rows_after), cfg.processes, scratch_folder(output))
    raw = predict_pairs(
        trainer.model, tokenizer, held, predict_reading, precision=precision, what=f"validation rows, {name}"
    )
    print(f"log loss {score(held['label'], raw)['log_loss']:.4f} before calibration")
    step, steps = trainer.state.global_step, trainer.state.max_steps
    ended = f"step {step} of {steps}" if step < steps and not stopped else ""
    prior = fit_trivial(rest, len(classes)) if cfg.trivial_prior else None
    options = (calibrate(raw, held), prior, key_of(run), stopped, ended)
    settings = SavedSettings(RECIPE, classes, predict_reading, trainer.model.architecture.settings, *options)
    blind = without_text(raw, start, predict_counts(trainer.model, counted), held["label"].to_numpy())
    tables = [None if found is None else settings.finish(found, held) for found in (raw, blind)]
    write_csv(folder / "validation.csv", validation_table(held, fold, classes, raw, *tables))
    write_csv(folder / "history.csv", history_table(trainer.state.log_history).reset_index())
    save_trained(trainer.model, tokenizer, folder, settings, cfg.save_fp16)
    shutil.rmtree(output / "checkpoints" / name, ignore_errors=True)


# %% [markdown]
# Finished models and checkpoints of the same run are used again: the same settings, rows, encoder and code, in this
# folder or in an attached output. If something changed, the line below names it and the run starts from the beginning.

# %%
todo = []
result_files = tuple(file_name(name, debug_size) for name in ("oof.csv", "submission.csv"))
run_files = RunFiles(RECIPE, tuple(models), result_files, temporary=("checkpoints",))
if folds:
    run = identify(cfg, [train, fold_of, encoded._fingerprint], model_dir, [new_model, new_trainer, train_model])
    begin_run(output, cfg.input_dir, run, run_files, cfg.values(), cfg.resume)
    saved = finished_models(output, key_of(run))
    if not cfg.stop_on_failure:
        saved = [name for name in saved if name not in stopped_models(output, models)]
    todo = [name for name in models if name not in saved]
    print("Models to train:", *(todo or ["none"]))

# %% [markdown]
# ## Check before training
#
# The doctor measures, on the real rows and in the precision of the training, 60 known causes of a model that does not
# learn: shattered text, a cut answer, weights in half precision, a warmup that never arrives, and more. It changes
# nothing. A FAIL stops the notebook here, before you waste a night of GPU time.

# %%
for name in todo[:1]:
    trainer, fold = new_trainer(name), models[name][0]
    needed = disk_needed(trainer.model, len(todo), cfg.save_fp16, cfg.ema > 0)
    require_space(output, needed, f"Training {len(todo)} models")
    rows = training_rows(train, fold_of, fold)
    checked = check_before_training(trainer, tokenizer, train.iloc[rows], train[fold_of == fold])
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
for name in todo[:1]:
    trainer = new_trainer(name)
    plan = Plan(folds=len(todo), models=len(models), test_rows=len(test), processes=cfg.processes)
    forecast = forecast_run(trainer, tokenizer, train, predict_reading, plan, clock)
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
for number, name in enumerate(todo):
    if cfg.stop_on_failure and stopped_models(output, models):
        break
    print(name)
    train_model(name, until=clock.share(len(todo) - number))
    free_memory()
trained = [name for name in models if folds and (output / name).is_dir()]
stopped = stopped_models(output, trained)
for name, reason in stopped.items():
    say(f"The watcher stopped {name}. {reason} No further model is trained; *Evaluate* says whether it learned.")
clock.mark("Train")

# %% [markdown]
# ## Evaluate
#
# Does it learn? The banner has a line for each model: green for learned, amber for little more than length or counts (or
# too few rows to tell, or stopped by the watcher after it had learned), red for not learned or broken. `gain` is by how much the log loss is lower than the constant
# predictor's. Below it, compare the curve with the constant predictor's line. Training loss that falls while validation
# stays at the line is memorising; both at the line is not learning. The verdict compares the model with the constant
# predictor and with a regression that sees only lengths; a model with `features` starts from the counts, so that what
# it reads has to bring it below the line of the counts alone. The shares of the predicted classes should come near the true
# ones (dashed); ties are seldom the likeliest class, so that their share is usually too low. The first two models are shown in full; `history.csv` in a model's folder holds its curve.

# %%
if debug_size:
    say(debug)
if reading.features == "alone":
    say("The models read no text: what they learned, they learned from the counts of length and format.")
validations = {name: pd.read_csv(output / name / "validation.csv", dtype={"id": str}) for name in trained}
histories = {name: pd.read_csv(output / name / "history.csv", index_col="step") for name in trained}
verdicts = {}
for name, validation in validations.items():
    rest, rows = train[own & (fold_of != models[name][0])], train[fold_of == models[name][0]]
    predicted, counts = validation[list(classes)].to_numpy(), counts_of(validation, classes)
    verdicts[name] = judge_training(rest, rows, predicted, prompt_key(rows), histories[name], counts)
banner = verdict_banner(verdicts, stopped)
failed = [name for name in stopped if verdicts[name].name != "learned"]  # the others' best weights were kept
if trained:
    display(banner)

# %%
for number, (name, verdict) in enumerate(verdicts.items()):
    say(f"{name}: {verdict}")
    if number < 2:
        history, truth = histories[name], validations[name]["label"].to_numpy()
        shares = dict(zip(classes, class_shares(truth, len(classes))))
        display(verdict.table, history_view(history, truth, classes), plot_learning(history, verdict.lines, shares))

# %% [markdown]
# All validation rows together, averaged over the seeds. In the confusion matrix, the diagonal holds the correct
# predictions; in the calibration plot, a curve flatter than the diagonal means that the model is overconfident.

# %%
oof_path = (finished or output) / result_files[0]
if trained:
    every = pd.concat(validations.values()).groupby(["id", "fold", "label"], sort=False).mean().reset_index()
    write_csv(oof_path, every[["id", "fold", "label", *classes]])
oof = read_predictions(oof_path, classes)
if oof is not None:
    truth, probabilities = oof["label"].to_numpy(), oof[list(classes)].to_numpy()
    constant = outside[oof["fold"].to_numpy()]
    scores = {"model": score(truth, probabilities), "constant predictor": score(truth, constant)}
    display(pd.DataFrame(scores).T.round(4), plot_predictions(truth, probabilities, classes))

# %% [markdown]
# **Where is it over-certain?** Each line of the table is a group of validation rows, the worst ones first. Where
# `calibrated - constant` is above 0 by more than its `+-` (half of the 95 % interval), the model is sure of itself without
# reason; test rows of that kind will cost you. The calibration was fitted on these rows, so its column flatters a little.
# With `trivial_prior`, a last table compares it with the model on the pairs that it answers.

# %%
if trained:
    rows = train.set_index("id").loc[every["id"]].reset_index()
    before, after = (every[[mark + name for name in classes]].to_numpy() for mark in ("raw_", ""))
    shares, prompts = outside[every["fold"].to_numpy()], prompt_key(rows).to_numpy()
    table = group_table(truth, before, after, shares, calibration_groups(rows, cfg.seed), prompts)
    display(table.round(3), plot_groups(table))
if trained and cfg.trivial_prior:
    raw = np.full((len(train), len(classes)), np.nan)
    raw[pd.Index(train["id"]).get_indexer(every["id"])] = before
    display(judge_trivial(raw[own], train[own], fold_of[own], len(classes)).round(4))
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The saved models predict the test rows, whether they were trained just now or attached, so this run rehearses the
# scoring run. Every row gets exactly one prediction, in order; the probabilities are checked before the file is written.

# %%
origin = finished or output
key, used = recorded_run(origin, RECIPE) if finished else ("", trained)
if used is None:  # an interrupted run predicts with the models that it has
    used = finished_models(origin, key)
predicted = predict_saved([origin / name for name in used], test, classes, precision, cfg.attention)
submission = write_submission(output / result_files[-1], test["id"], predicted, contest)
if trained:
    end_run(output, run_files, not failed, used)
if debug_size:
    say(debug)
if failed:
    judged = "; ".join(f"{name}: {verdicts[name].name}" for name in failed)
    say(
        "NOT LEARNED: this submission comes from a training that was stopped, and its best weights were judged so "
        f"({judged}). The watcher's line under *Train* says why."
    )
clock.mark("Submission")
display(submission.head(), clock.table())

# %% [markdown]
# Forecast and truth, in minutes. A ratio above 1 means that the stage took longer than was forecast; a training that
# stopped early took less. Starting the processes and loading models are not forecast: in a short run they show. The
# banner is that of *Evaluate* again.

# %%
if forecast:
    display(forecast.against(clock).round(2))
if trained:
    display(banner)

# %% [markdown]
# ## What to change next
#
# - **Another size**: the learning rate follows it by itself; `micro_batch` has to fit the card:
#
# | encoder | `max_length = 512` | `max_length = 1024` | 512, `lora_rank = 16` | 1024, `lora_rank = 16` |
# | --- | --- | --- | --- | --- |
# | deberta-v3-small | `micro_batch = 16` (10.7 GB) | `micro_batch = 8` (12.1 GB) | `micro_batch = 16` (10.0 GB) | `micro_batch = 8` (11.4 GB) |
# | deberta-v3-base | `micro_batch = 8` (11.7 GB) | `micro_batch = 4` (13.1 GB) | `micro_batch = 8` (10.3 GB) | `micro_batch = 4` (11.7 GB) |
# | deberta-v3-large | `micro_batch = 2` (11.8 GB) | `micro_batch = 1` (11.9 GB) | `micro_batch = 4` (8.9 GB) | `micro_batch = 2` (9.1 GB) |
#
#   In brackets: what a T4's 15 GB must hold, counted without a card (peak of a step, copy of the gradients for the second
#   GPU, 15% for fragmentation, 1 GB for CUDA). If a card holds less, the step is split by itself.
# - **More score?** On 1,752 human judgements with a small BERT (MiniLM-L6), three seeds each, the counts of length and
#   format (`features`, on by default) saved 0.158 nats, 0.151 of them without any encoder (`features = "alone"`). Measured
#   without the counts, `reinit_layers = 1` saved 0.023, but nothing on topics that training had not seen; a teacher
#   (`soft_labels`) saved 0.016 on those; `ema` cost 0.004. For `encoder_dropout = 0`, `predict_max_length`,
#   `seeds = 2`, `head`, `pooling`, `lora_rank`, `schedule`, `label_smoothing` and `names_loss` no difference was seen. Your
#   encoder and rows may differ: `ablate_subset_vs_full` with `preset = "levers"` measures them. Further rows
#   (`extra_files`) are not measured yet. `rows = 2000` is a quick trial.
# - **Large model**: `freeze_layers = 6`, `epochs = 1`. If a run stays at the constant line, try another `seed` or
#   `reinit_layers = 1` first: large encoders sometimes fail to start.
# - **More from the same data**: `folds = [0, 1, 2, 3, 4]` averages five models and completes `oof.csv` for blending.
# - **Longer texts**: `max_length = 1024` if the truncation report shows many rows mostly cut.
# - **Scoring run**: attach this notebook's output as an input; the notebook then only predicts. `blend_submissions` does
#   the same with any number of outputs, and trains nothing by mistake.
# - **Interrupted**: run again, or attach the interrupted output and keep the configuration: it resumes.
# - **Something broke?** `docs/kaggle-errors.md` in the repository of this notebook lists the messages of Kaggle and
#   of this notebook, with what to do.
