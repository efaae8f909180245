"""`make doctor-bench`: faults are really in the set-ups, what is said of them is counted right, and a run resumes."""

import json
import math

import pytest

from benchmarks.doctor_bench import __main__ as bench
from benchmarks.doctor_bench import measure, report, score, store, world
from benchmarks.doctor_bench.case import OURS, PLAIN
from benchmarks.doctor_bench.fault import FAULTS
from benchmarks.doctor_bench.healthy import HEALTHY
from benchmarks.doctor_bench.setups import HEALTHY_GROUP, PAIR, SINGLE, TWIN, Setup, setups

HEALTHY_CHECK = {"findings": [["labels", "PASS", "", ""], ["warmup", "PASS", "", ""]], "error": "", "seconds": 1.0}
TWIN_RUN = {"losses": [0.5, 0.3, 0.4, 0.4], "constant": 1.1, "evaluations": [[10, 0.4]], "max_steps": 10, "error": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the encoders of these tests are: almost untrained, since nothing here looks at what they learn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "PRETRAINING_STEPS", 1)
        patch.setattr(world, "COMPARING_STEPS", 1)
        yield tmp_path_factory.mktemp("bench")


def single(name, kind=PLAIN, encoder="bert"):
    return Setup(SINGLE, kind, encoder, (name,), base=FAULTS[name].base_name)


def test_there_are_as_many_set_ups_as_promised_and_a_tenth_of_them_is_quick():
    everything, quick = setups(), setups(quick=True)
    assert len(FAULTS) >= 70
    assert len(HEALTHY) >= 60
    assert len({setup.key for setup in everything}) == len(everything)
    assert {name for setup in everything for name in setup.faults} == set(FAULTS)
    assert quick == setups(quick=True)
    assert set(quick) <= set(everything)
    assert 0.08 * len(everything) < len([s for s in quick if s.group != TWIN]) < 0.15 * len(everything)
    assert {s.group for s in quick} == {s.group for s in everything}
    keys = {setup.key for setup in everything}
    assert all(setup.twin in keys for setup in everything if setup.faults)


def test_the_halves_are_fixed_and_a_fault_is_in_one_of_them():
    halves = {}
    for setup in setups():
        halves.setdefault(setup.faults or setup.key, set()).add(setup.half)
    assert all(len(found) == 1 for found in halves.values())
    singles = [setup.half for setup in setups() if setup.group == SINGLE]
    assert 0.35 < singles.count("report") / len(singles) < 0.65
    # Fixed for good: limits that were chosen on one half must never have seen the other one.
    assert single("labels shuffled").half == single("labels shuffled", OURS, "deberta").half == "report"


@pytest.mark.parametrize("kind", [PLAIN, OURS])
def test_a_fault_changes_what_it_says_and_nothing_else(folder, kind):
    twin = Setup(TWIN, kind, "bert").make(folder).build()
    shuffled = single("labels shuffled", kind).make(folder).build()
    assert sorted(twin.tables["train"]["label"]) == sorted(shuffled.tables["train"]["label"])
    assert list(twin.tables["train"]["label"]) != list(shuffled.tables["train"]["label"])
    assert list(twin.tables["test"]["label"]) == list(shuffled.tables["test"]["label"])
    own = "sequences" if kind == OURS else "input_ids"
    assert twin.datasets["train"][own] == shuffled.datasets["train"][own]
    assert measure._digest(twin.trainer.model) == measure._digest(shuffled.trainer.model)
    assert twin.trainer.args.learning_rate == shuffled.trainer.args.learning_rate


def test_faults_of_two_families_are_both_in(folder):
    names = ("encoder frozen", "labels off by one")
    case = Setup(PAIR, PLAIN, "bert", names).make(folder).build()
    assert not any(p.requires_grad for p in case.trainer.model.base_model.parameters())
    labels = Setup(TWIN, PLAIN, "bert").make(folder).tables["train"]["label"]
    assert list(case.tables["train"]["label"]) == list((labels + 1) % 3)


def test_what_the_doctor_says_of_a_set_up_is_stored_with_its_cause(folder):
    setup = single("labels start at one")
    found = store.measured(folder, setup, store.CHECK)
    assert found["unchanged"]
    assert ["labels", "FAIL"] in [finding[:2] for finding in found["findings"]]
    row = score.score(setup, found, {"error": "stopped", "evaluations": []})
    assert row.named == {"labels start at one": "FAIL"}
    assert row.rank == 1
    assert row.harm == math.inf


def test_what_the_watcher_and_the_verdict_name_ranks_behind_the_alarms_before():
    setup = single("scheduler never stepped")
    event = [5, f"step 5: {FAULTS[setup.faults[0]].during[0]}"]
    check = {"error": "", "findings": [["warmup", "WARN", "", ""]]}
    run = {"error": "", "evaluations": [], "events": [event], "max_steps": 100}
    row = score.score(setup, check, run)
    assert (row.before, row.rank, row.stopped) == (None, 2, 0.05)
    lost = single("head lost when saved")
    verdict = {"error": "", "evaluations": [], "verdict": [FAULTS[lost.faults[0]].after[0], ""]}
    assert score.score(lost, {"error": "", "findings": []}, verdict).rank == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everything frozen", "rate a hundred times too high", "weights in bf16"])
def test_known_faults_are_named(folder, name):
    setup = single(name)
    row = score.score(setup, store.measured(folder, setup, store.CHECK), {"error": "", "evaluations": []})
    assert row.named == {name: "FAIL"}


RECALL = 0.8  # least share of the tenth's faults that the checks name, or leave to the watcher or the verdict


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where encoders are that know the language: without that, set-ups are not healthy."""
    return tmp_path_factory.mktemp("bench")


@pytest.mark.slow
def test_the_fixed_tenth_has_no_false_failure_and_names_its_faults(trained):
    """The gate: what `make doctor-bench QUICK=1` says before training. Runs are long: two are watched, in the next."""
    named, sound = [], []
    for setup in setups(quick=True):
        found = store.measured(trained, setup, store.CHECK)
        assert "failed" not in found, found
        if setup.faults and found["error"]:  # a fault that keeps the set-up from being built names itself
            continue
        assert found["error"] == ""
        row = score.score(setup, found, {"error": "", "evaluations": []})
        assert row.unchanged
        if setup.faults:
            known = [bool(FAULTS[name].before) for name in setup.faults]
            named += [bool(row.named[name]) for name, has in zip(setup.faults, known) if has]
        else:
            sound += [f"{setup.key}: {check}" for check, status in row.alarms if status == "FAIL"]
    assert sound == []
    assert sum(named) >= RECALL * len(named), f"{sum(named)} of {len(named)} faults are named"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["late learner", "noisy labels, 30 %"])
def test_the_watcher_stops_no_healthy_run_that_learns_late_or_from_noise(trained, name):
    run = store.measured(trained, Setup(HEALTHY_GROUP, PLAIN, "bert", healthy=name), store.RUN)
    assert (run["error"], run["events"]) == ("", [])


def test_every_name_that_counts_as_the_cause_is_a_name_of_a_check():
    sources = "".join(path.read_text(encoding="utf-8") for path in (store.ROOT / "src_py/doctor").glob("checks_*.py"))
    absent = {name for fault in FAULTS.values() for name in fault.before if f'"{name}"' not in sources}
    assert absent == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accumulation", "resumed from a checkpoint", "streamed rows"])
def test_training_is_the_same_without_the_doctor(folder, name):
    setup = Setup(HEALTHY_GROUP, PLAIN, "bert", healthy=name)
    check, run, alone = (store.measured(folder, setup, part) for part in (store.CHECK, store.RUN, store.ALONE))
    assert run["error"] == ""
    assert len(run["losses"]) == world.TEST
    assert len(run["evaluations"]) >= 5
    assert score.score(setup, check, run, None, alone).identical


def test_a_finished_part_is_not_measured_again_and_one_of_other_code_is(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(measure, "check", lambda setup, work: calls.append(setup) or dict(HEALTHY_CHECK))
    setup = Setup(TWIN, PLAIN, "bert")
    assert store.result(tmp_path, setup, store.CHECK) is None
    first = store.measured(tmp_path, setup, store.CHECK)
    assert store.measured(tmp_path, setup, store.CHECK) == first == HEALTHY_CHECK
    assert len(calls) == 1
    monkeypatch.setattr(store, "code", lambda part: "other code")
    assert store.result(tmp_path, setup, store.CHECK) is None
    store.measured(tmp_path, setup, store.CHECK)
    assert len(calls) == 2


def test_an_error_of_the_benchmark_is_kept_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "check", lambda setup, work: 1 / 0)
    setup = Setup(TWIN, PLAIN, "bert")
    found = store.measured(tmp_path, setup, store.CHECK)
    assert "ZeroDivisionError" in score.score(setup, found, TWIN_RUN).stops


def test_a_row_is_scored_from_what_was_said():
    setup = single("rate a hundred times too high")
    check = {"error": "", "seconds": 2.0, "unchanged": True}
    check["findings"] = [["a", "FAIL", "", ""], ["learning rate", "WARN", "", ""], ["b", "not checked", "", ""]]
    run = {"losses": [1.1] * 4, "constant": 1.1, "evaluations": [[5, 1.2], [10, 1.1]], "max_steps": 10, "error": ""}
    run |= {"events": [[4, "step 4: diverged; lower TrainingArguments.learning_rate"]], "notes": []}
    run |= {"verdict": ["constant predictor", ""]}
    row = score.score(setup, check, run, TWIN_RUN)
    assert row.cost == pytest.approx(0.7)
    assert row.interval[0] < 0.7 < row.interval[1]
    assert row.rank == 2
    assert row.named == {"rate a hundred times too high": "WARN"}
    assert row.checks == 2
    assert (row.stopped, row.useless, row.alarmed) == (0.4, True, True)
    check["findings"] = []
    assert score.score(setup, check, run, TWIN_RUN).named == {"rate a hundred times too high": "during"}
    quiet = score.score(setup, check, run | {"events": [], "verdict": ["learned", ""]}, TWIN_RUN)
    assert quiet.named == {"rate a hundred times too high": ""}
    assert not quiet.alarmed


def test_peers_are_scored_on_the_same_set_ups(tmp_path):
    setup = single("everything frozen")
    assert store.PEERS not in store.parts_of(setup, tmp_path)
    (tmp_path / "peers" / "torch_audit").mkdir(parents=True)
    assert store.PEERS in store.parts_of(setup, tmp_path)
    run = TWIN_RUN | {"losses": [1.1] * 4}
    said = {"torch-audit": {"findings": ["TA104", "TA200"], "error": ""}}
    said |= {"neural_net_checklist": {"findings": [], "error": "ImportError"}}
    row = score.score(setup, HEALTHY_CHECK, run, TWIN_RUN, peers=said)
    assert row.peers == {"torch-audit": (True, True)}
    sound = score.score(Setup(TWIN, PLAIN, "bert"), HEALTHY_CHECK, TWIN_RUN, peers=said)
    found = score.measures([row, sound])
    assert found["right cause named by torch-audit, of the faults it was asked about"] == score.Share(1, 1)
    assert found["any alarm by torch-audit on a healthy set-up"] == score.Share(1, 1)
    assert found["any alarm by neural_net_checklist on a healthy set-up"] == score.Share(0, 0)


def test_a_report_that_is_wrong_counts_as_harm():
    setup = single("metric of labels against labels")
    run = TWIN_RUN | {"evaluations": [[10, 0.05]]}
    row = score.score(setup, HEALTHY_CHECK, run, TWIN_RUN)
    assert row.cost == pytest.approx(0)
    assert row.harm == pytest.approx(0.35)


def test_measures_count_what_they_say():
    def row(name, cost, **details):
        setup = Setup(HEALTHY_GROUP, PLAIN, "bert", healthy=name) if cost is None else single(name)
        return score.Row(setup, loss=0.5, constant=1.0, verdict="learned", cost=cost or 0.0, **details)

    rows = [
        row("labels shuffled", 0.5, named={"labels shuffled": "WARN"}, rank=1, alarms=[("signal in labels", "WARN")]),
        row("sign turned", 0.9, named={"sign turned": ""}),
        row("softmax twice", 0.01, named={"softmax twice": ""}),  # costs less than what has to be named
        row("two classes", None, alarms=[("warmup", "WARN"), ("labels", "FAIL")], checks=20),
        row("five classes", None, checks=20, stopped=0.4, identical=True),
    ]
    found = score.measures(rows)
    assert str(found["right cause named, single faults that cost 0.02 nats or more"]).startswith("50% (1 of 2;")
    assert found["any alarm, single faults that cost 0.02 nats or more"] == score.Share(1, 2)
    assert found["a FAIL on a healthy set-up"] == score.Share(1, 2)
    assert found["WARN, of all checks on healthy set-ups"] == score.Share(1, 40)
    assert found["healthy runs that learned, stopped by the watcher"] == score.Share(1, 2)
    assert found["bit-identical with and without the doctor"] == score.Share(1, 1)


def test_intervals():
    low, high = score.Share(95, 100).interval
    assert (low, high) == pytest.approx((0.8882, 0.9785), abs=1e-3)  # Wilson 1927, as statsmodels has it
    assert str(score.Share(0, 0)) == "none"
    mean, (low, high) = score.difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])
    assert (mean, low, high) == (1.0, 1.0, 1.0)  # paired: the rows' own differences do not count
    assert score.difference([1.0, 2.0], [0.0, 1.0, 2.0])[0] == pytest.approx(0.5)


def test_early_stopping_alone_is_what_the_callback_would_do():
    assert score.early_stopping([[10, 1.0], [20, 1.1], [30, 1.1], [40, 1.1], [50, 0.5]], 50) == 0.8
    assert score.early_stopping([[10, 1.0], [20, 0.9], [30, 1.1], [40, 0.8], [50, 0.5]], 50) is None
    assert score.early_stopping([[10, math.nan], [20, math.nan], [30, math.nan]], 50) == 0.6


def test_the_report_is_whole_and_its_json_has_no_nan(tmp_path):
    rows = [score.score(single("weights in fp16"), HEALTHY_CHECK, {"error": "stopped", "evaluations": []})]
    rows.append(score.score(Setup(TWIN, PLAIN, "bert"), HEALTHY_CHECK, TWIN_RUN | {"verdict": ["learned", ""]}))
    text = report.write(rows, tmp_path, missing=3)
    assert "NOT COMPLETE: 3 set-ups" in text
    assert "| weights in fp16 | model | plain, bert | ends with stopped | **missed** |" in text
    kept = json.loads((tmp_path / "doctor_bench.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert len(kept["rows"]) == 2
    assert (tmp_path / "doctor_bench.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "told"), [(["--workers=0"], "WORKERS"), (["--only=nonsense"], "no set-up is called")]
)
def test_what_cannot_be_run_is_refused(words, told, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(words, store=tmp_path)
    assert told in capsys.readouterr().err
