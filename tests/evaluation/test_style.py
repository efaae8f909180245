"""How pictures look, and how large they are in a notebook."""

import io

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from src_py.evaluation.style import new_figure


@pytest.fixture
def shell():
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_a_notebook_shows_a_small_picture_of_the_same_look(shell):
    figure, axes = new_figure(figsize=(9, 4))
    axes.plot(np.random.default_rng(0).normal(size=50), label="a line")
    axes.legend()
    shown = shell.display_formatter.format(figure)[0]["image/png"]
    full = io.BytesIO()
    figure.savefig(full, format="png", bbox_inches="tight")
    assert len(shown) < len(full.getvalue()) / 2
    small, large = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float) for png in (shown, full.getvalue()))
    assert small.shape == large.shape
    assert np.abs(small - large).max() < 40


def test_other_figures_are_shown_as_before(shell):
    import matplotlib.pyplot as plt

    new_figure()
    assert "image/png" not in shell.display_formatter.format(plt.figure())[0]
