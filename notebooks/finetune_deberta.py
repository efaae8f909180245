# %% [markdown]
# # Fine-tune DeBERTa-v3 on chatbot preferences
#
# Predict which of two chatbot answers a person prefers (a, b or tie), prove that the model learned, and write
# `submission.csv`.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (both train); or any one GPU with 15 GB |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or any DeBERTa-v3 folder |
# | Runtime | on a T4: not measured yet |
# | Score | on the leaderboard: not measured yet |

# %% [markdown]
# ## What you get
#
# - `submission.csv`, checked before it is written;
# - `oof.csv`: predictions for the validation rows, for blending;
# - `fold_*/`: the trained model. Attach this notebook's output as an input and it only predicts: that is what
#   the scoring run should do. If the run was broken off, attaching its output goes on from the last checkpoint.
#
# Watch one line: the **constant predictor**, which always answers with the training labels' class shares. A
# model that stays on it has learned nothing, whatever its accuracy says.

# %%
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from src_py.config import check_folds, configure, pick
from src_py.doctor.check import check_before_training
from src_py.doctor.verdict import judge_training
from src_py.evaluation.baselines import class_shares
from src_py.evaluation.metrics import apply_temperature, fit_temperature, score
from src_py.evaluation.report import class_table, history_table, plot_learning, plot_predictions
from src_py.kaggle.clock import Clock
from src_py.kaggle.files import write_csv
from src_py.kaggle.inputs import find_data, find_model
from src_py.kaggle.resume import begin_run, end_run, finished_folds, open_folds, run_key
from src_py.kaggle.session import choose_precision, describe_hardware, free_memory, start_session
from src_py.model.predict import predict_pairs
from src_py.model.preference import adapt, build_model
from src_py.model.saved import load_trained, save_trained
from src_py.pairs.contest import write_submission
from src_py.pairs.encode import encode_pairs, truncation_report
from src_py.pairs.load import class_names, load_pairs, prompt_key
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer
from src_py.training.processes import fit
from src_py.training.trainer import make_trainer

# %% [markdown]
# ## Configuration
#
# The only cell to edit. The defaults are for **deberta-v3-base** and all 57k rows; "What to change next" at the
# end says what to set for the small and the large model.


# %%
@dataclass
class CFG:
    # Paths
    input_dir: str = "/kaggle/input"
    model_dir: str = "base"  # a folder, or a part of the path that picks among attached ones
    output_dir: str = "."
    # Reading a pair
    style: str = "pairwise"  # read P+A and P+B and compare; or "joint": P, A and B in one sequence
    max_length: int = 512  # tokens in a sequence
    prompt_share: float = 0.3  # of the budget; what the prompt leaves goes to the answer
    head_share: float = 0.6  # of a text that is too long; the rest is kept from its end
    # Model
    pooling: str = "mean"  # or "cls"
    dropout: float = 0.1  # in the head
    fast_attention: bool = True  # same outputs, less time and memory; False: as in transformers
    freeze_embeddings: bool = True  # half of the parameters, with no gradients or Adam state
    freeze_layers: int = 0  # lowest ones
    reinit_layers: int = 0  # top ones; 1 or 2 can steady small runs
    side_bias: bool = False  # lets a pairwise model learn that people favour one side
    # Training
    epochs: float = 2.0
    lr: float = 0.0  # 0: by the encoder's size
    head_lr: float = 0.0  # 0: ten times lr, the head starts from nothing
    layer_decay: float = 0.9  # learning rate of a layer against the one above it
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    batch_size: int = 16  # pairs in an optimizer step
    micro_batch: int = 4  # pairs of full length in a forward pass: what has to fit the GPU
    warmup: float = 0.1  # share of the steps
    max_grad_norm: float = 1.0
    evals_per_epoch: int = 4
    precision: str = "fp16"  # or "bf16" where it is native, or "fp32"
    stop_on_failure: bool = True  # of a check before training, or of the watcher during it
    hours: float = 8.5  # for everything; Kaggle ends these notebooks after 9
    processes: int = 0  # 0: one for each GPU
    # Validation
    n_folds: int = 5
    folds: tuple[int, ...] = (0,)  # (0, 1, 2, 3, 4) trains five models and averages them
    temperature: bool = True  # calibrate the submission on the validation rows
    seed: int = 0


cfg = configure(CFG(), os.environ.get("RECIPE_CFG", ""))
precision = choose_precision(cfg.precision)
output = Path(cfg.output_dir)
clock = Clock(cfg.hours)
start_session(cfg.seed)
print(describe_hardware(precision))

# %% [markdown]
# ## Data
#
# Files are searched below the input folder, since Kaggle has moved its mounts before. Text cells are JSON lists of
# turns with `null`s and broken emoji in them; every repair is counted, and no row is dropped.

# %%
files = find_data(cfg.input_dir)
classes = class_names(files.train)
train, cleaning = load_pairs(files.train)
test, test_cleaning = load_pairs(files.test, labelled=False)
print(files.train, files.test, sep="\n")
display(train.head(3), cleaning.assign(**{"count in test": test_cleaning["count"]}))
clock.mark("Data")

# %% [markdown]
# ## Validation split
#
# By prompt, so that the same question never sits on both sides, and stratified by label. The constant predictor's
# log loss on the validation rows is the number to beat.

# %%
trained = finished_folds(cfg.input_dir)
labels = train["label"].to_numpy()
fold_of = assign_folds(train, cfg.n_folds, cfg.seed)
check_folds(cfg.folds, cfg.n_folds)
folds = () if trained else cfg.folds
is_valid = np.isin(fold_of, cfg.folds[:1])
display(class_table(labels[~is_valid], labels[is_valid], classes))
print(f"{len(trained)} trained folders are attached: {'predicting only' if trained else f'training folds {folds}'}")

# %% [markdown]
# ## Model
#
# Prompt and answers are cut **separately**, head and tail, so that both answers always survive; cutting the joined
# text from the right would remove answer B first. Line breaks become one token of their own. The table shows how
# much is cut.

# %%
reading = pick(cfg, "style", "max_length", "prompt_share", "head_share")
if folds:
    model_dir = find_model(cfg.input_dir, cfg.model_dir)
    run = run_key(cfg, files.train, model_dir)
    begin_run(output, cfg.input_dir, run)
    tokenizer = load_tokenizer(model_dir)
    encoded = encode_pairs(train, tokenizer, **reading, cache_dir=output / "cache")
    print(f"{model_dir}: {len(tokenizer):,} tokens")
    display(truncation_report(encoded))
todo = open_folds(output, folds)
clock.mark("Encode")

# %% [markdown]
# The encoder keeps **fp32 master weights** (the public checkpoints are stored in fp16 and cannot be trained as they
# are), and its head starts at the constant predictor. The pairwise head scores both answers with the same weights
# and compares the scores: Bradley–Terry with ties. Swapping A and B swaps its probabilities, exactly. DeBERTa's
# attention is replaced by one with the same outputs and gradients that takes a fraction of the memory.


# %%
def new_model(fold: int):
    """A pretrained encoder with a fresh head; every fold has its own seed."""
    start_session(cfg.seed + fold)
    shares = class_shares(labels[fold_of != fold], len(classes))
    options = pick(cfg, "style", "pooling", "dropout", "side_bias", "label_smoothing", "fast_attention")
    model = build_model(model_dir, tokenizer, class_shares=shares, **options)
    adapt(model, cfg.freeze_embeddings, cfg.freeze_layers, cfg.reinit_layers)
    return model


# %% [markdown]
# ## Check before training
#
# The doctor measures, on the real rows and in the precision of the training, every known reason why a model does not
# learn: shattered text, a cut answer, weights in half precision, a warmup that never arrives, and more. It changes
# nothing. A FAIL stops here, before the night is lost.


# %%
def new_trainer(fold: int):
    """A fresh model and the Trainer that will train it on all other folds."""
    return make_trainer(
        new_model(fold),
        train=encoded.select(np.flatnonzero(fold_of != fold)),
        valid=encoded.select(np.flatnonzero(fold_of == fold)),
        pad_token_id=tokenizer.pad_token_id,
        output_dir=output / "checkpoints" / f"fold_{fold}",
        precision=precision,
        seed=cfg.seed + fold,
        **pick(cfg, "epochs", "lr", "head_lr", "layer_decay", "weight_decay", "warmup", "max_grad_norm"),
        **pick(cfg, "batch_size", "micro_batch", "evals_per_epoch"),
    )


# %%
for fold in todo[:1]:
    checked = check_before_training(new_trainer(fold), tokenizer, train[fold_of != fold], train[fold_of == fold])
    display(checked)
    checked.stop_on_failure(cfg.stop_on_failure)
    free_memory()
clock.mark("Check before training")

# %% [markdown]
# ## Train
#
# Several evaluations an epoch; the checkpoint with the lowest validation **log loss** is kept: accuracy goes on
# rising while the model grows over-certain. The predicted shares give away a model that always answers the same.
# The watcher ends a run that cannot get better. Pairs of equal length go through the model together, as many as a
# fixed number of tokens holds; an optimizer step is always `batch_size` pairs. With two GPUs each computes half of
# every step. A training that would not end in time is stopped early enough to evaluate and submit.


# %%
def train_fold(fold: int, until: float):
    """The model with the best validation log loss, and its history."""
    start_session(cfg.seed + fold)
    trainer = new_trainer(fold)
    rows_after = ((fold_of == fold).sum() + len(test)) * (1 if cfg.style == "pairwise" else 2)
    fit(trainer, cfg.stop_on_failure, until, int(rows_after), cfg.processes)
    return trainer.model, history_table(trainer.state.log_history)


# %% [markdown]
# Each fold's predictions for its validation rows are kept out of fold, and a temperature is fitted to them: a
# fine-tuned model is usually too certain, and log loss charges for that. A fold is stored as it ends.

# %%
for number, fold in enumerate(todo):
    rows, folder = fold_of == fold, output / f"fold_{fold}"
    print(f"fold {fold}")
    model, history = train_fold(fold, until=clock.share(len(todo) - number))
    raw = predict_pairs(model, tokenizer, train[rows], **reading, batch_size=32, precision=precision)
    temperature = fit_temperature(raw, labels[rows]) if cfg.temperature else 1.0
    print(f"log loss {score(labels[rows], raw)['log_loss']:.4f}, temperature {temperature:.2f}")
    known = pd.DataFrame({"id": train["id"], "fold": fold, "label": labels})[rows].reset_index(drop=True)
    folder.mkdir(exist_ok=True)
    calibrated = pd.DataFrame(apply_temperature(raw, temperature), columns=list(classes))
    write_csv(folder / "validation.csv", known.join(calibrated))
    write_csv(folder / "history.csv", history.reset_index())
    settings = reading | pick(cfg, "pooling", "side_bias") | {"n_classes": len(classes), "temperature": temperature}
    save_trained(model, tokenizer, folder, settings)
    del model
    free_memory()
clock.mark("Train")

# %% [markdown]
# ## Evaluate
#
# The curve against the constant predictor's line is the answer to "does it learn?": training loss that falls while
# validation stays on the line is memorising, both on the line is not learning. The verdict compares with the
# constant predictor and with a regression that sees nothing but lengths.

# %%
validations = {fold: pd.read_csv(output / f"fold_{fold}/validation.csv", dtype={"id": str}) for fold in folds}
for fold, validation in validations.items():
    history = pd.read_csv(output / f"fold_{fold}/history.csv", index_col="step")
    rest, rows = train[fold_of != fold], train[fold_of == fold]
    verdict = judge_training(rest, rows, validation[list(classes)].to_numpy(), prompt_key(rows), history)
    print(f"fold {fold}: {verdict}")
    lines = {"constant predictor": verdict.constant, "length only": verdict.length_only}
    display(verdict.table, history.round(4), plot_learning(history, lines))

# %%
oof_path = (trained[0].parent if trained else output) / "oof.csv"
if folds:
    write_csv(oof_path, pd.concat(validations.values()))
if oof_path.is_file():
    oof = pd.read_csv(oof_path, dtype={"id": str})
    truth, probabilities = oof["label"].to_numpy(), oof[list(classes)].to_numpy()
    constant = np.tile(class_shares(labels, len(classes)), (len(oof), 1))
    display(
        pd.DataFrame({"model": score(truth, probabilities), "constant predictor": score(truth, constant)}).T.round(4)
    )
    display(plot_predictions(truth, probabilities, classes))
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The test rows are predicted by the saved folders, whether trained just now or attached, so that this run rehearses
# the scoring run. Every row is answered once and in order; the probabilities are checked before the file is written.

# %%
folders = trained or [output / f"fold_{fold}" for fold in folds]
total = np.zeros((len(test), len(classes)))
for folder in folders:
    model, settings = load_trained(folder, cfg.fast_attention)
    options = {key: settings[key] for key in reading}
    predicted = predict_pairs(model, load_tokenizer(folder), test, **options, batch_size=32, precision=precision)
    total += apply_temperature(predicted, settings["temperature"])
submission = write_submission(output / "submission.csv", test["id"], total / len(folders))
if folds:
    end_run(output, run)
clock.mark("Submission")
display(submission.head(), clock.table())

# %% [markdown]
# ## What to change next
#
# - **Small model** (deberta-v3-small, xsmall): `micro_batch=8`; the learning rate follows the size by itself.
# - **Large model**: `micro_batch=1`, `freeze_layers=6`, `epochs=1`; if a run stays on the constant line, try another
#   `seed` or `reinit_layers=1` before anything else: large encoders fail now and then.
# - **More out of the same data**: `folds=(0, 1, 2, 3, 4)` averages five models and completes `oof.csv` for blending.
# - **Longer texts**: `max_length=1024` if the truncation report shows many rows mostly cut; halve `micro_batch`.
# - **Scoring run**: attach this notebook's output as an input; training is then skipped.
# - **Broken off**: run again, or attach the output and keep the configuration: finished folds and the last checkpoint
#   are used.
