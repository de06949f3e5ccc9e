"""HanjaBridge: the loss of the queue, and what a network keeps of its old domain."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from limbeck.data import ArrayDataset, TokenPairDataset, train_tokenizer
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make
from limbeck.methods.language.hanjabridge import QueueDistillation, queue_cross_entropy
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.testing.trials import get_trial


def features(seed, rows=6, width=5):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_cross_entropy_over_the_queue_and_the_teacher_s_own_feature():
    z, t, u = features(0), features(1), F.normalize(features(2, 9), dim=-1)
    values = queue_cross_entropy(z, t, u, teacher_temperature=0.1, student_temperature=0.2)
    for i in range(6):
        mine, own = F.normalize(z[i], dim=0), F.normalize(t[i], dim=0)
        d = torch.cat([u, own[None]])
        p, log_q = (d @ own / 0.1).softmax(0), (d @ mine / 0.2).log_softmax(0)
        torch.testing.assert_close(values[i], -(p * log_q).sum())


def test_equal_features_and_temperatures_give_the_entropy_and_no_gradient():
    t, u = features(1), F.normalize(features(2, 9), dim=-1)
    z = t.clone().requires_grad_()
    values = queue_cross_entropy(z, t, u, teacher_temperature=0.2, student_temperature=0.2)
    d = torch.stack([torch.cat([u, row[None]]) for row in F.normalize(t, dim=-1)])
    p = (torch.einsum("idw,iw->id", d, F.normalize(t, dim=-1)) / 0.2).softmax(-1)
    torch.testing.assert_close(values, torch.special.entr(p).sum(-1))
    (gradient,) = torch.autograd.grad(values.sum(), z)
    assert float(gradient.abs().max()) < 1e-12
    assert float(queue_cross_entropy(-t, t, u, teacher_temperature=0.2, student_temperature=0.2).min()) > 0


def test_the_length_of_features_does_not_matter_and_an_empty_queue_gives_0():
    z, t, u = features(0), features(1), F.normalize(features(2, 9), dim=-1)
    options = {"teacher_temperature": 0.01, "student_temperature": 0.2}
    torch.testing.assert_close(queue_cross_entropy(3 * z, 5 * t, u, **options), queue_cross_entropy(z, t, u, **options))
    assert not queue_cross_entropy(z, t, u[:0], **options).any()


def test_the_queue_holds_the_teacher_s_last_tokens(monkeypatch):
    fitted, setup = [], QueueDistillation.setup
    monkeypatch.setattr(
        QueueDistillation, "setup", lambda self, context: fitted.append(setup(self, context)) or fitted[-1]
    )
    student, teacher, data = get_trial("language")[1]()
    recipe = make("hanjabridge", teacher=teacher, at="layer2:0", student_at="layer2:0", size=20)
    run = distill(student, recipe, data, batch_size=16, epochs=1, log_every=1).finish()
    assert fitted[0].queue.rows.shape == (20, 12)
    torch.testing.assert_close(fitted[0].queue.rows.norm(dim=1), torch.ones(20))
    assert run.history[0].terms["queue_distillation"] == 0  # nothing to be similar to yet
    assert run.history[1].terms["queue_distillation"] > 0


@torch.no_grad()
def divergence_of_similarities(student, teacher, x, *, temperature=0.1):
    """How far the similarities between examples, at layer2, have moved: a mean KL divergence in nats."""
    z, t = (F.normalize(model.eval().layer2(model.layer1(x.flatten(1))), dim=-1) for model in (student, teacher))
    log_q, log_p = ((a @ t.T / temperature).log_softmax(-1) for a in (z, t))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def test_similarities_move_less_and_forgetting_is_reported():
    """Half of the claim. That old digits are forgotten less was not seen: both are printed."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = (torch.tensor(column) for column in datasets.load_digits(return_X_y=True))
    old = x.float().view(-1, 8, 8) / 16
    new = old.rot90(1, (1, 2)).flatten(1)
    old = old.flatten(1)

    def train(model, recipe, inputs, epochs):
        data, optimizer = ArrayDataset(inputs[:1200], y[:1200]), Optimizer("adam", lr=2e-3)
        distill(model, recipe, data, batch_size=50, epochs=epochs, optimizer=optimizer, log_every=10**6).finish()
        return model

    start = train(build("mlp", inputs=64, classes=10, hidden=[64, 64], seed=0), make("supervised"), old, 8)
    recipes = {
        "without": make("supervised"),
        "with": make(
            "hanjabridge", teacher=copy.deepcopy(start).eval(), at="layer2", student_at="layer2", size=512, weight=3.0,
            teacher_temperature=0.1, student_temperature=0.1, task="classification",
        ),
    }  # fmt: skip
    moved = {}
    for name, recipe in recipes.items():
        model = train(copy.deepcopy(start), recipe, new, 5)
        with torch.no_grad():
            accuracy = [float((model.eval()(z[1200:]).argmax(-1) == y[1200:]).float().mean()) for z in (old, new)]
        moved[name] = divergence_of_similarities(model, start, new[1200:])
        print(f"{name}: similarities moved by {moved[name]:.3f} nats, old {accuracy[0]:.3f}, new {accuracy[1]:.3f}")
    assert moved["with"] < 0.7 * moved["without"]


def test_models_with_other_tokens_and_wrong_arguments_are_refused():
    student, teacher, data = get_trial("language")[1]()
    for wrong in ({"size": 0}, {"weight": -1.0}, {"teacher_temperature": 0.0}, {"student_temperature": -0.2}):
        with pytest.raises((ArgumentError, LimbeckError)):
            make("hanjabridge", teacher=teacher, at="layer1", student_at="layer1", **wrong)
    recipe = make("hanjabridge", teacher=teacher, at="layer2:1", student_at="layer2:0")  # the last state: one a text
    with pytest.raises(LimbeckError):
        distill(student, recipe, data, batch_size=8, steps=1).finish()


def test_features_of_an_encoder_which_has_other_positions_than_the_answers_are_refused():
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer(["a b c d e"], vocabulary=30)
    config = transformers.T5Config(
        vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    student = transformers.T5ForConditionalGeneration(config)
    data = TokenPairDataset([{"source": "a b c d", "target": "e"}] * 4, tokenizer=tokenizer, add_eos_token=False)
    for side, refused in (("encoder", True), ("decoder", False)):
        at = f"{side}.final_layer_norm"
        recipe = make("hanjabridge", teacher=copy.deepcopy(student), at=at, student_at=at, size=8)
        with pytest.raises(LimbeckError, match="decoder") if refused else nullcontext():
            distill(student, recipe, data, batch_size=2, steps=1).finish()
