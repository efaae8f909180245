"""The settings of the blend, its scores as a table, and the record of a run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src_py.blend.find import RECORD
from src_py.blend.weights import BlendChoice
from src_py.config import Settings, setting
from src_py.evaluation.blend import mix
from src_py.evaluation.report import half_width
from src_py.kaggle.files import write_text


@dataclass(frozen=True)
class BlendSettings(Settings):
    """How members are blended.

    Args:
        exclude: names of members to leave out.
        calibrate: the blend, on its out-of-fold predictions.
        stacker: try a regression on the blend's logits and the answers' lengths.
    """

    exclude: tuple[str, ...] = setting(())
    calibrate: bool = setting(True)
    stacker: bool = setting(True)


def score_table(
    members: Mapping[str, np.ndarray], chosen: BlendChoice, labels: np.ndarray, prompts: np.ndarray, shares: np.ndarray
) -> pd.DataFrame:
    """Log loss and accuracy of the constant predictor, of each member, of their plain mean, of the blend on prompts
    that had no part in its weights, and of the blend on the rows that it was fitted on; and how much lower than the
    best member's the log loss is. `+-` is half of a 95 % interval, prompts taken as independent.

    Args:
        members: by name, probabilities (rows, classes) of the same rows.
        shares: (classes,) of the constant predictor.
    """
    named = {"constant predictor": np.tile(shares, (len(labels), 1)), **members}
    if len(members) > 1:
        named["plain mean"] = mix(list(members.values()), np.full(len(members), 1 / len(members)))
    named |= {"blend": chosen.cross_fitted, "blend, on the rows it was fitted on": chosen.same_rows}
    rows = np.arange(len(labels))
    losses = {name: -np.log(p[rows, labels].clip(1e-15)) for name, p in named.items()}
    best = losses[min(members, key=lambda name: losses[name].mean())]
    columns = {
        name: {
            "log loss": loss.mean(),
            "log loss +-": half_width(loss, prompts),
            "gain on the best member": (best - loss).mean(),
            "gain +-": half_width(best - loss, prompts) if loss is not best else 0.0,
            "accuracy": (named[name].argmax(1) == labels).mean(),
        }
        for name, loss in losses.items()
    }
    return pd.DataFrame.from_dict(columns, orient="index")


def save_record(output: Path, chosen: BlendChoice, digests: Mapping[str, str], predicted: list[str]) -> None:
    """Write what the blend was made of; a folder with this record is never taken for a member.

    Args:
        digests: of the members, by name.
        predicted: members that answered the test rows.
    """
    blend = chosen.blend
    record = {
        "recipe": "blend_submissions",
        "members": dict(digests),
        "weights": blend.weights,
        "space": blend.space,
        "calibration": asdict(blend.calibration),
        "stacker": asdict(blend.stacker) if blend.stacker else None,
        "predicted": predicted,
    }
    write_text(output / RECORD, json.dumps(record, indent=1))
