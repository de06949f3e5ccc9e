"""A method as data."""

from limbeck.recipe.optimiser import Optimiser
from limbeck.recipe.parts import Apart, Maker, Models, Part, Recipe, Ship, Stage, Together

__all__ = ["Apart", "Maker", "Models", "Optimiser", "Part", "Recipe", "Ship", "Stage", "Together"]
