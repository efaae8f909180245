"""A recipe from the terminal to the leaderboard, with Kaggle's own client.

python -m tools.kaggle_submit submit --recipe NAME --user NAME [--seconds N] [--version N] [--wait MINUTES]
    push, wait for the run, submit its submission.csv, wait for the score
python -m tools.kaggle_submit status [--recipe NAME] --user NAME
    the newest runs, the submissions and their scores, the GPU hours left
"""

import argparse
import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tools import arguments
from tools.kaggle_client import metadata, push
from tools.kaggle_service import Unknown, Unreachable, client, mask
from tools.percent import SyncError
from tools.recipes import RECIPES, find_recipe

FILE = "submission.csv"
# Twelve hours is the longest run; one more in the queue.
WAIT_MINUTES = arguments.SESSION_SECONDS // 60 + 60
POLL_SECONDS = 60.0
TRIES = 5  # looks in a row without an answer
LOG_LINES = 20
# The client's names of a run's states, in words; a name that is not here is shown as it is.
STATES = {"new_script": "queued", "cancel_requested": "being cancelled", "cancel_acknowledged": "cancelled"}
FINISHED = ("complete", "error", "cancelled")


class RunFailed(SyncError):
    """The run ended without a result; there is nothing to submit."""


def contest_of(recipe: Path, user: str) -> str:
    """The contest that a recipe's header names.

    Raises:
        SyncError: when it names more than one.
    """
    contests = metadata(recipe, user)["competition_sources"]
    if len(contests) > 1:
        raise SyncError(f"{recipe.name}: its header names several contests ({', '.join(contests)}); submit by hand.")
    return str(contests[0])


def run_state(notebook: str) -> tuple[str, str]:
    """The state of a notebook's run, in words, and what Kaggle says of a failure.

    The client (2.2.4) reads a version in the name, but always answers for the newest.
    """
    said = client(["kernels", "status", notebook], r'\S+ has status "', notebook)
    found = re.search(r'has status "(?:\w+\.)?(\w+)"', said)
    name = found[1].lower() if found else "unknown"
    message = re.search(r'^Failure message: "(.+?)"$', said, re.MULTILINE | re.DOTALL)
    return STATES.get(name, name), message[1] if message else ""


def log_lines(text: str) -> list[str]:
    """The last lines of a run's log, masked, without colours; Kaggle stores a list of pieces, in JSON."""
    try:
        text = "".join(str(piece.get("data", "")) for piece in json.loads(text))
    except (ValueError, TypeError, AttributeError):
        pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", mask(text))
    # Of a progress bar the last state.
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-LOG_LINES:]


def read_table(said: str, column: str) -> list[dict[str, str]]:
    """The rows of a CSV table that the client printed, below whatever it said before; `column` is one of its header."""
    lines = said.split("\n")
    start = next((i for i, line in enumerate(lines) if column in line.split(",")), len(lines))
    return list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))


def submissions(contest: str) -> list[dict[str, str]]:
    """The newest submissions to a contest, newest first, with lower-case states."""
    said = client(["competitions", "submissions", "-c", contest, "--csv"], r"\S*publicScore|No submissions", contest)
    rows = read_table(said, "publicScore")
    return [row | {"status": row["status"].rpartition(".")[2].lower()} for row in rows]


def gpu_hours() -> str:
    """The GPU hours that are left this week, in a sentence."""
    said = client(["quota", "--csv"], r"resource,|No quota")
    for row in read_table(said, "resource"):
        if row["resource"] == "GPU":
            until = f"; the next week begins {row['refreshAt'][:16].replace('T', ' ')} UTC" if row["refreshAt"] else ""
            left, total = (row[name].removesuffix("h") for name in ("remaining", "total"))
            return f"GPU hours left this week: {left} of {total}{until}."
    return "Kaggle's client does not tell the GPU hours left; https://www.kaggle.com/settings shows them."


def watch(
    look: Callable[[], str], finished: Callable[[str], bool], name: str, poll: float, deadline: float
) -> str | None:
    """Look again and again, and say the state: on a terminal in one line, else in a line for each change.

    Args:
        look: returns the state, in words.
        poll: seconds between looks.
        deadline: until when, as `time.monotonic()` counts.

    Returns:
        The state that is `finished`, or None when the time was over before.

    Raises:
        SyncError: what `look` raises; `Unreachable` only after `TRIES` in a row.
    """
    begin, shown, failed = time.monotonic(), "", 0
    terminal = sys.stdout.isatty()
    try:
        while True:
            try:
                state, failed = look(), 0
            except Unreachable:
                failed += 1
                if failed == TRIES:
                    raise
                state = f"no answer from Kaggle ({failed} of {TRIES})"
            if terminal:
                print(f"\r\x1b[K{name}: {state}, {(time.monotonic() - begin) / 60:.0f} min", end="", flush=True)
            elif state != shown:
                print(f"{name}: {state}", flush=True)
            shown = state
            if not failed and finished(state):
                return state
            if time.monotonic() + poll > deadline:
                return None
            time.sleep(poll)
    finally:
        if terminal:
            print()


def wait_for_run(notebook: str, version: int, pushed: bool, poll: float, deadline: float) -> None:
    """Wait until a run is complete.

    Raises:
        RunFailed: when it failed, after printing the end of its log; only for a run that was `pushed` now, because
            another's state may be a later version's.
        SyncError: when it has not finished in time.
    """
    name, failed, looks = f"{notebook}/{version}", "", 0

    def look() -> str:
        nonlocal failed, looks
        state, failed = run_state(name)
        looks += 1
        return state

    def finished(state: str) -> bool:
        # Right after a push the first answer may still be about the version before.
        return state in FINISHED and (looks > 1 or version == 1 or not pushed)

    state = watch(look, finished, f"{notebook} version {version}", poll, deadline)
    if state is None:
        raise SyncError(f"{notebook} version {version} has not finished; it continues on Kaggle.")
    if state != "complete" and pushed:
        try:
            lines = log_lines(client(["kernels", "logs", name], "", notebook))
        except SyncError as error:
            lines = [str(error)]
        print("\n".join(["The end of its log:", *(f"  {line}" for line in lines or ["(empty)"])]), flush=True)
        why = f": {mask(failed).rstrip('.')}" if failed else ""
        raise RunFailed(f"{notebook} version {version} ended as {state!r}{why}; nothing was submitted.")


def submit(
    recipe: Path, user: str, root: Path, seconds: int | None, version: int | None, wait: int, poll: float
) -> None:
    """Push (unless `version` names an earlier push), wait, submit, and wait for the score.

    Raises:
        SyncError: one sentence for whatever goes wrong.
    """
    deadline = time.monotonic() + 60 * wait
    notebook, contest = metadata(recipe, user)["id"], contest_of(recipe, user)
    # Before any GPU hour is spent: the token, the network and the contest's rules.
    known = {row.get("ref") for row in submissions(contest)}
    pushed = version is None
    if version is None:
        version = push(recipe, user, root, seconds)
        if version is None:
            raise SyncError(f"{notebook} was pushed, but Kaggle did not say as which version; nothing was submitted.")
    named = f"RECIPE={recipe.stem} USER={user}"
    later = f"`make submit {named} VERSION={version}` submits it later without another run."
    message = f"{notebook.partition('/')[2]} version {version}"
    words = ["-c", contest, "-k", notebook, "-v", str(version), "-f", FILE, "-m", message]
    try:
        wait_for_run(notebook, version, pushed, poll, deadline)
        print(mask(client(["competitions", "submit", *words], r"(?!Could not )\S", contest)), flush=True)
    except KeyboardInterrupt:
        raise SyncError(f"You stopped waiting; version {version} continues on Kaggle. {later}") from None
    except RunFailed:
        raise
    except SyncError as error:
        raise SyncError(f"{error} {later}") from error
    print("The hidden rerun can take hours. You may stop waiting with Ctrl-C:")
    print(f"`make status {named}` shows the score when there is one.", flush=True)
    try:
        print(wait_for_score(contest, message, known, poll, deadline))
    except KeyboardInterrupt:
        print("No score yet.")


def wait_for_score(contest: str, message: str, known: set[str | None], poll: float, deadline: float) -> str:
    """The public score of the submission that carries this message and is not `known`, in a sentence.

    Raises:
        SyncError: when Kaggle could not score it.
    """
    found: list[dict[str, str]] = []

    def look() -> str:
        rows = submissions(contest)
        found[:] = [row for row in rows if row["description"] == message and row.get("ref") not in known]
        return found[0]["status"] if found else "not listed yet"

    state = watch(look, lambda state: state in FINISHED, f"submission of {message}", poll, deadline)
    if state == "error":
        page = f"https://www.kaggle.com/competitions/{contest}/submissions"
        raise SyncError(f"Kaggle could not score the submission of {message}; {page} says why.")
    if state is None:
        return "No score yet."
    score = found[0]["publicScore"]
    return f"Public score: {score}" if score else "Kaggle shows no public score for it."


def status(recipes: list[Path], user: str) -> None:
    """Print the newest run of each recipe, the submissions to their contests, and the GPU hours left."""
    contests = dict.fromkeys(contest_of(recipe, user) for recipe in recipes)
    tables = {contest: submissions(contest) for contest in contests}
    for recipe in recipes:
        notebook = metadata(recipe, user)["id"]
        try:
            state, why = run_state(notebook)
            print(mask(f"{notebook}: the newest version is {state}" + (f" ({why})" if why else "")), flush=True)
        except Unknown:
            print(f"{notebook}: not on Kaggle", flush=True)
    for contest, rows in tables.items():
        print(f"\nSubmissions to {contest}" + (", newest first (times in UTC):" if rows else ": none"))
        for row in rows:
            what = " ".join((row["description"] or row["fileName"]).split())
            print(mask(f"  {row['date'][:16]}  {row['status']:<8}  {row['publicScore'] or '-':>9}  {what}"))
    try:
        print(f"\n{gpu_hours()}")
    except SyncError as error:
        print(f"\n{error}")


def main(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser(prog="tools.kaggle_submit", description="From the terminal to the leaderboard.")
    actions = parser.add_subparsers(dest="action", required=True)
    submitting, showing = actions.add_parser("submit"), actions.add_parser("status")
    arguments.add_recipe(submitting)
    showing.add_argument("--recipe", type=arguments.checked(find_recipe), help="default: all")
    for action in (submitting, showing):
        action.add_argument("--user", type=arguments.checked(arguments.account), required=True)
    submitting.add_argument("--seconds", type=arguments.checked(arguments.seconds), help="limit of the run")
    submitting.add_argument("--version", type=arguments.checked(arguments.version), help="submit this one, push none")
    submitting.add_argument("--wait", type=arguments.checked(arguments.minutes), default=WAIT_MINUTES)
    submitting.add_argument("--poll", type=float, default=POLL_SECONDS, help="seconds between looks")
    chosen = parser.parse_args(words)
    names = [chosen.recipe.name] if chosen.recipe else list(RECIPES)
    recipes = [root / "notebooks" / f"{name}.py" for name in names]
    try:
        if chosen.action == "status":
            status(recipes, chosen.user)
        elif not chosen.recipe.submits:
            name = chosen.recipe.name
            raise SyncError(f"{name} writes no {FILE}; `make push RECIPE={name} USER={chosen.user}` runs it.")
        else:
            submit(recipes[0], chosen.user, root, chosen.seconds, chosen.version, chosen.wait, chosen.poll)
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What was started on Kaggle continues there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parent.parent))
