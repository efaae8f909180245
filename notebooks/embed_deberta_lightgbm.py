# %% [markdown]
# # DeBERTa embeddings, TF-IDF, Word2Vec and length, into LightGBM
#
# Turn each pair of answers into a few hundred columns, learn them with LightGBM, a linear model and a small network,
# see which features and which model are worth it, blend, and write `submission.csv`.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (both compute embeddings; the rest runs on the CPU) |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or another DeBERTa-v3 folder in the Transformers format; optionally the output of `finetune_deberta` |
# | Runtime | GPU T4 x2: 8 to 15 minutes for the embeddings, an estimate from counted work; the rest: not measured yet |
# | Score | on the leaderboard: not measured yet |
# | Version | 0.1.0 |

# %% [markdown]
# ## What you get
#
# - `submission.csv`, checked before it is written;
# - `oof_lightgbm.csv`: out-of-fold predictions of the blend;
# - `models.csv`: the log loss of every model on every group of features;
# - `tabular/`: the trained models. Attach this notebook's output (and the same encoder) to a new run, and that run only
#   predicts;
# - with the output of `finetune_deberta` attached, its predictions join the blend.
#
# Sparse text straight into LightGBM is slow and weak. Here linear models inside the fold turn tens of thousands of
# columns into a few **out-of-fold scores**, which trees can use at once.

# %% [markdown]
# ## Configuration
#
# This is the only cell you need to edit. The defaults suit **deberta-v3-base** and all 57k rows.

# %%
class CFG:
    # Paths
    input_dir = "/kaggle/input"
    data_dir = ""  # the contest: a folder or a part of its path; needed when several are attached
    model_dir = ""  # the encoder: a folder or a part of its path, such as "base"; needed when several are attached
    output_dir = "."
    # What to do
    mode = "auto"  # "train"; "predict" with an attached finished run; "auto" predicts if one is attached
    resume = "auto"  # use finished embeddings and folds of the same run; "never" fits all folds again
    # Rows
    rows = 0  # such as 2000 for a quick trial, whose files are marked as such; 0: all
    extra_files = []  # further labelled files, such as "lmsys-33k.csv"
    # Features
    groups = ["length", "tfidf", "word2vec", "embeddings"]
    max_length = 512  # tokens in a sequence of prompt and one answer
    pooling = "mean"  # of the tokens' vectors; "cls", or "last4": the mean of the last four layers
    # Models
    models = ["lightgbm", "logistic", "mlp"]
    search_minutes = 2.0  # for LightGBM's settings; 0 uses the defaults
    # Machine
    precision = "fp16"  # of the encoder; "bf16" where the GPU supports it natively, or "fp32"
    hours = 8.5  # for everything; Kaggle ends code-competition notebooks after 9
    stop_on_failure = True  # of the check before training
    seed = 0
    # Validation
    n_folds = 5  # each is predicted by models of the others
    split = "prompt"  # "topic" or "length" hold out whole topics or lengths: how the models do on unlike rows
    temperature = True  # calibrate the blend on the out-of-fold rows


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
import time
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from src_py.config import check_config
from src_py.evaluation import (
    Calibration, class_shares, class_table, constant_log_loss, cross_fitted, fit_calibration, fit_weights, group_table,
    as_texts, judge_predictions, plot_groups, plot_predictions, score,
)  # fmt: skip
from src_py.kaggle import (
    Clock, Paths, RunFiles, RunSettings, begin_run, choose_precision, describe_hardware, end_run,
    Training, find_extra, find_finished, identify, say, start_session, write_csv,
)  # fmt: skip
from src_py.model import check_max_length, check_precision, find_encoder, find_fine_tuned, predict_saved
from src_py.pairs import (
    CrossValidation, ExtraFiles, add_extra, assign_folds, audit_extra, calibration_groups, debug_line, debug_rows,
    encode_pairs, excerpt, find_contest, load_extra, load_pairs, load_tokenizer, prompt_key, file_name, truncation_report,
    write_submission,
)  # fmt: skip
from src_py.tabular import (
    FINE_TUNED, OOF, RECIPE, BoostSettings, Counted, FeatureSettings, FoldResult, SavedBlend, blend_members, check_blend,
    check_folds, choose_fine_tuned, embed_pairs, encoder_digest, finished_fold, fit_fold, forecast_features, group_sets,
    leak_table, plot_boosting, plot_models, predict_blend, read_blend, save_blend, save_fold, save_options, saved_options,
    search_options, stop_on_leak, weight_folds,
)  # fmt: skip

# %%
kinds = (Paths, RunSettings, ExtraFiles, FeatureSettings, BoostSettings, Training, CrossValidation)
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
output, clock = Path(cfg.output_dir), Clock(cfg.hours)
files = find_contest(cfg.input_dir, cfg.data_dir)
contest, classes = files.contest, files.contest.classes
finished = find_finished(cfg.input_dir, RECIPE, cfg.mode, cfg.values(), marker="tabular/tabular.json")
debug_size = 0 if finished else cfg.rows  # a finished run predicts as it was trained
blend = read_blend(finished / "tabular") if finished else None
features = blend.features if blend else cfg.part(FeatureSettings)
model_dir = find_encoder(cfg.input_dir, cfg.model_dir) if "embeddings" in features.groups else None
if blend:
    check_blend(finished / "tabular", blend, classes, model_dir)
precision = choose_precision(cfg.precision)
if model_dir:
    check_max_length(model_dir, features.max_length)
    check_precision(model_dir, precision)
start_session(cfg.seed)
print(describe_hardware(precision), files.train, files.test, model_dir or "no encoder", sep="\n")

# %% [markdown]
# ## Data
#
# Text cells are JSON lists of turns with `null`s and broken emoji in them. The table counts every repair; no row is
# dropped.

# %%
train, cleaning = load_pairs(files.train, contest)
test, test_cleaning = load_pairs(files.test, contest, labelled=False, sample=files.sample)
display(excerpt(train), cleaning.assign(**{"count in test": test_cleaning["count"]}))
debug = debug_line(debug_size, len(train))
train, test = debug_rows(train, test, debug_size, cfg.seed)
if debug_size:
    say(debug)
clock.mark("Data")

# %% [markdown]
# ## Validation split
#
# The split keeps each prompt in one fold and the class shares alike. Everything that sees labels or learns a
# vocabulary is fitted inside the fold. The first row shows the labels outside the first fold, the second those inside:
# the shares should agree.

# %%
fold_of = assign_folds(train, cfg.n_folds, cfg.seed, cfg.split)
folds = () if finished else tuple(range(cfg.n_folds))
display(class_table(train["label"][fold_of != 0], train["label"][fold_of == 0], classes))

# %% [markdown]
# **Extra rows** (`extra_files`) are compared with the contest's first: copies are left out, and so are pairs whose prompt
# is among the contest's. Every fold learns from them, none is judged by them. In the table, look at copies, class shares
# and lengths: rows of another kind than the contest's can make the models worse.

# %%
if folds and cfg.extra_files:
    paths = {name: find_extra(cfg.input_dir, name, "extra_files") for name in cfg.extra_files}
    extra, audit = audit_extra(load_extra(paths, contest), train, fold_of == 0, test, classes, cfg.seed)
    display(audit)
    train, _ = add_extra(train, extra, without=train, rows=debug_size, seed=cfg.seed)
    fold_of = np.append(fold_of, np.full(len(train) - len(fold_of), -1))  # of no fold: never held out
labels, own = train["label"].to_numpy(), fold_of >= 0
prompts = pd.factorize(prompt_key(train))[0]
check_folds(labels, prompts, fold_of)

# %% [markdown]
# An attached fine-tuned DeBERTa joins the blend if its out-of-fold predictions are known for enough rows; one fold is
# enough. Its split may differ from this one: each prediction still comes from a model that has not seen the prompt. It
# predicts one test row now, so that a damaged folder stops the notebook here and not after the training.

# %%
fine_tuned = choose_fine_tuned(find_fine_tuned(cfg.input_dir, train, classes, debug_size), prompts, blend)
if fine_tuned:
    predict_saved(fine_tuned.folders, test.head(1), classes, precision)

# %% [markdown]
# ## Features
#
# The frozen encoder reads the prompt, P+A and P+B, cut as in `finetune_deberta`. In the table, "rows mostly cut" lose
# more than half of that text: raise `max_length` if it is large.

# %%
if model_dir:
    tokenizer = load_tokenizer(model_dir)
    sample = train.sample(min(2000, len(train)), random_state=cfg.seed)
    display(truncation_report(encode_pairs(sample, tokenizer, features.reading)))


def embed(table: pd.DataFrame) -> np.ndarray:
    """Vectors (rows, 3, hidden) of prompt, P+A and P+B."""
    return embed_pairs(table, model_dir, tokenizer, output / "embeddings", features, precision)


# %% [markdown]
# A short seeded search finds LightGBM's settings on training rows of the first fold only. Then a fold is fitted:
# every model on every group alone, and on all of them. LightGBM stops early on a fifth of the fold's training prompts,
# never on the rows it is judged by, and is then fitted on all of them. Rows are doubled by swapping A and B with their
# labels, and predictions averaged over the swap: swapping the answers swaps the probabilities.


# %%
def search_settings() -> None:
    """Find LightGBM's settings and store them; the table shows the best trials."""
    rest = np.flatnonzero(fold_of != 0)
    rows = (counted.take(rest), labels[rest], prompts[rest])
    options, trials = search_options(*rows, len(classes), cfg.seed, cfg.search_minutes)
    save_options(output / "tabular", options)
    display(pd.DataFrame(trials).sort_values("log loss").head(5).round(4))


def train_fold(fold: int) -> FoldResult:
    """Fit features and models on all other folds, predict this one, and store both."""
    options = saved_options(output / "tabular")
    rows = (counted, labels, prompts, fold_of)
    result = fit_fold(*rows, fold, cfg.models, len(classes), cfg.seed, options)
    save_fold(output / "tabular", fold, result)
    return result


# %% [markdown]
# Finished folds of the same run are used again: the same settings, rows, encoder and code, in this folder or in an
# attached output. If something changed, the line below names it and all folds are fitted again. Embeddings are used
# again whenever texts, encoder and the code that made them are the same.

# %%
result_files = tuple(file_name(name, debug_size) for name in (OOF, "models.csv", "submission.csv"))
run_files = RunFiles(RECIPE, ("tabular",), result_files, shared=("embeddings",))
if folds:
    run = identify(cfg, [train, labels, prompts, fold_of], model_dir, [embed, search_settings, train_fold])
    begin_run(output, cfg.input_dir, run, run_files, cfg.values(), cfg.resume)

# %% [markdown]
# **Will it finish in time?** The notebook measures the encoder and the other features on real rows for about ten
# seconds. In the table, compare the sums of the last two rows with their limits: `hours`, and the time of the scoring
# run. Fitting the folds takes more on top; stored embeddings take none. A sentence in bold says what does not fit and
# which field to change; the notebook continues in any case.

# %%
forecast = None
if folds:
    encoder = (model_dir, tokenizer, precision) if model_dir else ()
    forecast = forecast_features(train, len(test), features, clock, *encoder)
    display(forecast)
clock.mark("Forecast")

# %% [markdown]
# What is merely counted is counted once: lengths and formats, hashed n-grams, words, embeddings. What is *fitted* (idf,
# Word2Vec, linear scores, principal components) comes inside the folds.

# %%
if folds:
    counted = Counted.of(train, features.groups, embed)
clock.mark("Features")

# %% [markdown]
# ## Check before training
#
# With shuffled labels there is nothing to learn. A pipeline that predicts held-out rows all the same has a leak: it
# has seen the answers it is asked for. In the table, the log loss on shuffled labels should be near the one by chance,
# which is measured by putting the same labels in random orders; a leak stops the notebook here.

# %%
if folds:
    draw = np.random.default_rng(cfg.seed)
    rows = draw.permutation(len(train))[:3000]
    shuffled = draw.permutation(labels[rows])
    part = (counted.take(rows), shuffled, prompts[rows], fold_of[rows])
    checked = fit_fold(*part, 0, ("logistic",), len(classes), cfg.seed)
    leaks = leak_table(checked.predictions, shuffled[fold_of[rows] == 0], cfg.seed)
    display(leaks.round(4))
    stop_on_leak(leaks, cfg.stop_on_failure)
clock.mark("Check before training")

# %% [markdown]
# ## Boost
#
# **Which model makes the most of which features?** A fold is stored as it ends; folds for which there is no time are
# left out. Each line shows the log loss on all features together.

# %%
if folds and "lightgbm" in cfg.models and cfg.search_minutes > 0 and saved_options(output / "tabular") is None:
    search_settings()

# %%
results = {}
after = 2 * clock.spent("Features") * len(test) / len(train)  # seconds for the test rows' features, with a margin
for fold in folds:
    begun = time.time()
    results[fold] = finished_fold(output / "tabular", fold) or train_fold(fold)
    truth = labels[fold_of == fold]
    losses = {model: score(truth, results[fold].predictions["all", model])["log_loss"] for model in cfg.models}
    print(f"fold {fold}:", ", ".join(f"{model} {loss:.4f}" for model, loss in losses.items()))
    if len(results) > 1 and fold != folds[-1] and not clock.room_for(after + 1.5 * (time.time() - begun)):
        print(f"{len(results)} of {len(folds)} folds: there is no time for another.")
        break
folds = tuple(results)
clock.mark("Boost")

# %% [markdown]
# ## Evaluate
#
# Does it learn? Green in the banner means that the blend is better than the constant predictor and than length alone,
# amber that it is little more than length or that the rows are too few to tell, red that it has learned nothing; `gain`
# is by how much its log loss is lower than the constant predictor's.
#
# The blend may use every model on every set of groups. Its weights are fitted out of fold; its score is read with
# weights from *other* rows, so that fitting them does not flatter. In the table, the blend should be better than each
# of its members; all lines are measured on the same rows.

# %%
if folds:
    oof = {key: np.full((len(train), len(classes)), np.nan) for key in results[folds[0]].predictions}
    for fold, result in results.items():
        for key, predicted in result.predictions.items():
            oof[key][fold_of == fold] = predicted
    members, known = blend_members(oof, fine_tuned, labels, prompts)
    parts, truth = [p[known] for p in members.values()], labels[known]
    weights = dict(zip(members, fit_weights(parts, truth).tolist()))
    blended = cross_fitted(parts, truth, weight_folds(members, known, labels, prompts, fold_of, cfg.seed))
    groups = calibration_groups(train[known], cfg.seed)
    chosen = fit_calibration(blended, truth, groups, prompts[known]) if cfg.temperature else None
    calibration = chosen.calibration if chosen else Calibration()
    final = calibration.apply(blended)

# %%
if folds:
    if debug_size:
        say(debug)
    shares = class_shares(labels[own], len(classes))
    constant = constant_log_loss(labels[own], labels[own], len(classes))
    lengths = [oof["length", model][known] for model in cfg.models if "length" in features.groups]
    best = min(lengths, key=lambda predicted: score(truth, predicted)["log_loss"], default=None)
    if best is not None and chosen:  # as the blend: else calibration alone would make it better than length
        best = fit_calibration(best, truth, groups, prompts[known]).calibration.apply(best)
    banner = judge_predictions("blend, out of fold", truth, final, shares, prompts[known], best)
    display(banner)
    say(chosen.reason if chosen else "Not calibrated.")

# %%
if folds:
    weights = {name: weight for name, weight in weights.items() if weight > 0}
    scores = {name: score(truth, members[name][known]) for name in weights} | {"blend": score(truth, final)}
    display(as_texts(pd.DataFrame(scores).T.assign(weight=pd.Series(weights))))
    print(f"{known.sum():,} rows; constant predictor {constant:.4f}")

# %% [markdown]
# **Which features, which model?** Out-of-fold log loss, and its standard deviation over folds in brackets: treat
# differences smaller than that as noise. In the picture, bars above the line are better than the constant predictor.

# %%
sets = list(group_sets(features.groups))
if folds:
    by_fold = pd.DataFrame(
        {
            fold: {key: score(labels[fold_of == fold], p)["log_loss"] for key, p in result.predictions.items()}
            for fold, result in results.items()
        }
    )
    means, deviations = (
        part.unstack().loc[sets, list(cfg.models)] for part in (by_fold.mean(axis=1), by_fold.std(axis=1))
    )
    write_csv(output / result_files[1], means.rename_axis("features").reset_index())
    display(means.map("{:.4f}".format) + " (" + deviations.map("{:.4f}".format) + ")")
    display(plot_models(means, deviations, constant))

# %% [markdown]
# Left, the curve of each fold should fall and then flatten; the dot marks where it stops. Right, groups with a larger share
# are used more by the trees, which does not say that the score needs them: compare the table.

# %%
if folds and "lightgbm" in cfg.models:
    boosters = {fold: result.models["all", "lightgbm"] for fold, result in results.items()}
    display(plot_boosting(boosters, results[folds[0]].features.transform(counted.take(np.arange(1)))))

# %% [markdown]
# In the confusion matrix, the diagonal holds the correct predictions; in the calibration plot, a curve flatter
# than the diagonal means that the blend is overconfident.

# %%
if folds:
    rows = pd.DataFrame({"id": train["id"], "fold": fold_of, "label": labels})[known].reset_index(drop=True)
    write_csv(output / result_files[0], rows.join(pd.DataFrame(final, columns=list(classes))))
    display(plot_predictions(truth, final, classes))
    member = fine_tuned.digest if FINE_TUNED in weights else ""
    encoder = encoder_digest(model_dir)
    options = (calibration.temperature, encoder, member, calibration.tie_shift)
    save_blend(output / "tabular", SavedBlend(classes, features, cfg.models, folds, weights, *options))

# %% [markdown]
# **Where is it over-certain?** Each line of the table is a group of rows, the worst ones first. Where `calibrated -
# constant` is above 0 by more than its `+-` (half of the 95 % interval), the blend is sure of itself without reason; test
# rows of that kind will cost you.

# %%
if folds:
    table = group_table(truth, blended, final, shares, groups, prompts[known])
    display(table.round(3), plot_groups(table))
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The saved models predict the test rows, whether they were fitted just now or attached, so this run rehearses the
# scoring run. Every row is answered once and in order; the probabilities are checked before the file is written.

# %%
folder, tuned = (finished or output) / "tabular", None
if FINE_TUNED in read_blend(folder).weights:
    tuned = predict_saved(fine_tuned.folders, test, classes, precision)
predicted = predict_blend(folder, test, embed, tuned)
submission = write_submission(output / result_files[-1], test["id"], predicted, contest)
if folds:
    end_run(output, run_files)
if debug_size:
    say(debug)
clock.mark("Submission")
display(submission.head(), clock.table())

# %% [markdown]
# Forecast and truth, in minutes. A ratio above 1 means that the features took longer than was forecast; stored
# embeddings make it smaller. The banner is that of *Evaluate* again.

# %%
if forecast:
    display(forecast.against(clock).round(2))
if folds:
    display(banner)

# %% [markdown]
# ## What to change next
#
# - **A better encoder**: a larger DeBERTa-v3, or `pooling = "last4"`; the table of models shows what it brings.
# - **The fine-tuned model in the blend**: run `finetune_deberta`, best with all five folds, and attach its output.
# - **Faster**: leave `word2vec` out of `groups`, `max_length = 256`, `search_minutes = 0`.
# - **Scoring run**: attach this notebook's output and the same encoder; the notebook then only predicts.
# - **Several runs in one submission**: attach their outputs to `blend_submissions`.
# - **Interrupted**: run again, or attach the interrupted output and keep the configuration: it resumes.
# - **Something broke?** `docs/kaggle-errors.md` in the repository of this notebook lists the messages of Kaggle and
#   of this notebook, with what to do.
