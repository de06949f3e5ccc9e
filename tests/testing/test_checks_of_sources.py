"""Do the checks of sources, heads and methods pass what is right, and catch what is broken?"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, Loader, RandomShift, ShuffledLoader, TorchLoader
from limbeck.errors import LimbeckError
from limbeck.functional import Head, Projector, cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.models import seeded
from limbeck.recipe import Recipe, Stage
from limbeck.testing import LawError, check_head, check_loader, check_method


def breaks(sentence):
    return pytest.raises(LawError, match=rf"laws? of \w+ (is|are) broken:(?s:.*)({sentence})")


# --- objectives


ARRAYS = ArrayDataset(torch.randn(10, 2, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3)


def test_right_sources_pass():
    check_loader(ShuffledLoader(ARRAYS, batch_size=4))
    check_loader(
        ShuffledLoader(ArrayDataset(torch.rand(7, 4, 4)), batch_size=3, augment=RandomShift(1), drop_last=True)
    )
    check_loader(
        TorchLoader(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(9, 2)), batch_size=4))
    )


class Plain(Loader):
    """A right source, of which each test breaks one thing."""

    examples_per_epoch = 6

    def __init__(self, **broken):
        super().__init__()
        self.broken = broken
        self.read = itertools.count()

    def __len__(self):
        return self.broken.get("length", 3)

    @property
    def fingerprint(self):
        return self.broken.get("mark", "plain") or str(next(self.read))

    def batches(self, epoch, start):
        for number in range(start, 3):
            id = torch.tensor([2 * number, 2 * number + 1]) % self.broken.get("ids", 100)
            inputs = torch.full((2, 1), float(number))
            if "restless" in self.broken:
                inputs = inputs + next(self.read)
            if "late" in self.broken and start:
                inputs = inputs + 1
            labels = torch.zeros(self.broken.get("labels", 2), dtype=self.broken.get("dtype", torch.int64))
            yield Batch(inputs, None if "nameless" in self.broken else id, labels=labels)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"length": 4}, "3 batches, not 4"),
        ({"ids": 5}, "an id occurs twice"),
        ({"nameless": 1}, "a batch has none"),
        ({"labels": 3}, "labels has 3 rows, not 2"),
        ({"dtype": torch.int32}, "labels is torch.int32"),
        ({"restless": 1}, r"peek\(\) is not the next batch"),
        ({"late": 1}, "the remaining batches differ|peek"),
        ({"mark": ""}, "fingerprint changes"),
    ],
    ids=str,
)
def test_broken_sources_are_caught(broken, sentence):
    check_loader(Plain())
    with breaks(sentence):
        check_loader(Plain(**broken))


# --- heads


def test_right_heads_pass():
    check_head(Projector, torch.randn(4, 8), torch.randn(4, 3))
    check_head(Projector, torch.randn(4, 2, 6, 6), torch.randn(4, 3, 4, 4))


class Scaler(Head):
    """A head of one number a feature, of which each test breaks one thing."""

    broken = ""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3)) if self.broken == "eager" else None

    def shape(self, student, teacher):
        if self.scale is None or self.broken == "again":
            self.scale = nn.Parameter(torch.randn(teacher.shape[-1]))
            self.idle = nn.Parameter(torch.ones(())) if self.broken == "idle" else None

    def forward(self, student):
        from limbeck.errors import LimbeckError

        if self.scale is None:
            raise LimbeckError("no shape yet")
        return student * self.scale if self.broken != "wide" else torch.cat([student, student], -1) * self.scale[0]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("eager", "it can be called before shape"),
        ("again", "changes its parameters"),
        ("idle", "a gradient does not reach"),
        ("wide", r"it gives \(4, 6\), not \(4, 3\)"),
    ],
)
def test_broken_heads_are_caught(broken, sentence):
    check_head(Scaler, torch.randn(4, 3), torch.randn(4, 3))
    with breaks(sentence):
        check_head(type("Broken", (Scaler,), {"broken": broken}), torch.randn(4, 3), torch.randn(4, 3))


# --- methods


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
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_methods_are_caught(broken, sentence):
    with breaks(sentence):
        check_method(broken)


def test_a_card_without_a_citation_is_caught(monkeypatch):
    from dataclasses import replace

    from limbeck.methods.logits import hinton

    whole = hinton.CARD
    monkeypatch.setattr(hinton, "CARD", replace(hinton.CARD, bibtex=""))
    with breaks("its card has no bibtex"):
        check_method("hinton")
    monkeypatch.setattr(hinton, "CARD", replace(whole, bibtex=whole.bibtex.replace("year", "jear")))
    with breaks("its bibtex lacks year"):
        check_method("hinton")


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
    check_method(topped)
    with breaks("leaves traces in the model 'whole'"):
        check_method(hooked)


def test_a_method_says_what_it_runs_on():
    class Tagger(nn.Module):
        """It reads token ids, which no MLP does."""

        def __init__(self, width):
            super().__init__()
            self.embed, self.out = nn.Embedding(9, width), nn.Linear(width, 3)

        def forward(self, x):
            return self.out(self.embed(x).mean(1))

    def tokens():
        draw = torch.Generator().manual_seed(0)
        with seeded(1):
            networks = Tagger(4), Tagger(8)
        return *networks, ArrayDataset(torch.randint(9, (48, 5), generator=draw), torch.arange(48) % 3)

    def at_embedding(teacher, *, epochs: int | None = None):
        loss = Loss(squared_error, student="embed", teacher="embed", head=Projector())
        return Recipe(Stage(Loss(kl_divergence) + loss, teacher=teacher, epochs=epochs, name="at embedding"))

    check_method(at_embedding, on={"tagger": tokens})
    with pytest.raises(LimbeckError, match="embed"):
        check_method(at_embedding)
