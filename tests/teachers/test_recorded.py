"""Precomputed outputs teach like the teacher that computed them."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, PrecomputedTeacher, RandomShift, ShuffledLoader, distill
from limbeck.batch import Batch
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.models import Mlp
from limbeck.teachers import TeacherContext

CPU = torch.device("cpu")


def answer(teacher: PrecomputedTeacher, batch: Batch, *addresses: str):
    requires = frozenset(addresses or ("logits",))
    with teacher.open(TeacherContext(requires=requires)) as ask:
        return ask(batch)


def test_a_batch_gets_the_rows_of_its_ids():
    teacher = PrecomputedTeacher({"logits": torch.arange(6.0).view(3, 2), "layer1": torch.tensor([7.0, 8.0, 9.0])})
    shown = answer(teacher, Batch(torch.zeros(2, 1), id=torch.tensor([2, 0])), "logits", "layer1")
    assert shown["logits"].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert shown["layer1"].tolist() == [9.0, 7.0]


def test_a_student_learns_the_same_from_them_as_from_the_live_teacher():
    inputs, teacher = torch.randn(50, 4), nn.Linear(4, 3)
    recorded = PrecomputedTeacher(teacher(inputs).detach())
    ends = []
    for who in (teacher, recorded):
        torch.manual_seed(1)
        student = Mlp(inputs=4, classes=3, hidden=[5])
        recipe = make("hinton", teacher=who, labels=False, weight=1.0, epochs=2)
        run = distill(student, recipe, ShuffledLoader(ArrayDataset(inputs), batch_size=16, seed=0)).finish()
        ends.append(torch.cat([p.detach().flatten() for p in run.student.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-6)


def test_what_was_never_answered_is_refused():
    teacher = PrecomputedTeacher(torch.zeros(3, 2))
    with pytest.raises(LimbeckError, match="example 3: 3 examples"):
        answer(teacher, Batch(torch.zeros(1, 1), id=torch.tensor([3])))
    with pytest.raises(LimbeckError, match="has no ids"):
        answer(teacher, Batch(torch.zeros(1, 1)))
    with pytest.raises(MissingOutputError, match="precomputed outputs"):
        answer(teacher, Batch(torch.zeros(1, 1), id=torch.tensor([0])), "layer1")


def test_answers_to_the_examples_are_none_to_their_views():
    loader = ShuffledLoader(ArrayDataset(torch.zeros(4, 1, 3, 3)), batch_size=2, augment=RandomShift(1))
    with pytest.raises(LimbeckError, match="augmented views"):
        answer(PrecomputedTeacher(torch.zeros(4, 2)), loader.peek())


@pytest.mark.parametrize("given", [{}, torch.zeros(0, 2), {"logits": torch.zeros(3, 2), "layer1": torch.zeros(2)}])
def test_answers_that_do_not_fit_are_refused_when_it_is_built(given):
    with pytest.raises(LimbeckError, match="every address"):
        PrecomputedTeacher(given)


def test_probabilities_are_no_logits():
    p = torch.softmax(torch.randn(5, 3), -1)
    with pytest.raises(LimbeckError, match=r"probabilities.*p\.log\(\)"):
        PrecomputedTeacher(p)
    PrecomputedTeacher(p.log())
    PrecomputedTeacher({"logits": p.log(), "attention": p})
    PrecomputedTeacher(torch.relu(torch.randn(5, 3)))


def test_what_predict_gave_is_reported_where_its_logits_are():
    predictions = predict(nn.Linear(2, 3), torch.zeros(4, 2))
    with pytest.raises(LimbeckError, match=r"got a Predictions.*\.student"):
        inspect.unwrap(PrecomputedTeacher.__init__)(object.__new__(PrecomputedTeacher), predictions)


def test_its_fingerprint_is_that_of_its_answers():
    zeros = torch.zeros(3, 2)
    assert PrecomputedTeacher(zeros).fingerprint == PrecomputedTeacher(zeros.clone()).fingerprint
    others = [
        PrecomputedTeacher(zeros + 1),
        PrecomputedTeacher(torch.zeros(2, 3)),
        PrecomputedTeacher(zeros.double()),
        PrecomputedTeacher({"layer": zeros}),
    ]
    assert len({PrecomputedTeacher(zeros).fingerprint, *(one.fingerprint for one in others)}) == 5


def test_no_gradient_flows_into_what_was_recorded():
    answers = torch.randn(3, 2, requires_grad=True)
    with PrecomputedTeacher(answers).open(TeacherContext()) as answer:
        assert not answer(Batch(torch.zeros(1, 4), id=torch.tensor([1])))["logits"].requires_grad


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("answers", [torch.tensor(1.0), {"logits": [[1.0, 2.0]]}])
def test_what_is_no_tensor_with_a_row_for_each_example_is_refused(answers):
    with pytest.raises(LimbeckError, match=r"got .*0"):
        PrecomputedTeacher(answers)
