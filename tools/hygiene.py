"""Fail when a committed file holds what it should not: outputs of a notebook, credentials, personal paths.

python -m tools.hygiene
"""

import json
import re
import subprocess
import sys
from pathlib import Path

CREDENTIALS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a Kaggle token": r"\bKGAT_[A-Za-z0-9]{20,}",
    "a Kaggle key": r"[\"']?key[\"']?\s*[:=]\s*[\"'][0-9a-f]{32}[\"']",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "an OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]{30,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
# Folders of a person or a machine; /kaggle/ is the same for everybody.
PERSONAL_PATH = r"(?<![\w.])(/home/\w|/Users/\w|/roo[t]/|/mnt/\w|/media/\w|[A-Z]:\\+Users\\+)"


def problems(name: str, text: str) -> list[str]:
    """What is wrong with a file, one sentence each."""
    found = []
    for what, pattern in {**CREDENTIALS, "a personal path": PERSONAL_PATH}.items():
        for match in re.finditer(pattern, text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{name}:{line} holds {what}; remove it.")
    if name.endswith(".ipynb"):
        for number, cell in enumerate(json.loads(text)["cells"]):
            if cell.get("outputs") or cell.get("execution_count") is not None:
                found.append(f"{name}: cell {number} has outputs; build the notebook with `make sync`.")
            if cell.get("attachments"):
                found.append(f"{name}: cell {number} has attachments; keep pictures out of notebooks.")
    return found


def main() -> int:
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True)
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = root / name
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        found += problems(name, text)
    print("\n".join(found) or "No outputs, credentials or personal paths are committed.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
