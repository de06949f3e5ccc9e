"""Faithful distillation: its limits, what the certificate is, and what is refused before anything is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset, NormalizeImages
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.metrics import certified_gap, confidence_gap
from limbeck.models import build
from limbeck.recipe import Optimizer

DRAW = torch.Generator().manual_seed(0)
X = torch.rand(12, 6, generator=DRAW, dtype=torch.float64)


def net(seed, dropout=0.3):
    return build("mlp", inputs=6, classes=3, hidden=[8, 8], dropout=dropout, seed=seed).double()


def fitted(student, teacher, batch, **options):
    """The loss of the gap, set up as a stage sets it up, with the outputs of the batch."""
    stage = next(make("faithful_distillation", teacher=teacher, **{"warmup": 0.0, **options}).stages())
    loss = next(leaf for leaf, _ in stage.objective.leaves() if leaf.name == "certified_gap")
    ours, theirs = (lambda b: Outputs(logits=student(b.inputs))), (lambda b: Outputs(logits=teacher(b.inputs)))
    context = LossContext(ours(batch), theirs(batch), batch, model=student, forward=ours, answer=theirs)
    return loss.setup(context), context


def value(student, teacher, batch=None, progress=None, **options):
    batch = Batch(X) if batch is None else batch
    loss, context = fitted(student, teacher, batch, **options)
    return loss.term(context.student, context.teacher, batch, progress or Progress())


def test_at_epsilon_0_it_is_the_gap_of_confidence_in_the_teachers_class():
    student, teacher = net(0).train(), net(1).eval()
    term = value(student, teacher, epsilon=0.0)
    q, p = student.eval()(X).softmax(1), teacher(X).softmax(1)
    classes = p.argmax(1, keepdim=True)
    torch.testing.assert_close(term.total, (q - p).gather(1, classes).abs().sum(), rtol=1e-12, atol=1e-12)
    assert term.count == 12
    assert value(teacher, copy.deepcopy(teacher), epsilon=0.0).total.item() < 1e-12


def test_it_is_the_certificate_of_the_metric_and_no_attack_is_above_it():
    student, teacher = net(0).eval(), net(1).eval()
    for epsilon in (0.02, 0.1):
        term = value(student, teacher, epsilon=epsilon)
        bound = certified_gap(student, teacher, X, radius=epsilon, limits=(0.0, 1.0))
        assert (term.total / term.count).item() == pytest.approx(bound.mean.value, rel=1e-12)
        attack = confidence_gap(student, teacher, X, radius=epsilon, limits=(0.0, 1.0))
        assert bool((attack.gap <= bound.gap + 1e-12).all())


def test_epsilon_rises_over_the_warmup_and_rows_of_a_mask_do_not_count():
    student, teacher = net(0).eval(), net(1).eval()
    values = [
        value(student, teacher, progress=Progress(step, 11), epsilon=0.2, warmup=0.5).total.item()
        for step in (0, 1, 3, 5, 10)
    ]  # fmt: skip
    assert values[0] == pytest.approx(value(student, teacher, epsilon=0.0).total.item())
    assert values[0] < values[1] < values[2] < values[3] == values[4]
    masked = value(student, teacher, Batch(X, mask=torch.arange(12) < 5), epsilon=0.2)
    assert masked.count == 5
    assert masked.total.item() == pytest.approx(value(student, teacher, Batch(X[:5]), epsilon=0.2).total.item())


def test_gradients_are_the_students_and_modes_stay():
    student, teacher = net(0).train(), net(1).eval()
    value(student, teacher, epsilon=0.05).total.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.training


def learn(recipe, student=None, *, data=None, epochs=2, batch_size=6, **setting):
    student = net(3).float() if student is None else student
    if data is None:
        data = ArrayDataset(X.float(), torch.arange(12) % 3)
    return distill(
        student, recipe, data, epochs=epochs, batch_size=batch_size, seed=0, log_every=10**6, **setting
    ).finish()


def test_without_the_gap_it_is_plain_distillation_to_the_bit():
    teacher = net(1).float()
    ours = learn(make("faithful_distillation", teacher=teacher, gap_weight=0.0, temperature=2.0, weight=0.7))
    plain = learn(make("hinton", teacher=teacher, temperature=2.0, weight=0.7))
    for name, weight in plain.student.state_dict().items():
        assert torch.equal(weight, ours.student.state_dict()[name])


def test_a_student_of_noisy_labels_is_certified_better_with_the_gap_than_without():
    x = torch.rand(120, 6, generator=DRAW)
    teacher = nn.Linear(6, 3)
    nn.init.normal_(teacher.weight, std=0.5, generator=DRAW)
    data = ArrayDataset(x, torch.randint(3, (120,), generator=DRAW))
    bounds = {}
    for gap_weight in (0.0, 2.0):
        recipe = make("faithful_distillation", teacher=teacher, epsilon=0.05, gap_weight=gap_weight, weight=0.1)
        run = learn(recipe, data=data, epochs=40, optimizer=Optimizer("adam", lr=2e-2), batch_size=120)
        bounds[gap_weight] = certified_gap(run.student, teacher, x, radius=0.05, limits=(0.0, 1.0)).mean.value
    assert bounds[2.0] < 0.8 * bounds[0.0]


def test_bytes_go_through_the_preprocessing_of_both_models():
    pixels = torch.randint(0, 256, (12, 2, 2), generator=DRAW).to(torch.uint8)
    student, teacher = (build("mlp", inputs=4, classes=3, hidden=[5], seed=seed) for seed in (0, 1))
    normalize = NormalizeImages(mean=(0.3,), std=(0.2,))
    recipe = make("faithful_distillation", teacher=teacher, epsilon=2 / 255)
    run = learn(recipe, student, data=ArrayDataset(pixels, torch.arange(12) % 3), preprocess=normalize)
    bound = certified_gap(
        run.student, teacher, pixels.float(), radius=2.0, limits=(0.0, 255.0), student_preprocess=normalize,
        teacher_preprocess=normalize,
    )  # fmt: skip
    loss, context = fitted(
        nn.Sequential(_Normalized(normalize), run.student.eval()),
        nn.Sequential(_Normalized(normalize), teacher.eval()), Batch(pixels), epsilon=2 / 255,
    )  # fmt: skip
    term = loss.term(context.student, context.teacher, Batch(pixels), Progress())
    assert (term.total / term.count).item() == pytest.approx(bound.mean.value, rel=1e-5)


class _Normalized(nn.Module):
    """A preprocessing as a layer."""

    def __init__(self, preprocess):
        super().__init__()
        self.preprocess = preprocess

    def forward(self, x):
        return self.preprocess(Batch(x))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": -0.01}, "epsilon"),
        ({"gap_weight": -1.0}, "gap_weight"),
        ({"gap_weight": float("inf")}, "gap_weight"),
        ({"warmup": 1.5}, "warmup"),
        ({"weight": 2.0}, "weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"low": 1.0, "high": 0.0}, "low"),
        ({"epsilon": "0.1"}, "epsilon"),
        ({"low": "0"}, "low"),
        ({"high": float("nan")}, "high"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, word):
    with pytest.raises(ArgumentError, match=word):
        make("faithful_distillation", teacher=net(1), **changes)


class Ignored(nn.Module):
    """A network whose values depend on what was done to them in place, through a view."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        y = self.layer(x)
        y[:, :1].mul_(0.0)
        return y


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.embed(x).mean(1))


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.out = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.block(x[:, None])[:, 0])


@pytest.mark.parametrize(
    ("student", "inputs", "word"),
    [
        (Tokens(), torch.randint(10, (12, 5)), "tokens"),
        (Attends(), X.float(), "student cannot be bounded"),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)), X.float(), "layer_norm"),
        (Ignored(), X.float(), "in place"),
        (nn.Linear(6, 3), 2 * X.float(), "range"),
    ],
    ids=["tokens", "transformer", "norm", "view", "range"],
)  # fmt: skip
def test_what_has_no_bounds_is_refused_before_a_step(student, inputs, word):
    before = copy.deepcopy(student.state_dict())
    teacher = Tokens() if isinstance(student, Tokens) else nn.Linear(6, 3)
    with pytest.raises(LimbeckError, match=word):
        learn(make("faithful_distillation", teacher=teacher), student, data=ArrayDataset(inputs, torch.arange(12) % 3))
    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())


def test_a_teacher_without_bounds_is_refused_too():
    teacher = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3))
    with pytest.raises(LimbeckError, match="teacher cannot be bounded"):
        learn(make("faithful_distillation", teacher=teacher))
    loss = next(make("faithful_distillation", teacher=net(1), labels=False).stages()).objective
    batch = Batch(X)
    with pytest.raises(LimbeckError, match="ddp"):
        loss.setup(LossContext(Outputs(logits=X), Outputs(logits=X), batch))
