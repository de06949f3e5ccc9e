"""Top-k distillation compares the k most probable classes and the sum of the others."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.cache.encodings import make_encoding
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.logits.top_k_kd import TopKTeacher, cut_logits
from limbeck.teachers import TeacherContext
from methods.planted import Planted


def brute_force(z, v, k, temperature):
    """The divergence of k + 1 buckets, with loops."""
    values = []
    for own, its in zip(z.tolist(), v.tolist(), strict=True):
        q, p = softmax(own, temperature), softmax(its, temperature)
        kept = sorted(range(len(p)), key=lambda c: -p[c])[:k]
        pairs = [(p[c], q[c]) for c in kept]
        rest = [c for c in range(len(p)) if c not in kept]
        if rest:
            pairs.append((sum(p[c] for c in rest), sum(q[c] for c in rest)))
        values.append(temperature**2 * sum(a * math.log(a / b) for a, b in pairs))
    return torch.tensor(values, dtype=torch.float64)


def softmax(row, temperature):
    weights = [math.exp((value - max(row)) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def pair(rows=6, classes=7):
    draw = torch.Generator().manual_seed(0)
    return tuple(2 * torch.randn(rows, classes, generator=draw, dtype=torch.float64) for _ in range(2))


def loss_of(stage, z, v):
    """The term of the teacher, from a session of the teacher of a stage."""
    with stage.teacher.open(TeacherContext(temperatures=stage.objective.temperatures)) as session:
        outputs = session(Batch(v))
    (term,) = stage.objective(Outputs(logits=z), outputs, Batch(v), Progress()).values()
    return term.total


@pytest.mark.parametrize("k", [1, 3, 6, 50])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_formula(k, temperature):
    z, v = pair()
    recipe = make("top_k_kd", teacher=nn.Identity(), k=k, temperature=temperature, weight=1.0, labels=False)
    expected = brute_force(z, v, k, temperature).sum()
    torch.testing.assert_close(loss_of(next(recipe.stages()), z, v), expected)


def test_it_is_at_most_the_whole_divergence_and_rises_with_k():
    z, v = pair()
    values = [cut_logits(v, k, [1.0]).compare(kl_divergence, z).sum().item() for k in range(1, 8)]
    assert all(later > earlier - 1e-9 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(kl_divergence(z, v).sum().item())


def test_it_is_zero_for_the_teacher_s_own_probabilities():
    _, v = pair()
    torch.testing.assert_close(cut_logits(v, 2, [1.0]).compare(kl_divergence, v), torch.zeros(6, dtype=v.dtype))


def test_a_target_without_the_rest_would_be_biased():
    """Renormalized top-k probabilities have another minimum than the teacher; these have the teacher's."""
    _, v = pair()
    z = v.clone().requires_grad_()
    ours = cut_logits(v, 2, [1.0]).compare(kl_divergence, z).sum()
    assert torch.autograd.grad(ours, z)[0].abs().max() < 1e-9
    top = v.topk(2).indices
    renormalized = torch.full_like(v, -torch.inf).scatter(-1, top, v.gather(-1, top))
    assert torch.autograd.grad(kl_divergence(z, renormalized).sum(), z)[0].abs().max() > 0.01


@pytest.mark.parametrize("k", [1, 3, 5])
def test_stored_top_k_outputs_give_the_same(k):
    z, v = pair()
    encoding = make_encoding("top-k", classes=7, k=4)
    index = torch.arange(6)
    stored = encoding.decode(encoding.encode(v.float(), id=index, view=index, position=index)).double()
    found = cut_logits(stored, k, [1.0, 4.0]).compare(kl_divergence, z, temperature=4.0)
    expected = cut_logits(v, min(k, 4), [4.0]).compare(kl_divergence, z, temperature=4.0)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-3)


def test_rows_and_classes_of_minus_infinity_are_left_out():
    z, v = pair()
    z[:, 5:], v[:, 5:] = -torch.inf, -torch.inf
    fewer = cut_logits(v[:, :5], 2, [1.0]).compare(kl_divergence, z[:, :5])
    torch.testing.assert_close(cut_logits(v, 2, [1.0]).compare(kl_divergence, z), fewer)
    z[0], v[0] = -torch.inf, -torch.inf
    assert cut_logits(v, 2, [1.0]).compare(kl_divergence, z)[0] == 0


def test_randomly_drawn_classes_are_refused():
    encoding, index = make_encoding("sampled", classes=7, draws=4), torch.arange(6)
    drawn = encoding.decode(encoding.encode(pair()[1].float(), id=index, view=index, position=index))
    with pytest.raises(LimbeckError, match="hinton"):
        cut_logits(drawn, 2, [1.0])


def test_it_describes_itself():
    teacher = TopKTeacher(nn.Linear(4, 3), k=2)
    assert teacher.describe()["k"] == 2
    assert teacher.fingerprint != TopKTeacher(teacher.inner, k=1).fingerprint


@pytest.mark.parametrize(("wrong", "value"), [("k", 0), ("temperature", 0.0), ("weight", 1.5)])
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match=wrong):
        make("top_k_kd", teacher=nn.Linear(4, 3), **{wrong: value})


def test_two_classes_and_the_rest_pass_the_student_alone():
    planted = Planted()
    alone = planted.nll(planted.alone(epochs=30))
    recipe = make("top_k_kd", teacher=planted.truth, k=2, temperature=1.0)
    assert planted.nll(planted.learn(recipe, epochs=30).student) < alone - 0.05
