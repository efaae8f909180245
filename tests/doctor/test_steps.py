"""What the watcher says of the steps themselves: rates, weights that stay, gradients that add up."""

import pytest
from transformers import TrainerCallback

from src_py.doctor.watch import watch
from tests.doctor.learners import plain_trainer


class At(TrainerCallback):
    """Calls a function at an event."""

    def __init__(self, event, function):
        setattr(self, event, lambda args, state, control, **kwargs: function(state=state, **kwargs))


def said(folder, edit=None, event=None, function=None, **options):
    """(events, notes) of a run of 40 steps."""
    trainer = plain_trainer(folder, **{"max_steps": 40, "eval_steps": 20} | options)
    if edit:
        edit(trainer)
    if event:
        trainer.add_callback(At(event, function))
    watcher = watch(trainer, stop=False)
    trainer.train()
    return watcher.events, watcher.notes


def scheduler_never_stepped(lr_scheduler=None, **_):
    lr_scheduler.step = lambda *args, **kwargs: None


def scheduler_stepped_four_times(lr_scheduler=None, **_):
    for _ in range(3):
        lr_scheduler.step()


def no_gradients(model=None, state=None, **_):
    if state.global_step % 3:
        for parameter in model.parameters():
            parameter.grad = None


def test_a_run_in_which_nothing_is_wrong(tmp_path):
    assert said(tmp_path) == ([], [])


def test_a_warmup_from_zero_and_accumulation_are_no_fault(tmp_path):
    assert said(tmp_path, warmup_steps=20, gradient_accumulation_steps=2) == ([], [])


@pytest.mark.parametrize(
    ("event", "function", "kind", "words"),
    [
        ("on_train_begin", scheduler_never_stepped, 0, "never stepped"),
        ("on_step_end", scheduler_stepped_four_times, 1, "stepped more than once a step"),
        ("on_pre_optimizer_step", no_gradients, 1, "change no weight"),
    ],
)
def test_steps_that_do_nothing(tmp_path, event, function, kind, words):
    found = said(tmp_path, event=event, function=function)
    assert len(found[kind]) == 1, found
    assert words in found[kind][0]
    assert found[1 - kind] == []


def test_an_optimizer_of_another_model_ends_the_run(tmp_path):
    def edit(trainer):
        trainer.create_optimizer()
        for group in trainer.optimizer.param_groups:
            group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]

    events, _ = said(tmp_path, edit)
    assert "no step has changed the weights" in events[0]


def test_gradients_that_are_never_zeroed(tmp_path):
    def edit(trainer):
        trainer.model.zero_grad = lambda set_to_none=True: None

    _, notes = said(tmp_path, edit)
    assert any("gradients are not set to zero" in note for note in notes)
