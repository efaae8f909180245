# %% [markdown]
# # Blend everything you have trained, and predict the hidden rows
#
# Take the outputs of the other recipes, and other people's predictions, find out what each is worth, weight them, predict
# the test rows with their saved models, and write `submission.csv`.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (both predict) |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; outputs of `finetune_deberta` and `embed_deberta_lightgbm`, any number of each; for the latter its encoder, such as model `petrcher/microsoftdeberta-v3-base/transformers/default/1` |
# | Runtime | mostly that of the members' predictions, which the notebook forecasts; on a T4 not measured yet |
# | Score | on the leaderboard: not measured yet |
# | Version | 0.1.0 |

# %% [markdown]
# ## What you get
#
# - `submission.csv`, checked before it is written;
# - `members.csv`: each member with its recipe, encoder, log loss, weight and worth;
# - `oof_blend.csv`: out-of-fold predictions of the blend, with weights that were fitted on other prompts.
#
# Many public blends average files that were made for the visible test rows, which says nothing about the hidden ones.
# This notebook predicts whatever test rows it finds, so it is also the notebook to submit: with a single member it only
# predicts.

# %% [markdown]
# ## Configuration
#
# This is the only cell you need to edit. Nothing is trained here: every run predicts.

# %%
class CFG:
    # Paths
    input_dir = "/kaggle/input"
    data_dir = ""  # the contest: a folder or a part of its path; needed when several are attached
    output_dir = "."
    # Members
    exclude = []  # members to leave out, by the names that the table of members shows
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
    BlendSettings, Fitting, Job, answer_lengths, answering, common_rows, doubts, find_members, fitting_in, forecast_line,
    limiting_line, measure_members, member_table, plot_calibration, plot_correlation, plot_worth, predict_members,
    save_record, say_left_out, score_table, time_line,
)  # fmt: skip
from src_py.config import check_config
from src_py.evaluation import class_shares, group_table, plot_groups, plot_predictions
from src_py.kaggle import (
    HIDDEN_ROWS, Clock, DataPaths, Machine, choose_precision, describe_hardware, is_scoring_run, say,
    scratch_folder, start_session, write_csv,
)  # fmt: skip
from src_py.pairs import calibration_groups, excerpt, find_contest, load_pairs, prompt_key, write_submission

# %%
kinds = (DataPaths, BlendSettings, Machine)
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
output, clock, scoring = Path(cfg.output_dir), Clock(cfg.hours), is_scoring_run()
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
display(excerpt(train), cleaning.assign(**{"count in test": test_cleaning["count"]}))
labels, prompts = train["label"].to_numpy(), pd.factorize(prompt_key(train))[0]
clock.mark("Data")

# %% [markdown]
# ## Members
#
# A member is the output of a run of `finetune_deberta` or `embed_deberta_lightgbm` (folds that were trained in several
# sessions are joined), or a **foreign** folder: a csv file `oof.csv` with out-of-fold predictions of the training rows, and
# `submission.csv` with predictions of the test rows. Both have the columns `id`, `a`, `b`, `tie` or those of the contest's
# submission, and `oof.csv` may have `fold`. Other file names go into a `member.json` beside them:
# `{"name": "Gemma", "oof": "train.csv", "test": "test.csv"}`. Every prediction of a training row must come from models
# that have not seen its prompt; where a file has the folds, this is checked.
#
# A foreign member only has predictions for the test rows of its file. In the scoring run the test rows are others, so it
# is left out there, and the weights are fitted without it.

# %%
found = find_members(cfg.input_dir, train, prompts, contest, cfg.exclude)
able, cannot_answer = answering(found.members, test)
say_left_out([*found.left_out, *cannot_answer])
(members, too_few), known = common_rows(able, prompts)
say_left_out(too_few)
say(*doubts(members, labels), limiting_line(members, known))

# %% [markdown]
# **Will it finish in time?** Each member's first model is loaded and measured on training rows for about three seconds.
# In the table, `log loss` is out of fold, `+-` half of its 95 % interval, `temperature` that of the member's own
# calibration, and the last column what the scoring run will take.

# %%
seconds, broken = measure_members(found.members, train, HIDDEN_ROWS, precision)
say_left_out(broken)
members = [member for member in members if member.name in seconds]
facts = member_table(members, labels, prompts, seconds, HIDDEN_ROWS)
display(facts.round(4))
say(forecast_line(members, seconds, cfg.hours))
clock.mark("Members")

# %% [markdown]
# ## Weights
#
# The weights are fitted on the out-of-fold predictions of the rows that all members know: none below zero, summing to
# one, pulled a little towards equal weights. Means of probabilities and means of logits (log probabilities) are both
# tried. Members whose predictions say nothing about the labels are not tried, members that add nothing are left out (on
# fewer than 1,500 rows only where the blend is better without them by more than noise), and the weights are equal unless
# fitted ones are better by more than noise. In the table, `cost of leaving out` is by how many nats the log loss rises
# without the member. A single fine-tuned or boosted member was calibrated by its own run, so that it only predicts.

# %%
fitting = Fitting(train, prompts, cfg.part(BlendSettings), cfg.seed)
chosen = fitting.fit(members)
for title, choice in chosen.steps:
    print(title)
    display(choice.table.round(4))
    say(choice.reason)

# %% [markdown]
# If the members do not fit the time, those that add least per minute are left out first, and the weights are fitted again
# without them. The last line says what the scoring run will do, where it differs from this run.

# %%
room = 0.9 * clock.left
in_time = fitting_in(chosen.choice, seconds, len(test), room)
say(time_line(chosen.choice, in_time, seconds, len(test), room))
if set(in_time) < set(chosen.weights):
    chosen = fitting.fit([member for member in members if member.name in in_time])
if not scoring:
    later = fitting.scoring_run(found.members, seconds, cfg.hours)
    say(fitting.scoring_line(later, chosen))
digests = {member.name: member.digest for member in members}
save_record(output, chosen.choice, digests)
clock.mark("Weights")

# %% [markdown]
# ## Evaluate
#
# Green in the banner means that the blend is better than the constant predictor, amber that the rows are too few to
# tell, red that it is not; `gain` is by how much its log loss is lower. It has a second line where the scoring run will
# blend other members. Weights look better on the rows that they were fitted on than on other rows. `blend` is judged on
# prompts that had no part in its weights; `blend, on the rows it was fitted on` is what most notebooks report. The
# difference is how optimistic that is. In the first picture, members with a low correlation make different errors, which is what a blend
# needs; the second shows what each is worth alone, and what it costs to leave it out (hollow points: left out).

# %%
known, parts, choice = chosen.known, chosen.parts, chosen.choice
truth, shares = labels[known], class_shares(labels, len(classes))
if not scoring:
    banner = fitting.judge(later, chosen)
    display(banner)
    scores = score_table(parts, choice, truth, prompts[known], shares)
    display(scores.round(4))
if not scoring and len(parts) > 1:
    display(plot_correlation(parts, truth), plot_worth(choice, parts, truth, prompts[known]))

# %%
if not scoring:
    weights = choice.table[["weight", "cost of leaving out", "cost +-"]]
    table = pd.concat([scores, weights, facts.drop(columns=["log loss", "+-"])], axis=1)  # also of those left out
    write_csv(output / "members.csv", table.rename_axis("member").reset_index())
    oof = pd.DataFrame(choice.cross_fitted, columns=list(classes))
    write_csv(output / "oof_blend.csv", train.loc[known, ["id", "label"]].reset_index(drop=True).join(oof))
    display(plot_calibration(choice, truth, classes))

# %% [markdown]
# In the confusion matrix, the diagonal holds the correct predictions. Below it: **where is the blend overconfident?** Each
# line of the table is a group of rows, the worst ones first. Where `calibrated - constant` is above 0 by more than its
# `+-` (half of the 95 % interval), its probabilities are too extreme; test rows of that kind will raise the loss.

# %%
if not scoring:
    groups = calibration_groups(train[known], cfg.seed)
    by_group = group_table(truth, choice.uncalibrated, choice.cross_fitted, shares, groups, prompts[known])
    display(plot_predictions(truth, choice.cross_fitted, classes), by_group.round(3), plot_groups(by_group))
clock.mark("Evaluate")

# %% [markdown]
# ## Submission
#
# The members' saved models predict the test rows, one member after another, on both GPUs; models that read alike share the
# tokenised texts. In the scoring run a member that fails is left out, and the weights are fitted again without it.

# %%
order = sorted(chosen.weights, key=lambda name: -chosen.weights[name])
used = [member for name in order for member in members if member.name == name]
needed = {name: value * len(test) / HIDDEN_ROWS for name, value in seconds.items()}
job = Job(test, classes, precision, scratch_folder(output))
predicted, failed = predict_members(used, job, needed, clock)
say_left_out(failed)
if failed:
    chosen = fitting.fit([member for member in used if member.name in predicted])
final = chosen.choice.blend.apply(predicted, answer_lengths(test))
submission = write_submission(output / "submission.csv", test["id"], final, contest)
save_record(output, chosen.choice, digests, list(predicted))
clock.mark("Submission")
display(submission.head(), clock.table())
if not scoring:
    display(banner)  # that of Evaluate again

# %% [markdown]
# ## What to change next
#
# - **Submit**: this notebook is the one to submit; the scoring run predicts the hidden rows with the same members.
# - **A better blend** needs members with different errors: another encoder, `style = "joint"`, longer texts, other seeds
#   of `finetune_deberta`, or `embed_deberta_lightgbm`. Train all folds, so that the weights have all rows to go by.
# - **A foreign member that should count in the scoring run** must come with its model: fine-tune it with
#   `finetune_deberta`, and attach that output.
# - **Too slow?** Name members in `exclude`, or lower `hours` to see which would be left out.
# - **Something broke?** `docs/kaggle-errors.md` in the repository of this notebook lists the messages of Kaggle and
#   of this notebook, with what to do.
