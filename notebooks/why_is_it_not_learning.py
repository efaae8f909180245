# %% [markdown]
# # Why is it not learning?
#
# Copy this notebook, paste your Trainer into the last cell, and read why it does not learn. The cells above show how it
# goes: they repair a notebook that does not learn, one remedy after the other.
#
# | | |
# | --- | --- |
# | Accelerator | GPU T4 x2, or any one GPU |
# | Internet | off |
# | Inputs to attach | competition `llm-classification-finetuning`; model `petrcher/microsoftdeberta-v3-base/transformers/default/1`, or another DeBERTa-v3 folder in the Transformers format |
# | Runtime | on a T4 about half an hour with deberta-v3-base: an estimate from the bytes that a training step moves, not measured yet; the notebook prints a forecast before it trains |
# | Score | none: it writes no `submission.csv`, so do not submit it |
# | Version | 0.1.0 |
#
# ## What you get
#
# - the doctor's table for the notebook of the forum thread "DeBERTa is not learning patterns?" (called "posted" here), whose
#   loss stayed near 1.07 and which always predicted the same label: what is wrong, and what to change;
# - `remedies.csv` and `remedies.png`: the validation loss that each remedy brings, on your data, against the constant
#   predictor, which always answers with the class shares (about 1.10 for three classes);
# - the same three lines for a Trainer of your own: check it before training, watch it, judge it.
#
# ## Configuration
#
# The posted notebook trained on a tenth of the rows, with up to 2,048 tokens. The defaults are smaller, so that all
# trainings fit a short session; raise `rows` first if you have the time. To see only your own Trainer, set `try_remedies`
# to False.

# %%
class CFG:
    # Paths
    input_dir = "/kaggle/input"
    data_dir = ""  # the contest: a folder or a part of its path; needed when several are attached
    model_dir = ""  # the encoder: a folder or a part of its path, such as "small"; needed when several are attached
    output_dir = "."
    # What to try
    try_remedies = True  # False: only the doctor's table of the posted notebook, and your own Trainer
    rows = 2000  # training rows of each training; 0: all
    valid_rows = 500  # rows that each training predicts, at most
    epochs = 2.0
    evaluations = 4  # of the validation rows in a training
    # Remedies
    max_length = 256  # tokens in a sequence; twice that where one sequence holds both answers, as posted
    batch_size = 16  # rows in an optimizer step, in place of the posted 2
    micro_batch = 8  # of them in a forward pass: what has to fit the GPU
    lr = 0.0  # in place of the posted 2e-5, if the doctor objects to that; 0: Microsoft's for the encoder's size
    precision = "fp16"  # "bf16" where the GPU supports it natively, or "fp32"
    seed = 0


# %% [markdown]
# ## Helpers (skip this)
#
# The hidden cells write the functions used below as files, `src_py/...`. To change one, open its cell, edit it, and
# choose *Run All*.
#
# ## Data
#
# The cell below the hidden ones checks the configuration, loads the rows (text cells are lists of turns with broken emoji
# in them; all is repaired and nothing dropped) and holds out validation rows by prompt. `train` and `valid` are plain
# tables: id, prompt, response_a, response_b, label.

# %%
import os
from pathlib import Path

from IPython.display import HTML, display

from src_py.ablation.remedies import RemedySettings, load_problem
from src_py.config import check_config
from src_py.evaluation import as_html, class_table
from src_py.kaggle import Paths, describe_hardware
from src_py.pairs import excerpt

kinds = (Paths, RemedySettings)
cfg = check_config(CFG, *kinds, overrides=os.environ.get("RECIPE_CFG", ""))
output = Path(cfg.output_dir)
problem = load_problem(cfg.part(Paths), cfg.part(RemedySettings))
train, valid, classes = problem.train, problem.valid, problem.classes
print(describe_hardware(problem.settings.precision), problem.model_dir, sep="\n")
display(excerpt(train), class_table(train["label"], valid["label"], classes))

# %% [markdown]
# ## Check before training
#
# The posted notebook on these rows: a plain Hugging Face Trainer over `AutoModelForSequenceClassification`, five
# added tokens, one sequence for prompt and both answers that is cut at its end, steps of two rows, no warmup. The doctor
# trains nothing and changes nothing. Read its table from the top: a FAIL is reason enough not to learn, a WARN may be. The
# checks that passed are below.

# %%
from src_py.ablation.posted import posted_trainer
from src_py.ablation.remedies import posted_settings
from src_py.doctor import check_before_training
from src_py.kaggle import scratch_folder

posted = posted_settings(problem, cfg.seed)
trainer, tokenizer = posted_trainer(problem.model_dir, train, valid, scratch_folder(output), posted, len(classes))
checked = check_before_training(trainer, tokenizer, train, valid)
display(checked)
del trainer

# %% [markdown]
# ## Remedies
#
# Each remedy is added to those above it, in the order of the doctor's list, and the same rows are trained again. (Weights
# in half precision are mended first: a GPU refuses to train them.) The last two trainings are the recipe of
# `finetune_deberta`, which goes further than a doctor can: it reads each answer in a sequence of its own and compares the
# two. The first table shows what is changed; the forecast says how long it takes.
#
# In the second table, `brings` is by how much the log loss is lower than one row above, and `± (95 %)` is half of the width
# of its interval: a gain within that is noise. `to constant` is the log loss minus the constant predictor's, as in the log:
# a model has learned only where it is negative. Log losses are in nats. Where `most given answer` is near 1, the model always
# says the same. In the picture, a training whose bar lies left of the constant predictor's line has learned something. One
# remedy often brings nothing while another fault remains; and a few hundred rows, or a tiny encoder, may be too little for
# all of them together: raise `rows`.

# %%
from src_py.ablation.plots import save_figure
from src_py.ablation.remedies import describe_left, plan_steps, steps_table
from src_py.ablation.remedy_runs import describe_forecast, forecast_steps, plot_tried, run_step, tried_table
from src_py.kaggle import say, write_csv

if cfg.try_remedies:
    steps, report = plan_steps(problem, posted, checked)
    display(HTML(as_html(steps_table(steps).reset_index())))
    say(*describe_left(report), "Timing each way to read and batch: a minute or more on a CPU...")
    say(describe_forecast(forecast_steps(problem, steps)))
    tried = [run_step(problem, step) for step in steps]
    table, figure = tried_table(problem, tried), plot_tried(problem, tried)
    write_csv(output / "remedies.csv", table.reset_index())
    save_figure(figure, output / "remedies.png")
    display(HTML(as_html(table.reset_index())), figure)

# %% [markdown]
# ## What to change next
#
# - **The doctor's list is your to-do list**: from the top, one change at a time, until no FAIL is left. Then train.
# - **A recipe that has all of it**: `finetune_deberta` trains, calibrates and submits; change its configuration cell only.
# - **Is it the data or the code?** `ablate_subset_vs_full` draws learning curves of the posted settings and of the recipe.
# - **No GPU hours left?** `embed_deberta_lightgbm` trains LightGBM on embeddings; `blend_submissions` blends all outputs.
# - **Still at the constant line with no FAIL?** Try another seed, more rows (`rows = 0`), or more epochs: large encoders
#   sometimes fail to start, and on few rows none learns.
# - **Something broke?** `docs/kaggle-errors.md` in the repository of this notebook lists the messages of Kaggle and of this
#   notebook, with what to do.
#
# ## Your Trainer
#
# Paste the cells that make your Trainer into the cell below, above the line `if trainer is None`, and run it. The doctor
# checks it and stops at a FAIL; the watcher ends a training that is lost; the verdict says whether it learned. `train` and
# `valid` must be the tables behind its datasets, row for row: take those of this notebook, or your own with the same
# columns. If the eval_dataset has another number of rows than `valid`, it is not trained.

# %%
from scipy.special import softmax

from src_py.doctor import check_eval_rows, judge_training, verdict_banner, watch
from src_py.evaluation import history_table
from src_py.kaggle import say
from src_py.pairs import prompt_key

trainer = tokenizer = None  # replace this line by what makes your Trainer; tokenizer: what its datasets were made with

if trainer is None:
    print("There is no Trainer of yours yet: paste what makes it into this cell.")
else:
    yours = check_before_training(trainer, tokenizer, train, valid)
    display(yours)
    yours.stop_on_failure()
    check_eval_rows(trainer, valid)
    watch(trainer)
    trainer.train()
    predicted = softmax(trainer.predict(trainer.eval_dataset).predictions, axis=1)
    history = history_table(trainer.state.log_history)
    verdict = judge_training(train, valid, predicted, prompt_key(valid), history, trainer=trainer)
    display(verdict_banner({"your Trainer": verdict}))
    say(verdict)
    display(verdict.table)
