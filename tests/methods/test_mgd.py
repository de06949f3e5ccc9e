"""MGD: the masks, the formula, and what a student learns."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.mgd import MaskedGeneration
from methods.planted_maps import PLANTED

STUDENT = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TEACHER = torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(1))
BATCH = Batch(torch.zeros(6, 1), id=torch.arange(6))


def fitted(student=STUDENT, teacher=TEACHER, **options):
    outputs = Outputs({"a": student}), Outputs({"b": teacher})
    term = MaskedGeneration([("a", "b")], **{"mask_ratio": 0.5, "mask_channels": False} | options)
    return term.setup(LossContext(*outputs, BATCH)), outputs


def test_the_term_is_the_formula():
    for options in ({}, {"mask_channels": True}, {"mask_ratio": 0.0}):
        term, outputs = fitted(**options)
        connected = term.connectors[0](torch.nn.functional.avg_pool2d(STUDENT, 2))
        kept = term._draw_mask(connected, BATCH, Progress(3, 10), 0)
        expected = (term.generators[0](connected * kept) - TEACHER).square().sum()
        torch.testing.assert_close(term.term(*outputs, BATCH, Progress(3, 10)).total, expected)


def test_masks_are_of_pixels_or_channels_with_the_ratio_and_new_at_each_step():
    maps = torch.zeros(6, 64, 16, 16)
    for channels, shape in ((False, (6, 1, 16, 16)), (True, (6, 64, 1, 1))):
        term, _ = fitted(mask_ratio=0.3, mask_channels=channels)
        one, other = (term._draw_mask(maps, BATCH, Progress(step, 10), 0) for step in (0, 1))
        assert one.shape == shape
        assert abs(one.mean().item() - 0.7) < 0.06
        assert not torch.equal(one, other)
        some = Batch(torch.zeros(2, 1), id=torch.tensor([4, 1]))
        assert torch.equal(term._draw_mask(maps[:2], some, Progress(0, 10), 0), one[[4, 1]])


def test_rows_are_maps_of_one_pixel_and_tokens_are_refused():
    term, outputs = fitted(torch.randn(6, 3), torch.randn(6, 5), mask_channels=True)
    assert bool(term.term(*outputs, BATCH, Progress()).total.isfinite())
    with pytest.raises(LimbeckError, match="attention_transfer"):
        fitted(torch.randn(6, 7, 3), torch.randn(6, 7, 5))


@pytest.mark.parametrize("wrong", [{"mask_ratio": 1.0}, {"mask_ratio": -0.1}, {"weight": -1.0}])
def test_wrong_arguments_are_refused_when_it_is_built(wrong):
    with pytest.raises(ArgumentError):
        make("mgd", teacher="t", at="a", student_at="a", **wrong)


def test_a_student_that_generates_the_teacher_s_maps_learns_from_fewer_labels():
    recipe = make("mgd", teacher=PLANTED.truth, at="layer1", student_at="layer1", weight=0.01, mask_ratio=0.2)
    assert PLANTED.accuracy(PLANTED.learn(recipe, epochs=30).student) > PLANTED.accuracy_alone + 0.01
