"""Check a Trainer before it trains: known causes of a model that "does not learn", measured on the real set-up."""

import time
from collections.abc import Callable

from src_py.doctor.checks_agree import AGREE_CHECKS
from src_py.doctor.checks_batch import BATCH_CHECKS, ROWS_TOGETHER_CHECKS
from src_py.doctor.checks_evaluation import EVALUATION_CHECKS
from src_py.doctor.checks_learning import LEARNING_CHECKS, check_first_step
from src_py.doctor.checks_loaded import LOADED_CHECKS
from src_py.doctor.checks_loss import LOSS_CHECKS
from src_py.doctor.checks_model import MODEL_CHECKS, check_embedding_rows, check_sequence_length, check_weights_dtype
from src_py.doctor.checks_rows import ROW_CHECKS
from src_py.doctor.checks_schedule import TRAINING_CHECKS
from src_py.doctor.checks_step import SETTINGS_CHECKS, STEP_CHECKS
from src_py.doctor.checks_text import DATA_CHECKS
from src_py.doctor.effect import in_order
from src_py.doctor.findings import FAIL, SKIP, Finding, Report, Setup, error_line, out_of_memory
from src_py.doctor.untouched import recomputing, tokenizer_untouched, untouched
from src_py.kaggle.session import free_memory

# Each makes the figures behind it impossible to get: sequences that are too long, tokens without a row.
FIRST_CHECKS = (check_sequence_length, check_embedding_rows)
# These put rows through the model.
FORWARD_CHECKS = (*LOSS_CHECKS, *LEARNING_CHECKS, *STEP_CHECKS, *ROWS_TOGETHER_CHECKS, *MODEL_CHECKS)
READING_CHECKS = (*DATA_CHECKS, *AGREE_CHECKS, *ROW_CHECKS, *BATCH_CHECKS)
SETTING_CHECKS = (*LOADED_CHECKS, *TRAINING_CHECKS, *SETTINGS_CHECKS, *EVALUATION_CHECKS)


def check_before_training(trainer, tokenizer=None, train=None, valid=None, card_bytes: int | None = None) -> Report:
    """Run all checks on a Trainer that is about to train; nothing of it is changed.

    Weights, buffers, gradients, optimizer, modes and random states, those of collator and datasets included, are as
    before afterwards, so that training is bit-identical with and without this call. No check puts more rows through the
    model at once than training does, in higher precision with gradients, or with a second copy of the weights on the
    GPU; one that runs out of memory all the same says "not checked". Works on any `Trainer`: for sequence
    classification every check is made; one that does not apply to other tasks and models, that lacks what it needs, or
    that fails itself, says "not checked" and why.

    Args:
        trainer: with its model, datasets, arguments and (if it has one of its own) optimizer.
        tokenizer: the tokenizer the datasets were made with.
        train, valid: the tables from `load_pairs` behind the datasets, to compare prompts.
        card_bytes: memory to plan for; by default the first GPU's.
    """
    setup = Setup(trainer, tokenizer, train, valid, card_bytes=card_bytes)
    started = time.monotonic()
    first = [finding for check in FIRST_CHECKS for finding in _run(check, setup)]
    setup.runs, weights = not _failed(first), _run(check_weights_dtype, setup)
    step = _run(check_first_step, setup) if setup.runs and not _failed(weights) else []
    first += step + weights
    if _failed(weights) and setup.runs:  # predictions that are given to the loss do not depend on the weights
        model = [finding for check in LOSS_CHECKS for finding in _run(check, setup)]
        model += [Finding("gradients, memory", SKIP, "fix the FAILs first")]
    elif _failed(first) or any(finding.status == SKIP for finding in step):
        why = "fix the FAILs first" if _failed(first) else "the first step was not tried"
        model = [Finding("loss, gradients, memory", SKIP, why)]
    else:
        model = [finding for check in FORWARD_CHECKS for finding in _run(check, setup)]
    data, training = ([f for c in checks for f in _run(c, setup)] for checks in (READING_CHECKS, SETTING_CHECKS))
    findings = in_order([*data, *first, *model, *training])
    return Report(findings, time.monotonic() - started, setup.settings)


def _failed(findings: list[Finding]) -> bool:
    return any(finding.status == FAIL for finding in findings)


def _run(check: Callable, setup: Setup) -> list[Finding]:
    """What a check finds; an error of its own is no fault of the set-up."""
    with untouched(setup.trainer), recomputing(setup.trainer), tokenizer_untouched(setup.tokenizer):
        try:
            found = check(setup)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # tokenizers crashes with a BaseException
            name = check.__name__.removeprefix("check_").replace("_", " ")
            if out_of_memory(error):
                free_memory()
                return [Finding(name, SKIP, "not enough memory to check")]
            return [Finding(name, SKIP, error_line(error))]
    return found if isinstance(found, list) else [found]
