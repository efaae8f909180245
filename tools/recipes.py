"""The recipes: one entry each. A new recipe is notebooks/NAME.py and an entry here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What the tools and tests need to know of a recipe; the rest stands in its notebook.

    Attributes:
        sections: headings of the second level, in order.
        demo_cfg: its defaults, scaled down for a random model of two layers.
        rehearsal_cfg: the smallest run that does everything.
        traces: patterns of files that only a run that trains leaves in its output.
        shows: result files that `make demo` prints (.md as text, .csv as a table).
        predictions: out-of-fold predictions that `make demo` compares with the Bayes-optimal loss; "": none.
        length_scale: how much the length of an answer decides in its generated data.
        rehearsal_rows: training rows of the rehearsal.
        takes_encoder: whether its CFG has a `model_dir`.
        members: runs whose outputs it needs, (recipe, settings beside that recipe's own for the demo or rehearsal).
        foreign: whether it also gets somebody else's predictions.
        submits: whether it answers the test rows in submission.csv.
    """

    name: str
    sections: tuple[str, ...]
    demo_cfg: str
    rehearsal_cfg: str
    traces: tuple[str, ...]
    shows: tuple[str, ...] = ()
    predictions: str = ""
    length_scale: float = 0.0
    rehearsal_rows: int = 160
    takes_encoder: bool = True
    members: tuple[tuple[str, str], ...] = ()
    foreign: bool = False
    submits: bool = True


_OPENING = ("What you get", "Configuration", "Helpers (skip this)", "Setup", "Data", "Validation split")
_CLOSING = ("Submission", "What to change next")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="finetune_deberta",
            sections=(*_OPENING, "Model", "Check before training", "Train", "Evaluate", *_CLOSING),
            demo_cfg="max_length=128 epochs=3 lr=0.002 head_lr=0.002 batch_size=32 micro_batch=32",
            # Two processes: as on two T4s.
            rehearsal_cfg="max_length=48 epochs=1 n_folds=2 evals_per_epoch=1 stop_on_failure=no processes=2",
            traces=("fold_*", "checkpoints"),
            predictions="oof.csv",
        ),
        Recipe(
            name="ablate_subset_vs_full",
            sections=(*_OPENING, "Model", "Check before training", "Grid", *_CLOSING),
            demo_cfg="max_length=64 epochs=3 lr=0.002 head_lr=0.002 batch_size=32 micro_batch=32 valid_rows=300 "
            "evaluations=2 sizes=125,250,500,1000 repairs=pairwise,rates seeds=1 budget_minutes=6",
            rehearsal_cfg="max_length=32 epochs=1 sizes=40,80 seeds=1 repairs= control=no valid_rows=40 "
            "evaluations=1 budget_minutes=3",
            traces=("trials/*", "trained/*"),
            shows=("answer.md",),
        ),
        Recipe(
            name="embed_deberta_lightgbm",
            sections=(*_OPENING, "Features", "Check before training", "Boost", "Evaluate", *_CLOSING),
            demo_cfg="max_length=64 search_minutes=0",
            rehearsal_cfg="max_length=48 n_folds=2 search_minutes=0",
            traces=("tabular",),
            shows=("models.csv",),
            predictions="oof_lightgbm.csv",
            length_scale=5.0,  # so that more than one group of features has something to say
        ),
        Recipe(
            name="blend_submissions",
            sections=(
                *("What you get", "Configuration", "Helpers (skip this)", "Setup", "Data", "Members", "Weights"),
                *("Evaluate", *_CLOSING),
            ),
            demo_cfg="",
            rehearsal_cfg="",
            traces=(),
            shows=("members.csv",),
            predictions="oof_blend.csv",
            length_scale=5.0,
            rehearsal_rows=500,
            takes_encoder=False,
            members=(
                ("finetune_deberta", "folds=0,1"),
                ("finetune_deberta", "folds=0,1 features=off"),
                ("embed_deberta_lightgbm", ""),
            ),
            foreign=True,
        ),
        Recipe(
            name="why_is_it_not_learning",
            sections=(
                *("What you get", "Configuration", "Helpers (skip this)", "Data", "Check before training", "Remedies"),
                *("What to change next", "Your Trainer"),
            ),
            demo_cfg="rows=200 valid_rows=160 max_length=32 evaluations=2",
            rehearsal_cfg="rows=40 valid_rows=20 max_length=16 epochs=1 evaluations=1",
            traces=("remedies.csv", "remedies.png"),
            shows=("remedies.csv",),
            length_scale=5.0,  # so that few rows are enough for the recipe to learn
            submits=False,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The entry of a recipe; for argparse, which prints the sentence of the error.

    Raises:
        ValueError: when there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; RECIPE is one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
