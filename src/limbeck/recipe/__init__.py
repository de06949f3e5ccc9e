"""A method as data."""

from limbeck.recipe.change import change_stages
from limbeck.recipe.held import Held, held
from limbeck.recipe.optimiser import Optimiser
from limbeck.recipe.parts import Apart, Maker, Models, Part, Recipe, Ship, Stage, Together

__all__ = [
    "Apart", "Held", "Maker", "Models", "Optimiser", "Part", "Recipe", "Ship", "Stage", "Together", "change_stages",
    "held",
]  # fmt: skip
