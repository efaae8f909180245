"""From the terminal to the leaderboard: the real `kaggle` client against a stub of the service on loopback."""

import io
import json
import math
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import kaggle_submit
from tools.kaggle_service import Unknown, Unreachable, client, failure
from tools.kaggle_submit import gpu_hours, log_lines, main, read_table, run_state, submissions, watch
from tools.percent import SyncError

ROOT = Path(__file__).resolve().parents[2]
CONTEST = "llm-classification-finetuning"
NOTEBOOK = "someone/finetune-deberta"
SUBMISSIONS = ["competitions", "submissions", "-c", CONTEST, "--csv"]
SPENT = (
    "Submission not allowed: Your team has used its daily Submission allowance (5) today, please try again tomorrow."
)
QUOTA = {
    "quotaRefreshTime": "2026-11-28T00:00:00.000Z",
    "gpuQuota": {"timeUsed": "41400s", "totalTimeAllowed": "108000s"},
}


def listed(version=2, status="COMPLETE", score="0.98765", ref=7, description=None):
    """An answer to ListSubmissions."""
    row = {"ref": ref, "date": "2026-11-20T12:34:56.789Z", "fileName": "submission.csv", "status": status}
    row |= {"description": description or f"finetune-deberta version {version}", "publicScore": score}
    return {"submissions": [row]}


def states(*names):
    return [{"status": name} for name in names]


@pytest.fixture
def kaggle(account, stub, tmp_path, capsys, monkeypatch):
    """Runs a command as `make` does; returns its exit code, its output and its errors. It never sleeps."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("notebooks", "src_py", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    stub.answers |= {
        "ListSubmissions": [{"submissions": []}, listed()],
        "GetKernelSessionStatus": states("COMPLETE"),
        "CreateCodeSubmission": [{"message": "Successfully submitted to LLM Classification Finetuning", "ref": 7}],
        "GetSubmissionLimits": [{"numAllowedNow": 4}],
        "GetAcceleratorQuotaStatistics": [QUOTA],
    }

    def run(action, *words):
        waiting = ["--poll=0"] if action == "submit" else []
        code = main([action, "--user=someone", *waiting, *words], root)
        said = capsys.readouterr()
        assert "made-up-key" not in said.out + said.err
        return code, said.out, said.err

    return run


def test_a_recipe_that_writes_no_submission_is_not_submitted(kaggle, stub):
    code, _, err = kaggle("submit", "--recipe=why_is_it_not_learning")
    assert code == 1
    assert "writes no submission.csv" in err
    assert stub.calls() == []


@pytest.mark.slow
def test_submit_pushes_waits_submits_that_version_and_shows_the_score(kaggle, stub):
    stub.version = 2
    # The first answer is still about the version before, and one look fails.
    stub.answers["GetKernelSessionStatus"] = [*states("COMPLETE", "QUEUED", "RUNNING"), (503, None)]
    stub.answers["GetKernelSessionStatus"] += states("RUNNING", "COMPLETE")
    other = listed(ref=6)
    stub.answers["ListSubmissions"] = [other, other, listed(status="PENDING", score=""), listed()]
    code, out, err = kaggle("submit", "--seconds=3600")
    assert (code, err) == (0, "")
    assert stub.calls()[0] == "ListSubmissions", "the rules and the token are checked before anything runs"
    sent = next(body for call, body, _ in stub.requests if call == "CreateCodeSubmission")
    assert sent["competitionName"] == CONTEST
    assert (sent["kernelOwner"], sent["kernelSlug"], sent["kernelVersion"]) == ("someone", "finetune-deberta", 2)
    assert sent["fileName"] == "submission.csv"
    saved = next(body for call, body, _ in stub.requests if call == "SaveKernel")
    assert saved["sessionTimeoutSeconds"] == 3600
    run = re.findall(rf"^{NOTEBOOK} version 2: (.+)$", out, re.MULTILINE)
    assert run == ["complete", "queued", "running", "no answer from Kaggle (1 of 5)", "running", "complete"]
    score = re.findall(r"^submission of finetune-deberta version 2: (.+)$", out, re.MULTILINE)
    assert score == ["not listed yet", "pending", "complete"], "the submission that was there before is another"
    assert "4 submissions remaining today" in out
    assert out.endswith("Public score: 0.98765\n")


@pytest.mark.slow
def test_a_run_that_failed_shows_the_end_of_its_log_and_submits_nothing(kaggle, stub):
    log = [{"stream_name": "stdout", "time": 1.0, "data": "early\n" + "line\n" * 30}]
    log.append({"stream_name": "stderr", "time": 2.0, "data": '\x1b[31mInputError\x1b[0m: key="abc123"\n'})
    stub.answers["ListKernelSessionOutput"] = [{"files": [], "log": json.dumps(log)}]
    stub.answers["GetKernelSessionStatus"] = [{"status": "ERROR", "failureMessage": "Your notebook ran out."}]
    code, out, err = kaggle("submit")
    assert code == 1
    assert err == f"{NOTEBOOK} version 1 ended as 'error': Your notebook ran out; nothing was submitted.\n"
    assert out.count("  line\n") == 19
    assert "early" not in out
    assert 'InputError: key="***"' in out
    assert "CreateCodeSubmission" not in stub.calls()


@pytest.mark.slow
def test_a_version_is_submitted_later_without_another_run(kaggle, stub):
    """Quota spent today; the next day it goes in, although a newer version failed, and nobody waits for the score."""
    stub.answers["CreateCodeSubmission"].insert(0, (400, SPENT))
    stub.answers["GetKernelSessionStatus"] = states("ERROR")
    code, out, err = kaggle("submit", "--version=3", "--wait=0")
    assert code == 1
    assert "kaggle competitions submit failed: no submission is left for now (Submission not allowed: Your team" in err
    command = re.search(r"`make submit RECIPE=finetune_deberta USER=someone VERSION=3`", err)
    assert command, err
    stub.answers["ListSubmissions"] = [{"submissions": []}, listed(3, "PENDING", "")]
    code, out, err = kaggle("submit", "--version=3", "--wait=0")
    assert (code, err) == (0, "")
    assert "`make status RECIPE=finetune_deberta USER=someone` shows the score when there is one." in out
    assert out.endswith("No score yet.\n")
    assert "SaveKernel" not in stub.calls()


@pytest.mark.slow
def test_waiting_has_an_end_and_nothing_is_submitted_before_the_run_is_complete(kaggle, stub, monkeypatch):
    stub.answers["GetKernelSessionStatus"] = states("RUNNING")
    code, _, err = kaggle("submit", "--version=3", "--wait=0")
    assert code == 1
    assert f"{NOTEBOOK} version 3 has not finished; it continues on Kaggle. `make submit " in err

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kaggle_submit, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupted))
    code, _, err = kaggle("submit", "--version=3")
    assert code == 1
    assert err.startswith("You stopped waiting; version 3 continues on Kaggle. `make submit ")
    assert "CreateCodeSubmission" not in stub.calls()


@pytest.mark.slow
def test_a_submission_that_kaggle_cannot_score_is_an_error(kaggle, stub):
    stub.answers["ListSubmissions"] = [{"submissions": []}, listed(3, "ERROR", "")]
    code, _, err = kaggle("submit", "--version=3")
    assert code == 1
    assert err == (
        "Kaggle could not score the submission of finetune-deberta version 3; "
        f"https://www.kaggle.com/competitions/{CONTEST}/submissions says why.\n"
    )


@pytest.mark.slow
def test_status_lists_runs_submissions_and_the_hours_left(kaggle, stub):
    stub.answers["GetKernelSessionStatus"] = [(403, "Permission 'kernels.get' was denied"), *states("RUNNING")]
    stub.answers["ListSubmissions"] = [listed(description="by hand,\nwith token=abc")]
    code, out, err = kaggle("status")
    assert (code, err) == (0, "")
    assert "someone/finetune-deberta: not on Kaggle" in out
    assert "someone/embed-deberta-lightgbm: the newest version is running" in out
    assert stub.calls().count("ListSubmissions") == 1, "the recipes are for one contest"
    assert f"Submissions to {CONTEST}, newest first" in out
    assert "  2026-11-20 12:34  complete    0.98765  by hand, with token=***" in out
    assert out.endswith("\nGPU hours left this week: 18.50 of 30.00; the next week begins 2026-11-28 00:00 UTC.\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "answer", "sentence"),
    [
        (SUBMISSIONS, (401, None), "it found no token that Kaggle accepts; run `.venv/bin/kaggle auth login`"),
        (SUBMISSIONS, (403, None), f"you do not take part in {CONTEST}, or the token may only"),
        (SUBMISSIONS, (403, "Permission 'competitions.participate' was denied"), "you do not take part in"),
        (SUBMISSIONS, (404, None), f"Kaggle finds no contest {CONTEST}"),
        (SUBMISSIONS, (400, "Your Notebook cannot use internet access in this competition."), "refused it: Your Note"),
        (SUBMISSIONS, (400, None), "Kaggle refused it: 400 Client Error: Bad Request for url"),
        (["kernels", "status", NOTEBOOK], (404, None), f"Kaggle shows no notebook {NOTEBOOK} to you"),
        (["kernels", "logs", NOTEBOOK], (403, None), f"Kaggle shows no notebook {NOTEBOOK} to you"),
    ],
)
def test_what_the_real_client_says_of_a_refusal_becomes_one_sentence(account, stub, capsys, words, answer, sentence):
    calls = {"submissions": "ListSubmissions", "status": "GetKernelSessionStatus", "logs": "ListKernelSessionOutput"}
    stub.answers[calls[words[1]]] = [answer]
    with pytest.raises(SyncError) as caught:
        client(words, "", NOTEBOOK if "kernels" in words else CONTEST)
    assert str(caught.value).startswith(f"kaggle {words[0]} {words[1]} failed: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_without_a_network_the_sentence_says_so(account, stub, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="quota failed: Kaggle cannot be reached; check the network"):
        gpu_hours()


def test_a_client_that_gets_no_answer_is_stopped():
    with pytest.raises(Unreachable, match=r"kaggle quota failed: no answer within 0\.01 seconds"):
        client(["quota"], "", patience=0.01)


URL = "for url: https://api.kaggle.com/v1/competitions.CompetitionApiService/CreateCodeSubmission"


@pytest.mark.parametrize(
    ("output", "sentence", "kind"),
    [
        ("You must accept this competition's rules before you can continue", "you do not take part in", SyncError),
        (f"400 Client Error: Bad Request {URL}\nKaggle's reason: {SPENT}", "no submission is left for now", SyncError),
        (f"403 Client Error: Forbidden {URL}\nKaggle's reason: No phone.", "refused it: No phone.", SyncError),
        (
            f"403 Client Error: Forbidden {URL}\nKaggle's reason: Permission 'kernelSessions.get' was denied",
            "check USER and VERSION",
            SyncError,
        ),
        (f"400 Client Error: Bad {URL}\nKaggle's reason: Still running.", "refused it: Still running.", SyncError),
        (f"Traceback\nrequests.exceptions.HTTPError: 401 Client Error: Unauthorized {URL}", "no token that", SyncError),
        (f"Traceback\nrequests.exceptions.HTTPError: 500 Server Error: Oh {URL}", "answers 500 Server", Unreachable),
        (f"502 Server Error: Bad Gateway {URL}", "Kaggle answers 502 Server Error; try again later", Unreachable),
        (f"429 Client Error: Too Many Requests {URL}", "Kaggle answers 429 Client Error", Unreachable),
        ("Cannot access kernel 'a/b' (Permission 'kernels.get' was denied). The most", "shows no notebook", Unknown),
        ("Kernel push error: Maximum batch GPU session count of 2 reached.", "count of 2 reached.", SyncError),
        ("kaggle: error: argument command: invalid choice: 'quota' (choose", "does not know 'quota'", SyncError),
        ("Title must be at least five characters", "the client said: Title must be at least five", SyncError),
        ("", "the client said: nothing", SyncError),
    ],
)
def test_each_error_has_a_sentence(output, sentence, kind):
    error = failure("competitions submit", output, CONTEST)
    assert type(error) is kind
    assert sentence in str(error)


def test_an_unknown_error_is_shown_masked(capsys):
    error = failure("quota", "Traceback\n  token=abc\nTypeError")
    assert str(error) == "kaggle quota failed; see the client's message above."
    assert capsys.readouterr().out == "Traceback\n  token=***\nTypeError\n"


def test_a_state_is_shown_in_words(account, stub):
    stub.answers["GetKernelSessionStatus"] = states("CANCEL_ACKNOWLEDGED")
    assert run_state(f"{NOTEBOOK}/2") == ("cancelled", "")
    assert stub.requests[-1][1]["kernelSlug"] == "finetune-deberta"


def test_no_submission_is_no_row(account, stub):
    stub.answers["ListSubmissions"] = [{"submissions": []}]
    assert submissions(CONTEST) == []


def test_a_table_is_found_below_a_warning():
    said = 'Warning: outdated, `kaggle`\nref,description,publicScore\n1,"a, b\nc",0.9\n'
    assert read_table(said, "publicScore") == [{"ref": "1", "description": "a, b\nc", "publicScore": "0.9"}]


def test_a_log_that_is_no_list_is_shown_as_it_is():
    assert log_lines("") == []
    assert log_lines("5%\r 50%\rdone\r\n\n\x1b[1mbold\x1b[0m") == ["done", "bold"]
    assert log_lines("7") == ["7"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def looks(*answers):
    """A look that gives these answers in turn; an error among them is raised."""
    queue = list(answers)

    def look():
        answer = queue.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return look


def test_a_terminal_shows_one_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(kaggle_submit.sys, "stdout", terminal)
    assert watch(looks("queued", "complete"), "complete".__eq__, "x", 0, math.inf) == "complete"
    assert terminal.getvalue() == "\r\x1b[Kx: queued, 0 min\r\x1b[Kx: complete, 0 min\n"


def test_watching_gives_up_after_failures_in_a_row_only():
    gone = [Unreachable("gone")] * 4
    assert watch(looks(*gone, "a", *gone, "b"), "b".__eq__, "x", 0, math.inf) == "b"
    with pytest.raises(Unreachable, match="gone"):
        watch(looks(*gone, *gone), "b".__eq__, "x", 0, math.inf)
    assert watch(looks("a"), "b".__eq__, "x", 60, time.monotonic()) is None, "it does not sleep past the end"
    with pytest.raises(SyncError, match="refused"):
        watch(looks(SyncError("refused")), "b".__eq__, "x", 0, math.inf)
