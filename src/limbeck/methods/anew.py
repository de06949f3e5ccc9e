"""How does a recipe bring another model of the student's architecture?"""

from __future__ import annotations

from typing import final

from torch import nn

from limbeck.models import check_fresh, fresh
from limbeck.recipe import Models
from limbeck.tap import Adaptor
from limbeck.teachers import adaptor_of


@final
class Anew:
    """A maker of a model like another of the run, newly initialised; the run asks it before anything is paid for.

    Args:
        of: The name of the model whose architecture it has.
    """

    def __init__(self, of: str = "student") -> None:
        self.of = of

    def __call__(self, models: Models) -> nn.Module:
        """The new model."""
        return fresh(models[self.of])

    def adaptor(self, models: Models) -> Adaptor | None:
        """Its outputs are read as those of the model that it is like."""
        return adaptor_of(models, self.of)

    def check(self, models: Models) -> None:
        """Refuse a model that cannot be made anew, where it is there already.

        Raises:
            LimbeckError: If one of its modules cannot initialise itself; it is named.
        """
        if self.of in models:
            check_fresh(models[self.of])
