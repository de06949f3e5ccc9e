"""Privileged information helps where the paper says, and not elsewhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import DataError
from limbeck.functional import kl_divergence
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.methods.teachers.privileged import one_sided_kl
from limbeck.models import reinitialize
from limbeck.recipe import Optimizer
from limbeck.teachers import Ensemble, ModelTeacher
from limbeck.testing import check_kernel
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted

FEATURES = 50


def brute_force_one_sided_kl(student, teacher, temperature):
    values = []
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(x) for x in z]
        p = [math.exp(x / temperature) for x in v]
        values.append(sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True)))
    return values


class World:
    """One of the paper's four synthetic worlds: the student's x, the privileged s, the label y."""

    def __init__(self, kind, seed):
        self.kind = kind
        self.draw = torch.Generator().manual_seed(seed)
        self.alpha = torch.randn(FEATURES, generator=self.draw)
        self.relevant = torch.randperm(FEATURES, generator=self.draw)[:3]

    def sample(self, count):
        x = torch.randn(count, FEATURES, generator=self.draw)
        x, s, score = getattr(self, self.kind.replace(" ", "_").replace("-", "_"))(x)
        return x, s, (score > 0).long()

    def clean_labels(self, x):
        clean = x @ self.alpha
        return x, clean.unsqueeze(1), clean + torch.randn(len(x), generator=self.draw)

    def clean_features(self, x):
        return x + torch.randn(x.shape, generator=self.draw), x, x @ self.alpha

    def relevant_features(self, x):
        return x, x[:, self.relevant], x[:, self.relevant] @ self.alpha[:3]

    def sample_dependent_features(self, x):
        own = torch.rand(x.shape, generator=self.draw).argsort(1)[:, :3]
        s = x.gather(1, own)
        return x, s, s @ self.alpha[:3]


def logistic(features, recipe, x, s, y, seed):
    model = reinitialize(nn.Linear(features, 2), seed=seed)
    data = ArrayDataset(x, y, extra={"privileged": s})
    optimizer = Optimizer("adam", lr=0.1)
    distill(model, recipe, data, batch_size=len(x), steps=120, optimizer=optimizer, log_every=10**6).finish()
    return model


def rates(kind, repeats=2):
    """Accuracy of the teacher on s, of a student on x alone, and of one that was taught."""
    found = []
    for seed in range(repeats):
        world = World(kind, seed)
        (x, s, y), (test_x, test_s, truth) = world.sample(200), world.sample(5000)
        teacher = logistic(s.shape[1], make("supervised"), s, s, y, seed)
        alone = logistic(FEATURES, make("supervised"), x, s, y, seed)
        taught = logistic(FEATURES, make("privileged", teacher=teacher), x, s, y, seed)
        pairs = ((teacher, test_s), (alone, test_x), (taught, test_x))
        with torch.no_grad():
            found.append([float((model(inputs).argmax(-1) == truth).float().mean()) for model, inputs in pairs])
    return torch.tensor(found).mean(0).tolist()


@pytest.mark.parametrize(
    ("kind", "helps"),
    [
        ("clean labels", True),
        ("clean features", False),
        ("relevant features", True),
        ("sample-dependent features", False),
    ],
)
def test_the_four_synthetic_worlds(kind, helps):
    """Paper (privileged / alone / distilled): 96/88/95, 90/68/70, 98/89/97, 96/55/56 percent."""
    teacher, alone, taught = rates(kind)
    print(f"{kind}: privileged {teacher:.3f}, alone {alone:.3f}, distilled {taught:.3f}")
    assert teacher > alone + 0.05
    if helps:
        assert taught > alone + 0.04
    else:
        assert taught < alone + 0.03


def test_the_kernel_keeps_the_laws():
    check_kernel(one_sided_kl, zero_at_equality=True)
    check_kernel(one_sided_kl, hyper={"temperature": 3.0})


def test_only_the_teacher_is_softened():
    z, v = torch.randn(2, 5, 4, dtype=torch.float64)
    p = (v / 3).softmax(-1)
    expected = (p * (p.log() - z.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(one_sided_kl(z, v, temperature=3.0), expected)
    torch.testing.assert_close(one_sided_kl(z, v), kl_divergence(z, v))
    assert bool((one_sided_kl(v / 3, v, temperature=3.0).abs() < 1e-12).all())


def learn(planted, recipe, **columns):
    data = ArrayDataset(planted.x, planted.labels, extra=columns)
    return distill(planted.student(), recipe, data, batch_size=40, epochs=3, seed=1).finish()


def test_the_same_inputs_make_it_hinton_at_temperature_1():
    planted = Planted()
    ours = learn(planted, make("privileged", teacher=planted.truth, weight=0.7), privileged=planted.x)
    theirs = learn(planted, make("hinton", teacher=planted.truth, weight=0.7, temperature=1.0))
    assert same_weights(weights(ours.student), weights(theirs.student))


def test_at_weight_0_it_is_the_student_alone():
    planted = Planted()
    ours = learn(planted, make("privileged", teacher=planted.truth, weight=0.0), privileged=planted.x)
    assert same_weights(weights(ours.student), weights(learn(planted, make("supervised")).student))


def test_the_teacher_reads_its_own_column_and_the_student_its_inputs():
    planted = Planted()
    s = planted.x[:, :3] * 2
    teacher = nn.Linear(3, 4)
    run = learn(planted, make("privileged", teacher=teacher, preprocess="facts"), facts=s)
    by_function = learn(planted, make("privileged", teacher=teacher, preprocess=lambda b: b.inputs[:, :3] * 2))
    assert same_weights(weights(run.student), weights(by_function.student))


def test_an_ensemble_may_be_privileged_and_a_teacher_keeps_reads_of_its_own():
    planted = Planted()
    teacher = nn.Linear(3, 4)
    first = make("privileged", teacher=Ensemble(teacher, mean="geometric"), preprocess="facts")
    own = make("privileged", teacher=ModelTeacher(teacher, preprocess=lambda b: b.extra["facts"]), preprocess="other")
    facts = planted.x[:, :3]
    one, two = (learn(planted, recipe, facts=facts, other=planted.x) for recipe in (first, own))
    for mine, other in zip(one.student.parameters(), two.student.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    planted = Planted()
    with pytest.raises(DataError, match="Did you mean 'privileged'"):
        learn(planted, make("privileged", teacher=planted.truth, preprocess="priviliged"), privileged=planted.x)


def test_without_privileged_inputs_it_is_generalized_distillation_with_a_student_at_temperature_1():
    planted = Planted()
    recipe = make("privileged", teacher=planted.truth, preprocess=None, temperature=3.0, weight=0.6)
    student = planted.learn(recipe, epochs=2).student
    expected = planted.student()
    assert not same_weights(weights(student), weights(expected))
    stage = next(recipe.stages())
    with torch.no_grad():
        z, v = expected(planted.x), planted.truth(planted.x)
    batch = Batch(planted.x, labels=planted.labels)
    terms = stage.objective(Outputs(logits=z), Outputs(logits=v), batch, Progress())
    hard = nn.functional.cross_entropy(z, planted.labels)
    soft = nn.functional.kl_div(z.log_softmax(-1), (v / 3).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(weighted_loss(terms, stage.objective.counts(batch)), 0.4 * hard + 0.6 * soft)
