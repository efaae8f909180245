"""The output of finetune_deberta as a member of a blend: found by its recipe, checked before anything is trained."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from src_py.errors import InputError
from src_py.model.fine_tuned import RECIPE, find_fine_tuned
from src_py.model.preference import build_model
from src_py.model.saved import SavedSettings, save_trained
from src_py.pairs.encode import Reading
from src_py.pairs.load import prompt_key
from src_py.pairs.tokenizer import load_tokenizer

CLASSES = ("a", "b", "tie")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    """Makes trained folders, copies of one."""
    tokenizer, made = load_tokenizer(tiny), tmp_path_factory.mktemp("trained")
    model = build_model(tiny, tokenizer, "pairwise", [0.4, 0.3, 0.3])

    def write(folder, recipe=RECIPE, classes=CLASSES):
        source = made / f"{recipe}-{len(classes)}"
        if not source.is_dir():
            save_trained(model, tokenizer, source, SavedSettings(recipe, classes, Reading()))
        shutil.copytree(source, folder)

    return write


@pytest.fixture
def table(pairs) -> pd.DataFrame:
    return pairs


@pytest.fixture
def oof(table) -> pd.DataFrame:
    """Predictions of fold 0 of 3, split by prompt."""
    fold = pd.factorize(prompt_key(table))[0] % 3
    rows = pd.DataFrame({"id": table["id"], "fold": fold, "label": table["label"]})[fold == 0]
    return rows.assign(a=0.5, b=0.3, tie=0.2)


@pytest.fixture
def run(tmp_path, trained, oof):
    """A finished output of finetune_deberta with one fold, its default."""
    folder = tmp_path / "run"
    trained(folder / "fold_0")
    oof.to_csv(folder / "oof.csv", index=False)
    return folder


def test_one_fold_is_found_with_its_rows_and_folder(run, table, oof):
    found = find_fine_tuned(run.parent, table, CLASSES)
    np.testing.assert_array_equal(found.known, table["id"].isin(oof["id"]))
    np.testing.assert_allclose(found.oof[found.known], [[0.5, 0.3, 0.2]] * len(oof))
    assert found.folders == [run / "fold_0"]
    assert found.output == run


def test_every_seed_of_a_fold_takes_part(run, table, trained):
    for name in ("fold_0_seed_1", "fold_0_seed_2"):
        trained(run / name)
    found = find_fine_tuned(run.parent, table, CLASSES)
    assert [folder.name for folder in found.folders] == ["fold_0", "fold_0_seed_1", "fold_0_seed_2"]


def test_only_folders_whose_predictions_are_known_take_part(run, table, trained):
    trained(run / "fold_1")
    assert [folder.name for folder in find_fine_tuned(run.parent, table, CLASSES).folders] == ["fold_0"]


def test_the_digest_tells_outputs_apart(run, table, oof):
    first, again = (find_fine_tuned(run.parent, table, CLASSES).digest for _ in "ab")
    assert first == again
    oof.assign(a=0.4, b=0.4).to_csv(run / "oof.csv", index=False)
    assert find_fine_tuned(run.parent, table, CLASSES).digest != first


def test_nothing_attached_is_none_and_other_recipes_are_not_looked_at(tmp_path, table, trained):
    assert find_fine_tuned(tmp_path, table, CLASSES) is None
    trained(tmp_path / "ablation/fold_0", recipe="ablate_subset_vs_full")
    (tmp_path / "ablation/oof.csv").write_text("not a table")
    assert find_fine_tuned(tmp_path, table, CLASSES) is None


def test_a_debug_output_is_used_in_a_debug_run_only(run, table, capsys):
    record = {"recipe": RECIPE, "results": ["fold_0"], "config": {"rows": 2000}}
    (run / f"{RECIPE}_run.json").write_text(json.dumps(record))
    (run / "oof.csv").rename(run / "debug_oof.csv")
    assert find_fine_tuned(run.parent, table, CLASSES) is None
    assert "it was a debug run on 2,000 rows" in capsys.readouterr().out
    assert find_fine_tuned(run.parent, table, CLASSES, rows=2000).output == run
    real = shutil.copytree(run, run.parent / "real")
    (real / f"{RECIPE}_run.json").unlink()
    (real / "debug_oof.csv").rename(real / "oof.csv")
    assert find_fine_tuned(run.parent, table, CLASSES).output == real


def test_a_debug_run_leaves_out_predictions_for_rows_that_it_has_not(run, table, oof):
    few = table[::2].reset_index(drop=True)
    with pytest.raises(InputError, match="made from other training rows"):
        find_fine_tuned(run.parent, few, CLASSES)
    found = find_fine_tuned(run.parent, few, CLASSES, rows=len(few))
    np.testing.assert_array_equal(found.known, few["id"].isin(oof["id"]))
    others = few.assign(id="other-" + few["id"])
    with pytest.raises(InputError, match="made from other training rows"):
        find_fine_tuned(run.parent, others, CLASSES, rows=len(few))


def test_several_outputs_are_refused(run, table):
    shutil.copytree(run, run.parent / "other")
    with pytest.raises(
        InputError, match=r"Several outputs of finetune_deberta are attached \(.*other, .*run\); keep one"
    ):
        find_fine_tuned(run.parent, table, CLASSES)


def test_an_interrupted_output_is_refused(run, table):
    (run / "oof.csv").unlink()
    with pytest.raises(InputError, match=r"trained folders but no oof.csv; attach the complete output"):
        find_fine_tuned(run.parent, table, CLASSES)


def test_predictions_without_their_folder_are_refused(run, table, trained):
    trained(run / "fold_1")
    shutil.rmtree(run / "fold_0")
    with pytest.raises(InputError, match="predictions of fold_0, but that folder is missing"):
        find_fine_tuned(run.parent, table, CLASSES)


def test_a_model_of_other_classes_is_refused(run, table, trained):
    shutil.rmtree(run / "fold_0")
    trained(run / "fold_0", classes=("a", "b"))
    with pytest.raises(InputError, match=r"trained for the classes a, b, but this contest has a, b, tie"):
        find_fine_tuned(run.parent, table, CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda oof: oof.assign(label=(oof["label"] + 1) % 3), "made from other training rows"),
        (lambda oof: oof.assign(id="x" + oof["id"]), "made from other training rows"),
        (lambda oof: oof.assign(fold=np.arange(len(oof)) % 2), "rows of one prompt in several folds"),
        (lambda oof: oof.iloc[::2], "rows of one prompt in several folds or leaves some out"),
        (lambda oof: oof.drop(columns="tie"), "cannot be read"),
        (lambda oof: oof.drop(columns="id"), "cannot be read"),
        (lambda oof: oof.assign(a="much"), "cannot be read"),
        (lambda oof: oof.assign(a=np.nan), "cannot be read|does not hold"),
        (lambda oof: oof.assign(a=0.9), "probabilities that sum to 1"),
        (lambda oof: oof.assign(a=-0.5, b=1.3), "probabilities that sum to 1"),
        (lambda oof: oof.assign(fold=0.5), "does not hold one row an id with a fold"),
        (lambda oof: pd.concat([oof, oof]), "does not hold one row an id"),
        (lambda oof: oof.iloc[:0], "does not hold one row an id"),
    ],
)
def test_predictions_that_do_not_fit_the_rows_are_refused(run, table, oof, change, message):
    change(oof).to_csv(run / "oof.csv", index=False)
    with pytest.raises(InputError, match=message) as caught:
        find_fine_tuned(run.parent, table, CLASSES)
    assert str(run / "oof.csv") in str(caught.value)
