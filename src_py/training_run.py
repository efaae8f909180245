"""Run a Trainer to its end on this process's device: watched, within its time, from where it was broken off."""

import torch
from torch import distributed
from transformers import TrainerCallback

from src_py.checkpoints import last_good_checkpoint
from src_py.clock import TimeLimit
from src_py.watch import watch


def run_training(trainer, stop: bool, until: float, rows_after: int) -> None:
    """Train `trainer` from the last good checkpoint in its output folder, or from the beginning.

    Args:
        stop: as in `watch`.
        until: when the training and the prediction of `rows_after` rows have to be done, as of `time.time()`.
    """
    watch(trainer, stop)
    trainer.add_callback(
        TimeLimit(until, rows_after, len(trainer.eval_dataset), trainer.args.per_device_train_batch_size)
    )
    if trainer.args.world_size > 1:
        trainer.add_callback(_Together())  # the last one: it sees what all others decided
    checkpoint = last_good_checkpoint(trainer.args.output_dir) if trainer.args.process_index == 0 else None
    if trainer.args.world_size > 1:
        told = [str(checkpoint) if checkpoint else None]
        distributed.broadcast_object_list(told)
        checkpoint = told[0]
    if checkpoint:
        print(f"Going on from {checkpoint}.", flush=True)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


class _Together(TrainerCallback):
    """What one process decides (to stop, to evaluate, to save), all do: else some wait for the others for ever."""

    FLAGS = ("should_training_stop", "should_evaluate", "should_save", "should_log")

    def on_step_end(self, args, state, control, **_):
        flags = torch.tensor([float(getattr(control, name)) for name in self.FLAGS], device=args.device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        for name, value in zip(self.FLAGS, flags.tolist()):
            setattr(control, name, bool(value))

    def on_evaluate(self, args, state, control, **_):
        self.on_step_end(args, state, control)
