"""Internal representations: attention maps by plain loops, the schedules, padding, and what a student learns."""

from __future__ import annotations

import pytest
import torch

from limbeck.engine import distill
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import attention_kl
from limbeck.methods import make
from limbeck.recipe import Optimizer
from limbeck.testing.trials import get_trial
from methods.test_pkd import brute_force_class_token_distance  # noqa: F401 - the card has this kernel too
from methods.transformers import (
    attention,
    kept_tokens,
    losses,
    pair,
    row_kl,
    text_batch,
    with_other_padding,
)


def brute_force_attention_kl(student, teacher, mask=None):
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    values = []
    for n in range(len(student)):
        rows = []
        for s, t in zip(student[n], teacher[n], strict=True):
            kept = kept_tokens(mask, n, s.shape[0])
            columns = kept if s.shape[0] == s.shape[1] else range(s.shape[1])
            for i in kept:
                p = [max(float(t[i, j]), 1e-8) for j in columns]
                rows.append(row_kl(p, [max(float(s[i, j]), 1e-8) for j in columns]))
        values.append(sum(rows) / max(len(rows), 1))
    return torch.tensor(values, dtype=torch.float64)


def test_the_divergence_is_that_of_the_loops_and_padding_does_not_count():
    s, t = attention(3, 2, 5, 5), attention(3, 2, 5, 5, seed=1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [0]])
    for given in (None, mask, torch.tensor([True, False, True])):
        torch.testing.assert_close(attention_kl(s, t, given), brute_force_attention_kl(s, t, given))
    few = attention(3, 4, 5, 5, seed=2)
    torch.testing.assert_close(attention_kl(few, t, mask), brute_force_attention_kl(few, t, mask))
    noisy = torch.where(mask[:, None, :, None] & mask[:, None, None, :], s, attention(3, 2, 5, 5, seed=3))
    torch.testing.assert_close(attention_kl(noisy, t, mask), attention_kl(s, t, mask))
    assert attention_kl(s, t, mask)[2] == 0


def test_attention_of_0_is_finite_and_other_tokens_are_refused():
    hard = torch.eye(4).expand(2, 3, 4, 4).clone().requires_grad_()
    value = attention_kl(hard, torch.full((2, 3, 4, 4), 0.25))
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), hard)[0].isfinite().all()
    assert attention_kl(torch.zeros(0, 2, 3, 3), torch.zeros(0, 2, 3, 3)).shape == (0,)
    with pytest.raises(LimbeckError, match="same tokens"):
        attention_kl(hard, torch.zeros(2, 3, 5, 5))
    with pytest.raises(LimbeckError, match="attention_mask"):
        attention_kl(hard, hard, torch.ones(2, 5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("schedule", "layers"),
    [("all", [{0, 1}]), ("progressive", [{0}, {1}]), ("stacked", [{0}, {0, 1}])],
)
def test_the_stages_of_a_schedule_have_its_layers_and_the_last_has_the_predictions(schedule, layers):
    options = {"student_layers": 2, "teacher_layers": 4, "schedule": schedule}
    *first, last = make("internal_representations", teacher=pair()[1], **options).stages()
    named = [set(stage.objective.named_leaves()) for stage in first]
    assert named == [{f"{part} {i}" for i in active for part in ("attention", "class token")} for active in layers]
    assert set(last.objective.named_leaves()) == {"kl_divergence", "cross_entropy"}


def test_the_teacher_s_own_layers_have_no_loss_and_padding_does_not_count():
    student, teacher = pair()
    options = {"student_layers": 4, "teacher_layers": 4, "schedule": "all"}
    same = losses(make("internal_representations", teacher=teacher, **options), teacher, teacher, text_batch())
    assert set(same.values()) == {0.0}
    recipe = make("internal_representations", teacher=teacher, student_layers=2, teacher_layers=4, schedule="all")
    before = losses(recipe, student, teacher, text_batch())
    assert before == pytest.approx(losses(recipe, student, teacher, with_other_padding(text_batch())), rel=1e-6)
    with pytest.raises(UnknownNameError, match="stacked"):
        make("internal_representations", teacher=teacher, student_layers=2, teacher_layers=4, schedule="stack")


def test_the_attention_of_the_student_becomes_that_of_the_teacher():
    student, teacher, data = get_trial("transformer")[1]()
    options = {"student_layers": 2, "teacher_layers": 4, "schedule": "all"}
    recipe = make("internal_representations", teacher=teacher, epochs=15, **options)
    batch = data.take(torch.arange(48))
    before = losses(recipe, student, teacher, batch)
    distill(student, recipe, data, batch_size=16, seed=0, optimizer=Optimizer("adam", lr=1e-2)).finish()
    after = losses(recipe, student.eval(), teacher, batch)
    assert after["attention 1"] < 0.5 * before["attention 1"]
