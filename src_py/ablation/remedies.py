"""What the doctor finds in the posted notebook, and what each remedy changes there."""

import math
import tempfile
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from transformers import AddedToken

from src_py.ablation.holdout import split_rows
from src_py.ablation.posted import MARKERS, PostedConfig, posted_config, posted_trainer
from src_py.ablation.problem import Problem
from src_py.ablation.settings import TrialSettings
from src_py.config import Settings, setting
from src_py.doctor.check import check_before_training
from src_py.doctor.findings import FAIL, WARN, Report
from src_py.kaggle.inputs import Paths
from src_py.kaggle.session import PRECISIONS, choose_precision, free_memory, start_session
from src_py.model.encoder import reference_lr
from src_py.model.families import check_max_length, check_precision, max_tokens
from src_py.model.find import find_encoder
from src_py.pairs.contest import find_contest
from src_py.pairs.load import load_pairs, prompt_key
from src_py.pairs.split import nested_order

N_FOLDS = 5  # of which the first is held out
LINE_BREAK = (*MARKERS, "<[...]>", AddedToken("\n", normalized=False))
TO_START = ("weights",)  # without this remedy a GPU trains nothing: the others could not be measured
RECIPE_ARMS = {  # what goes further than every remedy
    "recipe-features": (
        "recipe without counts",
        "finetune_deberta with features=off: reads P+A and P+B, compares them",
    ),
    "recipe": ("recipe", "finetune_deberta: counts of length and format beside the text"),
}


@dataclass(frozen=True)
class RemedySettings(Settings):
    """How much each remedy is tried on.

    Args:
        try_remedies: train with them; else only the doctor looks.
        rows: training rows; 0 takes all.
        valid_rows: rows that every training predicts, at most.
        max_length: tokens in a sequence; twice that where one sequence holds both answers.
        batch_size: rows in a step, where the doctor asks for more than the posted 2; `micro_batch` of them in a
            forward pass.
        lr: learning rate, where the doctor asks for another one than the posted; 0 is Microsoft's for the size.
        evaluations: of the validation rows in a training.
    """

    try_remedies: bool = setting(True)
    rows: int = setting(2000, least=0)
    valid_rows: int = setting(500, least=10)
    epochs: float = setting(2.0, above=0, most=100)
    max_length: int = setting(256, least=16, most=8192)
    batch_size: int = setting(16, least=1)
    micro_batch: int = setting(8, least=1)
    lr: float = setting(0.0, least=0, most=1)
    evaluations: int = setting(4, least=1)
    precision: str = setting("fp16", choices=PRECISIONS)
    seed: int = setting(0, least=0, most=2**31 - 1)

    def for_trials(self, precision: str) -> TrialSettings:
        """The same for `Problem`; `precision` is what this machine can do."""
        named = ("max_length", "epochs", "batch_size", "micro_batch", "lr", "evaluations")
        return TrialSettings(**{name: getattr(self, name) for name in named}, precision=precision)


def load_problem(paths: Paths, settings: RemedySettings) -> Problem:
    """The attached rows and encoder: validation rows are held out by prompt, training rows stratified by label.

    Raises:
        InputError: when an input is missing or does not fit the settings.
    """
    files, model_dir = find_contest(paths.input_dir, paths.data_dir), find_encoder(paths.input_dir, paths.model_dir)
    precision = choose_precision(settings.precision)
    check_max_length(model_dir, settings.max_length)
    check_precision(model_dir, precision)
    start_session(settings.seed)
    rows = split_rows(load_pairs(files.train, files.contest)[0], N_FOLDS, settings.valid_rows, "none", settings.seed)
    order = nested_order(rows.train["label"], settings.seed)[: settings.rows or None]
    train = rows.train.iloc[order].reset_index(drop=True)
    return Problem(
        train, rows.valid, prompt_key(rows.valid), model_dir, files.contest.classes, settings.for_trials(precision)
    )


@dataclass(frozen=True)
class Remedy:
    """`name` for tables, `code` what one writes with Hugging Face, `changes` the same in `PostedConfig`."""

    name: str
    code: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A training to try: the posted settings with every remedy so far (`config`), or an `arm` of the recipe."""

    name: str
    found: str
    code: str
    config: PostedConfig | None = None
    arm: str = ""


def posted_settings(problem: Problem, seed: int) -> PostedConfig:
    """The posted settings, with the size of the problem's trials."""
    settings = problem.settings
    longest = 2 * settings.max_length
    return replace(
        posted_config(),
        max_length=min(longest, max_tokens(problem.model_dir) or longest),
        epochs=settings.epochs,
        evaluations=settings.evaluations,
        precision=settings.precision,
        seed=seed,
    )


def known_remedies(settings: TrialSettings, rate: float) -> dict[str, Remedy]:
    """A remedy for each of the doctor's checks that has one in the posted notebook.

    Args:
        rate: a learning rate for the encoder's size.
    """
    micro = min(settings.micro_batch, settings.batch_size)
    parts = math.ceil(settings.batch_size / micro)
    size = f"per_device_train_batch_size={micro}, gradient_accumulation_steps={parts}"
    batch: dict[str, Any] = {"batch_size": micro, "accumulation": parts}
    if parts > 1:  # else transformers 5 would not divide the loss by them
        size, batch["accepts_loss_kwargs"] = f"{size}; model.accepts_loss_kwargs = False", False
    cut = Remedy("parts cut separately", "tokenize prompt, A and B alone, cut each, then join them", {"cut": "parts"})
    line_break = 'add_tokens(AddedToken("\\n", normalized=False))'
    enlarge = "resize_token_embeddings only where the tokenizer has more tokens"
    copied = "embeddings.weight.data[added] = embeddings.weight[tokenizer.sep_token_id].detach().clone()"
    return {
        "tokens per character": Remedy("line break kept whole", line_break, {"added_tokens": LINE_BREAK}),
        "one answer cut more": cut,
        "rows mostly cut": cut,
        "weights": Remedy("weights in float32", "from_pretrained(..., dtype=torch.float32)", {"float32": True}),
        "pairs in a step": Remedy(f"{micro * parts} rows a step", size, batch),
        "GPUs": Remedy(
            "one GPU", 'os.environ["CUDA_VISIBLE_DEVICES"] = "0", before importing torch', {"one_gpu": True}
        ),
        "logged loss": Remedy("loss divided", "model.accepts_loss_kwargs = False", {"accepts_loss_kwargs": False}),
        "fp16 head-room": Remedy("no half precision", "fp16=False", {"precision": "fp32"}),
        "embedding rows": Remedy("matrix not shrunk", enlarge, {"shrink": False}),
        "added tokens' norms": Remedy("rows for new tokens", copied, {"copy_rows": True}),
        "warmup": Remedy("warmup", "warmup_steps=0.1", {"warmup": 0.1}),
        "learning rate": Remedy("learning rate", f"learning_rate={rate:.1e}", {"lr": rate}),
    }


def plan_steps(problem: Problem, posted: PostedConfig, report: Report) -> tuple[list[Step], Report]:
    """As posted; then each remedy on top of those before it, in the order of the doctor's list (but what lets the
    training start comes first); then the recipe.

    A FAIL may hide what the doctor would say next, so that it looks again at the remedied Trainer until it finds
    nothing more that has a remedy here.

    Args:
        report: the doctor's, on the posted Trainer.

    Returns:
        The steps, and the doctor's report on the Trainer with all remedies.
    """
    rate = problem.settings.lr or _reference(problem, posted)
    remedies, config = known_remedies(problem.settings, rate), posted
    steps, applied = [Step("as posted", "", "", posted)], set[str]()
    while True:
        wrong = [finding for finding in report.findings if finding.status in (FAIL, WARN)]
        found = [finding for finding in wrong if finding.check in remedies.keys() - applied]
        found.sort(key=lambda finding: finding.check not in TO_START)
        if not found:
            break
        for finding in found:
            remedy = remedies[finding.check]
            applied.add(finding.check)
            changed = replace(config, **remedy.changes)
            if changed != config:
                said = f"{finding.status} {finding.check}: {finding.measured}"
                steps.append(Step(f"+ {remedy.name}", said, remedy.code, changed))
            config = changed
        report = check_posted(problem, config)
    steps += [Step(name, "", code, arm=arm) for arm, (name, code) in RECIPE_ARMS.items()]
    return steps, report


def check_posted(problem: Problem, config: PostedConfig) -> Report:
    """The doctor's report on the posted Trainer with these settings."""
    start_session(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer, tokenizer = posted_trainer(
            problem.model_dir, problem.train, problem.valid, folder, config, problem.n_classes
        )
        report = check_before_training(trainer, tokenizer, problem.train, problem.valid)
    del trainer
    free_memory()
    return report


def steps_table(steps: list[Step]) -> pd.DataFrame:
    """What the doctor found, and what is changed."""
    rows = [(step.name, step.found, step.code) for step in steps]
    return pd.DataFrame(rows, columns=["training", "the doctor found", "what is changed"]).set_index("training")


def describe_left(report: Report) -> list[str]:
    """What the doctor still says when all remedies are applied, and what to do about it: a sentence or more each."""
    left = [finding for finding in report.findings if finding.status in (FAIL, WARN)]
    if not left:
        return ["With all remedies the doctor has nothing more to say."]
    return [
        "With all remedies the doctor still says:",
        *(f"{one.status} {one.check}: {one.measured}. {one.advice}".strip() for one in left),
    ]


def _reference(problem: Problem, posted: PostedConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        rows = problem.train[:1], problem.valid[:1]
        return reference_lr(posted_trainer(problem.model_dir, *rows, folder, posted, problem.n_classes)[0].model)
