"""Several processes: the same training as in one, and a clear end when one of them fails."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src_py.errors import InputError
from src_py.evaluation.report import history_table
from src_py.kaggle.page import MARK
from src_py.kaggle.session import start_session
from src_py.model.preference import ModelSettings, build_model
from src_py.pairs.encode import PairCollator, Reading, encode_pairs
from src_py.training.batches import TokenBudget
from src_py.training.processes import fit, write_job
from src_py.training.run import seed_dropout
from src_py.training.trainer import TrainingSettings, make_trainer

ROOT = Path(__file__).resolve().parents[2]
RUN = {"stop": False, "rows_after": 24}
# What a test does to a worker, as its interpreter starts.
FAULT = """
import os
if os.environ.get("RANK") == "1":
    import threading
    from pathlib import Path
    import torch
    from src_py.training.batches import BudgetTrainer

    step, loss_of, marker = BudgetTrainer.training_step, BudgetTrainer.compute_loss, Path(os.environ["MARKER"])

    def training_step(self, model, inputs, *more):
        {fault}
        return step(self, model, inputs, *more)

    def compute_loss(self, model, inputs, *more, **options):
        loss = loss_of(self, model, inputs, *more, **options)
        {loss}
        return loss

    BudgetTrainer.training_step, BudgetTrainer.compute_loss = training_step, compute_loss
if "RANK" in os.environ and {patience}:
    import src_py.training.trainer as trainer  # before the worker takes it from there

    trainer.HANG_SECONDS = {patience}
"""
KILLED = """if self.state.global_step == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)"""
RAISES = "raise ValueError('a fault of one process alone')"
ABORTS_AT_ITS_END = "torch.distributed.destroy_process_group = os.abort"
HANGS = "threading.Event().wait()"
SHORT = """if model.training and len(inputs["labels"]) > 2:
            marker.write_text((marker.read_text() if marker.exists() else "") + str(len(inputs["labels"])))
            raise torch.OutOfMemoryError('CUDA out of memory.')"""
NAN = "loss = loss * float('nan') if model.training and self.state.global_step == 4 else loss"


@pytest.fixture
def new_trainer(tiny, tokenizer, pairs, tmp_path):
    names = [list("xyz" * 30)[shift : 89 + shift] for shift in (0, 1)]
    teacher = [[0.2, 0.3, 0.5] if i % 2 else [float("nan")] * 3 for i in range(89)]
    table = pairs[:89].assign(
        model_a=names[0], model_b=names[1], soft=teacher, soft_weight=[i % 2 / 2 for i in range(89)]
    )

    def make(name, model=None, features="off", **changes):
        """Without dropout, so that runs can be compared. `model`: options, which may need a teacher or names."""
        start_session(0)
        encoded = encode_pairs(table if model else pairs[:89], tokenizer, Reading(max_length=48, features=features))
        settings = ModelSettings(dropout=0.0, encoder_dropout=0.0, **(model or {}))
        built = {"features": features, "train": encoded.select(range(65))}
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31], settings, **built)
        options = {"epochs": 2, "lr": 1e-3, "head_lr": 1e-3, "batch_size": 16, "micro_batch": 4, "warmup": 0.25}
        options |= {"evals_per_epoch": 2}
        train, valid = encoded.select(range(65)), encoded.select(range(65, 89))
        return make_trainer(
            model, train, valid, tokenizer.pad_token_id, tmp_path / name, TrainingSettings(**options | changes)
        )

    return make


@pytest.fixture
def fault(tmp_path, monkeypatch):
    def install(text="pass", patience=0, loss="pass"):
        (tmp_path / "site").mkdir()
        (tmp_path / "site/sitecustomize.py").write_text(FAULT.format(fault=text, patience=patience, loss=loss))
        monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path / 'site'}")
        monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
        return tmp_path / "marker"

    return install


def trained(trainer, processes):
    fit(trainer, **RUN, until=time.time() + 3600, processes=processes)
    return trainer


def assert_same(one, other):
    """History and weights."""
    tables = [torch.tensor(history_table(trainer.state.log_history).to_numpy()) for trainer in (one, other)]
    torch.testing.assert_close(*tables, atol=2e-4, rtol=1e-3)
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values()):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)


def test_every_row_of_a_step_goes_to_one_process():
    rows = [{"sequences": [[1] * n], "length": n, "labels": n} for n in (3, 9, 5, 7, 4)]
    shares = [TokenBudget(PairCollator(0), 10, process, 2)(rows) for process in (0, 1)]
    seen = [label for share in shares for part in share["parts"] for label in part["labels"].tolist()]
    assert sorted(seen) == [3, 4, 5, 7, 9]
    assert sum(weight for share in shares for weight in share["weights"]) == pytest.approx(1)
    alone = [TokenBudget(PairCollator(0), 10, process, 2)(rows[:1]) for process in (0, 1)]
    assert [share["weights"] for share in alone] == [[1.0], [0.0]]


@pytest.mark.slow
def test_two_processes_train_what_one_does_even_if_one_is_killed_on_the_way(new_trainer, fault, capsys):
    """65 rows in steps of 16: of the last step's single row one process gets nothing. A worker dies in step 6; run
    again, the training goes on from the checkpoint of step 4."""
    one = trained(new_trainer("one"), 1)
    fault(KILLED)
    with pytest.raises(RuntimeError, match="killed from outside"):
        trained(new_trainer("two"), 2)
    capsys.readouterr()
    two = trained(new_trainer("two"), 2)
    assert "Resuming from" in (said := capsys.readouterr().out)
    assert MARK not in said
    assert said.count("training ended after") == 1, "only the first process speaks"
    assert "checkpoint-4" in said
    assert_same(one, two)
    assert not (Path(two.args.output_dir) / "job").exists()


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_every_option(new_trainer):
    model = {"head": "network", "pooling": "attention", "names_loss": 0.2, "soft_temperature": 2.0, "lora_rank": 4}
    options = {"features": "on", "schedule": "cosine", "ema": 0.9}
    one, two = (trained(new_trainer(str(count), model, **options), count) for count in (1, 2))
    assert_same(one, two)
    assert any("lora" in name for name in two.model.state_dict())


@pytest.mark.slow
def test_a_process_that_dies_after_the_result_is_written_costs_nothing(new_trainer, fault):
    fault(ABORTS_AT_ITS_END)
    two = trained(new_trainer("two", epochs=0.5), 2)
    assert two.state.global_step == two.state.max_steps
    assert not (Path(two.args.output_dir) / "job").exists()


@pytest.mark.slow
def test_a_failing_process_ends_the_run_with_its_traceback(new_trainer, fault):
    fault(RAISES)
    with pytest.raises(RuntimeError, match="a fault of one process alone"):
        trained(new_trainer("out"), 2)


@pytest.mark.slow
def test_a_process_that_hangs_does_not_hang_the_run(new_trainer, fault):
    fault(HANGS, patience=5)
    with pytest.raises(RuntimeError, match="did not answer in time"):
        trained(new_trainer("out"), 2)


@pytest.mark.slow
def test_memory_short_in_one_process_starts_all_again_with_parts_of_half_their_real_size(new_trainer, fault, capsys):
    """Up to 16 pairs may be in a part, but those of the longest pairs hold 4: one restart, not three."""
    marker = fault(loss=SHORT)
    trainer = trained(new_trainer("out"), 2)
    assert marker.read_text() == "4"
    assert capsys.readouterr().out.count("again with at most 2 pairs") == 1
    assert_same(trained(new_trainer("one"), 1), trainer)


@pytest.mark.slow
def test_memory_for_less_than_a_pair_is_one_sentence_with_two_processes_too(new_trainer, fault):
    fault(loss=SHORT.replace("> 2", "> 0"))
    with pytest.raises(InputError, match=r"CFG\.max_length"):
        trained(new_trainer("out", micro_batch=1), 2)


@pytest.mark.slow
def test_a_loss_that_is_nan_in_the_second_process_only_is_said_by_the_first(new_trainer, fault, capsys):
    fault(loss=NAN)
    trainer = new_trainer("out")
    stopped = fit(trainer, True, until=time.time() + 3600, rows_after=24, processes=2)
    assert stopped.startswith("step 5: the loss is NaN or infinite")
    assert capsys.readouterr().out.count(f"{stopped} Stopped.") == 1
    assert trainer.state.global_step == 5


def test_each_process_drops_values_of_its_own_and_the_first_the_same_as_alone():
    def noise(seed, process):
        start_session(seed)
        seed_dropout(seed, process)
        return torch.nn.functional.dropout(torch.ones(64)).tolist()

    start_session(0)
    alone = torch.nn.functional.dropout(torch.ones(64)).tolist()
    assert noise(0, 0) == alone
    assert noise(0, 1) == noise(0, 1)
    assert len({tuple(noise(seed, process)) for seed in (0, 1) for process in (0, 1, 2)}) == 6


@pytest.mark.slow
def test_two_processes_drop_different_values_at_every_step(new_trainer, fault, tmp_path):
    """Also after evaluations, which run through accelerate's own loaders."""
    write = "marker.with_name(f'rank{os.environ[\"RANK\"]}').open('a').write(f'{torch.get_rng_state().sum()}\\n')"
    fault(write)
    site = tmp_path / "site/sitecustomize.py"
    site.write_text(site.read_text().replace('os.environ.get("RANK") == "1"', '"RANK" in os.environ', 1))
    trained(new_trainer("out"), 2)
    seen = [(tmp_path / f"rank{rank}").read_text().split() for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 10
    assert all(one != other for one, other in zip(*seen))


@pytest.mark.slow
def test_two_machines_by_torchrun(new_trainer, tmp_path):
    trainer = new_trainer("out")
    job = tmp_path / "job"
    write_job(trainer, job, RUN | {"until": time.time() + 3600})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    words += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen([*words, f"--node-rank={rank}", "-m", "src_py.training.worker", str(job)], env=env)
        for rank in (0, 1)
    ]
    assert [node.wait(300) for node in nodes] == [0, 0]
    one = trained(new_trainer("one"), 1)
    for name, value in load_file(job / "result.safetensors").items():
        torch.testing.assert_close(value, one.model.state_dict()[name], atol=2e-4, rtol=1e-3, msg=name)
