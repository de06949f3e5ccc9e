"""Checks of methods: what is right passes, and each law catches what breaks it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.errors import ArgumentError
from limbeck.functional import Projector, cross_entropy, kernel, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.methods import method
from limbeck.methods.support import check_weight
from limbeck.models import build, seeded
from limbeck.recipe import Recipe, Stage
from limbeck.testing import LawError, check_method
from limbeck.testing.law import same_weights, weights
from limbeck.testing.method import check_card


def breaks(sentence):
    return pytest.raises(LawError, match=rf"laws? of \w+ (is|are) broken:(?s:.*)({sentence})")


def stage(**given):
    return Recipe(Stage(Loss(cross_entropy), name="own", **given))


def own(*, epochs: int | None = None):
    return stage(epochs=epochs)


def nameless(*, epochs: int | None = None):
    return Recipe(Stage(Loss(cross_entropy), epochs=epochs))


def no_recipe(*, epochs: int | None = None):
    return Stage(Loss(cross_entropy), epochs=epochs, name="own")


def anything(*, epochs: int | None = None, **more):
    return stage(epochs=epochs)


class Drawing(Loss):
    """A loss that differs from run to run."""

    drawn = itertools.count()

    def term(self, *given):
        term = super().term(*given)
        return term._replace(total=term.total * (1 + 0.1 * next(self.drawn)))


def restless(*, epochs: int | None = None):
    return Recipe(Stage(Drawing(cross_entropy), epochs=epochs, name="restless"))


def meddling(teacher, *, epochs: int | None = None):
    recipe = Recipe(Stage(Loss(kl_divergence), teacher=teacher, epochs=epochs, name="meddling"))
    with torch.no_grad():
        next(teacher.parameters()).add_(1.0)
    return recipe


def clinging(teacher, *, epochs: int | None = None):
    teacher.register_forward_hook(lambda *_: None)
    return Recipe(Stage(Loss(kl_divergence), teacher=teacher, epochs=epochs, name="clinging"))


class Between(nn.Module):
    """A student that runs the teacher in train mode, hidden from the engine, so its BatchNorm statistics move."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.hidden = student, (teacher,)

    def forward(self, x):
        self.hidden[0].train()(x)
        self.hidden[0].eval()
        return self.student(x)


def moved_statistics(teacher, *, epochs: int | None = None):
    stage = Stage(Loss(cross_entropy), trains="whole", epochs=epochs, name="moved")
    return Recipe(stage, makes={"whole": lambda models: Between(models["student"], teacher)}, ship="whole")


class Counting(Loss):
    """A loss whose state is not in the checkpoint."""

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.calls = 0

    def term(self, *given):
        self.calls += 1
        term = super().term(*given)
        return term._replace(total=term.total * (1 + 0.1 * self.calls))


def forgetful(*, epochs: int | None = None):
    return Recipe(Stage(Counting(cross_entropy), epochs=epochs, name="forgetful"))


class Plan:
    """A function in a recipe whose description lacks its settings."""

    def __init__(self, stage):
        self.stage = stage

    def __call__(self, models):
        return self.stage

    def describe(self):
        return {"function": "plan"}


def undescribed(teacher, *, weight: float = 1.0, epochs: int | None = None):
    check_weight(weight=weight)
    return Recipe(Plan(Stage(weight * Loss(kl_divergence), teacher=teacher, epochs=epochs, name="hidden")))


@kernel(per="example")
def mean_of_the_micro_batch(student, labels):
    return nn.functional.cross_entropy(student, labels, reduction="none") / len(student)


def split_dependent(*, epochs: int | None = None):
    return Recipe(Stage(Loss(mean_of_the_micro_batch), epochs=epochs, name="split"))


class Unsavable(nn.Module):
    """A model with a state that is no tensor."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def get_extra_state(self):
        return {"notes": "a text"}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.student(x)


def unsavable(*, epochs: int | None = None):
    stage = Stage(Loss(cross_entropy), trains="whole", epochs=epochs, name="unsavable")
    return Recipe(stage, makes={"whole": lambda models: Unsavable(models["student"])}, ship="whole")


def lenient(teacher, *, share: float = 1.0, epochs: int | None = None):
    return Recipe(Stage(Loss(kl_divergence), teacher=teacher, epochs=epochs, name=f"share {share}"))


def always_one(*, epochs: int | None = None):
    return stage(epochs=1)


def infinite(*, epochs: int | None = None):
    return Recipe(Stage(Loss(overflowing), epochs=epochs, name="infinite"))


@kernel(per="example")
def overflowing(student, labels):
    return nn.functional.cross_entropy(student, labels, reduction="none") + float("inf")


def test_a_function_passes_without_a_card():
    check_method(own)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (nameless, "a stage has no name"),
        (no_recipe, "returns a Stage; a method returns a Recipe"),
        (anything, "accepts arguments of any name"),
        (restless, "two runs with one seed differ"),
        (meddling, "the teacher has changed"),
        (clinging, "leaves traces in the teacher"),
        (moved_statistics, "on the resnet the teacher has changed"),
        (forgetful, "differs after a kill and a resume"),
        (undescribed, "is resumed with another weight"),
        (split_dependent, "accumulate=2 changes weights"),
        (unsavable, "can be saved and loaded"),
        (lenient, r"accepts share=nan; call check_weight\(share=share\)"),
        (always_one, r"epochs=7 gives stages of \[1\] epochs"),
        (infinite, "not finite|infinite"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_methods_are_caught(broken, sentence):
    with breaks(sentence):
        check_method(broken, thorough=False)


def test_a_card_without_a_citation_is_caught(monkeypatch):
    from dataclasses import replace

    from limbeck.methods.logits import hinton

    whole = hinton.CARD
    monkeypatch.setattr(hinton, "CARD", replace(hinton.CARD, bibtex=""))
    with breaks("its card has no bibtex"):
        check_card(method("hinton"))
    monkeypatch.setattr(hinton, "CARD", replace(whole, bibtex=whole.bibtex.replace("year", "jear")))
    with breaks("its bibtex lacks year"):
        check_card(method("hinton"))
    monkeypatch.setattr(hinton, "CARD", whole)
    monkeypatch.setattr(hinton.hinton, "__doc__", hinton.hinton.__doc__.replace("    weight: ", "    wait: "))
    with breaks("no entry under Args for weight"):
        check_card(method("hinton"))


def test_all_broken_laws_of_a_method_are_listed():
    with pytest.raises(LawError) as error:
        check_method(undescribed_and_lenient)
    assert len(error.value.broken) >= 3
    assert str(error.value).startswith("undescribed_and_lenient: ")


def undescribed_and_lenient(teacher, *, share: float = 1.0, epochs: int | None = None):
    """It hides its settings, refuses nothing, and has a wrong loss."""
    loss = share * Loss(mean_of_the_micro_batch)
    return Recipe(Plan(Stage(loss, teacher=teacher, epochs=epochs, name="hidden")))


class Topped(nn.Module):
    """A student under a layer that does not learn: another architecture than the student's, as SimKD ships."""

    def __init__(self, student):
        super().__init__()
        self.student, self.top = student, nn.Linear(3, 3).requires_grad_(False).eval()

    def forward(self, x):
        return self.top(self.student(x))


def topped(teacher, *, epochs: int | None = None):
    stage = Stage(Loss(kl_divergence), trains="whole", teacher=teacher, epochs=epochs, name="topped")
    return Recipe(stage, makes={"whole": lambda models: Topped(models["student"])}, ship="whole")


def hooked(teacher, *, epochs: int | None = None):
    def whole(models):
        made = Topped(models["student"])
        made.top.register_forward_hook(lambda *_: None)
        return made

    stage = Stage(Loss(kl_divergence), trains="whole", teacher=teacher, epochs=epochs, name="hooked")
    return Recipe(stage, makes={"whole": whole}, ship="whole")


def test_a_method_may_ship_another_architecture():
    check_method(topped, thorough=False)
    with breaks("leaves traces in the model 'whole'"):
        check_method(hooked, thorough=False)


def test_a_method_explains_what_it_runs_on():
    class Tagger(nn.Module):
        """It reads token ids, which no MLP does."""

        def __init__(self, width):
            super().__init__()
            self.embed, self.out = nn.Embedding(9, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.out(self.embed(x).mean(1))

    draw = torch.Generator().manual_seed(0)
    with seeded(1):
        student, teacher = Tagger(4), Tagger(8)
    data = ArrayDataset(torch.randint(9, (48, 5), generator=draw), torch.arange(48) % 3)

    def at_embedding(teacher, *, epochs: int | None = None):
        loss = Loss(squared_error, student="embed", teacher="embed", head=Projector())
        return Recipe(Stage(Loss(kl_divergence) + loss, teacher=teacher, epochs=epochs, name="at embedding"))

    before = weights(student), weights(teacher)
    check_method(at_embedding, student=student, teacher=teacher, data=data)
    assert same_weights(weights(student), before[0])
    assert same_weights(weights(teacher), before[1])
    with pytest.raises(LawError, match="embed"):
        check_method(at_embedding)
    for missing in ("student", "teacher", "data"):
        networks = {"student": student, "teacher": teacher, "data": data}
        del networks[missing]
        with pytest.raises(ArgumentError, match=missing):
            check_method(at_embedding, **networks)


def test_several_students_may_be_given():
    networks = {name: build("mlp", inputs=6, classes=3, hidden=[width], seed=1) for name, width in PEERS.items()}
    data = ArrayDataset(torch.randn(48, 6), torch.arange(48) % 3)
    check_method("mutual", student=networks, data=data)


PEERS = {"student": 4, "peer": 6}
