"""Outputs of an ensemble are its stated mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import LimbeckError, MissingOutputError, UnknownNameError
from limbeck.teachers import Ensemble, MovingAverage, TeacherContext

CPU = torch.device("cpu")


def logits(members: int = 3, classes: int = 5) -> list[torch.Tensor]:
    return [3 * torch.randn(4, classes, dtype=torch.float64) for _ in range(members)]


def ensemble(members: int = 3, **options) -> Ensemble:
    return Ensemble(*(nn.Identity() for _ in range(members)), **options)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_the_arithmetic_mean_is_exact_at_its_temperature(temperature, weights):
    given = logits()
    shares = torch.tensor(weights or [1.0, 1.0, 1.0], dtype=torch.float64)
    shares /= shares.sum()
    wanted = sum(w * torch.softmax(z / temperature, -1) for w, z in zip(shares, given, strict=True))
    answer = ensemble(temperature=temperature, weights=weights).combine(given)
    assert torch.allclose(torch.softmax(answer / temperature, -1), wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_geometric_mean_is_exact_at_every_temperature(temperature):
    given = logits()
    shares = [0.2, 0.3, 0.5]
    product = torch.stack([torch.softmax(z / temperature, -1) ** w for w, z in zip(shares, given, strict=True)]).prod(0)
    answer = ensemble(mean="geometric", weights=shares).combine(given)
    wanted = product / product.sum(-1, keepdim=True)
    assert torch.allclose(torch.softmax(answer / temperature, -1), wanted, rtol=1e-12)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_constant_added_to_a_member_changes_nothing(mean):
    given = logits()
    moved = [given[0] + 100.0, given[1] - 7.0, given[2]]
    one, other = (torch.softmax(ensemble(mean=mean).combine(z), -1) for z in (given, moved))
    assert torch.allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_one_member_and_equal_members_give_that_distribution(mean):
    (z,) = logits(1)
    for given in ([z], [z, z, z]):
        answer = ensemble(len(given), mean=mean, temperature=2.0).combine(given)
        assert torch.allclose(torch.softmax(answer / 2, -1), torch.softmax(z / 2, -1), rtol=1e-13)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_the_order_of_members_does_not_matter(mean):
    given = logits()
    one = ensemble(mean=mean, weights=[1.0, 2.0, 3.0]).combine(given)
    other = ensemble(mean=mean, weights=[3.0, 2.0, 1.0]).combine(given[::-1])
    assert torch.allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_weight_of_zero_leaves_a_member_out_whatever_it_says(mean):
    given = logits()
    given[1][:, 2] = -torch.inf
    answer = ensemble(mean=mean, weights=[1.0, 0.0, 1.0]).combine(given)
    wanted = ensemble(2, mean=mean).combine([given[0], given[2]])
    assert torch.allclose(answer, wanted, rtol=1e-13)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_a_class_that_is_impossible_for_all_stays_so(mean):
    given = logits()
    for z in given:
        z[:, 1] = -torch.inf
    answer = ensemble(mean=mean).combine(given)
    assert bool((answer[:, 1] == -torch.inf).all())
    assert bool(answer[:, [0, 2, 3, 4]].isfinite().all())


def test_narrow_members_are_averaged_in_float32():
    answer = ensemble(2).combine([z.bfloat16() for z in logits(2)])
    assert answer.dtype == torch.float32


def test_it_answers_a_batch():
    members = [nn.Linear(3, 4), nn.Linear(3, 4)]
    batch = Batch(torch.randn(5, 3))
    with Ensemble(*members, mean="geometric").open(TeacherContext()) as answer:
        found = answer(batch)["logits"]
    assert not found.requires_grad
    assert torch.allclose(found, sum(member(batch.inputs) for member in members).detach() / 2)


# What goes wrong.


def test_members_with_different_numbers_of_classes():
    with pytest.raises(LimbeckError, match=r"different numbers of classes: \[4, 5\]"):
        ensemble(2).combine([*logits(1, 5), *logits(1, 4)])


def test_no_member():
    with pytest.raises(LimbeckError, match=r"at least one member"):
        Ensemble()


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], []])
def test_weights_that_make_no_mean(weights):
    with pytest.raises(LimbeckError, match=r"2 non-negative numbers, not all zero"):
        ensemble(2, weights=weights)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf")])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(LimbeckError, match=r"positive number"):
        ensemble(2, temperature=temperature)


def test_only_logits_can_be_averaged():
    with pytest.raises(MissingOutputError, match=r"'layer1'.*an ensemble"):
        ensemble(2).open(TeacherContext(requires=frozenset({"logits", "layer1"})))


def test_a_member_that_cannot_teach():
    with pytest.raises(LimbeckError, match="A dict"):
        Ensemble(nn.Identity(), {})


def test_a_member_by_a_name_that_is_none():
    teacher = Ensemble(nn.Identity(), "studnet")
    with pytest.raises(UnknownNameError, match=r"Did you mean 'student'"):
        teacher.open(TeacherContext(models={"student": nn.Identity()}))


def test_a_member_that_changes_makes_the_ensemble_change():
    student = nn.Linear(3, 2)
    teacher = Ensemble(nn.Linear(3, 2), MovingAverage(decay=0.5))
    assert teacher.capabilities.changes
    assert not ensemble(2).capabilities.changes
    session = teacher.open(TeacherContext(models={"student": student}))
    nn.init.zeros_(student.weight)
    session.after_step()
    state = {key: dict(value) for key, value in session.state_dict().items()}
    assert state["1"]["steps"] == 1
    fresh = teacher.open(TeacherContext(models={"student": nn.Linear(3, 2)}))
    fresh.load_state_dict(state)
    assert torch.equal(fresh.sessions[1].model.weight, session.sessions[1].model.weight)


def test_its_hash_depends_on_members_and_mean():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    prints = {
        Ensemble(one, other).fingerprint,
        Ensemble(other, one).fingerprint,
        Ensemble(one, other, mean="geometric").fingerprint,
        Ensemble(one, other, temperature=2.0).fingerprint,
        Ensemble(one, other, weights=[1.0, 2.0]).fingerprint,
    }
    assert len(prints) == 5
    assert Ensemble(one, other).fingerprint == Ensemble(one, other).fingerprint


def test_a_member_that_says_nothing_of_an_example_is_left_out_of_its_mean():
    inf = float("inf")
    nothing, something = torch.tensor([[-inf, -inf, -inf], [1.0, 2.0, -inf]]), torch.tensor([[3.0, 1.0, -inf]] * 2)
    ensemble = Ensemble(nn.Linear(1, 3), nn.Linear(1, 3), temperature=2.0)
    found = ensemble.combine([nothing, something])
    torch.testing.assert_close((found[0] / 2).softmax(-1), (something[0] / 2).softmax(-1))
    wanted = ((nothing[1] / 2).softmax(-1) + (something[1] / 2).softmax(-1)) / 2
    torch.testing.assert_close((found[1] / 2).softmax(-1), wanted)
    assert ensemble.combine([nothing[:1], nothing[:1]]).tolist() == [[-inf, -inf, -inf]]


def test_one_output_has_no_arithmetic_mean_of_probabilities():
    members = [torch.randn(4, 1) for _ in range(2)]
    with pytest.raises(LimbeckError, match="geometric"):
        ensemble(2).combine(members)
    torch.testing.assert_close(ensemble(2, mean="geometric").combine(members), sum(members) / 2)
