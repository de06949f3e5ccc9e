"""Methods in a user's own file."""

from __future__ import annotations

import pytest
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.methods import make, method
from limbeck.recipe import Recipe

OWN = '''
from limbeck.functional import total_variation
from limbeck.losses import Loss
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
def test_a_wrong_name_is_reported(file, monkeypatch, name, said):
    monkeypatch.chdir(file.parent)
    with pytest.raises(LimbeckError, match=said):
        method(name)


def test_a_card_beside_it_is_used(file):
    file.write_text(OWN + "\nfrom limbeck.methods import method\nCARD = method('hinton').card\n")
    assert method(f"{file}:near").card.name == "hinton"


LOSSES = """
from limbeck.functional import kernel

@kernel(per="position")
def squared(student, teacher, *, temperature=1.0):
    return ((student - teacher) / temperature).square().mean(-1)

@kernel(per="position")
def plain(student, teacher):
    return (student - teacher).abs().mean(-1)

@kernel(per="position")
def one_sided(student):
    return student.mean(-1)

def undeclared(student, teacher):
    return (student - teacher).abs()
"""


def test_hinton_takes_another_loss_by_name_or_from_a_file(tmp_path):
    path = tmp_path / "losses.py"
    path.write_text(LOSSES)
    teacher = nn.Linear(4, 3)
    for loss, said in (
        ("reverse_kl", "Loss(reverse_kl, temperature=2.0)"),
        ("total_variation", "Loss(total_variation"),
        (f"{path}:squared", "Loss(squared, temperature=2.0)"),
        (f"{path}:plain", "Loss(plain)"),
    ):
        (stage,) = make("hinton", teacher=teacher, temperature=2.0, loss=loss).stages()
        assert said in repr(stage.objective)
    (default,), (named,) = (
        make("hinton", teacher=teacher, **more).stages() for more in ({}, {"loss": "kl_divergence"})
    )
    assert repr(default.objective) == repr(named.objective)


@pytest.mark.parametrize("loss", ["kl_divergense", "cross_entropy", "losses.py:one_sided", "losses.py:undeclared"])
def test_what_is_no_such_loss_is_refused(tmp_path, monkeypatch, loss):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(LOSSES)
    with pytest.raises(LimbeckError):
        make("hinton", teacher=nn.Linear(4, 3), loss=loss)
