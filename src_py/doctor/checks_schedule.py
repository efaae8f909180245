"""Checks of the schedule, the batch and the machine."""

import copy
import math
import warnings

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from transformers import get_scheduler

from src_py.doctor.checks_model import adam, encoder_of, pretrained
from src_py.doctor.findings import FAIL, PASS, SKIP, WARN, Finding, Setup, judge
from src_py.doctor.settings import CODE
from src_py.kaggle.session import missing_kernels
from src_py.model.encoder import reference_lr

PAIRS, STEPS = 16, 100  # least in a step; least in a training
# Of a scheduler's peak rate: what is as good as zero, and the least mean; steps that it has to last. Polynomials up to
# the third power end later, and have a greater mean.
ZERO_RATE, LEAST_MEAN, LASTS = 1e-3, 0.1, 0.8
FEW_STEPS, MOST_RATES = 20, 1_000_000  # to judge a scheduler by; and rates that are computed for it
MOST_EPOCHS = 10.0  # that are proposed: more passes over few rows are rather learned by heart


def check_batch(setup: Setup) -> Finding:
    """Microsoft's recipe has 64 pairs a step; of a few rows the gradient is mostly noise."""
    advice = f"Raise {setup.setting('batch_size')} for {PAIRS} or more rows a step; accumulation needs no more memory."
    limits: dict = {"warn": (PAIRS, None), "fail": (4, None), "form": "{:.0f}", "change": {"batch_size": PAIRS}}
    # The posted notebook's 2 do not learn; 4 and 8 are seen to, with care for the rate.
    return judge("pairs in a step", _pairs_per_step(setup), advice, **limits)


def check_steps(setup: Setup) -> Finding:
    """A few dozen optimizer steps cannot teach a pretrained encoder a new task."""
    advice = f"Raise {setup.setting('epochs')}, or train on more rows"
    advice += f"; with few rows take fewer a step, towards {PAIRS}." if _pairs_per_step(setup) > PAIRS else "."
    steps = _total_steps(setup)
    change = {"max_steps": STEPS} if setup.args.max_steps > 0 else _more_steps(setup, steps)
    return judge("optimizer steps", steps, advice, warn=(STEPS, None), form="{:.0f}", change=change)


def check_warmup(setup: Setup) -> Finding:
    """Steps until the learning rate peaks, as the scheduler really sees them."""
    name, total = "warmup", _total_steps(setup)
    if check_schedule(setup).status in (FAIL, WARN):
        return Finding(name, SKIP, 'see "schedule"')
    steps = _steps_to_peak(setup, total)
    if steps is None:
        return Finding(name, SKIP, "a scheduler whose rates are not known before training")
    advice = f"Lower {setup.setting('warmup')}: most of the training is warmup."
    change: dict = {"warmup": 0.1}
    if steps < 0.02 * total:
        advice = f"The scheduler sees (almost) no warmup: set {setup.setting('warmup')} to a tenth of the steps."
        advice += " warmup_ratio is gone in transformers 5.15." if not setup.ours else ""
    if setup.trainer.lr_scheduler is None and setup.args.lr_scheduler_type == "constant":  # which has none
        advice += f" {setup.setting('schedule')} has to be 'constant_with_warmup'."
        change |= {"schedule": "constant_with_warmup"}
    limits: dict = {"warn": (0.02, 0.3), "form": "{:.0%} of the steps", "note": f" ({steps} of {total})"}
    return judge(name, steps / total, advice, **limits, change=change)


def check_schedule(setup: Setup) -> Finding:
    """A scheduler of the user's own sets the rates of the Trainer's optimizer, and lasts until training ends.

    A copy of it is stepped as training will do it, after every optimizer step.
    """
    name, limit, trainer = "schedule", f"lasts {LASTS:.0%} of the steps", setup.trainer
    given = trainer.lr_scheduler
    if given is None or getattr(trainer, "_created_lr_scheduler", False):  # then training makes another one
        return Finding(name, PASS, "made by the Trainer", limit)
    given = getattr(given, "scheduler", given)  # inside accelerate's wrapper
    if not isinstance(given, LRScheduler) or isinstance(given, ReduceLROnPlateau):
        return Finding(name, SKIP, "a scheduler whose rates are not known before training", limit)
    change: dict = {CODE: ("", "trainer.lr_scheduler = None")}
    if not _same_optimizer(trainer.optimizer, given.optimizer):
        advice = "The scheduler changes the rates of another optimizer, so that training's stay as they are: make it "
        advice += "from trainer.optimizer, after that, or leave it to the Trainer."
        return Finding(name, FAIL, "another optimizer's", "of the Trainer's optimizer", advice, change)
    total = _steps_of_the_loader(setup)
    if total is None or not FEW_STEPS <= total <= MOST_RATES / len(given.optimizer.param_groups):
        return Finding(name, SKIP, "a stream, or too few or too many steps", limit)
    try:
        rates = _rates(setup, given, total)
    except Exception as error:  # schedulers of users' own hold what cannot be copied, or are stepped otherwise
        return Finding(name, SKIP, f"its rates cannot be computed ({type(error).__name__})", limit)
    lasts = int(np.flatnonzero(rates > ZERO_RATE).max(initial=-1)) + 1
    advice = f"Make the scheduler for {total} steps: the Trainer steps it after every optimizer step, and not once an "
    advice += "epoch. Or leave it to the Trainer."
    if lasts < LASTS * total:
        return Finding(name, WARN, f"the rate is zero from step {lasts} of {total} on", limit, advice, change)
    form = "{:.0%} of its peak on average"
    return judge(name, float(rates.mean()), advice, warn=(LEAST_MEAN, None), form=form, change=change)


def check_learning_rate(setup: Setup) -> Finding:
    """The encoder's peak rate against Microsoft's for this size, which is for Adam and all of its weights."""
    name = "learning rate"
    if not pretrained(setup.model):
        return Finding(name, SKIP, "no model of transformers, for which rates are known")
    body = [p for n, p in encoder_of(setup.model).named_parameters() if "embeddings" not in n]
    trained = sum(p.numel() for p in body if p.requires_grad)
    if trained < 0.1 * sum(p.numel() for p in body):
        return Finding(name, SKIP, "the encoder is frozen, or has adapters with rates of their own")
    if not adam(setup):
        return Finding(name, SKIP, "not Adam")
    optimizer, inside = setup.trainer.optimizer, {id(p) for p in body}
    rates = [setup.args.learning_rate]
    if optimizer is not None:
        groups = [g for g in optimizer.param_groups if any(id(p) in inside for p in g["params"])]
        if not groups:
            return Finding(name, SKIP, 'the optimizer holds none of the encoder: see "optimizer"')
        rates = [g.get("max_lr", g.get("initial_lr", g["lr"])) for g in groups]  # OneCycleLR begins far below its peak
    rate, reference = max(rates, default=0.0), reference_lr(setup.model)
    advice = f"Set {setup.setting('lr')} near {reference:.1e}"
    advice += "; so high a rate destroys the encoder." if rate > reference else "."
    # Within a factor of four lie the rates of published recipes for one size. Twenty times more collapsed most of the
    # small models tried; a hundredth does not move the weights in a training of usual length.
    return judge(
        name, rate, advice, warn=(reference / 4, reference * 4), fail=(reference / 100, reference * 20), form="{:.1e}",
        change={"lr": reference},
    )  # fmt: skip


def check_optimizer(setup: Setup) -> Finding:
    """Every trainable parameter is in the optimizer."""
    name, limit = "optimizer", "all trainable parameters"
    trainable = [p for p in setup.model.parameters() if p.requires_grad]
    if not trainable:
        advice = f"Set {setup.setting('freeze_layers')} to 0, or requires_grad=True for what shall be trained."
        change: dict = {"freeze_layers": 0} if setup.ours else {CODE: ("", "model.requires_grad_(True)")}
        return Finding(name, FAIL, "nothing is trainable", limit, advice, change)
    if setup.trainer.optimizer is None:
        return Finding(name, PASS, "made by the Trainer", limit)
    if any(group.get("maximize") for group in setup.trainer.optimizer.param_groups):
        advice = "The optimizer was made with maximize=True, so that the loss rises: leave it out."
        return Finding(
            name, FAIL, "maximises the loss", "minimises it", advice, {CODE: ("maximize=True", "maximize=False")}
        )
    held = {id(p) for group in setup.trainer.optimizer.param_groups for p in group["params"]}
    missing = sum(p.numel() for p in trainable if id(p) not in held)
    advice = "Build the optimizer from this model's parameters, after freezing"
    advice += " (parameter_groups)." if setup.ours else ", or leave it to the Trainer."
    return judge(name, missing, advice, fail=(None, 0), form="{:,.0f} weights missing")


def check_nan_filter(setup: Setup) -> Finding:
    """`logging_nan_inf_filter=True` shows the average of the other steps where the loss was NaN."""
    hidden = setup.args.logging_nan_inf_filter
    if not hidden:
        return Finding("NaN in the log", PASS, "NaN shown", "shown")
    advice = f"Set {setup.setting('nan_filter')} to False: a diverged run else looks healthy in the log."
    return Finding("NaN in the log", WARN, "NaN hidden", "shown", advice, {"nan_filter": False})


def check_gpus(setup: Setup) -> Finding:
    """Several visible GPUs become nn.DataParallel silently: batch times n, steps divided by n."""
    name, limit = "GPUs", "one a process"
    seen, used = torch.cuda.device_count(), setup.args.n_gpu
    if used > 1:
        advice = "Trainer wraps the model in DataParallel: use one GPU a process, "
        advice += "as make_trainer does." if setup.ours else "with torchrun, or CUDA_VISIBLE_DEVICES=0."
        return Finding(name, FAIL, f"{seen} visible, {used} in one process", limit, advice)
    if seen > 1 and not setup.ours and setup.args.world_size == 1:
        return Finding(name, WARN, f"{seen} visible, 1 used", limit, "The other GPUs idle: start with torchrun.")
    return Finding(name, PASS, f"{seen} visible", limit) if seen else Finding(name, SKIP, "no GPU", limit)


def check_bf16(setup: Setup) -> Finding:
    """On a T4 bf16 is emulated and takes twice the time of fp16."""
    name, limit = "bf16", "native only"
    if not setup.args.bf16:
        return Finding(name, PASS, "not used", limit)
    if not torch.cuda.is_available():
        advice = f"Half precision is slower on a CPU: set {setup.setting('fp32')}."
        return Finding(name, WARN, "on a CPU", limit, advice, {"precision": "fp32"})
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding(name, PASS, "native", limit)
    return Finding(name, FAIL, "emulated", limit, f"Set {setup.setting('fp16')}.", {"precision": "fp16"})


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
    check_schedule,
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


def _more_steps(setup: Setup, steps: int) -> dict:
    """Fewer pairs a step, towards `PAIRS`, and then more epochs, unless that would take too many."""
    pairs = _pairs_per_step(setup)
    fewer = min(pairs, PAIRS)
    epochs = setup.args.num_train_epochs * max(1.0, STEPS / (steps * pairs / fewer))
    change: dict = {"batch_size": fewer} if fewer < pairs else {}
    return change | ({"epochs": math.ceil(10 * epochs) / 10} if epochs <= MOST_EPOCHS else {})


def _steps_to_peak(setup: Setup, total: int) -> int | None:
    """Steps until the rate is highest; None where the rates follow the validation or are the user's own secret."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    given = setup.trainer.lr_scheduler
    if given is None:
        kind, options = setup.args.lr_scheduler_type, setup.args.lr_scheduler_kwargs or {}
        warmup = setup.args.get_warmup_steps(total)
        scheduler = get_scheduler(kind, optimizer, warmup, total, scheduler_specific_kwargs=options)
    elif hasattr(given, "lr_lambdas"):
        scheduler = LambdaLR(optimizer, given.lr_lambdas[0])
    else:
        return None
    if not isinstance(scheduler, LambdaLR):
        return None
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates.index(max(rates))


def _same_optimizer(one, other) -> bool:
    """Whether two are one optimizer, wrappers aside, or share groups of weights, as wrappers of users' own do."""

    def inside(optimizer):
        inner = getattr(optimizer, "optimizer", None)
        return optimizer if inner is None else inside(inner)

    one, other = inside(one), inside(other)
    groups = [getattr(optimizer, "param_groups", []) for optimizer in (one, other)]
    return one is other or any(a is b for a in groups[0] for b in groups[1])


def _steps_of_the_loader(setup: Setup) -> int | None:
    """Optimizer steps of the training, by the length of its loader, since samplers may take fewer rows than there are;
    None for a stream."""
    args = setup.args
    if args.max_steps > 0:
        return args.max_steps
    try:
        batches = len(setup.trainer.get_train_dataloader())
    except (TypeError, NotImplementedError):
        return None
    return math.ceil(max(1, math.ceil(batches / args.gradient_accumulation_steps)) * args.num_train_epochs)


def _rates(setup: Setup, given: LRScheduler, steps: int) -> np.ndarray:
    """(steps,) the rate before each step as a share of its peak, where a group's is highest; zero where the scheduler
    raises an error because it is stepped too often."""
    groups = [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"} | {"params": [torch.zeros(1)]}
        for group in given.optimizer.param_groups
    ]
    stand_in = torch.optim.Optimizer(groups, {})
    # The copy gets the stand-in for its optimizer; nothing large that the user's functions hold is copied.
    kept = {id(thing): thing for thing in (setup.model, setup.trainer, setup.trainer.train_dataset)}
    scheduler = copy.deepcopy(given, {**kept, id(given.optimizer): stand_in})
    rates = np.zeros((steps, len(groups)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stand-in is never stepped
        for step in range(steps):
            rates[step] = [float(group["lr"]) for group in stand_in.param_groups]
            try:
                scheduler.step()
            except ValueError:  # OneCycleLR, after its last step
                break
    return (rates / np.maximum(rates.max(0), 1e-30)).max(1)
