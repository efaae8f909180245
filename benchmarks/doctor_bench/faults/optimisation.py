"""Faults of the optimizer and of the schedule."""

from functools import partial

import torch
from transformers import TrainerCallback

from benchmarks.doctor_bench.case import OURS, PLAIN, Case
from benchmarks.doctor_bench.fault import accumulated, fault
from benchmarks.doctor_bench.faults.model import head_of

RATE = ("learning rate",)


class Callback(TrainerCallback):
    """Calls a function at an event of the training."""

    def __init__(self, **events):
        for event, function in events.items():
            setattr(self, event, partial(self._call, function))

    @staticmethod
    def _call(function, args, state, control, **kwargs):
        function(state=state, **kwargs)


def at(case: Case, **events) -> None:
    """Add a callback to the Trainer."""
    case.edit_trainer.append(lambda trainer: trainer.add_callback(Callback(**events)))


def optimizer(case: Case, **changes) -> None:
    """Change values of all groups of the optimizer, ours or the Trainer's own."""

    def edit(trainer):
        made = trainer.create_optimizer()
        for group in (made or trainer.optimizer).param_groups:
            group.update(changes)

    case.edit_trainer.append(edit)


@fault("optimisation", before=RATE, during=("learning_rate", "CFG.lr"), after=("unstable",))
def rate_a_hundred_times_too_high(case):
    case.set(lr=0.1)


@fault("optimisation", before=RATE, during=("learning_rate", "CFG.lr"), after=("unstable",))
def rate_ten_times_too_high(case):
    case.set(lr=1e-2)


@fault("optimisation", before=RATE)
def rate_a_hundred_times_too_low(case):
    case.set(lr=1e-5)


@fault("optimisation", before=RATE)
def rate_ten_times_too_low(case):
    case.set(lr=1e-4)


@fault("optimisation", before=("warmup",))
def no_warmup(case):
    case.set(warmup=0.0)


@fault("optimisation", before=("warmup",))
def all_warmup(case):
    case.set(warmup=0.99)


@fault("optimisation", before=("weight decay",))
def weight_decay_of_ten(case):
    case.set(weight_decay=10.0)


@fault("optimisation", before=("weight decay",))
def decay_on_norms_and_biases(case):
    optimizer(case, weight_decay=1.0)


@fault("optimisation", before=("first steps",))
def gradients_clipped_to_nothing(case):
    """Adam's epsilon is then larger than what is left."""
    case.set(max_grad_norm=1e-7)


@fault("optimisation", before=("momentum",))
def betas_of_almost_one(case):
    optimizer(case, betas=(0.999, 0.9999))


@fault("optimisation", before=("first steps",))
def epsilon_too_large(case):
    optimizer(case, eps=1.0)


@fault("optimisation", kinds=(PLAIN,), before=("logged loss",), base=accumulated)
def loss_multiplied_by_accumulation(case):
    case.edit_model.append(lambda model: setattr(model, "accepts_loss_kwargs", True))


@fault("optimisation", during=("stepped more than once",))
def scheduler_stepped_four_times(case):
    def step(lr_scheduler=None, **_):
        for _ in range(3):
            lr_scheduler.step()

    at(case, on_step_end=step)


@fault("optimisation", during=("never stepped",))
def scheduler_never_stepped(case):
    """The rate stays where the warmup begins: at zero."""

    def begin(lr_scheduler=None, **_):
        lr_scheduler.step = lambda *args, **kwargs: None
        getattr(lr_scheduler, "scheduler", lr_scheduler).step = lambda *args, **kwargs: None

    at(case, on_train_begin=begin)


@fault("optimisation", during=("gradients are not set to zero",))
def gradients_never_zeroed(case):
    def edit(trainer):
        trainer.model.zero_grad = lambda set_to_none=True: None

        def begin(optimizer=None, **_):
            optimizer.zero_grad = lambda set_to_none=True: None

        trainer.add_callback(Callback(on_train_begin=begin))

    case.edit_trainer.append(edit)


@fault("optimisation", after=("not what was evaluated",))
def average_of_the_initial_weights(case):
    """A moving average with a decay of 0.9999, fixed: after a hundred steps it is still the start."""

    def edit(trainer):
        parameters = [p for p in trainer.model.parameters() if p.requires_grad]
        start = [p.detach().clone() for p in parameters]

        def end(**_):
            with torch.no_grad():
                for parameter, value in zip(parameters, start):
                    parameter.copy_(value.lerp(parameter, 1 - 0.9999**100))

        trainer.add_callback(Callback(on_train_end=end))

    case.edit_trainer.append(edit)


@fault("optimisation", kinds=(PLAIN,), before=("first steps",))
def plain_gradient_descent_at_adams_rate(case):
    case.set(optim="sgd")


@fault("optimisation", kinds=(PLAIN,), before=("optimizer",))
def head_not_in_the_optimizer(case):
    def make(model):
        head = {id(p) for p in head_of(model)}
        return torch.optim.AdamW([p for p in model.parameters() if id(p) not in head], lr=case.options["lr"])

    case.optimizer = make


@fault("optimisation", before=("optimizer",))
def optimizer_of_another_model(case):
    """The model was made anew after the optimizer."""

    def edit(trainer):
        trainer.create_optimizer()
        for group in trainer.optimizer.param_groups:
            group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]

    case.edit_trainer.append(edit)


@fault("optimisation", kinds=(OURS,), before=("first steps",))
def head_at_almost_no_rate(case):
    case.set(head_lr=1e-8)


@fault("optimisation", before=("optimizer steps",))
def twelve_steps(case):
    case.edit_arguments.append(lambda args: vars(args).update(max_steps=12, eval_steps=2, logging_steps=2))


@fault("optimisation", kinds=(OURS,), before=("first steps",))
def lower_layers_at_no_rate(case):
    case.set(layer_decay=0.001)
