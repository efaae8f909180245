"""The fault table: what may break on Kaggle, whether a run survives it or is refused in one sentence, and its test."""

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.kaggle.resume import RunFiles, begin_run
from src_py.model.predict import predict_pairs
from src_py.model.preference import build_model
from src_py.pairs.contest import LMSYS, find_contest, write_submission
from src_py.pairs.encode import Reading, encode_pairs
from src_py.pairs.load import load_pairs
from tools.demo_data import write_contest

TESTS = Path(__file__).resolve().parents[1]
SURVIVED, REFUSED = "survived", "refused"
READING = Reading(max_length=48)
RUN = {"settings": {}, "rows": "", "encoder": "", "code": {}}
FAULTS = {
    "kill -9 in training, checkpointing, evaluation, saving and submission": (
        SURVIVED, "notebooks/test_killed.py",
        "test_killed_in_training_checkpointing_evaluation_saving_and_submission"),
    "kill -9 at twenty random moments": (
        SURVIVED, "notebooks/test_killed.py", "test_killed_at_twenty_random_moments"),
    "kill -9 of an ablation": (
        SURVIVED, "ablation/test_grid.py",
        "test_killed_at_random_moments_and_resumed_the_table_is_that_of_an_undisturbed_run"),
    "kill -9 of the LightGBM recipe in embedding, storing and submission": (
        SURVIVED, "notebooks/test_killed.py", "test_boosting_killed_in_embedding_storing_and_submission"),
    "any order of attaching, editing, interrupting and running": (
        SURVIVED, "kaggle/test_resume.py",
        "test_the_submission_is_that_of_a_clean_run_with_the_final_code_and_settings"),
    "a damaged fold of a LightGBM run that resumes": (
        SURVIVED, "tabular/test_saved.py", "test_a_run_resumes_with_its_folds_but_not_with_a_damaged_one"),
    "embedding interrupted": (
        SURVIVED, "tabular/test_embeddings.py", "test_an_interrupted_run_resumes_and_gives_the_same"),
    "read-only working folder": (
        REFUSED, "notebooks/test_faults.py", "test_a_working_folder_that_cannot_be_written"),
    "disk full while checkpointing": (
        REFUSED, "training/test_interrupted.py", "test_a_full_disk_is_one_sentence"),
    "disk full while writing the submission": (
        REFUSED, "evaluation/test_evaluation.py", "test_a_full_disk_leaves_the_earlier_file"),
    "disk full while saving the model": (
        REFUSED, "evaluation/test_evaluation.py", "test_a_full_disk_leaves_no_folder_that_looks_trained"),
    "a worker of two dies": (
        SURVIVED, "training/test_processes.py",
        "test_two_processes_train_what_one_does_even_if_one_is_killed_on_the_way"),
    "a worker of two fails": (
        REFUSED, "training/test_processes.py", "test_a_failing_process_ends_the_run_with_its_traceback"),
    "a worker or its loader hangs": (
        REFUSED, "training/test_processes.py", "test_a_process_that_hangs_does_not_hang_the_run"),
    "GPU memory full in one worker": (
        SURVIVED, "training/test_processes.py",
        "test_memory_short_in_one_process_starts_all_again_with_parts_of_half_their_real_size"),
    "GPU memory full": (
        SURVIVED, "training/test_batches.py",
        "test_out_of_memory_repeats_the_step_in_smaller_parts_and_changes_nothing"),
    "GPU memory too small for a pair": (
        REFUSED, "training/test_batches.py", "test_memory_for_less_than_a_pair_is_refused"),
    "a corrupted checkpoint": (
        SURVIVED, "training/test_interrupted.py",
        "test_a_damaged_checkpoint_is_left_out_and_the_one_before_is_used"),
    "a corrupted cache of tokens": (SURVIVED, "notebooks/test_faults.py", "test_a_damaged_cache_is_made_again"),
    "a corrupted attached encoder": (
        REFUSED, "model/test_preference.py", "test_folders_that_hold_no_usable_encoder_are_refused"),
    "a corrupted attached model": (REFUSED, "model/test_saved.py", "test_every_file_is_compared_with_its_digest"),
    "a corrupted attached fold of the LightGBM recipe": (
        REFUSED, "tabular/test_saved.py", "test_a_truncated_fold_is_refused_in_one_sentence"),
    "a corrupted record of the run": (
        SURVIVED, "kaggle/test_resume.py",
        "test_results_with_a_damaged_record_are_not_used_and_nothing_else_is_touched"),
    "a data file that is cut, mis-encoded or shifted": (
        REFUSED, "pairs/test_fuzz.py", "test_forty_mutated_csv_files"),
    "test rows empty, of 50,000 characters, of unknown script": (
        SURVIVED, "notebooks/test_faults.py", "test_strange_rows_are_answered"),
    "a test file without rows": (REFUSED, "notebooks/test_faults.py", "test_no_test_rows"),
    "a test file with one row": (SURVIVED, "notebooks/test_faults.py", "test_one_test_row"),
    "a test file with 25,000 rows": (SURVIVED, "tools/test_rehearsal.py", "test_rehearsal"),
    "no GPU": (SURVIVED, "kaggle/test_session.py", "test_without_a_gpu_it_says_so"),
    "a GPU without kernels": (
        REFUSED, "kaggle/test_session.py", "test_a_p100_without_kernels_is_refused_with_the_exact_remedy"),
    "inputs that appear late": (REFUSED, "notebooks/test_faults.py", "test_inputs_that_appear_late"),
    "time runs out": (
        SURVIVED, "training/test_interrupted.py", "test_a_late_training_is_said_early_and_stops_in_time"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_test(fault):
    _, file, name = FAULTS[fault]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_a_working_folder_that_cannot_be_written(tmp_path, tokenizer, pairs):
    (tmp_path / "file").write_text("")
    (tmp_path / "in").mkdir()
    blocked = tmp_path / "file/out"
    with pytest.raises(InputError, match="cannot be written"):
        begin_run(blocked, tmp_path / "in", RUN, RunFiles("finetune_deberta", ("fold_0",)), {})
    with pytest.raises(InputError, match="cannot be written"):
        encode_pairs(pairs[:4], tokenizer, Reading(max_length=48), cache_dir=blocked)
    with pytest.raises(InputError, match="cannot be written"):
        write_submission(blocked / "submission.csv", pd.Series(["1"]), np.full((1, 3), 1 / 3), LMSYS)


@pytest.mark.parametrize("kept", [0.5, 0.0, -1.0], ids=["cut", "empty", "other bytes"])
def test_a_damaged_cache_is_made_again(tmp_path, tokenizer, pairs, kept, capsys):
    whole = encode_pairs(pairs[:20], tokenizer, READING, cache_dir=tmp_path)["sequences"][:]
    cache = next(tmp_path.glob("*.arrow"))
    data = cache.read_bytes()
    cache.write_bytes(data[: int(len(data) * kept)] if kept >= 0 else b"x" * len(data))
    assert encode_pairs(pairs[:20], tokenizer, READING, cache_dir=tmp_path)["sequences"][:] == whole
    assert "damaged" in capsys.readouterr().out


@pytest.fixture
def answer(tiny, tokenizer, tmp_path):
    """From a test file to the submission, with an untrained model."""

    def run(rows):
        rows.to_csv(tmp_path / "test.csv", index=False)
        table, _ = load_pairs(tmp_path / "test.csv", LMSYS, labelled=False)
        model = build_model(tiny, tokenizer, "pairwise", [0.35, 0.34, 0.31])
        predicted = predict_pairs(model, tokenizer, table, READING)
        return write_submission(tmp_path / "submission.csv", table["id"], predicted, LMSYS)

    return run


def test_strange_rows_are_answered(answer):
    texts = [[], [""], [None], ["abc def " * 6250], ["ᚠᛇᚻ᛫ 𒀀𒁀"], ["\ud83d"], ["\x00\x07"], ["</s>[SEP]"], ["😀" * 900]]
    cells = [json.dumps(text) for text in texts]
    rows = pd.DataFrame({"id": range(len(cells)), "prompt": cells, "response_a": cells, "response_b": cells[::-1]})
    found = answer(rows)
    assert found["id"].tolist() == [str(i) for i in range(len(cells))]
    assert np.isfinite(found.drop(columns="id").to_numpy()).all()


def test_one_test_row(answer):
    cell = json.dumps(["text"])
    assert len(answer(pd.DataFrame({"id": [7], "prompt": [cell], "response_a": [cell], "response_b": [cell]}))) == 1


def test_no_test_rows(answer):
    with pytest.raises(InputError, match="no rows"):
        answer(pd.DataFrame({"id": [], "prompt": [], "response_a": [], "response_b": []}))


def test_inputs_that_appear_late(tmp_path):
    with pytest.raises(InputError, match="run this cell again"):
        find_contest(tmp_path / "input")
    (tmp_path / "input").mkdir()
    with pytest.raises(InputError, match="may take a minute"):
        find_contest(tmp_path / "input")
    write_contest(tmp_path / "input/contest", 4, 2)
    assert find_contest(tmp_path / "input").test.is_file()
