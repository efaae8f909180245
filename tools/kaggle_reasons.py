"""Kaggle's client with the service's own words in its errors: `python -m tools.kaggle_reasons WORDS OF THE CLIENT`.

The client (2.2.4) shows only "400 Client Error: Bad Request"; why is in the answer's body, which it does not read.
"""

import runpy
import sys
from typing import Any

REASON = "Kaggle's reason: "


def reason(response: Any) -> str:
    """What a refusal's body says, on one line; "" where it says nothing."""
    try:
        body = response.json()
    except ValueError:
        return ""
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message or "").split())[:500]


def with_reasons() -> None:
    """From now on an HTTP error of `requests` ends with the service's reason."""
    import requests  # it comes with the client; without either, `tools.kaggle_service` has a sentence

    plain = requests.Response.raise_for_status

    def raise_for_status(self: Any) -> None:
        try:
            plain(self)
        except requests.HTTPError as error:
            said = reason(self)
            if said:
                raise requests.HTTPError(f"{error}\n{REASON}{said}", response=self) from None
            raise

    requests.Response.raise_for_status = raise_for_status  # type: ignore[method-assign]


if __name__ == "__main__":
    with_reasons()
    sys.argv[0] = "kaggle"
    runpy.run_module("kaggle", run_name="__main__", alter_sys=True)
