"""The project as a contributor finds it: what stands where, and what the papers about it say."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOP = (
    "notebooks src_py data tools tests benchmarks Makefile requirements.txt README.md CONTRIBUTING.md LICENSE "
    "CHANGELOG.md CITATION.cff pyproject.toml"
)
PINS = ("newest", "kaggle", "june")


def names(path):
    """The packages in a requirements file, as pip compares them."""
    lines = (line.split("#")[0].strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines())
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines if line and line[0] != "-"}


def test_the_top_level_shows_what_the_project_is():
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    found = {name.split("/")[0] for name in listed.stdout.splitlines() if not name.startswith(".")}
    assert found - {"gallery", "docs"} == set(TOP.split())


def test_contributing_is_short_and_names_files_that_exist():
    assert len(CONTRIBUTING.splitlines()) <= 60
    paths = re.findall(r"`((?:notebooks|src_py|tools|tests)/[\w/.]+|[\w.]+\.(?:toml|txt)|\.ci/run)`", CONTRIBUTING)
    paths = [path for path in paths if "NAME" not in path]
    assert len(paths) >= 10
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("task", ["A recipe", "A doctor check", "A contest", "An encoder family"])
def test_each_task_touches_at_most_three_files(task):
    section = re.search(rf"^## {task}\n(.*?)(?=^## )", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    steps = re.findall(r"^\d\. ", section[1], re.MULTILINE)
    assert 2 <= len(steps) <= 3


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", CONTRIBUTING)) <= targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert targets == set(phony)


def test_requirements_name_all_that_is_imported():
    """In the notebooks, the helpers and `make sync`; the rest of the tools may need tools/environment/dev.txt."""
    distributions = {"sklearn": "scikit-learn", "IPython": "ipython", "google": "protobuf", "PIL": "pillow"}
    paths = [*(ROOT / "src_py").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]
    paths += [ROOT / f"tools/{name}.py" for name in ("sync", "build", "pull", "percent", "helper_files")]
    imported = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {module.partition(".")[0] for module in modules}
    imported -= {*sys.stdlib_module_names, "src_py", "tools"}
    found = {distributions.get(name, name).lower() for name in imported}
    assert "torch" in found
    assert found - names("requirements.txt") == set()
    assert {"evaluate", "jupytext", "ruff"} <= names("requirements.txt")


def test_pins_are_of_packages_that_are_installed():
    wanted = names("requirements.txt") | names("tools/environment/dev.txt") | {"tokenizers"}
    for name in PINS:
        assert names(f"tools/environment/{name}.txt") <= wanted, name


def test_kaggles_torch_follows_its_python():
    lines = (ROOT / "tools/environment/kaggle.txt").read_text(encoding="utf-8").splitlines()
    assert 'torch==2.11.0; python_version == "3.13"' in lines
    assert 'torch==2.13.0; python_version != "3.13"' in lines


def test_the_order_of_the_rooms_names_them_all():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract for contract in contracts if contract["type"] == "layers")
    rooms = {room for layer in layers["layers"] for room in layer.split(" | ")}
    there = {path.stem for path in (ROOT / "src_py").iterdir() if path.name[0] != "_"}
    assert rooms == there


def test_an_import_upwards_breaks_the_order(tmp_path):
    """The contract is alive: kaggle stands at the bottom."""
    for name in ("src_py", "src_py/kaggle", "src_py/training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("exhaustive = true\n", "")
    text = re.sub(r'^    "(?!training|evaluation).*",\n', "", text, flags=re.MULTILINE).replace(
        "evaluation | kaggle", "kaggle"
    )
    text = text[: text.rindex("[[tool.importlinter.contracts]]")]
    (tmp_path / "pyproject.toml").write_text(text)
    words = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "src_py/kaggle/clock.py").write_text("import src_py.training\n")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "src_py.kaggle is not allowed to import src_py.training" in done.stdout
