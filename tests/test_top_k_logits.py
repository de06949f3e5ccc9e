"""Losses with a teacher of partial logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cache.records import again
from limbeck import functional as K
from limbeck.batch import Batch, Outputs, Progress, missing_output_error
from limbeck.cache.encodings import make_encoding
from limbeck.engine import distill
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.functional import Projector, coarse_logits, kernel
from limbeck.losses import Loss, LossContext
from limbeck.recipe import Stage
from limbeck.schedule import ramp
from limbeck.teachers import Ensemble, FunctionSession, Teacher, TeacherContext
from limbeck.testing import check_teacher
from limbeck.top_k_logits import PartialLogits

NAMES = {"top-k": {"k": 4, "bits": 32}, "sampled": {"draws": 6, "power": 0.25}}
both = pytest.mark.parametrize("name", NAMES)


def partial(logits: Tensor, name: str = "top-k", **parameters) -> PartialLogits:
    """What a store would show instead of the teacher's logits, classes last."""
    one = make_encoding(name, classes=logits.shape[-1], **(parameters or NAMES[name]))
    return again(one, logits.flatten(0, -2)).reshape(*logits.shape[:-1])


def sides(*shape: int) -> tuple[Outputs, Tensor]:
    return Outputs(logits=torch.randn(*shape, requires_grad=True)), 3 * torch.randn(*shape)


def total(loss: Loss, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Tensor, float]:
    loss = loss.setup(LossContext(student, teacher, batch))
    term = loss.term(student, teacher, batch, Progress())
    assert loss.count(batch) == term.count
    return term.total, term.count


DIVERGENCES = [name for name in K.__all__ if getattr(getattr(K, name), "divergence", False)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_all_classes_kept_are_the_live_teacher(name, temperature):
    student, logits = sides(5, 7)
    loss = Loss(getattr(K, name), temperature=temperature)
    live, _ = total(loss, student, Outputs(logits=logits), Batch(None, id=torch.arange(5)))
    kept, _ = total(
        loss, student, Outputs.of({"logits": partial(logits, k=7, bits=32)}), Batch(None, id=torch.arange(5))
    )
    assert torch.allclose(kept, live, rtol=1e-4, atol=1e-5)
    mine, its = (torch.autograd.grad(one, student["logits"], retain_graph=True)[0] for one in (kept, live))
    assert torch.allclose(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_few_classes_are_at_most_the_live_teacher_and_what_was_merged_by_hand(name):
    student, logits = sides(20, 30)
    loss, batch = Loss(getattr(K, name), temperature=4.0), Batch(None, id=torch.arange(20))
    some = partial(logits, k=5, bits=32)
    kept, _ = total(loss, student, Outputs.of({"logits": some}), batch)
    live, _ = total(loss, student, Outputs(logits=logits), batch)
    by_hand = getattr(K, name)(
        *(coarse_logits(side, some.ids, temperature=4.0) for side in (student["logits"], logits)), temperature=4.0
    )
    assert 0 < kept < live
    assert torch.allclose(kept, by_hand.sum(), rtol=1e-4)


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    _, logits = sides(20, 30)
    student = Outputs(logits=logits.clone().requires_grad_())
    value, _ = total(
        Loss(K.kl_divergence), student, Outputs.of({"logits": partial(logits)}), Batch(None, id=torch.arange(20))
    )
    assert abs(value.item()) < 1e-6
    assert float(torch.autograd.grad(value, student["logits"])[0].abs().max()) < 1e-5


@both
@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 2)])
def test_positions_masks_and_labels_count_as_with_a_live_teacher(name, shape):
    student, logits = sides(*shape, 9)
    mask = torch.rand(shape) < 0.6
    labels = torch.randint(9, shape).masked_fill(torch.rand(shape) < 0.3, -100)
    kept, batch = partial(logits, name), Batch(None, labels=labels, mask=mask)
    value, count = total(Loss(K.kl_divergence, temperature=2.0), student, Outputs.of({"logits": kept}), batch)
    assert count == int(mask.sum())
    values = kept.compare(K.kl_divergence, student["logits"], temperature=2.0)
    assert torch.allclose(value, values[mask].sum(), rtol=1e-5)


@both
def test_classes_of_the_student_in_another_dimension(name):
    student, logits = sides(2, 3, 4, 9)
    kept = partial(logits, name)
    maps = Outputs(logits=student["logits"].movedim(-1, 1))
    batch = Batch(None, mask=torch.ones(2, 3, 4, dtype=torch.bool))
    value, _ = total(Loss(K.kl_divergence, classes=1), maps, Outputs.of({"logits": kept}), batch)
    wanted, _ = total(Loss(K.kl_divergence), student, Outputs.of({"logits": kept}), batch)
    assert torch.equal(value, wanted)


@both
def test_a_head_takes_its_shape_from_the_teachers_classes(name):
    student = Outputs(logits=torch.randn(5, 3))
    kept = partial(torch.randn(5, 9), name)
    loss = Loss(K.kl_divergence, head=Projector())
    value, _ = total(loss, student, Outputs.of({"logits": kept}), Batch(None, id=torch.arange(5)))
    gradient = torch.autograd.grad(value, list(loss.head.parameters()), allow_unused=True)
    assert any(one is not None and one.any() for one in gradient)


def test_a_head_of_the_user():
    student, _ = sides(5, 3)
    head = nn.Linear(3, 9)
    kept = partial(torch.randn(5, 9))
    value, _ = total(
        Loss(K.kl_divergence, head=head), student, Outputs.of({"logits": kept}), Batch(None, id=torch.arange(5))
    )
    assert torch.autograd.grad(value, head.weight)[0].any()


@both
def test_a_temperature_that_moves(name):
    student, logits = sides(5, 9)
    kept = partial(logits, name)
    loss = Loss(K.kl_divergence, temperature=ramp(4.0, start=1.0))
    teacher, batch = Outputs.of({"logits": kept}), Batch(None, id=torch.arange(5))
    loss = loss.setup(LossContext(student, teacher, batch))
    for step, temperature in ((0, 1.0), (10, 4.0)):
        found = loss.term(student, teacher, batch, Progress(step=step, steps=11)).total
        assert torch.allclose(found, kept.compare(K.kl_divergence, student["logits"], temperature=temperature).sum())


@both
def test_a_narrow_student_under_autocast(name):
    student, logits = sides(5, 9)
    kept = partial(logits, name)
    wide = kept.compare(K.kl_divergence, student["logits"].bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = kept.compare(K.kl_divergence, student["logits"].bfloat16())
    assert torch.equal(narrow, wide)


# What is refused, when the stage is set up.


@kernel(per="pair")
def gram(student: Tensor, teacher: Tensor) -> Tensor:
    return (student @ student.T - teacher @ teacher.T).square()


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("top-k", [K.logit_squared_error, K.probability_squared_error, K.squared_error, gram]),
        ("sampled", [K.reverse_kl, K.jensen_shannon, K.total_variation, K.logit_squared_error, gram]),
    ],
)
def test_a_kernel_that_cannot_be_served_is_refused_at_once(name, refused):
    student, logits = sides(5, 9)
    teacher = Outputs.of({"logits": partial(logits, name)})
    other = {"top-k": "from the top-k logits", "sampled": "from sampled classes: it is not linear"}[name]
    for one in refused:
        with pytest.raises(LimbeckError, match=rf"{one.__name__} cannot be computed {other}.*'quantized'"):
            Loss(one).setup(LossContext(student, teacher, Batch(None, id=torch.arange(5))))
        assert make_encoding(name, classes=9, **NAMES[name]).invalid_reason(one)


@both
def test_what_reads_no_teacher_or_is_declared_is_sound(name):
    one = make_encoding(name, classes=9, **NAMES[name])
    assert one.invalid_reason(K.kl_divergence) is None
    assert one.invalid_reason(K.cross_entropy) is None


def test_a_kernel_of_the_user_may_declare_itself():
    @kernel(per="position", divergence=True)
    def chi_squared(student, teacher):
        p, q = teacher.softmax(-1), student.softmax(-1)
        return ((p - q).square() / (p + q)).sum(-1)

    student, logits = sides(5, 9)
    value, _ = total(
        Loss(chi_squared), student, Outputs.of({"logits": partial(logits)}), Batch(None, id=torch.arange(5))
    )
    assert value < chi_squared(student["logits"], logits).sum()


@both
def test_other_rows_or_classes(name):
    kept = partial(torch.randn(5, 9), name)
    for shape in ((4, 9), (5, 8), (5, 1, 9)):
        with pytest.raises(LimbeckError, match=r"shape \[5, 9\]"):
            Loss(K.kl_divergence).setup(
                LossContext(
                    Outputs(logits=torch.randn(*shape)), Outputs.of({"logits": kept}), Batch(None, id=torch.arange(5))
                )
            )


@both
def test_who_wants_the_tensor_is_reported_that_there_is_none(name):
    shown = Outputs.of({"logits": partial(torch.randn(5, 9), name), "layer": torch.zeros(5, 2)})
    assert shown["layer"].shape == (5, 2)
    assert list(shown) == ["layer"]
    with pytest.raises(MissingOutputError, match=r"gives only a part of its output .*, which only losses can read"):
        shown["logits"]
    with pytest.raises(MissingOutputError, match="No output at 'logit'"):
        shown["logit"]
    assert not Outputs(logits=torch.zeros(1)).partial


# A carrier.


@both
def test_a_carrier_is_indexed_reshaped_and_moved_as_its_tensor_would_be(name):
    logits = torch.randn(12, 9)
    flat = partial(logits, name)
    student = torch.randn(12, 9)
    values = flat.compare(K.kl_divergence, student)
    assert flat.shape == logits.shape
    assert len(flat) == 12
    for rows in (torch.tensor([5, 1]), slice(2, 7), torch.arange(12) % 3 == 0):
        assert torch.allclose(flat[rows].compare(K.kl_divergence, student[rows]), values[rows], atol=1e-6)
    deep = flat.reshape(3, -1, 2)
    assert deep.shape == (3, 2, 2, 9)
    deeper = deep.compare(K.kl_divergence, student.reshape(3, 2, 2, 9))
    assert torch.allclose(deeper, values.reshape(3, 2, 2), atol=1e-6)
    assert deep.to("cpu").device == torch.device("cpu")
    assert flat.to("meta").device == torch.device("meta")
    assert repr(deep) == f"{type(flat).__name__}([3, 2, 2, 9])"


def test_what_is_spread_has_the_mass_of_its_buckets():
    logits = torch.randn(6, 9)
    kept = partial(logits)
    for temperature in (0.5, 1.0, 4.0):
        p = (kept.spread(temperature) / temperature).softmax(-1)
        buckets = (kept.coarse(temperature) / temperature).softmax(-1)
        assert torch.allclose(p.gather(-1, kept.ids), buckets[:, :-1], atol=1e-6)
        others = p.scatter(-1, kept.ids, 0.0)
        assert torch.allclose(others.sum(-1), buckets[:, -1], atol=1e-6)
        assert torch.allclose(others.amax(-1), buckets[:, -1] / 5, atol=1e-6)
    assert math.isclose(float(kept.top[0]), float(logits[0].max()), rel_tol=1e-5)


class Kept(Teacher):
    """Part of what it would say; more of it for a smaller batch, if it is a bad one."""

    def __init__(self, name: str = "top-k", *, bad: bool = False) -> None:
        self.name, self.bad = name, bad

    def open(self, context):
        for address in context.requires - {"logits"}:
            raise missing_output_error(address, ["logits"])
        return FunctionSession(self._answer)

    def _answer(self, batch: Batch) -> Outputs:
        return Outputs.of({"logits": partial(batch.inputs + (len(batch.inputs) if self.bad else 0), self.name)})

    @property
    def fingerprint(self) -> str:
        return "kept"


def test_a_teacher_of_partial_answers_keeps_the_laws():
    batch = Batch(torch.randn(6, 9))
    check_teacher(Kept(), batch)
    with pytest.raises(AssertionError, match="depends on the other examples of the batch"):
        check_teacher(Kept(bad=True), batch)


def test_an_ensemble_of_partial_answers_says_that_it_cannot():
    opened = Ensemble(Kept(), Kept()).open(TeacherContext())
    told = pytest.raises(MissingOutputError, match="this teacher gives only a part of its output")
    with opened as answer, told:
        answer(Batch(torch.randn(6, 9)))


def learn(student: nn.Linear, objective, teacher) -> None:
    data = (torch.randn(24, 9), torch.randint(9, (24,)))
    distill(student, Stage(objective, teacher=teacher, epochs=1), data, batch_size=10, seed=0).finish()


@both
def test_a_run_learns_from_partial_answers(name):
    student = nn.Linear(9, 9)
    before = student.weight.detach().clone()
    learn(student, 0.5 * Loss(K.cross_entropy) + 0.5 * Loss(K.kl_divergence, temperature=2.0), Kept(name))
    assert student.weight.isfinite().all()
    assert not torch.equal(student.weight, before)


def test_a_run_refuses_before_its_first_step():
    with pytest.raises(LimbeckError, match="logit_squared_error cannot be computed from the top-k"):
        learn(nn.Linear(9, 9), Loss(K.logit_squared_error), Kept())
    with pytest.raises(LimbeckError, match="reverse_kl cannot be computed from sampled classes"):
        learn(nn.Linear(9, 9), 0.5 * Loss(K.cross_entropy) + 0.5 * Loss(K.reverse_kl), Kept("sampled"))
