# %% [markdown]
# # DeBERTa embeddings, TF-IDF, Word2Vec and length, into LightGBM
#
# Turn each pair of answers into a few hundred columns, learn them with LightGBM, a linear model and a small network,
# see which features and which head are worth it, blend, and write `submission.csv`.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (both compute embeddings; the rest runs on the CPU) |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or any DeBERTa-v3 folder; optionally `finetune_deberta`'s output |
# | Runtime | on a T4: not measured yet |
# | Score | on the leaderboard: not measured yet |

# %% [markdown]
# ## What you get
#
# - `submission.csv`, and `oof_lightgbm.csv` with the out-of-fold predictions of the blend;
# - `heads.csv`: feature groups × heads, with the spread over folds;
# - `tabular/`: the trained models. Attach this notebook's output (and the same encoder) and it only predicts;
# - with the output of `finetune_deberta` attached, its predictions join the blend.
#
# Sparse text straight into LightGBM is slow and weak. Here linear models inside the fold turn tens of thousands of
# columns into a few **out-of-fold scores**, which trees can use at once.

# %%
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from src_py.config import check_choices, configure, pick
from src_py.errors import InputError
from src_py.evaluation.baselines import constant_log_loss
from src_py.evaluation.blend import cross_fitted, fit_weights, mix
from src_py.evaluation.metrics import apply_temperature, fit_temperature, score
from src_py.evaluation.report import class_table, plot_predictions
from src_py.kaggle.clock import Clock
from src_py.kaggle.files import WEIGHTS, folder_digest, write_csv
from src_py.kaggle.inputs import find_data, find_model
from src_py.kaggle.resume import TABULAR, begin_run, end_run, run_key
from src_py.kaggle.session import choose_precision, describe_hardware, start_session
from src_py.model.saved import find_fine_tuned, predict_fine_tuned
from src_py.pairs.contest import write_submission
from src_py.pairs.encode import encode_pairs, truncation_report
from src_py.pairs.load import class_names, load_pairs, prompt_key
from src_py.pairs.split import assign_folds
from src_py.pairs.tokenizer import load_tokenizer
from src_py.tabular.folds import (
    find_tabular,
    finished_fold,
    fit_fold,
    found_options,
    group_sets,
    load_fold,
    save_fold,
    save_options,
    save_settings,
    search_options,
    split_for_stopping,
)
from src_py.tabular.groups import GROUPS, Counted, FoldFeatures, embed_pairs
from src_py.tabular.models import HEADS
from src_py.tabular.plots import plot_boosting, plot_heads
from src_py.tabular.sides import join

# %% [markdown]
# ## Configuration
#
# The only cell to edit.


# %%
@dataclass
class CFG:
    # Paths
    input_dir: str = "/kaggle/input"
    model_dir: str = "base"  # a folder, or a part of the path that picks among attached ones
    output_dir: str = "."
    # Features
    groups: tuple[str, ...] = ("length", "tfidf", "word2vec", "embeddings")
    max_length: int = 512  # tokens in a sequence of prompt and one answer
    pooling: str = "mean"  # over tokens; or "cls", or "last4": the mean over tokens of the last four layers' mean
    precision: str = "fp16"  # of the encoder on a GPU
    # Heads
    heads: tuple[str, ...] = ("lightgbm", "logistic", "mlp")
    search_minutes: float = 2.0  # for LightGBM's settings
    hours: float = 8.5  # for everything; Kaggle ends these notebooks after 9
    # Validation
    n_folds: int = 5
    temperature: bool = True  # calibrate the blend on the out-of-fold rows
    seed: int = 0


cfg = configure(CFG(), os.environ.get("RECIPE_CFG", ""))
check_choices("groups", cfg.groups, GROUPS)
check_choices("heads", cfg.heads, HEADS)
precision = choose_precision(cfg.precision)
output = Path(cfg.output_dir)
clock = Clock(cfg.hours)
start_session(cfg.seed)
print(describe_hardware(precision))

# %% [markdown]
# ## Data
#
# Files are searched below the input folder. Text cells are JSON lists of turns with `null`s and broken emoji in them;
# every repair is counted, and no row is dropped.

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
# By prompt, so that the same question never sits on both sides, and stratified by label. Everything that sees labels or
# learns a vocabulary is fitted inside the fold.

# %%
labels = train["label"].to_numpy()
prompts = pd.factorize(prompt_key(train))[0]
fold_of = assign_folds(train, cfg.n_folds, cfg.seed)
trained = find_tabular(cfg.input_dir)
folds = () if trained else range(cfg.n_folds)
fine_tuned = find_fine_tuned(cfg.input_dir, train, classes)
display(class_table(labels[fold_of != 0], labels[fold_of == 0], classes))
print("predicting only" if trained else "training", "with" if fine_tuned else "without", "a fine-tuned DeBERTa")

# %% [markdown]
# ## Features
#
# The frozen encoder reads the prompt, P+A and P+B, cut as in `finetune_deberta`. Batches are sorted by length and hold
# equally many tokens. Finished blocks lie in `embeddings/`: a run that was broken off goes on, a second one reads them.
# Attach a broken-off run's output and keep the configuration: its embeddings and folds are taken over.

# %%
embedding = pick(cfg, "max_length", "pooling") if not trained else trained[1]["embedding"]
groups = cfg.groups if not trained else tuple(trained[1]["groups"])
model_dir = find_model(cfg.input_dir, cfg.model_dir) if "embeddings" in groups else None
if model_dir:
    tokenizer = load_tokenizer(model_dir)
    encoder = folder_digest(model_dir, WEIGHTS)
    sample = train.sample(min(2000, len(train)), random_state=cfg.seed)
    display(truncation_report(encode_pairs(sample, tokenizer, max_length=embedding["max_length"])))


def embed(table: pd.DataFrame) -> np.ndarray:
    """Vectors (rows, 3, hidden) of prompt, P+A and P+B."""
    return embed_pairs(table, model_dir, tokenizer, output / "embeddings", precision=precision, **embedding)


# %% [markdown]
# What is merely counted is counted once: lengths and formats, hashed n-grams, words, embeddings. What is *fitted* (idf,
# Word2Vec, linear scores, principal components) comes inside the folds below.

# %%
if folds:
    run = run_key(cfg, files.train, model_dir)
    begin_run(output, cfg.input_dir, run, TABULAR)
    counted = Counted.of(train, groups, embed)
clock.mark("Features")

# %% [markdown]
# ## Check before training
#
# With shuffled labels there is nothing to learn. A pipeline that beats the constant predictor all the same has a leak:
# it has seen the answers it is asked for.

# %%
if folds:
    rows = np.random.default_rng(cfg.seed).permutation(len(train))[:3000]
    shuffled = np.random.default_rng(cfg.seed).permutation(labels[rows])
    checked = fit_fold(counted.take(rows), shuffled, prompts[rows], fold_of[rows], 0, ("logistic",), cfg.seed)
    held = fold_of[rows] == 0
    constant = constant_log_loss(shuffled[~held], shuffled[held], len(classes))
    losses = {name: score(shuffled[held], p)["log_loss"] for (name, _), p in checked.predictions.items()}
    display(pd.DataFrame({"on shuffled labels": losses}).assign(**{"constant predictor": constant}).round(4))
    leaks = [name for name, loss in losses.items() if loss < constant - 0.02]
    print("LEAK in " + ", ".join(leaks) if leaks else "no leak: nothing is learned where there is nothing to learn")
clock.mark("Check before training")

# %% [markdown]
# ## Boost
#
# A short seeded search for LightGBM's settings, on training rows of the first fold only. Rows are doubled by swapping A
# and B with their labels, and predictions averaged over the swap: swapping the answers swaps the probabilities.

# %%
kept = output / "tabular"
options = found_options(kept)
if folds and options is None and "lightgbm" in cfg.heads and cfg.search_minutes > 0:
    rest = np.flatnonzero(fold_of != 0)
    _, own = FoldFeatures.fit(counted.take(rest), labels[rest], prompts[rest], cfg.seed)
    fit, stop = split_for_stopping({"all": join(list(own.values()))}, labels[rest], prompts[rest], cfg.seed)
    fit, stop = (part._replace(sides=part.sides["all"]) for part in (fit, stop))
    options, trials = search_options(fit, stop, len(classes), cfg.seed, cfg.search_minutes)
    save_options(kept, options)
    display(pd.DataFrame(trials).sort_values("log loss").head(5).round(4))

# %% [markdown]
# **Which head makes the most of which features?** Every head on every group alone, and on all of them. LightGBM stops
# early on a fifth of the training prompts, never on the rows it is judged by, and is then fitted on all of them. A fold is
# stored as it ends; folds for which there is no time are left out.

# %%
sets = group_sets(groups)
oof = {(name, head): np.full((len(train), len(classes)), np.nan) for name in sets for head in cfg.heads}
results = {}
later = 2 * clock.spent("Features") * len(test) / len(train)  # the test rows' features, with something to spare
for fold in folds:
    begun = time.time()
    results[fold] = finished_fold(kept, fold)
    if results[fold] is None:
        results[fold] = fit_fold(counted, labels, prompts, fold_of, fold, cfg.heads, cfg.seed, options)
        save_fold(kept, fold, results[fold])
    for key, predicted in results[fold].predictions.items():
        oof[key][fold_of == fold] = predicted
    losses = {head: score(labels[fold_of == fold], oof["all", head][fold_of == fold])["log_loss"] for head in cfg.heads}
    print(f"fold {fold}:", ", ".join(f"{head} {loss:.4f}" for head, loss in losses.items()))
    if len(results) > 1 and not clock.room_for(later + 1.5 * (time.time() - begun)):
        print(f"{len(results)} of {len(folds)} folds: there is no time for another.")
        break
folds = tuple(results)
clock.mark("Boost")

# %% [markdown]
# ## Evaluate
#
# Out-of-fold log loss, and its standard deviation over folds in brackets: differences below the spread are none. The
# constant predictor's line is the number to beat.

# %%
if folds:
    constant = constant_log_loss(labels, labels, len(classes))
    by_fold = {
        key: [score(labels[fold_of == fold], p[fold_of == fold])["log_loss"] for fold in folds]
        for key, p in oof.items()
    }
    means, deviations = (
        pd.Series({key: measure(losses) for key, losses in by_fold.items()}).unstack().loc[list(sets), list(cfg.heads)]
        for measure in (np.mean, lambda losses: np.std(losses, ddof=1))
    )
    write_csv(output / "heads.csv", means.rename_axis("features").reset_index())
    display(means.round(4).astype(str) + " (" + deviations.round(4).astype(str) + ")")
    display(plot_heads(means, deviations, constant))

# %%
if folds and "lightgbm" in cfg.heads:
    boosters = {fold: result.heads["all", "lightgbm"] for fold, result in results.items()}
    display(plot_boosting(boosters, results[0].features.transform(counted.take(np.arange(1)))))

# %% [markdown]
# The blend may use every head on every set of groups. Its weights are fitted out of fold; its score is read with
# weights from the *other* folds, so that fitting them does not flatter. A fine-tuned model takes part where its
# out-of-fold predictions are known.

# %%
if folds:
    members = {f"{name}/{head}": p for (name, head), p in oof.items()}
    if fine_tuned:
        members["fine-tuned"] = fine_tuned.oof
    known = np.all([np.isfinite(p).all(1) for p in members.values()], axis=0)
    parts = [p[known] for p in members.values()]
    weights = fit_weights(parts, labels[known])
    blended = cross_fitted(parts, labels[known], fold_of[known])
    temperature = fit_temperature(blended, labels[known]) if cfg.temperature else 1.0
    scores = {name: score(labels[known], p[known]) for name, p in members.items() if weights[list(members).index(name)]}
    scores["blend"] = score(labels[known], apply_temperature(blended, temperature))
    display(pd.DataFrame(scores).T.assign(weight=pd.Series(dict(zip(members, weights)))).round(4))
    print(f"constant predictor {constant:.4f}; temperature {temperature:.2f}")

# %%
if folds:
    final = apply_temperature(blended, temperature)
    saved = pd.DataFrame({"id": train["id"], "fold": fold_of, "label": labels})[known].reset_index(drop=True)
    write_csv(output / "oof_lightgbm.csv", pd.concat([saved, pd.DataFrame(final, columns=list(classes))], axis=1))
    display(plot_predictions(labels[known], final, classes))
    told = {"groups": list(groups), "embedding": embedding, "folds": list(folds), "temperature": temperature}
    used = {name: weight for name, weight in zip(members, weights.tolist()) if weight > 0}
    told |= {"weights": used, "encoder": encoder if model_dir else ""}
    save_settings(kept, told)
    end_run(output, run, TABULAR)
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The test rows are predicted by the saved models, whether fitted just now or attached, so that this run rehearses the
# scoring run. Every row is answered once and in order.

# %%
folder, told = trained or find_tabular(output)
if told["encoder"] and told["encoder"] != encoder:
    raise InputError(f"{folder} was trained with another encoder than {model_dir}; attach the same one.")
asked = Counted.of(test, groups, embed)
total = dict.fromkeys(told["weights"], 0.0)
for fold in told["folds"]:
    fitted = load_fold(folder, fold)
    sides = fitted.features.transform(asked)
    for (name, head), one in fitted.heads.items():
        if (member := f"{name}/{head}") in total:
            chosen = join([sides[group] for group in group_sets(groups)[name]])
            total[member] = total[member] + one.predict(chosen) / len(told["folds"])

# %%
if "fine-tuned" in total:
    if not fine_tuned:
        raise InputError("The blend was fitted with a fine-tuned DeBERTa; attach the output of finetune_deberta again.")
    total["fine-tuned"] = predict_fine_tuned(fine_tuned.folders, test, precision)
mixed = mix(list(total.values()), np.array([told["weights"][name] for name in total]))
submission = write_submission(output / "submission.csv", test["id"], apply_temperature(mixed, told["temperature"]))
clock.mark("Submission")
display(submission.head(), clock.table())

# %% [markdown]
# ## What to change next
#
# - **A better encoder**: a larger DeBERTa-v3, or `pooling="last4"`; the table shows what it brings.
# - **The fine-tuned model in the blend**: run `finetune_deberta` with all five folds and attach its output.
# - **Quicker**: leave `word2vec` out of `groups`, `max_length=256`, `search_minutes=0`.
# - **Scoring run**: attach this notebook's output and the same encoder; training is then skipped.
# - **Broken off**: run again, or attach the output and keep the configuration: embeddings and folds that are done stay.
