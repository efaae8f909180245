# %% [markdown]
# # Blend everything you have trained, and predict the hidden rows
#
# Take the outputs of the other recipes, and other people's predictions, find out what each is worth, weigh them, predict
# the test rows with their saved models, and write `submission.csv`.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (both predict) |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; outputs of `finetune_deberta` and `embed_deberta_lightgbm`, any number of each; for the latter its encoder, such as model `petrcher/microsoftdeberta-v3-base/transformers/default/1` |
# | Runtime | the members' predictions, which the notebook forecasts, and about a minute; not measured yet |
# | Score | on the leaderboard: not measured yet |

# %% [markdown]
# ## What you get
#
# - `submission.csv`, checked before it is written;
# - `members.csv`: what each member is, and what it is worth;
# - `oof_blend.csv`: out-of-fold predictions of the blend, with weights from other rows.
#
# Many public blends average files that were made for the visible test rows, which says nothing about the hidden ones.
# This notebook predicts whatever test rows it finds, so it is also the notebook to submit: with a single member it only
# predicts.

# %% [markdown]
# ## Configuration
#
# This is the only cell you need to edit. There is nothing to train, so every run does the same.

# %%
class CFG:
    # Paths
    input_dir = "/kaggle/input"
    data_dir = ""  # the contest: a folder or a part of its path; needed when several are attached
    output_dir = "."
    # Members
    exclude = []  # names of members, from the table below, to leave out
    # Blend
    calibrate = True  # the blend, on the out-of-fold rows
    stacker = True  # try a regression on the blend's logits and the answers' lengths; used if it is better
    # Machine
    precision = "fp16"  # "bf16" where the GPU supports it natively, or "fp32"
    hours = 8.5  # for everything; Kaggle ends code-competition notebooks after 9
    seed = 0


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
from pathlib import Path

import pandas as pd
from IPython.display import display

from src_py.blend import (
    BlendSettings, answer_lengths, answering, choose_blend, common_rows, find_members, fit_into, forecast_line, measure_members,
    member_table,
    plot_calibration, plot_correlation, plot_worth, predict_members, save_record, say_left_out, score_table,
)  # fmt: skip
from src_py.config import check_config
from src_py.evaluation import class_shares, group_table, plot_groups, plot_predictions
from src_py.kaggle import (
    HIDDEN_ROWS, Clock, DataPaths, Machine, choose_precision, describe_hardware, scratch_folder, start_session,
    write_csv,
)  # fmt: skip
from src_py.pairs import calibration_groups, find_contest, load_pairs, prompt_key, write_submission

# %%
kinds = (DataPaths, BlendSettings, Machine)
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
output, clock = Path(cfg.output_dir), Clock(cfg.hours)
files = find_contest(cfg.input_dir, cfg.data_dir)
contest, classes = files.contest, files.contest.classes
precision = choose_precision(cfg.precision)
start_session(cfg.seed)
print(describe_hardware(precision), files.train, files.test, sep="\n")

# %% [markdown]
# ## Data
#
# Text cells are JSON lists of turns with `null`s and broken emoji in them. The table counts every repair; no row is
# dropped. The training rows are needed for their labels: the members were trained elsewhere.

# %%
train, cleaning = load_pairs(files.train, contest)
test, test_cleaning = load_pairs(files.test, contest, labelled=False, sample=files.sample)
display(train.head(3), cleaning.assign(**{"count in test": test_cleaning["count"]}))
labels, prompts = train["label"].to_numpy(), pd.factorize(prompt_key(train))[0]
clock.mark("Data")

# %% [markdown]
# ## Members
#
# A member is the output of a run of `finetune_deberta` or `embed_deberta_lightgbm`, or a **foreign** folder: a csv file
# `oof.csv` with out-of-fold predictions of the training rows, and `submission.csv` with predictions of the test rows
# (other names go into a `member.json` beside them). Every prediction of a training row must come from models that have
# not seen its prompt; where a file has the folds, this is checked. A foreign member only has predictions for the test
# rows of its file: in the scoring run the test rows are others, so it is left out, and the weights are fitted without it.

# %%
found = find_members(cfg.input_dir, train, prompts, contest, cfg.exclude)
able, cannot_answer = answering(found.members, test)
say_left_out([*found.left_out, *cannot_answer])
(members, too_few), known = common_rows(able, prompts)
say_left_out(too_few)
print(f"{known.sum():,} of {len(train):,} training rows are known to all of: {', '.join(m.name for m in members)}")

# %% [markdown]
# **Will it finish in time?** About three seconds are spent on each member to measure its models on training rows. In the
# table, `log loss` is out of fold, `+-` half of its 95 % interval, and the last column what the scoring run will take.

# %%
seconds, broken = measure_members(members, train, HIDDEN_ROWS, precision)
say_left_out(broken)
members = [member for member in members if member.name in seconds]
minutes = {name: value / 60 for name, value in seconds.items()}
display(member_table(members, labels, prompts, minutes, HIDDEN_ROWS).round(4))
print(forecast_line(members, seconds, cfg.hours))
clock.mark("Members")

# %% [markdown]
# ## Weights
#
# The weights are fitted on the rows that all members know, out of fold: none below zero, summing to one, pulled towards
# equal weights. Of means of probabilities and means of logits the better one is taken. A member stays only if leaving
# it out costs more than noise; every such choice is judged on prompts that had no part in it. In the table, `cost of
# leaving out` is what a member adds to the others.


# %%
def blend_of(names: list[str]):
    """Weights for these members, fitted on the rows that all members know."""
    parts = {member.name: member.oof[known] for member in members if member.name in names}
    groups = calibration_groups(train[known], cfg.seed)
    several = len(parts) > 1  # a single member was calibrated by its own run: it only predicts
    lengths = answer_lengths(train[known]) if cfg.stacker and several else None
    rows = (labels[known], prompts[known], groups, cfg.seed)
    return choose_blend(parts, *rows, lengths=lengths, calibrate=cfg.calibrate and several)


# %%
chosen = blend_of([member.name for member in members])
display(chosen.table.round(4))
print(chosen.reason)

# %% [markdown]
# If the members do not fit the time, the ones that bring least for their minutes are left out first, and the weights
# are fitted again without them.

# %%
worth = chosen.table["cost of leaving out"].fillna(0.0).to_dict()
needed = {name: seconds[name] for name in chosen.blend.weights}
for rows, limit in ((HIDDEN_ROWS, 3600 * cfg.hours), (len(test), clock.left)):
    share = rows / HIDDEN_ROWS
    fits = fit_into({name: value * share for name, value in needed.items()}, worth, limit)
    for name in sorted(set(needed) - set(fits)):
        print(f"With {rows:,} test rows there is no time for {name}: it is left out.")
if set(fits) < set(needed):
    chosen = blend_of(fits)
clock.mark("Weights")

# %% [markdown]
# ## Evaluate
#
# Weights look better on the rows that they were fitted on than on others. The first table has both: `blend` is judged on
# prompts that had no part in its weights, `weights read on their own rows` is the habit. The difference is what that
# habit flatters by. In the left picture, members with a low correlation have different errors, which is what a blend
# needs; in the right one, a bar is what a member adds to the others.

# %%
truth, shares = labels[known], class_shares(labels, len(classes))
parts = {member.name: member.oof[known] for member in members}
scores = score_table(parts, chosen, truth, prompts[known], shares)
display(scores.round(4))
if len(parts) > 1:
    display(plot_correlation(parts, truth), plot_worth(chosen, parts, truth, prompts[known]))

# %%
worth = scores.join(chosen.table[["weight", "cost of leaving out", "cost +-"]]).rename_axis("member")
write_csv(output / "members.csv", worth.reset_index())
rows = train.loc[known, ["id", "label"]].reset_index(drop=True)
write_csv(output / "oof_blend.csv", rows.join(pd.DataFrame(chosen.cross_fitted, columns=list(classes))))
display(plot_calibration(chosen, truth, classes))

# %% [markdown]
# In the confusion matrix, the diagonal holds the correct predictions. Below it: **where is the blend over-certain?** Each
# line of the table is a group of rows, the worst ones first. Where `calibrated - constant` is above 0 by more than its
# `+-` (half of the 95 % interval), it is sure of itself without reason; test rows of that kind will cost you.

# %%
groups = calibration_groups(train[known], cfg.seed)
table = group_table(truth, chosen.uncalibrated, chosen.cross_fitted, shares, groups, prompts[known])
display(plot_predictions(truth, chosen.cross_fitted, classes), table.round(3), plot_groups(table))
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The members' saved models predict the test rows, one member after another, on both GPUs; members that read alike share
# the tokenised texts. In the scoring run a member that fails is left out, and the weights are fitted again without it.

# %%
order = sorted(chosen.blend.weights, key=lambda name: -chosen.blend.weights[name])
used = [member for name in order for member in members if member.name == name]
now = {name: value * len(test) / HIDDEN_ROWS for name, value in seconds.items()}
predicted, failed = predict_members(used, test, classes, precision, scratch_folder(output), now, clock)
say_left_out(failed)
if failed:
    chosen = blend_of(list(predicted))
final = chosen.blend.apply(predicted, answer_lengths(test))
submission = write_submission(output / "submission.csv", test["id"], final, contest)
save_record(output, chosen, {member.name: member.digest for member in members}, list(predicted))
clock.mark("Submission")
display(submission.head(), clock.table())

# %% [markdown]
# ## What to change next
#
# - **Submit**: this notebook is the one to submit; the scoring run predicts the hidden rows with the same members.
# - **A better blend** needs members with different errors: another encoder, `style = "joint"`, longer texts, other seeds
#   of `finetune_deberta`, or `embed_deberta_lightgbm`. Train all folds, so that the weights have all rows to go by.
# - **A foreign member that should count in the scoring run** must come with its model: fine-tune it with
#   `finetune_deberta`, or add its predictions in a cell of your own after `predict_members`.
# - **Too slow?** Lower `hours` to see what would be left out, or name members in `exclude`.
