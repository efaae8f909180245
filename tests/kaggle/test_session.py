"""What the machine can do is known before anything heavy."""

import os

import pytest
import torch

from src_py.errors import InputError
from src_py.kaggle.session import (
    allocator_variables,
    choose_precision,
    describe_hardware,
    start_session,
    to_device,
    visible_gpus,
)
from src_py.training.processes import worker_environment


@pytest.fixture
def cards(monkeypatch):
    """Pretends that GPUs are there: (name, capability) each."""

    def install(*found, built=("sm_75", "sm_80")):
        class Properties:
            def __init__(self, name):
                self.name, self.total_memory = name, 15.6e9

        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(found))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i=0: found[i][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: found[i][1])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i=0: Properties(found[i][0]))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))

    return install


def test_two_t4s_are_one_line(cards):
    cards(("Tesla T4", (7, 5)), ("Tesla T4", (7, 5)))
    said = describe_hardware("fp16")
    assert "\n" not in said
    assert said.startswith("Tesla T4 (15.6 GB), Tesla T4 (15.6 GB); one process for each")
    assert visible_gpus() == (0, 1)


def test_a_p100_without_kernels_is_refused_with_the_exact_remedy(cards):
    cards(("Tesla P100-PCIE-16GB", (6, 0)))
    with pytest.raises(InputError, match=r"sm_60.*T4 x2.*torch==[\d.]+\+cu126"):
        describe_hardware("fp16")
    cards(("Tesla P100-PCIE-16GB", (6, 0)), built=("sm_60", "sm_75"))
    assert "P100" in describe_hardware("fp16")


def test_without_a_gpu_it_says_so(cards):
    cards()
    assert "no GPU" in describe_hardware("fp32")
    assert choose_precision("fp16") == "fp32"
    assert visible_gpus() == ()


def test_bf16_is_refused_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_precision("fp16") == "fp16"
    with pytest.raises(InputError, match="emulates"):
        choose_precision("bf16")
    with pytest.raises(InputError, match=r"CFG\.precision"):
        choose_precision("half")


@pytest.fixture
def environment(monkeypatch):
    """The environment of a process in which nobody has set up the allocator yet."""
    values = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    monkeypatch.setattr(os, "environ", values)
    return values


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("2.13.0+cu128", "PYTORCH_ALLOC_CONF"),
        ("2.11.0a0+git1", "PYTORCH_ALLOC_CONF"),
        ("2.10.0", "PYTORCH_CUDA_ALLOC_CONF"),
        ("2.9.1+cu128", "PYTORCH_CUDA_ALLOC_CONF"),
    ],
)
def test_segments_grow_by_the_name_that_this_torch_knows(cards, environment, monkeypatch, version, name):
    cards(("Tesla T4", (7, 5)))
    monkeypatch.setattr(torch, "__version__", version)
    assert worker_environment()[name] == "expandable_segments:True"
    start_session(0)
    assert {key: value for key, value in environment.items() if "ALLOC_CONF" in key} == {
        name: "expandable_segments:True"
    }


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_stays_what_the_user_made_it_and_a_cpu_has_none(cards, environment, name):
    cards()
    assert allocator_variables() == {}
    cards(("Tesla T4", (7, 5)))
    environment[name] = "max_split_size_mb:64"
    assert allocator_variables() == {}


def test_a_batch_on_its_device_is_not_copied():
    batch = torch.arange(3)
    assert to_device(batch, "cpu") is batch
    assert to_device(batch, "meta").device.type == "meta"
