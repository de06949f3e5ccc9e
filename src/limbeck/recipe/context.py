"""What a function in a recipe can ask of the run: loader, preprocessing, device."""

from __future__ import annotations

from typing import NamedTuple

import torch

from limbeck.data import Loader
from limbeck.errors import LimbeckError
from limbeck.recipe.stages import Models
from limbeck.teachers import Preprocess


class RunContext(NamedTuple):
    """What a run was given.

    Attributes:
        loader: Where its batches come from; only look (``loader.batches(0, 0)``, ``loader.peek()``), for its position
            is the run's.
        preprocess: The way from a batch to inputs, for every side that declares none.
        device: Where its models learn.
    """

    loader: Loader
    preprocess: Preprocess
    device: torch.device


def run_context(models: Models) -> RunContext:
    """What the run of these models was given, for a function in a recipe that needs more than models: K-means, say.

    Raises:
        LimbeckError: If they are no run's models.
    """
    context = getattr(models, "context", None)  # any mapping may be passed; only a run's has one
    if not isinstance(context, RunContext):
        raise LimbeckError(
            f"This part of the recipe asks for the data of its run, and a {type(models).__name__} of models has none; "
            "let distill() run the recipe."
        )
    return context
