"""Can a method of one's own be used by name, without being put into the package?"""

from __future__ import annotations

import pytest
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.methods import make, method
from limbeck.recipe import Recipe

OWN = '''
from limbeck.functional import total_variation
from limbeck.objective import Loss
from limbeck.recipe import Recipe, Stage


def near(teacher, *, weight: float = 2.0, epochs: int | None = None):
    """The student keeps within reach."""
    return Recipe(Stage(weight * Loss(total_variation), teacher=teacher, epochs=epochs))
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_a_function_in_a_file_is_a_method(file):
    found = method(f"{file}:near")
    assert found.has_teacher
    assert (found.card.name, found.card.claim) == ("near", "The student keeps within reach.")
    recipe = make(f"{file}:near", teacher=nn.Linear(2, 2), weight=3)
    assert isinstance(recipe, Recipe)
    assert "3.0 * Loss(total_variation)" in repr(recipe.parts[0].objective)


def test_its_arguments_are_checked(file):
    with pytest.raises(LimbeckError, match="Did you mean 'weight'"):
        make(f"{file}:near", teacher=nn.Linear(2, 2), wieght=3)


@pytest.mark.parametrize(
    ("name", "said"), [("own.py:far", "'near'"), ("none.py:near", "no file"), ("own.py", "function")]
)
def test_a_wrong_name_is_said(file, monkeypatch, name, said):
    monkeypatch.chdir(file.parent)
    with pytest.raises(LimbeckError, match=said):
        method(name)


def test_a_card_beside_it_is_used(file):
    file.write_text(OWN + "\nfrom limbeck.methods import method\nCARD = method('hinton').card\n")
    assert method(f"{file}:near").card.name == "hinton"
