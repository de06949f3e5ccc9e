"""TinyBERT: scores of attention by plain loops, padding, the stages, and what a student learns."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import attention_kl, attention_score_error
from limbeck.methods import make
from methods.transformers import head_score, kept_tokens, losses, pair, random, text_batch, with_other_padding


def brute_force_attention_score_error(query, key, teacher_query, teacher_key, mask=None, *, heads):
    values = []
    for n in range(len(query)):
        kept = kept_tokens(mask, n, query.shape[1])
        errors = [
            (
                head_score(query[n, i], key[n, j], h, heads)
                - head_score(teacher_query[n, i], teacher_key[n, j], h, heads)
            )
            ** 2
            for h in range(heads)
            for i in kept
            for j in kept
        ]
        values.append(sum(errors) / max(len(errors), 1))
    return torch.tensor(values, dtype=torch.float64)


def test_the_scores_are_those_of_the_loops_and_padding_does_not_count():
    q, k = random(3, 5, 4), random(3, 5, 4, seed=1)
    tq, tk = random(3, 5, 6, seed=2), random(3, 5, 6, seed=3)
    mask = torch.arange(5) < torch.tensor([[5], [3], [0]])
    for given in (None, mask, torch.tensor([True, False, True])):
        expected = brute_force_attention_score_error(q, k, tq, tk, given, heads=2)
        torch.testing.assert_close(attention_score_error(q, k, tq, tk, given, heads=2), expected)
    assert attention_score_error(q, k, tq, tk, mask, heads=2)[2] == 0
    noise = torch.where(mask[..., None], 0.0, 100 * random(3, 5, 4, seed=9))
    moved = attention_score_error(q + noise, k + noise, tq, tk, mask, heads=2)
    torch.testing.assert_close(moved, attention_score_error(q, k, tq, tk, mask, heads=2))


def test_a_constant_in_a_row_of_scores_changes_the_scores_and_not_the_attention():
    scores = random(2, 3, 4, 4)
    shifted = scores + random(2, 3, 4, 1, seed=1)
    assert attention_kl(shifted.softmax(-1), scores.softmax(-1)).abs().max() < 1e-12
    # One more feature that is 1 in all keys adds a number to each row of scores.
    q, k = random(2, 4, 3), torch.cat([random(2, 4, 2, seed=1), torch.ones(2, 4, 1)], -1)
    other = q + torch.tensor([0.0, 0.0, 2.0])
    assert float(attention_score_error(other, k, q, k, heads=1).min()) > 1


def test_what_stands_in_the_padding_changes_no_loss():
    student, teacher = pair()
    recipe = make("tinybert", teacher=teacher, student_layers=2, teacher_layers=4, heads=2)
    before = losses(recipe, student, teacher, text_batch())
    after = losses(recipe, student, teacher, with_other_padding(text_batch()))
    assert all(value > 0 for value in before.values())
    assert before == pytest.approx(after, rel=1e-6)


def test_the_stages_are_the_layers_and_then_the_predictions():
    first, second = make("tinybert", teacher=pair()[1], student_layers=2, teacher_layers=4, heads=2).stages()
    assert [stage.name for stage in (first, second)] == ["intermediate", "prediction"]
    assert list(first.objective.named_leaves()) == [
        "embeddings", "hidden 0", "attention 0", "hidden 1", "attention 1",
    ]  # fmt: skip
    assert "bert.encoder.layer.1" in first.objective.requires.teacher
    assert "bert.encoder.layer.2" not in first.objective.requires.teacher


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"layer_map": "unifrom"}, UnknownNameError),
        ({"layer_map": [[0, 4]]}, ArgumentError),
        ({"layer_map": []}, ArgumentError),
        ({"student_layers": 5}, ArgumentError),
        ({"addresses": "brt"}, UnknownNameError),
        ({"addresses": {"layers": "x.{}"}}, UnknownNameError),
        ({"addresses": {"layer": "x.{}"}}, LimbeckError),
        ({"heads": 0}, ArgumentError),
        ({"hidden_weight": -1.0}, ArgumentError),
        ({"task": "segmentation"}, LimbeckError),
    ],
)
def test_wrong_arguments_are_refused_when_it_is_built(arguments, error):
    with pytest.raises(error):
        make("tinybert", teacher=pair()[1], **{"student_layers": 2, "teacher_layers": 4, "heads": 2} | arguments)
