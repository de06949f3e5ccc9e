"""What does a run hold, besides its models, that a function in a recipe may ask for?"""

from __future__ import annotations

from typing import NamedTuple

import torch

from limbeck.errors import LimbeckError
from limbeck.recipe.parts import Models
from limbeck.sources import Source
from limbeck.teachers import Reads


class Held(NamedTuple):
    """What a run was given.

    Attributes:
        source: Where its batches come from; only look (``source.batches(0, 0)``, ``source.peek()``), for its position
            is the run's.
        reads: The way from a batch to inputs, for every side that declares none.
        device: Where its models learn.
    """

    source: Source
    reads: Reads
    device: torch.device


def held(models: Models) -> Held:
    """What the run of these models was given, for a function in a recipe that needs more than models: K-means, say.

    Raises:
        LimbeckError: If they are no run's models.
    """
    found = getattr(models, "held", None)
    if not isinstance(found, Held):
        raise LimbeckError(
            f"This part of the recipe asks for the data of its run, and a {type(models).__name__} of models has none; "
            "let distill() run the recipe."
        )
    return found
