"""What a user says to `make` reaches the commands as it is: neither make nor a shell interprets it."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import arguments, run
from tools.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
# What each target hands over, in the order of its command.
HANDED_OVER = {
    "demo": ["--recipe={RECIPE}"],
    "rehearse": ["--recipe={RECIPE}"],
    "run": ["--recipe={RECIPE}", "--data={DATA}", "--model={MODEL}", "--out={OUT}", "--cfg={CFG}"],
    "preview": ["--recipe={RECIPE}", "--notebook={NB}", "--out={OUT}"],
    "gallery": ["--recipe={RECIPE}", "--data={DATA}", "--model={MODEL}", "--cfg={CFG}", "--out={OUT}"],
    "data": ["--contest={CONTEST}", "--source={SOURCE}", "--out={OUT}"],
    "bench": ["--quick={QUICK}", "--data={DATA}", "--model={MODEL}", "--out={BENCH_OUT}"],
    "curves-bench": ["--quick={QUICK}", "--out={BENCH_OUT}"],
    "doctor-bench": ["--quick={QUICK}", "--workers={WORKERS}", "--out={BENCH_OUT}"],
    "gpu": ["--toy={TOY}", "--out={OUT}"],
    "trace": ["--quick={QUICK}", "--top={TOP}", "--out={BENCH_OUT}"],
    "weights": ["--dtype={DTYPE}", "--", "{MODEL}", "{OUT}"],
    "push": ["--recipe={RECIPE}", "--user={USER}", "--seconds={SECONDS}"],
    "submit": [
        "--recipe={RECIPE}",
        "--user={USER}",
        "--seconds={SECONDS}",
        "--wait={WAIT}",
        "--version={VERSION}",
    ],
    "status": ["--recipe={RECIPE}", "--user={USER}"],
    "pull-kaggle": ["--recipe={RECIPE}", "--user={USER}"],
    "pull": ["--", "{NB}"],
}
NAMES = (
    "USER",
    "VERSION",
    "RECIPE",
    "SECONDS",
    "WAIT",
    "CFG",
    "DATA",
    "MODEL",
    "DTYPE",
    "NB",
    "OUT",
    "BENCH_OUT",
    "QUICK",
)
NAMES += ("TOY", "TOP", "WORKERS", "CONTEST", "SOURCE")
HOSTILE = [
    "'; touch MARK; '",
    '"; touch MARK; "',
    "$(touch MARK)",
    "`touch MARK`",
    "$(shell touch MARK)",
    "${shell touch MARK}",
    "$$(touch MARK)",
    "$(error stop)",
    "$(eval X := $(shell touch MARK))",
    "x\ntouch MARK\n",
    "x; touch MARK",
    "x & touch MARK",
    "x | touch MARK",
    "x > MARK",
    "a b  c",
    "\\",
    "x\\",
    "# x",
    "-h",
    "--help",
    "$HOME ~ * ? %",
    "a=b:c",
]


@pytest.fixture
def make(tmp_path):
    """Runs the Makefile with a `python` that only writes down what it was given; returns these commands."""
    python, record = tmp_path / "venv/bin/python", tmp_path / "record"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable} -IS\nimport json, sys\n"
        f"with open({str(record)!r}, 'a') as file:\n    file.write(json.dumps(sys.argv[1:]) + '\\n')\n"
    )
    python.chmod(0o755)
    venv = python.parents[1]

    def run(*words, **variables):
        record.unlink(missing_ok=True)
        command = ["make", f"VENV={venv}", "-o", f"{venv}/.ready", "--no-print-directory", *words]
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS")}
        done = subprocess.run(command, cwd=ROOT, env=environment | variables, capture_output=True, text=True)
        commands = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        return done, commands

    return run


@pytest.mark.parametrize("way", ["command line", "environment"])
@pytest.mark.parametrize("value", HOSTILE)
def test_no_value_is_interpreted(make, tmp_path, value, way):
    value = value.replace("MARK", str(tmp_path / "mark"))
    given = {name: f"{value}{name}" if "\n" not in value else f"{name}{value}" for name in NAMES}
    if way == "command line":
        done, commands = make(*HANDED_OVER, *(f"{name}={text}" for name, text in given.items()))
    else:
        done, commands = make(*HANDED_OVER, f"USER={given['USER']}", f"VERSION={given['VERSION']}", **given)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()
    commands = [words for words in commands if words[-1] != "build"]
    for words, expected in zip(commands, HANDED_OVER.values(), strict=True):
        assert words[-len(expected) :] == [part.format(**given) for part in expected]


@pytest.mark.parametrize("name", ["IMAGE", "PYTHON", "VENV", "ANYTHING"])
@pytest.mark.parametrize("value", [value for value in HOSTILE if value != "a=b:c"])
def test_no_other_variable_is_expanded_either(make, tmp_path, name, value):
    value = value.replace("MARK", str(tmp_path / "mark"))
    done, commands = make("demo", f"{name}={value}")
    assert not (tmp_path / "mark").exists()
    if name != "ANYTHING" and not value.startswith("-"):
        assert done.returncode != 0
        assert f"{name} holds a character that is not allowed" in done.stderr
        assert commands == []


def test_an_unknown_image_is_refused(make):
    assert "There is no IMAGE=other; use kaggle or june" in make("demo", "IMAGE=other")[0].stderr


def test_a_user_or_version_that_only_the_environment_has_does_not_count(make):
    _, commands = make("submit", USER="somebody", VERSION="12")
    assert commands[0][-1] == "--user="


def test_what_is_not_given_is_not_handed_over(make):
    done, commands = make("demo", "run", "bench", "DATA=folder")
    assert done.returncode == 0
    assert commands[0][-2:] == ["tools.run", "demo"]
    assert commands[1][-4:] == ["tools.run", "run", "--data=folder", "--cfg="]
    assert commands[2][-2:] == ["benchmarks.bench", "--data=folder"]


def sentence(convert, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        arguments.checked(convert)(text)
    return str(caught.value)


def test_a_folder_that_is_not_given_is_asked_for():
    assert "write DATA=folder" in sentence(arguments.existing_folder, "")
    assert sentence(arguments.existing_folder, "absent") == "'absent' is not a folder"


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ("epochs=1 max_lenght=64", "CFG has no setting 'max_lenght'; did you mean 'max_length'?"),
        ("epochs", "CFG: 'epochs' is not a setting; write key=value."),
        ("epochs='1", "put values that hold quotes or spaces in quotes."),
    ],
)
def test_a_misspelt_setting_is_refused_before_a_kernel_starts(cfg, said, tmp_path, capsys):
    words = ["run", f"--data={tmp_path}", f"--out={tmp_path / 'out'}", f"--cfg={cfg}"]
    assert run.main(words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_a_demo_are_known(name):
    arguments.check_cfg(RECIPES[name].demo_cfg, ROOT / f"notebooks/{name}.py")


@pytest.mark.parametrize("text", ["../../x", "", "finetune_deberta.py", "-h", "finetune_deberta\n", "$(id)"])
def test_an_unknown_recipe_is_refused_with_the_list(text, capsys):
    parser = argparse.ArgumentParser()
    arguments.add_recipe(parser)
    assert parser.parse_args([]).recipe is RECIPES["finetune_deberta"]
    with pytest.raises(SystemExit):
        parser.parse_args([f"--recipe={text}"])
    told = capsys.readouterr().err
    assert "there is no recipe" in told
    assert all(name in told for name in RECIPES)


def test_values_are_checked(tmp_path):
    (tmp_path / "file").write_text("")
    for text in ("", "a/b", "a b", "-x", "a;b", "a\n", "é", "x" * 51):
        assert "USER" in sentence(arguments.account, text)
    assert arguments.account("Some-one9") == "Some-one9"
    for text in ("0", "-1", "1.5", "1e3", "43201", "", "1;2", "٣", "1\n"):
        assert "SECONDS" in sentence(arguments.seconds, text)
    assert arguments.seconds("43200") == 43200
    for text in ("0", "-1", "1.5", "1000000", "", "٣", "5\n"):
        assert "VERSION" in sentence(arguments.version, text)
    assert arguments.version("12") == 12
    for text in ("-1", "1.5", "10000", "", "٣", "5\n"):
        assert "WAIT" in sentence(arguments.minutes, text)
    assert arguments.minutes("0") == 0
    for text in ("0", "-1", "1000", "", "٣", "5\n"):
        assert "TOP" in sentence(arguments.count, text)
    assert arguments.count("20") == 20
    for text in (str(tmp_path / "absent"), str(tmp_path / "file")):
        assert "is not a folder" in sentence(arguments.existing_folder, text)
    assert arguments.existing_folder(str(tmp_path)) == tmp_path
    for text in ("", " ", str(tmp_path / "file")):
        assert "cannot be a folder" in sentence(arguments.new_folder, text)
    assert arguments.new_folder(str(tmp_path / "new")) == tmp_path / "new"
    assert [arguments.yes(text) for text in "10"] == [True, False]
    assert "write 1 or 0" in sentence(arguments.yes, "yes; x")


@pytest.mark.parametrize("target", ["push", "submit", "status"])
def test_a_real_command_refuses_a_path_as_recipe(target):
    words = ["make", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.ready", target, "RECIPE=../../x", "USER=someone"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "there is no recipe '../../x'; RECIPE is one of ablate_subset_vs_full" in done.stderr
