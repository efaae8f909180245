# %% [markdown]
# # Is it the data, or the code?
#
# Train the settings of a notebook that does not learn and this collection's recipe on growing subsets of your own data,
# and see which of the two keeps DeBERTa from learning, how much each repair helps, and what more rows would bring.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2 (trials run side by side) or any one GPU |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or another DeBERTa-v3 folder in the Transformers format; to resume, this notebook's earlier output |
# | Runtime | what you set as `budget_minutes`; on a T4: not measured yet |
# | Score | measures learning, not a leaderboard place: not measured yet |
# | Version | 0.1.0 |

# %% [markdown]
# ## What you get
#
# - `ablation.csv`: one row a trained model, and pictures: learning curves, and the worth of each repair or lever;
# - `answer.md`: three sentences that answer the question from these figures, or say "cannot tell", and what they rest on;
# - `next_steps.csv`: what twice the rows, another epoch or three seeds would bring, with intervals and hours;
# - `trials/`: every finished trial, stored as it ends. An interrupted notebook resumes, here or with its output attached;
# - `submission.csv` from the recipe on the most rows that were trained.
#
# `posted` are the settings of the notebook in the forum thread "DeBERTa is not learning patterns?", whose loss stayed
# near 1.07 and which always predicted the same label. Others answered that theirs learned once they trained on all
# rows. That conflates two things: all rows also bring **more optimizer steps**. A control arm trains small subsets for as
# many steps as the largest gets, and keeps the two apart.

# %% [markdown]
# ## Configuration
#
# This is the only cell you need to edit. `arms` are measured at every size: `posted`, `recipe`, `posted+batch`,
# `recipe-pairwise-head`, `recipe+lora`, `recipe+epochs=3` and so on; the first and the last are compared. `repairs` are
# added to `posted` and taken from `recipe`, one by one. `preset = "levers"` asks another question: which changes of
# the recipe are worth it on these rows?

# %%
class CFG:
    # Paths
    input_dir = "/kaggle/input"
    data_dir = ""  # the contest: a folder or a part of its path; needed when several are attached
    model_dir = ""  # the encoder: a folder or a part of its path, such as "small"; needed when several are attached
    output_dir = "."
    # What to do
    mode = "auto"  # "train"; "predict" with an attached finished run; "auto" predicts in the scoring run only
    resume = "auto"  # use stored trials of the same settings, rows, encoder and code; "never" trains all of them
    rows = 0  # training rows of a debug run, such as 2000; 0: all
    # Grid
    preset = "data_or_code"  # "levers": the recipe with each of `levers`, at one size; `arms` to `control` do not count
    levers = []  # such as ["features_off", "lora", "layer_decay=1.0", "ema+cosine"]; empty: all that the rows allow
    lever_rows = 0  # training rows of the levers; 0: all
    holdout = "auto"  # "topic" or "length": also measure on rows of a kind that is kept out of training; "none"
    arms = ["posted", "recipe"]
    repairs = ["pairwise", "batch", "rates", "line_break", "cut", "head", "warmup", "frozen", "features"]
    sizes = []  # training rows; empty: n_sizes, equally far apart on a log axis
    n_sizes = 5
    smallest_share = 0.01  # of all training rows
    seeds = 3  # each draws its own subsets
    order = "adaptive"  # next is what narrows the question most for its minutes; "fixed": seed after seed
    next_steps = ["epoch"]  # the last arm's at the largest size: "epoch" (one more), "encoder=large" (attached, too)
    control = True  # small subsets for as many steps as the largest
    extra_files = []  # further training files, such as "lmsys-33k.csv", added after all rows
    pseudo_files = []  # pairs with class probabilities in place of labels, for the lever "pseudo_labels"
    soft_labels = ""  # a teacher's probabilities for the training rows, such as oof.csv, for the lever "soft_labels"
    soft_weight = 0.5  # the teacher's share of the loss, 0 to 1
    budget_minutes = 480.0  # from start to last trial; Kaggle ends code-competition notebooks at 540, sessions at 720
    # Reading and training
    max_length = 512  # tokens in a sequence; twice that where one sequence holds both answers
    epochs = 2.0
    batch_size = 16  # the recipe's pairs in an optimizer step; the posted settings have 2
    micro_batch = 8  # pairs of full length in a forward pass: what has to fit the GPU
    lr = 0.0  # the recipe's; 0: chosen by the encoder's size
    head_lr = 0.0  # 0: ten times lr
    freeze_layers = 0  # lowest layers, in all arms
    evaluations = 3  # of the validation rows in a trial
    precision = "fp16"  # "bf16" where the GPU supports it natively, or "fp32"
    # Validation
    n_folds = 5
    valid_rows = 2000  # of the first fold, at most
    seed = 0


# %% [markdown]
# ## Helpers (skip this)
#
# The hidden cells write the functions used below as files, `src_py/...`. To change one, open its cell, edit it, and
# choose *Run All*.

# %% [markdown]
# ## Setup
#
# The configuration is checked before anything is read: misspelt names, wrong types, values out of range and unknown
# arms stop here. The table explains the names of the repairs, or of the levers.

# %%
import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown, display

from src_py.ablation import (
    HOW_TO_READ_LEVERS, LEVERS, REPAIRS, GridSettings, Problem, TrialSettings, TrialStore, add_files, answer,
    answer_levers, apply_preset, ask, baselines, choose_levers, choose_sizes, curve_table, describe_budget,
    find_answered, find_encoders, find_runs, finished_model, lever_table, list_next_arms, list_trials, main_size, minutes_left, name_control, plan,
    plan_table, plot_curves, plot_levers, plot_repairs, repair_table, repair_view, results_table, run_trials,
    save_figure, split_rows, steps_view, submission_arm, time_trials, write_record,
)  # fmt: skip
from src_py.config import check_config
from src_py.evaluation import as_html, class_table, folded
from src_py.kaggle import (
    Clock, FoldedLog, Paths, RunSettings, choose_precision, describe_hardware, find_extra, say, start_session,
    visible_gpus, write_csv, write_text,
)  # fmt: skip
from src_py.model import check_max_length, check_precision, find_encoder, predict_saved
from src_py.pairs import (
    ExtraRows, audit_extra, check_teacher, debug_line, debug_rows, excerpt, find_contest, load_extra, load_pairs, load_pseudo,
    load_soft, prompt_key, soft_labels, file_name, write_submission,
)  # fmt: skip

# %%
kinds = (Paths, RunSettings, GridSettings, TrialSettings, ExtraRows)
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
grid, output = apply_preset(cfg.part(GridSettings)), Path(cfg.output_dir)
clock = Clock(cfg.budget_minutes / 60)
files = find_contest(cfg.input_dir, cfg.data_dir)
extra_files, pseudo_files = (
    {name: find_extra(cfg.input_dir, name) for name in names} for names in (cfg.extra_files, cfg.pseudo_files)
)
finished = find_answered(cfg.input_dir, cfg.mode, cfg.values())
model_dir = None if finished else find_encoder(cfg.input_dir, cfg.model_dir)
encoders = find_encoders(cfg.input_dir, model_dir, grid) if model_dir else {}
precision = choose_precision(cfg.precision)
folders = [model_dir, *encoders.values()] if model_dir else []
for folder in folders:
    check_max_length(folder, cfg.max_length)
    check_precision(folder, precision)
start_session(cfg.seed)
print(
    describe_hardware(precision),
    files.train,
    files.test,
    *(folders or ["no encoder needed"]),
    describe_budget(cfg.budget_minutes),
    sep="\n",
)

# %%
says = {name: lever.says for name, lever in LEVERS.items()} if grid.preset == "levers" else REPAIRS
display(pd.Series(says, name="what it does").to_frame())

# %% [markdown]
# ## Data
#
# Text cells are JSON lists of turns with `null`s and broken emoji in them. The table counts every repair; no row is
# dropped. Rows of extra files come after all rows of the competition, so that the curve shows what *they* add.

# %%
contest, classes = files.contest, files.contest.classes
table, cleaning = load_pairs(files.train, contest)
test, test_cleaning = load_pairs(files.test, contest, labelled=False, sample=files.sample)
debug_size = 0 if finished else cfg.rows  # a finished run predicts as it was trained
debug = debug_line(debug_size, len(table))
if cfg.soft_labels and not finished:
    path = find_extra(cfg.input_dir, cfg.soft_labels, "soft_labels")
    table = soft_labels(table, *load_soft(path, table, contest, test["id"]), cfg.soft_weight)
table, test = debug_rows(table, test, debug_size, cfg.seed)
extra = load_extra(extra_files, contest) + load_pseudo(pseudo_files, contest, test)
display(excerpt(table), cleaning.assign(**{"count in test": test_cleaning["count"]}))
clock.mark("Data")

# %% [markdown]
# ## Validation split
#
# The first fold of a split by prompt measures every trial. Subsets are **nested** (a larger one contains the smaller)
# and stratified by label; each seed draws its own. With `holdout`, whole topics (or the longest answers) are taken out
# of training first: a second kind of validation rows, which shows what travels to rows unlike the training rows; the
# leaderboard's may be such. Extra rows that are copies of the contest's rows, or whose prompt is among the validation
# rows, are left out; a table shows how many, and how the files differ from the contest. The first row of the last table
# shows the training labels, the second the validation labels: the shares should agree.

# %%
train, valid, unseen, held = split_rows(table, cfg.n_folds, cfg.valid_rows, grid.holdout, cfg.seed)
own_rows, seen = len(train), len(valid) if unseen is None else (~unseen).sum()
extra, audit = audit_extra(extra, table, held, test, classes)
train, marks, added = add_files(train, extra, table[held], grid.preset == "levers", debug_size, cfg.seed)
sizes = choose_sizes(grid, own_rows, marks)
if extra:
    display(audit)
if cfg.soft_labels and not finished:
    say(*check_teacher(table, 1 - held, (0,), len(classes)))
display(class_table(train["label"], valid["label"], classes))
print(f"{seen:,} validation rows like the training rows, {len(valid) - seen:,} of a kind held out")
print("sizes:", *(f"{size:,}" for size in sizes), *(f"{name} up to row {size:,}" for name, size in marks.items()))

# %% [markdown]
# ## Model
#
# All arms share the encoder, the number of epochs and the amount of text; an arm that reads a pair as one sequence may
# use twice the tokens. `posted` has that notebook's added tokens, its reading and its learning rates.
#
# A stored trial is used again only if settings, rows, encoder and code are the same. If something changed, a line below
# names it, and the trials are trained again.

# %%
if not finished:
    settings = replace(cfg.part(TrialSettings), precision=precision)
    blocks = (own_rows, *marks.values())[:-1]  # where the rows of the extra files begin
    problem = Problem(train, valid, prompt_key(valid), model_dir, classes, settings, blocks, unseen, added, encoders)
    store = TrialStore(output, problem, find_runs(cfg.input_dir), cfg.resume)
    write_record(output, store.identity, cfg.values(), finished=False)
    say(*store.unused())

# %% [markdown]
# ## Check before training
#
# A short training of each way to read and batch gives the minutes of every trial. First come the arms at small sizes,
# then the last arm at the larger ones. From then on (`order = "adaptive"`) the trial is next that is expected to narrow
# most, for its minutes, what the curves leave open: is the last arm better than the first, and what would twice the
# data bring? When that is settled, another epoch (`next_steps`), the control arm, the repairs and further seeds follow. No
# trial may take more than half of the time that is left.
# The folded table has all trials; the *control arm* trains a subset for as many steps
# as `steps of rows` rows get ("own": its own number of rows). `left out` counts trials that may not fit the time.

# %%
gpus = visible_gpus()
levers = choose_levers(problem, grid.levers) if grid.preset == "levers" and not finished else ()
next_arms = list_next_arms(grid, cfg.epochs)
trials = list_trials(grid.arms, grid.repairs, sizes, grid.seeds, grid.control, levers, next_arms)
if not finished:
    done = set(store.outcomes(trials))
    minutes = time_trials(problem, [trial for trial in trials if trial not in done], gpus)
    planned = plan(trials, minutes, minutes_left(clock.limit), done, workers=max(1, len(gpus)))
    print(f"{len(done)} of {len(trials)} trials are done, {(planned['plan'] == 'run').sum()} will run")
    display(HTML(folded("The plan, one row an arm and size", name_control(plan_table(planned)))))
clock.mark("Check before training")

# %% [markdown]
# ## Grid
#
# Each finished trial is stored at once; an interrupted one starts again from its beginning. Compare the losses with the
# constant predictor's, which always answers with the class shares: about 1.10 for three classes. A trial's loss is read
# at its best evaluation, which is chosen on one half of the validation prompts and read on the other.

# %%
arm, failed = submission_arm(grid.arms), {}
if not finished:
    log = FoldedLog()
    question = ask(problem, grid, sizes)
    failed = run_trials(problem, planned, store, clock.limit, gpus, arm, question, log, log.warn)
    log.fold("Every trial as it ended")
clock.mark("Grid")

# %% [markdown]
# The curve against the constant predictor's line is the answer to "does it learn?". Error bars show the spread over
# seeds; each dot is one trained model. Solid: the arm's own epochs; dashed: the control arm; dotted: the fitted curve in
# its band, and as a diamond what the curve without its largest size foretold of that. Losses far above the constant
# predictor's are arrows with the figure. Below the picture: the answer, what each next step would bring and cost, and
# what all of it rests on. What was not measured has no figure.

# %%
if debug_size:
    say(debug)
outcomes = {} if finished else store.outcomes(trials)
if outcomes:
    results, curve = results_table(problem, outcomes), curve_table(problem, outcomes)
    lines = {name: losses.mean() for name, losses in baselines(problem).items()}
    if levers:
        answered = answer_levers(problem, outcomes, results, curve, trials, failed)
    else:
        answered = answer(problem, outcomes, results, curve, grid.arms, trials)
    figure = plot_curves(curve, results, grid.arms, lines, answered.laws, marks)
    write_csv(output / file_name("ablation.csv", debug_size), results)
    write_text(output / file_name("answer.md", debug_size), f"{answered}\n")
    save_figure(figure, output / file_name("learning_curve.png", debug_size))
    display(figure, Markdown(answered.opening))
    if answered.steps is not None:
        write_csv(output / file_name("next_steps.csv", debug_size), answered.steps)
        display(HTML(as_html(steps_view(answered.steps))))
    display(Markdown(answered.rest))
elif finished and (finished / "answer.md").is_file():
    display(Markdown(f"The attached run found:\n\n{(finished / 'answer.md').read_text(encoding='utf-8')}"))
else:
    say("Cannot tell: no trial was finished. Raise CFG.budget_minutes, or lower CFG.sizes or CFG.max_length.")

# %% [markdown]
# In the folded table, an arm beats the constant predictor where `at least` (the lower end of the 95 % interval of its
# `gain`) is above 0.

# %%
if outcomes:
    display(HTML(folded(f"All curves ({len(curve)} points)", name_control(curve).round(4))))

# %% [markdown]
# What a repair is worth depends on what else is broken: added to the posted settings it may do nothing while another
# fault remains; taken from the recipe it shows what the recipe would lose. In the picture, an interval that crosses the
# grey line is no evidence of any effect; an interval from one seed does not cover what another seed would change.

# %%
if outcomes:
    repairs = repair_table(problem, outcomes)
    repair_figure = plot_repairs(repairs)
    if repair_figure:
        save_figure(repair_figure, output / file_name("repairs.png", debug_size))
        main = repairs["rows"] == main_size(repairs)
        display(repair_figure, HTML(as_html(repair_view(repairs[main]))))
        if not main.all():
            display(HTML(folded("Repairs at the other sizes", repair_view(repairs[~main]))))

# %%
if outcomes and levers:
    worth = lever_table(problem, outcomes)
    write_csv(output / file_name("levers.csv", debug_size), worth)
    lever_figure = plot_levers(worth)
    if lever_figure:
        save_figure(lever_figure, output / file_name("levers.png", debug_size))
        display(Markdown(HOW_TO_READ_LEVERS), lever_figure, HTML(as_html(worth.round(4))))

# %% [markdown]
# `largest share` near 1 means that the model gives all rows the same label; a `last log loss` far above `log loss`
# means that it went on to memorise its training rows.

# %%
if outcomes:
    display(HTML(folded(f"Every trial ({len(results)})", name_control(results).round(4))))
clock.mark("Answer")

# %% [markdown]
# ## Submission
#
# The recipe's model on the most rows answers the test rows. It is there to close the loop; for a good score train
# `finetune_deberta` with what was learned here.

# %%
model = finished_model(finished) if finished else arm and store.largest_model(arm)
if model:
    print(f"Predicting with {model}")
    predicted = predict_saved([model], test, classes, precision)
    display(write_submission(output / file_name("submission.csv", debug_size), test["id"], predicted, contest).head())
else:
    say("No submission: no model of an arm that can answer the test rows is here; attach the earlier run's output.")
if not finished:
    write_record(output, store.identity, cfg.values(), finished=model is not None)
clock.mark("Submission")
display(clock.table())

# %% [markdown]
# ## What to change next
#
# - **Nothing learns, at any size**: run `why_is_it_not_learning`, which names the fault.
# - **The intervals include zero**: more `seeds`, or more `valid_rows` (which trains all trials again). With more
#   `seeds`, attach this run's output and run again: finished trials are not repeated.
# - **What else brings the loss down?** `preset = "levers"`, with `lever_rows` and `seeds` that fit `budget_minutes`.
# - **Control arm and repairs before further seeds?** `order = "fixed"`.
# - **Are extra rows worth it?** Name the files in `extra_files`: the curve continues after the competition's own rows.
# - **Your own settings against the recipe**: put an arm such as `recipe+epochs=4` or `recipe+layer_decay=1.0` between
#   the first and the last of `arms`: these two are compared, and the next steps are those of the last.
# - **Quicker**: `arms = ["recipe"]`, `repairs = []`, `control = False`, a smaller `max_length`.
# - **Scoring run**: attach this notebook's output as an input; the notebook then only predicts.
# - **Something broke?** `docs/kaggle-errors.md` in the repository of this notebook lists the messages of Kaggle and
#   of this notebook, with what to do.
