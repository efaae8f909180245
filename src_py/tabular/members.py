"""Which predictions take part in the blend, and on which rows its weights are fitted."""

import numpy as np

from src_py.errors import InputError
from src_py.evaluation.blend import fit_weights
from src_py.kaggle.page import say
from src_py.model.fine_tuned import FineTuned
from src_py.pairs.split import grouped_folds
from src_py.tabular.saved import FINE_TUNED, SavedBlend

FEWEST_ROWS = 200  # below, the standard error of a difference in log loss (0.3 / sqrt(rows)) is above 0.02
PARTS = 5  # of the known rows: weights are fitted on four, the blend is judged on the fifth


def choose_fine_tuned(
    found: FineTuned | None, prompts: np.ndarray, finished: SavedBlend | None = None
) -> FineTuned | None:
    """The fine-tuned DeBERTa if it can take part in the blend, with one printed line either way.

    Args:
        found: from `find_fine_tuned`.
        prompts: (training rows,) number of the prompt.
        finished: the blend that this run predicts with; None in a run that trains.

    Raises:
        InputError: when the finished blend needs an output that is not attached.
    """
    if finished and finished.fine_tuned:
        if found is None or found.digest != finished.fine_tuned:
            what = "it is not attached" if found is None else f"{found.output} is another one"
            raise InputError(
                f"The finished run blends the output of finetune_deberta, but {what}; attach the one that was "
                "attached when the blend was fitted."
            )
        return found
    if found is None:
        say("The blend has no fine-tuned DeBERTa: no output of finetune_deberta is attached.")
        return None
    if finished:
        say(f"{found.output} is not used: the finished run does not blend it.")
        return None
    if problem := _too_few(found.known, prompts):
        say(f"NOT IN THE BLEND: the fine-tuned DeBERTa in {found.output}, {problem}.")
        return None
    known = found.known.sum()
    say(f"In the blend: the fine-tuned DeBERTa in {found.output}, known for {known:,} of {len(prompts):,} rows.")
    if known < len(prompts):
        say("The weights are fitted on these rows, and oof_lightgbm.csv holds only these.")
    return found


def blend_members(
    oof: dict[tuple[str, str], np.ndarray], fine_tuned: FineTuned | None, labels: np.ndarray, prompts: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Out-of-fold probabilities (training rows, classes) by member, and (rows,) where all members are known.

    A fine-tuned model that is known for too few of the rows, or gets no weight there, is left out and said: the other
    members are then blended on all of their rows.

    Args:
        oof: by (set of groups, model); NaN for folds that were not fitted.
    """
    members = {f"{name}/{model}": predicted for (name, model), predicted in oof.items()}
    known = np.all([np.isfinite(predicted).all(1) for predicted in members.values()], axis=0)
    if fine_tuned is None:
        return members, known
    both = known & fine_tuned.known
    if problem := _too_few(both, prompts):
        say(f"NOT IN THE BLEND: the fine-tuned DeBERTa, {problem} in the folds that were fitted.")
        return members, known
    together = members | {FINE_TUNED: fine_tuned.oof}
    if fit_weights([predicted[both] for predicted in together.values()], labels[both])[-1] == 0:
        say("NOT IN THE BLEND: the fine-tuned DeBERTa gets no weight; the others are blended on all of their rows.")
        return members, known
    return together, both


def weight_folds(
    members: dict[str, np.ndarray],
    known: np.ndarray,
    labels: np.ndarray,
    prompts: np.ndarray,
    fold_of: np.ndarray,
    seed: int,
) -> np.ndarray:
    """(known rows,) the parts between which the blend's weights are cross-fitted.

    They are this run's folds. Where the fine-tuned model takes part they are split anew by prompt, since its rows may
    all lie in one of them. Every member's prediction of a row comes from models that saw no row with its prompt,
    whichever fold that was; the few weights are fitted on other prompts than those they are judged by.
    """
    if FINE_TUNED not in members:
        return fold_of[known]
    return grouped_folds(labels[known], prompts[known], PARTS, seed)


def _too_few(known: np.ndarray, prompts: np.ndarray) -> str:
    rows, groups = int(known.sum()), len(np.unique(prompts[known]))
    if rows >= FEWEST_ROWS and groups >= PARTS:
        return ""
    return f"known for {rows} rows with {groups} prompts, while weights need {FEWEST_ROWS} rows with {PARTS} prompts"
