"""Runs: resumed when nothing changed, set aside when something did, used for predicting only loudly."""

import functools
import itertools
import json
import os
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src_py.config import Settings, check_config, setting
from src_py.errors import InputError
from src_py.kaggle import identity
from src_py.kaggle.identity import changes, identify, key_of, module_digest, rows_digest
from src_py.kaggle.resume import RunFiles, RunSettings, begin_run, end_run, find_finished, recorded_run

RECIPE = "finetune_deberta"
FILES = RunFiles(RECIPE, ("fold_0", "fold_1"), temporary=("checkpoints",))


@dataclass(frozen=True)
class Some(Settings):
    lr: float = setting(0.1)
    output_dir: str = setting(".")


def config(**values):
    return check_config(type("CFG", (), {"lr": 0.1, "output_dir": "."} | values), Some)


def run(lr=0.1, rows="x"):
    return {"settings": {"lr": lr}, "rows": rows, "encoder": "e", "code": {"src_py/model/heads.py": "c"}}


@pytest.fixture
def mounts(tmp_path):
    (tmp_path / "in").mkdir(exist_ok=True)
    return tmp_path / "in"


def leave(folder: Path, the_run, finished=False, learned=True, folds=(0,), steps=(), recipe=RECIPE):
    """What a run of two folds leaves in its output folder."""
    begin_run(
        folder, folder.parent / "nothing", the_run, FILES._replace(recipe=recipe), {"lr": the_run["settings"]["lr"]}
    )
    for fold in folds:
        (folder / f"fold_{fold}").mkdir()
        (folder / f"fold_{fold}/preference.json").write_text("{}")
    for step in steps:
        (folder / f"checkpoints/fold_1/checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoints/fold_1/checkpoint-{step}/weights").write_text("w")
    if finished:
        end_run(folder, FILES._replace(recipe=recipe), learned)
    return folder


@pytest.fixture(autouse=True)
def _nothing(tmp_path):
    for folder in (tmp_path, tmp_path / "in/notebooks/me", tmp_path / "in"):
        (folder / "nothing").mkdir(parents=True, exist_ok=True)


def test_the_same_run_resumes_where_it_is(tmp_path, mounts, capsys):
    out = leave(tmp_path / "out", run(), steps=(3,))
    begin_run(out, mounts, run(), FILES, {})
    assert (out / "fold_0").is_dir()
    assert (out / "checkpoints/fold_1/checkpoint-3").is_dir()
    assert "Resuming the run" in capsys.readouterr().out


def test_a_changed_run_names_the_change_and_sets_only_its_own_results_aside(tmp_path, mounts, capsys):
    out = leave(tmp_path / "out", run(), steps=(3,))
    (out / "fold_notes").mkdir()
    (out / "fold_notes/mine.txt").write_text("my notes")
    begin_run(out, mounts, run(lr=0.2) | {"code": {"src_py/model/heads.py": "edited"}}, FILES, {})
    said = capsys.readouterr().out
    assert "CFG.lr (0.2, was 0.1)" in said
    assert "src_py/model/heads.py" in said
    assert not (out / "fold_0").exists()
    assert not (out / "checkpoints").exists()
    assert (out / "fold_notes/mine.txt").read_text() == "my notes"
    begin_run(out, mounts, run(), FILES, {})
    assert (out / "fold_0/preference.json").is_file(), "the first run's results are back with its settings"


def test_resume_never_starts_from_the_beginning(tmp_path, mounts):
    out = leave(tmp_path / "out", run(), steps=(3,))
    begin_run(out, mounts, run(), FILES, {}, resume="never")
    assert not (out / "fold_0").exists()
    begin_run(out, mounts, run(), FILES, {})
    assert not (out / "fold_0").exists()


def test_an_attached_interrupted_run_is_copied_and_left_as_it_is(tmp_path, mounts, capsys):
    attached = leave(mounts / "notebooks/me/nb", run(), steps=(3, 6))
    leave(mounts / "notebooks/me/old", run(rows="others"))
    for folder in [*attached.rglob("*"), attached]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    begin_run(tmp_path / "out", mounts, run(), FILES, {})
    for folder in [attached, *attached.rglob("*")]:
        folder.chmod(0o755)
    assert (tmp_path / "out/fold_0/preference.json").is_file()
    target = tmp_path / "out/checkpoints/fold_1/checkpoint-6/weights"
    assert os.stat(target).st_mode & 0o200, "a copy can be written"
    begin_run(tmp_path / "other", mounts, run(lr=3), FILES, {})
    assert "CFG.lr (3, was 0.1), the training rows" in capsys.readouterr().out
    assert not (tmp_path / "other/fold_0").exists()


def test_a_finished_run_of_this_recipe_is_for_predicting_and_says_what_it_ignores(mounts, monkeypatch, capsys):
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    leave(mounts / "open", run())
    leave(mounts / "ablation", run(), finished=True, recipe="ablate_subset_vs_full")
    assert find_finished(mounts, RECIPE, "auto", {}) is None
    done = leave(mounts / "done", run(), finished=True)
    assert find_finished(mounts, RECIPE, "train", {}) is None
    capsys.readouterr()
    assert find_finished(mounts, RECIPE, "auto", {"lr": 0.3}) == done
    said = capsys.readouterr().out
    assert "PREDICTING ONLY" in said
    assert "CFG.lr (0.3, was 0.1)" in said
    leave(mounts / "second", run(), finished=True)
    with pytest.raises(InputError, match=r"Several finished runs.*CFG\.mode = 'train'"):
        find_finished(mounts, RECIPE, "auto", {})


def test_an_interrupted_run_predicts_only_in_the_scoring_run_or_on_request(mounts, monkeypatch):
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    with pytest.raises(InputError, match="no finished run of finetune_deberta is attached"):
        find_finished(mounts, RECIPE, "predict", {})
    left = leave(mounts / "open", run())
    assert find_finished(mounts, RECIPE, "auto", {}) is None
    assert find_finished(mounts, RECIPE, "predict", {}) == left
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert find_finished(mounts, RECIPE, "auto", {}) == left


def test_a_debug_run_is_never_for_predicting_and_that_is_said(mounts, monkeypatch, capsys):
    folder = leave(mounts / "debug", run(), finished=True)
    record = json.loads((folder / FILES.record).read_text())
    (folder / FILES.record).write_text(json.dumps(record | {"config": {"lr": 0.1, "rows": 2000}}))
    assert find_finished(mounts, RECIPE, "auto", {}) is None
    assert "it was a debug run on 2,000 rows" in capsys.readouterr().out
    with pytest.raises(InputError, match="no finished run of finetune_deberta but a debug run"):
        find_finished(mounts, RECIPE, "predict", {})
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert find_finished(mounts, RECIPE, "auto", {}) is None
    done = leave(mounts / "done", run(), finished=True)
    assert find_finished(mounts, RECIPE, "auto", {}) == done


@pytest.mark.parametrize("name", ["folds", "seeds"])
def test_more_models_than_the_finished_run_has_are_said_to_be_ignored(mounts, capsys, name):
    folder = leave(mounts / "done", run(), finished=True)
    record = json.loads((folder / FILES.record).read_text())
    (folder / FILES.record).write_text(json.dumps(record | {"config": {name: 1}}))
    assert find_finished(mounts, RECIPE, "auto", {name: 2}) == folder
    assert f"other settings: CFG.{name} (2, was 1)" in capsys.readouterr().out


def test_the_rows_of_a_debug_run_are_part_of_its_identity():
    user = type("CFG", (), {"mode": "auto", "resume": "auto", "rows": 0})
    whole = identify(check_config(user, RunSettings), [], None, [])
    part = identify(check_config(user, RunSettings, overrides="rows=2000"), [], None, [])
    assert changes(whole, part) == ["CFG.rows (2000, was 0)"]


def test_soft_labels_are_part_of_the_rows():
    table = pd.DataFrame({"soft": [[0.2, 0.8], [float("nan")] * 2]})
    assert rows_digest(table) != rows_digest(table.assign(soft=[[0.3, 0.7], [float("nan")] * 2]))


def test_a_run_that_did_not_learn_is_not_for_predicting(mounts, capsys):
    leave(mounts / "done", run(), finished=True, learned=False)
    assert find_finished(mounts, RECIPE, "auto", {}) is None
    assert "did not learn" in capsys.readouterr().out


def test_the_end_removes_checkpoints(tmp_path):
    out = leave(tmp_path / "out", run(), steps=(3,), finished=True)
    assert not (out / "checkpoints").exists()
    assert (out / "fold_0").is_dir()


@pytest.mark.parametrize(
    "text", ['{"key": "k", "fin', "[]", '{"results": ["../../outside"]}', '{"results": 3}', "\x00"]
)
def test_results_with_a_damaged_record_are_not_used_and_nothing_else_is_touched(tmp_path, mounts, text):
    out = leave(tmp_path / "out", run())
    (tmp_path / "outside").mkdir()
    (out / f"{RECIPE}_run.json").write_text(text)
    begin_run(out, mounts, run(), FILES, {})
    assert (tmp_path / "outside").is_dir()
    assert not (out / "fold_0").exists()
    assert list((out / "earlier_runs").glob("*/fold_0"))


def test_shared_files_of_an_attached_run_come_along(tmp_path, mounts):
    files = RunFiles("embed_deberta_lightgbm", ("tabular",), shared=("embeddings",))
    attached = mounts / "nb"
    begin_run(attached, tmp_path / "nothing", run(), files, {})
    for name in ("tabular/fold_0.npz", "embeddings/block.npz"):
        (attached / name).parent.mkdir(parents=True)
        (attached / name).write_text("x")
    out = tmp_path / "out"
    begin_run(out, mounts, run(), files, {})
    assert (out / "tabular/fold_0.npz").is_file()
    begin_run(out, mounts, run(lr=2), files, {})
    assert not (out / "tabular").exists()
    assert (out / "embeddings/block.npz").is_file()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, mounts):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"CFG\.output_dir"):
        begin_run(tmp_path / "file" / "out", mounts, run(), FILES, {})


class TestIdentity:
    @pytest.fixture
    def helpers(self, tmp_path, monkeypatch):
        """Two helper files: one imports the other."""
        (tmp_path / "src_py/room").mkdir(parents=True)
        (tmp_path / "src_py/room/low.py").write_text("x = 1\n")
        (tmp_path / "src_py/room/high.py").write_text("from src_py.room.low import x\n")
        (tmp_path / "src_py/room/plots.py").write_text("y = 1\n")
        monkeypatch.setattr(identity, "HELPERS", tmp_path / "src_py")
        return tmp_path / "src_py/room"

    def test_it_changes_with_settings_rows_encoder_helpers_and_the_notebooks_functions(self, helpers, tiny, pairs):
        def one():
            return 1

        def two():
            return 2

        two.__qualname__ = one.__qualname__
        base = identify(config(), [pairs], tiny, [one])
        assert base == identify(config(output_dir="elsewhere"), [pairs], tiny, [one])
        assert changes(base, identify(config(lr=0.2), [pairs], tiny, [one])) == ["CFG.lr (0.2, was 0.1)"]
        assert changes(base, identify(config(), [pairs[1:]], tiny, [one])) == ["the training rows or folds"]
        assert changes(base, identify(config(), [pairs], helpers, [one])) == ["the encoder"]
        assert changes(base, identify(config(), [pairs], tiny, [two])) == ["one()"]
        for path in helpers.glob("*.py"):
            old = path.read_text()
            path.write_text(old + "# edited\n")
            edited = identify(config(), [pairs], tiny, [one])
            assert changes(base, edited) == [f"src_py/room/{path.name}"]
            assert key_of(edited) != key_of(base)
            path.write_text(old)

    def test_a_cache_depends_on_the_modules_that_make_it_and_no_others(self, helpers):
        before = module_digest("src_py.room.high")
        (helpers / "plots.py").write_text("y = 2\n")
        assert module_digest("src_py.room.high") == before
        (helpers / "low.py").write_text("x = 20\n")
        assert module_digest("src_py.room.high") != before

    def test_every_cell_of_a_table_counts(self, pairs):
        pairs = pairs.assign(model_a=pairs["id"], model_b=pairs["id"])
        base = rows_digest(pairs)
        for column in pairs:
            edited = pairs.copy()
            edited[column] = edited[column].to_numpy()[::-1]
            assert rows_digest(edited) != base, column
        assert rows_digest(np.arange(3)) != rows_digest(np.arange(3.0))
        assert rows_digest(pd.DataFrame({"t": [["a", "b"]]})) != rows_digest(pd.DataFrame({"t": [["ab"]]}))


class TestAnyOrderOfEvents:
    """A recipe in small: two folds, whose results are a digest of what they were made from."""

    @pytest.fixture
    def world(self, tmp_path, monkeypatch):
        helper = tmp_path / "src_py/room.py"
        helper.parent.mkdir()
        helper.write_text("factor = 1\n")
        monkeypatch.setattr(identity, "HELPERS", helper.parent)
        monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
        return tmp_path, helper

    def recipe(self, out, mounts, helper, lr, mode, until=2):
        """Returns the submission, or None when interrupted before fold `until`."""

        def train_fold(made_from):
            return f"trained {made_from}"

        finished = find_finished(mounts, RECIPE, mode, {"lr": lr})
        if finished:
            return [(finished / f"fold_{fold}/result").read_text() for fold in (0, 1)], True
        the_run = identify(config(lr=lr), [np.arange(3)], None, [train_fold])
        begin_run(out, mounts, the_run, FILES, {"lr": lr})
        for fold in (0, 1):
            result = out / f"fold_{fold}/result"
            if not result.is_file():
                if fold >= until:
                    return None, False
                result.parent.mkdir()
                result.write_text(train_fold(f"lr {lr}, helper {helper.read_text()}, fold {fold}"))
        end_run(out, FILES)
        return [(out / f"fold_{fold}/result").read_text() for fold in (0, 1)], False

    @pytest.mark.parametrize("share", [0.04, pytest.param(1.0, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("mode", ["train", "auto"])
    def test_the_submission_is_that_of_a_clean_run_with_the_final_code_and_settings(self, world, mode, share, capsys):
        root, helper = world
        events = ("attach", "edit the helper", "change lr", "interrupt", "run")
        orders = list(itertools.product(events, repeat=4))
        chosen = random.Random(0).sample(orders, int(share * len(orders)))
        for number, order in enumerate(chosen):
            place = root / str(number)
            out, mounts, lr = place / "out", place / "in", 0.1
            mounts.mkdir(parents=True)
            helper.write_text("factor = 1\n")
            for step, event in enumerate(order):
                if event == "attach" and out.is_dir():
                    shutil.rmtree(mounts / "output", ignore_errors=True)
                    shutil.copytree(out, mounts / "output")
                    shutil.rmtree(out)
                elif event == "edit the helper":
                    helper.write_text(f"factor = {step % 2 + 2}\n")
                elif event == "change lr":
                    lr = 0.3 - lr  # there and back
                elif event == "interrupt":
                    self.recipe(out, mounts, helper, lr, mode, until=1)
                elif event == "run":
                    self.recipe(out, mounts, helper, lr, mode)
            capsys.readouterr()
            found, predicted_only = self.recipe(out, mounts, helper, lr, mode)
            said = capsys.readouterr().out
            clean, _ = self.recipe(place / "clean", root / "nothing", helper, lr, "train")
            if predicted_only:
                assert "PREDICTING ONLY" in said
                assert (found == clean) or "Ignored" in said or "Its code was different" in said, order
            else:
                assert found == clean, order


def test_only_the_results_of_the_submission_are_used_again_and_all_of_them_must_be_there(tmp_path, mounts):
    out = leave(tmp_path / "out", run(), folds=(0, 1))
    end_run(out, FILES, used=["fold_0"])
    assert recorded_run(out, RECIPE) == (key_of(run()), ["fold_0"])
    shutil.rmtree(out / "fold_0")
    with pytest.raises(InputError, match="lacks fold_0 of its run"):
        recorded_run(out, RECIPE)
    begin_run(out, mounts, run(), FILES, {})
    assert recorded_run(out, RECIPE) == (key_of(run()), None), "it has not come to its end again"
    with pytest.raises(InputError, match="no record"):
        recorded_run(mounts, RECIPE)


def test_the_submission_of_another_run_is_set_aside(tmp_path, mounts, capsys):
    files = FILES._replace(final=("submission.csv",))
    out = tmp_path / "out"
    begin_run(out, mounts, run(), files, {})
    (out / "submission.csv").write_text("old")
    end_run(out, files)
    begin_run(out, mounts, run(lr=2), files, {})
    assert not (out / "submission.csv").exists()
    assert capsys.readouterr().out.count("This run starts from the beginning.") == 2
    begin_run(out, mounts, run(), files, {})
    assert (out / "submission.csv").read_text() == "old"
    assert "starts from the beginning" not in capsys.readouterr().out


def test_mode_predict_needs_a_run_that_has_something_to_predict_with(mounts):
    leave(mounts / "open", run(), folds=())
    with pytest.raises(InputError, match="no finished run of finetune_deberta is attached"):
        find_finished(mounts, RECIPE, "predict", {})


def test_an_attached_record_does_not_choose_what_is_copied(tmp_path, mounts):
    """On Kaggle the output folder also holds the helpers that worker processes import."""
    attached = leave(mounts / "nb", run())
    (attached / "src_py").mkdir()
    (attached / "src_py/evil.py").write_text("raise SystemExit")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("key")
    (attached / "fold_1").symlink_to(tmp_path / "secret")
    (attached / "fold_0/link").symlink_to(tmp_path / "secret/key")
    record = json.loads((attached / f"{RECIPE}_run.json").read_text())
    record["results"] = ["src_py", "fold_0", "fold_1", "submission.csv"]
    (attached / f"{RECIPE}_run.json").write_text(json.dumps(record))
    begin_run(tmp_path / "out", mounts, run(), FILES, {})
    copied = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert copied == {f"{RECIPE}_run.json", "fold_0/preference.json"}


@pytest.mark.parametrize("moves", range(4))
def test_a_kill_while_results_change_places_never_gives_them_to_another_run(tmp_path, mounts, monkeypatch, moves):
    out, real = tmp_path / "out", shutil.move

    def result(lr, fold=0):
        path = out / f"fold_{fold}/result"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"trained with {lr}")
        return path.read_text()

    def finish(lr):
        begin_run(out, mounts, run(lr=lr), FILES, {})
        assert {result(lr, fold) for fold in (0, 1)} == {f"trained with {lr}"}
        end_run(out, FILES)

    finish(1)
    finish(2)
    done = []

    def move(*args):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(real(*args))

    with monkeypatch.context() as killed:
        killed.setattr(shutil, "move", move)
        with pytest.raises(KeyboardInterrupt):
            begin_run(out, mounts, run(lr=1), FILES, {})
    for lr in (2, 1, 2):
        finish(lr)


@pytest.mark.parametrize(
    "text",
    ['{"results": [], "finished": true, "identity": []}', '{"results": [], "identity": {"code": null}}', "[" * 100_000,
     '{"results": [], "identity": {"settings": "x", "code": {}}}', '{"results": [], "finished": "no"}',
     '{"results": [], "config": []}', '{"results": [], "used": ["../x"]}'],
)  # fmt: skip
def test_a_tampered_record_counts_as_none(tmp_path, mounts, text):
    leave(mounts / "nb", run(), finished=True)
    (mounts / f"nb/{RECIPE}_run.json").write_text(text)
    assert find_finished(mounts, RECIPE, "auto", {}) is None
    begin_run(tmp_path / "out", mounts, run(), FILES, {})


def own_helper():
    return 1


def uses_own_helper():
    return [own_helper() for _ in range(2)]


def test_the_identity_covers_what_the_notebooks_functions_use(monkeypatch):
    def edited_helper():
        return 2

    edited_helper.__module__ = __name__
    base = identify(config(), [], None, [uses_own_helper])
    monkeypatch.setitem(globals(), "own_helper", edited_helper)
    assert changes(base, identify(config(), [], None, [uses_own_helper]))
    with pytest.raises(InputError, match="define it with def"):
        identify(config(), [], None, [len])
    assert identify(config(), [], None, [functools.partial(uses_own_helper)])


def test_helpers_that_were_edited_after_they_were_imported_are_refused(monkeypatch):
    monkeypatch.delitem(sys.modules, "src_py.kaggle.identity")
    with pytest.raises(InputError, match="choose Run All"):
        identify(config(), [], None, [])
