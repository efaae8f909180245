"""Checks of the schedule, the batch and the machine."""

import math

import torch
from transformers import get_scheduler

from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.kaggle.session import missing_kernels
from src_py.model.encoder import reference_lr


def check_batch(setup: Setup) -> Finding:
    """Microsoft's recipe has 64 pairs a step; below 8 the gradient is mostly noise."""
    batch = _pairs_per_step(setup)
    advice = "Raise CFG.batch_size to 16 or more; micro_batch stays what fits, accumulation does the rest."
    return judge("pairs in a step", batch, batch < 16, batch < 8, "16 or more", advice, "{:.0f}")


def check_steps(setup: Setup) -> Finding:
    """A few dozen optimizer steps cannot teach a pretrained encoder a new task."""
    steps = _total_steps(setup)
    advice = "Raise CFG.epochs, or train on more rows; with few rows lower CFG.batch_size towards 16."
    return judge("optimizer steps", steps, steps < 100, False, "100 or more", advice, "{:.0f}")


def check_warmup(setup: Setup) -> Finding:
    """Steps until the learning rate peaks, as the scheduler really sees them."""
    total = _total_steps(setup)
    warmup = _steps_to_peak(setup, total)
    share = warmup / total
    advice = "The scheduler sees no warmup: pass CFG.warmup on (TrainingArguments.warmup_steps; warmup_ratio is gone)."
    if share > 0.3:
        advice = "Most of the training is warmup: lower CFG.warmup."
    return judge(
        "warmup", warmup, share < 0.02 or share > 0.3, warmup == 0, "2 to 30 % of the steps", advice,
        "{:.0f} steps", f" of {total}",
    )  # fmt: skip


def check_learning_rate(setup: Setup) -> Finding:
    """The encoder's peak rate against Microsoft's for this size."""
    optimizer = setup.trainer.optimizer
    head = {id(p) for p in _head_parameters(setup.model)}
    rates = [setup.args.learning_rate]
    if optimizer is not None:
        rates = [g.get("initial_lr", g["lr"]) for g in optimizer.param_groups if not _only(g["params"], head)]
    rate, reference = max(rates, default=0.0), reference_lr(setup.model)
    ratio = rate / reference
    advice = f"Set CFG.lr near {reference:.1e}" + ("; so high a rate destroys the encoder." if ratio > 1 else ".")
    limit = f"{reference / 4:.1e} to {reference * 4:.1e}"
    return judge("learning rate", rate, not 0.25 <= ratio <= 4, not 0.05 <= ratio <= 20, limit, advice, "{:.1e}")


def check_optimizer(setup: Setup) -> Finding:
    """Every parameter that shall be trained is in the optimizer."""
    name, limit = "optimizer", "all trainable parameters"
    trainable = [p for p in setup.model.parameters() if p.requires_grad]
    if not trainable:
        return Finding(name, FAIL, "nothing is trainable", limit, "Lower CFG.freeze_layers.")
    if setup.trainer.optimizer is None:
        return Finding(name, PASS, "made by the Trainer", limit)
    held = {id(p) for group in setup.trainer.optimizer.param_groups for p in group["params"]}
    missing = sum(p.numel() for p in trainable if id(p) not in held)
    advice = "Build the optimizer from this model's parameters, after freezing (parameter_groups)."
    return judge(name, missing, missing > 0, missing > 0, limit, advice, "{:,.0f} missing")


def check_nan_filter(setup: Setup) -> Finding:
    """`logging_nan_inf_filter=True` shows the average of the other steps where the loss was NaN."""
    hidden = setup.args.logging_nan_inf_filter
    advice = "Set logging_nan_inf_filter=False: a diverged run else looks healthy in the log."
    measured = "NaN hidden" if hidden else "NaN shown"
    return Finding("NaN in the log", WARN if hidden else PASS, measured, "shown", advice if hidden else "")


def check_gpus(setup: Setup) -> Finding:
    """Several visible GPUs become nn.DataParallel silently: batch times n, steps divided by n."""
    name, limit = "GPUs", "one a process"
    seen, used = torch.cuda.device_count(), setup.args.n_gpu
    if used > 1:
        advice = "Trainer wraps the model in DataParallel: use one GPU a process (make_trainer does)."
        return Finding(name, FAIL, f"{seen} visible, {used} in one process", limit, advice)
    if seen > 1 and not hasattr(setup.trainer, "micro_batch"):
        return Finding(name, WARN, f"{seen} visible, 1 used", limit, "The other GPUs idle: use src_py.training.fit.")
    return Finding(name, PASS if seen else SKIP, f"{seen} visible", limit)


def check_bf16(setup: Setup) -> Finding:
    """On a T4 bf16 is emulated and takes twice the time of fp16."""
    name, limit = "bf16", "native only"
    if not setup.args.bf16:
        return Finding(name, PASS, "not used", limit)
    if not torch.cuda.is_available():
        return Finding(name, WARN, "on a CPU", limit, "Half precision is slower on a CPU: set CFG.precision to 'fp32'.")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding(name, PASS, "native", limit)
    return Finding(name, FAIL, "emulated", limit, "Set CFG.precision to 'fp16'.")


def check_gpu_architecture(setup: Setup) -> Finding:
    """A torch without kernels for this card fails at the first operation (P100: sm_60)."""
    name = "GPU architecture"
    if not torch.cuda.is_available():
        return Finding(name, SKIP, "no GPU", "in torch's list")
    remedy = missing_kernels()
    major, minor = torch.cuda.get_device_capability()
    return Finding(name, FAIL if remedy else PASS, f"sm_{major}{minor}", "in torch's list", remedy or "")


TRAINING_CHECKS = (
    check_batch,
    check_warmup,
    check_learning_rate,
    check_steps,
    check_optimizer,
    check_gpus,
    check_nan_filter,
    check_bf16,
    check_gpu_architecture,
)


def _pairs_per_step(setup: Setup) -> int:
    args = setup.args
    devices = max(1, args.n_gpu) * args.world_size
    return args.per_device_train_batch_size * devices * args.gradient_accumulation_steps


def _total_steps(setup: Setup) -> int:
    args = setup.args
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(len(setup.trainer.train_dataset) * args.gradient_accumulation_steps / _pairs_per_step(setup))
    return max(1, math.ceil(max(1, math.ceil(batches / args.gradient_accumulation_steps)) * args.num_train_epochs))


def _steps_to_peak(setup: Setup, total: int) -> int:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    mine = setup.trainer.lr_scheduler
    if mine is not None and hasattr(mine, "lr_lambdas"):
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, mine.lr_lambdas[0])
    else:
        warmup = setup.args.get_warmup_steps(total)
        scheduler = get_scheduler(setup.args.lr_scheduler_type, optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates.index(max(rates))


def _head_parameters(model) -> list:
    names = ("head.", "classifier.", "pooler.", "score.")
    return [p for name, p in model.named_parameters() if name.startswith(names)]


def _only(parameters, chosen: set[int]) -> bool:
    return all(id(p) in chosen for p in parameters)
