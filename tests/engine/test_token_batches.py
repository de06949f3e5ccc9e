"""Padded batches of token ids train a model with an output object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch
from limbeck.data import TorchLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.metrics import predict
from limbeck.recipe import Optimizer, Stage

WORDS, CLASSES = 11, 4
LENGTHS = (3, 5, 2, 4, 5, 1)
SGD = Optimizer("sgd", lr=0.5, decay="constant")


@dataclass
class TaggerOutput:
    """As transformers' outputs: an object with logits among other things."""

    logits: Tensor
    hidden_states: Any = None


class Tagger(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(WORDS, 6)
            self.classifier = nn.Linear(6, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> TaggerOutput:
        shown = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        return TaggerOutput(self.classifier(shown + shown.sum(1, keepdim=True)))


def collated(width: int | None, *, labeled: bool = True) -> list[dict[str, Tensor]]:
    """Three batches of two sentences, each padded to `width`, or to the longer of the two."""
    draw = torch.Generator().manual_seed(0)
    sentences = [torch.randint(1, WORDS, (length,), generator=draw) for length in LENGTHS]
    tags = [torch.randint(CLASSES, (length,), generator=draw) for length in LENGTHS]
    items = []
    for first in range(0, len(LENGTHS), 2):
        wide = width or max(LENGTHS[first : first + 2])
        ids, labels = torch.zeros(2, wide, dtype=torch.int64), torch.full((2, wide), IGNORED)
        for row, (sentence, tag) in enumerate(zip(sentences[first : first + 2], tags[first : first + 2], strict=True)):
            ids[row, : len(sentence)], labels[row, : len(tag)] = sentence, tag
        item = {"input_ids": ids, "attention_mask": (ids > 0).long()}
        items.append({**item, "labels": labels} if labeled else item)
    return items


def counted(item: dict[str, Tensor]) -> Batch:
    inputs = {name: item[name] for name in ("input_ids", "attention_mask")}
    return Batch(inputs, labels=item.get("labels"), mask=item["attention_mask"].bool())


def learnt(items: list[dict[str, Tensor]], objective: Any) -> tuple[Tensor, float]:
    student = Tagger(0)
    stage = Stage(objective, teacher=Tagger(1), optimizer=SGD, epochs=2)
    run = distill(student, stage, TorchLoader(items, to_batch=counted)).finish()
    return nn.utils.parameters_to_vector(student.parameters()).detach(), run.history[-1].loss


@pytest.mark.parametrize("labeled", [True, False])
def test_how_wide_the_padding_is_changes_nothing(labeled):
    objective = Loss(kl_divergence, temperature=2.0)
    objective = 0.5 * objective + 0.5 * Loss(cross_entropy) if labeled else objective
    found, wanted = (learnt(collated(width, labeled=labeled), objective) for width in (9, None))
    assert torch.allclose(found[0], wanted[0], atol=1e-6)
    assert found[1] == pytest.approx(wanted[1], rel=1e-5)


def test_an_attention_mask_alone_leaves_the_padding_out():
    def learnt_from(data: Any) -> Tensor:
        student = Tagger(0)
        distill(student, Stage(Loss(kl_divergence), teacher=Tagger(1), optimizer=SGD, epochs=2), data).finish()
        return nn.utils.parameters_to_vector(student.parameters()).detach()

    wanted = learnt_from(TorchLoader(collated(None, labeled=False), to_batch=counted))
    assert torch.allclose(learnt_from(collated(9, labeled=False)), wanted, atol=1e-6)


def test_without_any_mask_uneven_widths_are_refused():
    stage = Stage(Loss(kl_divergence), teacher=nn.Embedding(WORDS, CLASSES), epochs=1)
    items = [item["input_ids"] for item in collated(None, labeled=False)]
    with pytest.raises(LimbeckError, match=r"mark those that count with Batch\.mask.*Loader\(\.\.\., to_batch="):
        distill(nn.Embedding(WORDS, CLASSES), stage, items).finish()


def test_predictions_leave_the_padding_out():
    batches = [counted(item) for item in collated(9)]
    found = predict(Tagger(0), batches)
    assert len(found.student) == sum(LENGTHS)
    assert bool((found.labels != IGNORED).all())
