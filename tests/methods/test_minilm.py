"""MiniLM: relations between tokens by plain loops, other widths and heads, and padding."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import attention_kl, relation_kl
from limbeck.methods import make
from limbeck.testing.tiny_transformer import TinyBert
from methods.transformers import head_score, kept_tokens, losses, pair, random, row_kl, text_batch, with_other_padding


def brute_force_relation_kl(query, key, teacher_query, teacher_key, mask=None, *, heads):
    values = []
    for n in range(len(query)):
        kept, rows = kept_tokens(mask, n, query.shape[1]), []
        for head in range(heads):
            for i in kept:
                scores = [
                    [head_score(q[n, i], k[n, j], head, heads) for j in kept]
                    for q, k in ((teacher_query, teacher_key), (query, key))
                ]
                rows.append(row_kl(*([math.exp(x - max(row)) for x in row] for row in scores)))
        values.append(sum(rows) / max(len(rows), 1))
    return torch.tensor(values, dtype=torch.float64)


def test_the_relations_are_those_of_the_loops_also_for_other_widths():
    q, k = random(3, 5, 4), random(3, 5, 4, seed=1)
    tq, tk = random(3, 5, 6, seed=2), random(3, 5, 6, seed=3)
    mask = torch.arange(5) < torch.tensor([[5], [3], [0]])
    for given in (None, mask, torch.tensor([True, False, True])):
        expected = brute_force_relation_kl(q, k, tq, tk, given, heads=2)
        torch.testing.assert_close(relation_kl(q, k, tq, tk, given, heads=2), expected)
    assert relation_kl(q, k, tq, tk, mask, heads=2)[2] == 0


def test_relations_of_queries_and_keys_are_the_attention_maps_of_the_network():
    student, teacher = pair()
    taps = {}
    for network, name in ((student, "s"), (teacher, "t")):
        attention = network.get_submodule("bert.encoder.layer.1.attention.self")
        attention.register_forward_hook(lambda _, __, out, name=name: taps.update({name: out[1]}))
        for part in ("query", "key"):
            attention.get_submodule(part).register_forward_hook(
                lambda _, __, out, key=(name, part): taps.update({key: out})
            )
    batch = text_batch()
    with torch.no_grad():
        student(**batch.inputs), teacher(**batch.inputs)
    maps = attention_kl(taps["s"], taps["t"], batch.mask)
    places = [taps[side, part] for side in "st" for part in ("query", "key")]
    torch.testing.assert_close(relation_kl(*places, batch.mask, heads=2), maps)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_value_relations_do_not_see_a_rotation_within_the_heads(heads):
    v, t = random(2, 5, 8), random(2, 5, 8, seed=1)
    turn, _ = torch.linalg.qr(random(8 // heads, 8 // heads, seed=2))
    turned = (v.unflatten(-1, (heads, -1)) @ turn).flatten(2)
    torch.testing.assert_close(
        relation_kl(turned, turned, t, t, heads=heads), relation_kl(v, v, t, t, heads=heads), rtol=1e-9, atol=1e-12
    )


def test_padding_does_not_count_and_a_student_may_have_other_heads():
    student, teacher = TinyBert(layers=2, width=4, heads=4).double().eval(), pair()[1]
    for relations in (("query-key", "value-value"), ("query-query", "key-key", "value-value"), "value-value"):
        options = {"student_layers": 2, "teacher_layers": 4, "heads": 2, "relations": relations}
        recipe = make("minilm", teacher=teacher, **options)
        before = losses(recipe, student, teacher, text_batch())
        assert before == pytest.approx(losses(recipe, student, teacher, with_other_padding(text_batch())), rel=1e-6)


def test_the_layer_of_the_teacher_is_the_last_or_the_chosen_one():
    recipe = make("minilm", teacher=pair()[1], student_layers=2, teacher_layers=4, heads=2, teacher_layer=2)
    requires = next(recipe.stages()).objective.requires
    assert "bert.encoder.layer.2.attention.self.value" in requires.teacher
    assert "bert.encoder.layer.1.attention.self.value" in requires.student
    assert not any("layer.0" in address for address in requires.student)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"relations": ["value-values"]}, UnknownNameError),
        ({"relations": []}, ArgumentError),
        ({"teacher_layer": 4}, ArgumentError),
        ({"heads": 0}, ArgumentError),
        ({"weight": -1.0}, ArgumentError),
        ({"task": "language_modeling"}, LimbeckError),
    ],
)
def test_wrong_arguments_are_refused_when_it_is_built(arguments, error):
    with pytest.raises(error):
        make("minilm", teacher=pair()[1], **{"student_layers": 2, "teacher_layers": 4, "heads": 2} | arguments)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(LimbeckError, match="heads=3 does not divide the width 8"):
        relation_kl(*[torch.zeros(1, 2, 8)] * 4, heads=3)
