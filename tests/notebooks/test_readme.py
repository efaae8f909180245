"""Every command in the README exists and runs; the built notebook does its job in an empty folder."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tools.demo_data import make_pairs, write_contest

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in FENCED for line in block.splitlines() if line.strip()]
EXECUTED = {"make demo", "make sync", "make check", "make test"}


def make(*words, **options):
    """Quiet about folders: `make test` runs this inside make, which would announce them."""
    words = ["make", "--no-print-directory", *words]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, **options)


def test_the_readme_names_only_commands_that_are_run_by_a_test():
    with_inputs = ("make run ", "make weights ")
    assert {c for c in COMMANDS if not c.startswith(with_inputs)} == EXECUTED
    assert [sum(c.startswith(words) for c in COMMANDS) for words in with_inputs] == [1, 1]


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "benchmarks/README.md", "gallery/README.md"],
)
def test_links_inside_the_repository_resolve(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_help_lists_every_command_of_the_readme():
    text = make("help").stdout
    inline = re.findall(r"`make ([\w-]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    for target in {command.split()[1] for command in COMMANDS} | set(inline) - {"help"}:
        assert re.search(rf"^{target}\s", text, re.MULTILINE), target


def test_check_passes_and_building_again_changes_nothing():
    assert make("check").returncode == 0
    before = {path: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert make("sync").returncode == 0
    assert before == {path: path.read_bytes() for path in before}


def check_submission(folder, test_file):
    submission = pd.read_csv(folder / "submission.csv")
    assert submission["id"].tolist() == pd.read_csv(test_file)["id"].tolist()
    values = submission.drop(columns="id").to_numpy()
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-6)
    assert values.std(0).min() > 0
    return submission


@pytest.mark.slow
def test_the_demo_learns():
    """`make demo`: at least 40 % of the way from the constant predictor to Bayes, with a submission and a report."""
    done = make("demo")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = ROOT / "build/demo/finetune_deberta"
    figures = json.loads((out / "demo.json").read_text())
    closed = (figures["constant"] - figures["model"]) / (figures["constant"] - figures["bayes"])
    assert closed >= 0.4
    check_submission(out, out / "kaggle/input/competitions/llm-classification-finetuning/test.csv")
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 2


@pytest.mark.slow
def test_the_ablation_demo_tells_code_from_data():
    """Within its budget the posted settings stay at the constant predictor at the smallest size, the recipe beats it,
    and its curve falls."""
    done = make("demo", "RECIPE=ablate_subset_vs_full")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = ROOT / "build/demo/ablate_subset_vs_full"
    said = (out / "answer.md").read_text(encoding="utf-8")
    assert re.search(r"posted: at 125\b.* is not better than the constant predictor", said), said
    assert re.search(r"recipe: .*from [\d,]+ rows on it beats the constant predictor", said), said
    assert "Data or code? The code" in said
    results = pd.read_csv(out / "ablation.csv").query("as_rows == 0 and arm == 'recipe'")
    losses = results.groupby("rows")["log_loss"].mean()
    assert len(losses) >= 2
    assert losses.iloc[-1] < losses.iloc[0]
    check_submission(out, out / "kaggle/input/competitions/llm-classification-finetuning/test.csv")
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 1


@pytest.mark.slow
def test_the_remedies_demo_goes_from_a_constant_to_a_model_that_learns():
    """Each remedy has a row; the posted notebook stays at the constant predictor, the recipe leaves it."""
    done = make("demo", "RECIPE=why_is_it_not_learning")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = ROOT / "build/demo/why_is_it_not_learning"
    tried = pd.read_csv(out / "remedies.csv").set_index("training")
    assert tried.index[0] == "as posted"
    assert tried.loc["as posted", "verdict"] == "constant predictor"
    assert {"+ line break kept whole", "+ parts cut separately", "+ 16 rows a step", "+ warmup"} <= set(tried.index)
    assert tried["log loss"].notna().all()
    assert tried.loc["recipe", "to constant"] < 0 < tried.loc["as posted", "to constant"] + 0.01
    assert not (out / "submission.csv").exists()
    assert "There is no Trainer of yours yet" in done.stdout + done.stderr
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 1


@pytest.mark.slow
def test_weights_are_made_ready_to_attach(tmp_path, tiny):
    done = make("weights", f"MODEL={tiny}", f"OUT={tmp_path / 'ready'}", "DTYPE=float16")
    assert done.returncode == 0, done.stderr
    assert {"model.safetensors", "SHA256SUMS"} <= {path.name for path in (tmp_path / "ready").iterdir()}


@pytest.mark.slow
def test_bench_writes_its_table(tmp_path):
    done = make("bench", "QUICK=1", f"BENCH_OUT={tmp_path}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert all(row["ratio"] > 0 for row in rows)
    assert max(row.get("largest difference", 0) for row in rows) < 1e-4
    assert (tmp_path / "bench.md").read_text().count("\n|") == 2 + len(rows)


@pytest.mark.slow
def test_trace_writes_its_table_or_says_why_not(tmp_path):
    done = make("trace", "QUICK=1", f"BENCH_OUT={tmp_path}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if "nothing was counted" not in done.stdout:
        calls = json.loads((tmp_path / "trace.json").read_text())["calls"]
        assert all(call["GB moved"] > 0 for call in calls)
        assert (tmp_path / "trace.md").read_text() == done.stdout[done.stdout.index("# `make trace`") :]


@pytest.mark.slow
def test_the_lightgbm_demo_beats_every_single_group():
    """All groups together beat the constant predictor and each group alone by more than the spread over folds."""
    done = make("demo", "RECIPE=embed_deberta_lightgbm")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = ROOT / "build/demo/embed_deberta_lightgbm"
    oof = pd.read_csv(out / "oof_lightgbm.csv")
    losses = -np.log(oof[["a", "b", "tie"]].to_numpy()[np.arange(len(oof)), oof["label"]])
    by_fold = pd.Series(losses).groupby(oof["fold"]).mean()
    models = pd.read_csv(out / "models.csv").set_index("features")
    assert losses.mean() < models.drop(index="all").to_numpy().min() - by_fold.std()
    assert losses.mean() < json.loads((out / "demo.json").read_text())["constant"] - by_fold.std()
    check_submission(out, out / "kaggle/input/competitions/llm-classification-finetuning/test.csv")
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 3


@pytest.mark.slow
def test_the_blend_demo_beats_every_member_by_more_than_its_interval():
    done = make("demo", "RECIPE=blend_submissions")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = ROOT / "build/demo/blend_submissions"
    scores = pd.read_csv(out / "members.csv").set_index("member")
    assert (scores["weight"] > 0).sum() >= 3
    assert scores.loc["blend", "gain on the best member"] > scores.loc["blend", "gain +-"]
    check_submission(out, out / "kaggle/input/competitions/llm-classification-finetuning/test.csv")
    assert (out / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 4


@pytest.mark.slow
def test_the_lightgbm_recipe_blends_a_fine_tuned_model_and_predicts_again_from_its_own_output(tmp_path, tiny):
    """The fine-tuning has most of its switches on, and two seeds of two folds."""
    data = tmp_path / "in/contest"
    write_contest(data, train_rows=200, test_rows=20)
    words = ["run", "RECIPE=finetune_deberta", f"DATA={tmp_path / 'in'}", f"MODEL={tiny}"]
    cfg = "CFG=epochs=1 max_length=48 n_folds=2 folds=0,1 seeds=2 evals_per_epoch=1 stop_on_failure=no"
    cfg += " predict_max_length=64 features=on pooling=attention lora_rank=4 ema=0.9 schedule=cosine"
    cfg += " names_loss=0.2 trivial_prior=yes"
    for out in ("tuned", "predicted"):
        done = make(*words, f"OUT={tmp_path / out}", cfg)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        if out == "tuned":
            (tmp_path / "in/tuned").symlink_to(tmp_path / "tuned")
    assert "PREDICTING ONLY" in done.stdout + done.stderr
    submissions = [(tmp_path / out / "submission.csv").read_bytes() for out in ("tuned", "predicted")]
    assert submissions[0] == submissions[1]

    def run(out, cfg):
        words = ["run", "RECIPE=embed_deberta_lightgbm", f"DATA={tmp_path / 'in'}", f"MODEL={tiny}", f"OUT={out}"]
        done = make(*words, f"CFG={cfg}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr, check_submission(out, data / "test.csv")

    cfg = "max_length=48 n_folds=2 search_minutes=0"
    said, first = run(tmp_path / "one", cfg)
    assert "In the blend: the fine-tuned DeBERTa" in said
    (tmp_path / "in/earlier").symlink_to(tmp_path / "one")
    said, again = run(tmp_path / "two", cfg)
    assert "PREDICTING ONLY, with the finished run" in said
    assert not (tmp_path / "two/tabular").exists()
    pd.testing.assert_frame_equal(first, again, atol=1e-6)


@pytest.mark.slow
def test_an_ablation_goes_on_from_its_attached_output(tmp_path, tiny):
    """An extra file adds a size; with the first run's output attached nothing is trained again."""
    write_contest(tmp_path / "in/contest", train_rows=120, test_rows=10)
    make_pairs(40, seed=5)[0].to_csv(tmp_path / "in/contest/more.csv", index=False)
    cfg = (
        "arms=recipe repairs= sizes=24,48 seeds=1 max_length=32 epochs=1 control=no extra_files=more.csv valid_rows=20"
    )

    def run(out, cfg):
        words = ["run", "RECIPE=ablate_subset_vs_full", f"DATA={tmp_path / 'in'}", f"MODEL={tiny}", f"OUT={out}"]
        done = make(*words, f"CFG={cfg}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr, pd.read_csv(out / "ablation.csv")

    said, first = run(tmp_path / "one", cfg)
    assert "0 of 4 trials are done, 4 will run" in said  # three sizes, and another epoch
    assert first["rows"].iloc[-1] > 100, "the extra file makes the largest size"
    check_submission(tmp_path / "one", tmp_path / "in/contest/test.csv")
    (tmp_path / "in/earlier").symlink_to(tmp_path / "one")
    said, second = run(tmp_path / "two", cfg)
    assert "4 of 4 trials are done, 0 will run" in said
    pd.testing.assert_frame_equal(first, second)
    check_submission(tmp_path / "two", tmp_path / "in/contest/test.csv")


@pytest.mark.slow
def test_make_run_trains_and_repeats_itself(tmp_path, tiny):
    """The README's `make run` on a folder of data: all folds, joint style, twice with the same seed."""
    data = tmp_path / "in"
    write_contest(data, train_rows=200, test_rows=20)
    cfg = "epochs=1 max_length=64 n_folds=2 folds=0,1 style=joint lr=0.01 evals_per_epoch=1"
    command = next(c for c in COMMANDS if c.startswith("make run "))
    assert all(f"{word}=" in command for word in ("RECIPE", "DATA", "MODEL", "OUT", "CFG"))

    def run(out, source, cfg):
        words = ["run", "RECIPE=finetune_deberta", f"DATA={source}", f"MODEL={tiny}", f"OUT={out}", f"CFG={cfg}"]
        done = make(*words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return check_submission(out, data / "test.csv")

    first = run(tmp_path / "one", data, cfg)
    assert len(pd.read_csv(tmp_path / "one/oof.csv")) == 200
    again = run(tmp_path / "two", data, cfg)
    pd.testing.assert_frame_equal(first, again, check_exact=True)


@pytest.mark.slow
def test_the_two_class_parquet_contest_runs_too(tmp_path, tiny):
    """WSDM's format: plain texts, a column `winner`, ids that are texts; the submission names the winner."""
    frame, _ = make_pairs(220, seed=3)

    def plain(cell):
        return " ".join(turn or "" for turn in json.loads(cell)).encode("utf-8", "replace").decode()

    texts = {column: frame[column].map(plain) for column in ("prompt", "response_a", "response_b")}
    table = pd.DataFrame({"id": [f"x{i}" for i in frame["id"]]} | texts)
    (tmp_path / "in").mkdir()
    winners = np.where(frame["winner_model_a"] == 1, "model_a", "model_b")
    table[:200].assign(winner=winners[:200]).to_parquet(tmp_path / "in/train.parquet")
    table[200:].to_parquet(tmp_path / "in/test.parquet")
    cfg = "epochs=1 max_length=64 lr=0.001 evals_per_epoch=1 stop_on_failure=false"
    done = make("run", f"DATA={tmp_path / 'in'}", f"MODEL={tiny}", f"OUT={tmp_path / 'out'}", f"CFG={cfg}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    submission = pd.read_csv(tmp_path / "out/submission.csv")
    assert submission["id"].tolist() == table["id"][200:].tolist()
    assert set(submission["winner"]) <= {"model_a", "model_b"}


@pytest.mark.slow
def test_an_unknown_setting_stops_the_notebook_with_one_sentence(tmp_path, tiny):
    write_contest(tmp_path / "in", train_rows=20, test_rows=3)
    done = make("run", f"DATA={tmp_path / 'in'}", f"MODEL={tiny}", f"OUT={tmp_path / 'out'}", "CFG=epoch=1")
    assert done.returncode != 0
    assert "CFG has no setting 'epoch'; did you mean 'epochs'?" in done.stderr
