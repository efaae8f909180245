"""A folder with a .bin becomes one without a pickle, with the same weights."""

import hashlib
import os

import pytest
import torch

from src_py.errors import InputError
from src_py.model.encoder import load_encoder
from src_py.pairs.tokenizer import load_tokenizer
from tools.weights import convert, main


@pytest.fixture
def old(tiny, tmp_path):
    """The tiny model as it was stored years ago."""
    folder = tmp_path / "old"
    folder.mkdir()
    for path in tiny.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save(load_encoder(tiny, attention="stock").state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_weights_are_the_same_and_nothing_needs_a_pickle(old, tiny, tmp_path, dtype):
    told = convert(old, tmp_path / "new", dtype)
    assert dtype in told
    assert not list((tmp_path / "new").glob("*.bin"))
    expected = load_encoder(tiny).state_dict()
    for name, value in load_encoder(tmp_path / "new").state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=0 if dtype == "float32" else 1e-3, rtol=0)
    text = "Two words.\nAnd a line"
    assert load_tokenizer(tmp_path / "new")(text) == load_tokenizer(tiny)(text)
    for line in (tmp_path / "new/SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "new" / name).read_bytes()).hexdigest() == digest


def test_a_pickle_that_would_run_code_is_refused(old, tmp_path):
    class Runs:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"x": Runs()}, old / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read"):
        convert(old, tmp_path / "new")
    assert not (tmp_path / "ran").exists()


def test_a_folder_with_something_in_it_is_not_written_to(old, tiny):
    with pytest.raises(SystemExit, match="not empty"):
        main([str(old), str(tiny)])
