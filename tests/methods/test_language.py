"""Methods for language models: their losses are those of the papers, at the ends too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import kl_divergence, reverse_kl
from limbeck.generation import GenerationConfig, generate
from limbeck.methods import make
from limbeck.recipe import Optimizer

NAMES = ("distillm", "abkd", "gkd", "se_kd")


def value_of(name, p, q, **arguments):
    """The minimized value for one batch of two texts."""
    given = {"share": 0.0} if name == "gkd" else {}
    objective = next(make(name, teacher=nn.Linear(2, 2), **given, **arguments).stages()).objective
    labels = torch.tensor([[0, 2, -100], [1, -100, -100]])
    batch = Batch(torch.zeros(2, 3), labels=labels, mask=labels >= 0)
    terms = objective(Outputs(logits=q.log()), Outputs(logits=p.log()), batch, Progress())
    return sum(float(term.weight * term.total / term.count) for term in terms.values())


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return tuple(torch.randn(2, 3, 5, dtype=torch.float64).softmax(-1) for _ in range(2))


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def mean(values):
    return float((values[0, 0] + values[0, 1] + values[1, 0]) / 3)


def test_distillm_is_the_skew_divergence_of_the_tokens_that_count(pair):
    p, q = pair
    reverse, forward = kl(q, 0.9 * p + 0.1 * q), kl(p, 0.1 * p + 0.9 * q)
    assert value_of("distillm", p, q) == pytest.approx(mean(reverse), rel=1e-6)
    assert value_of("distillm", p, q, direction="forward") == pytest.approx(mean(forward), rel=1e-6)
    labeled = 0.7 * mean(reverse) - 0.3 * float((q[0, 0, 0] * q[0, 1, 2] * q[1, 0, 1]).log()) / 3
    assert value_of("distillm", p, q, weight=0.7) == pytest.approx(labeled, rel=1e-6)


def test_abkd_is_the_alpha_beta_divergence(pair):
    p, q = pair
    formula = (2 / 9 * p**0.9 + 7 / 9 * q**0.9 - p**0.2 * q**0.7).sum(-1) / 0.14
    assert value_of("abkd", p, q) == pytest.approx(mean(formula), rel=1e-6)
    assert value_of("abkd", p, q, alpha=1, beta=0) == pytest.approx(mean(kl(p, q)), rel=1e-6)


def test_gkd_has_both_forms_of_the_jensen_shannon_divergence(pair):
    p, q = pair
    m = 0.3 * p + 0.7 * q
    paper = mean(0.3 * kl(p, m) + 0.7 * kl(q, m))
    assert value_of("gkd", p, q, mixture=0.3) == pytest.approx(paper / 0.21, rel=1e-6)
    assert value_of("gkd", p, q, mixture=0.3, normalized=False) == pytest.approx(paper, rel=1e-6)


def test_se_kd_is_the_divergence_where_the_student_is_least_sure(pair):
    p, q = pair
    entropy = -(q * q.log()).sum(-1)
    first = 0 if entropy[0, 0] > entropy[0, 1] else 1
    values = kl(p, q)
    selected = float(values[0, first] + values[1, 0]) / 2
    assert value_of("se_kd", p, q) == pytest.approx(selected, rel=1e-6)
    labels = -float((q[0, 0, 0] * q[0, 1, 2] * q[1, 0, 1]).log()) / 3
    assert value_of("se_kd", p, q, weight=0.7) == pytest.approx(0.7 * selected + 0.3 * labels, rel=1e-6)
    assert value_of("se_kd", p, q, share=1.0) == pytest.approx(mean(values), rel=1e-6)
    largest = max(float(values[0, 0]), float(values[0, 1]))
    assert value_of("se_kd", p, q, score="loss") == pytest.approx((largest + float(values[1, 0])) / 2, rel=1e-6)


def test_se_kd_learns_what_the_student_does_not_know_in_fewer_steps():
    """Of 8 tokens the student knows 6; hinton spends its mean on those."""
    torch.manual_seed(0)
    teacher = nn.Embedding(8, 8)
    with torch.no_grad():
        teacher.weight[:6] = 12.0 * torch.eye(8)[1:7]
    rows = torch.randint(6, (8, 20))
    rows[:, ::10] = torch.randint(6, 8, (8, 2))
    data = ArrayDataset(rows, labels=rows.roll(-1, 1))

    def divergence_after(name):
        student = nn.Embedding(8, 8)
        with torch.no_grad():
            student.weight.copy_(teacher.weight)[6:] = 0.0
        hyper = {} if name == "se_kd" else {"weight": 1.0, "temperature": 1.0}
        recipe = make(name, teacher=teacher, task="language_modeling", **hyper)
        optimizer, loader = Optimizer("sgd", lr=1.0, decay="constant"), ShuffledLoader(data, batch_size=8)
        distill(student, recipe, loader, steps=8, optimizer=optimizer, accelerator="cpu").finish()
        return float(kl_divergence(student.weight.detach(), teacher.weight.detach()).mean())

    assert divergence_after("se_kd") < 0.65 * divergence_after("hinton")


def test_gkd_teaches_the_student_where_its_own_mistakes_lead():
    """Given texts never leave the states 0 to 5. The student's own do, and there the teacher says how to return."""
    teacher = nn.Embedding(12, 12)
    with torch.no_grad():
        teacher.weight.zero_()
        teacher.weight[torch.arange(6), (torch.arange(6) + 1) % 6] = 4.0
        teacher.weight[6:, 0] = 6.0
    tokens = torch.arange(9).remainder(6).expand(16, 9)
    labels = tokens[:, 1:]
    data = ArrayDataset({"input_ids": tokens[:, :-1]}, labels=labels, mask=torch.ones_like(labels, dtype=torch.bool))

    def mistakes_of(share):
        """The divergence to the teacher at the tokens of the student's own texts."""
        student = nn.Embedding(12, 12)
        nn.init.zeros_(student.weight)
        recipe = make("gkd", teacher=teacher, share=share, divergence="forward", max_new_tokens=8)
        optimizer, loader = Optimizer("sgd", lr=1.0, decay="constant"), ShuffledLoader(data, batch_size=16)
        distill(student, recipe, loader, steps=60, optimizer=optimizer, accelerator="cpu").finish()
        config = GenerationConfig(max_new_tokens=8)
        texts = generate(student, [torch.tensor([0])] * 256, config, ids=torch.arange(1000, 1256)).tokens[:, :-1]
        with torch.no_grad():
            return float(reverse_kl(student(texts).flatten(0, 1), teacher(texts).flatten(0, 1)).mean())

    assert mistakes_of(1.0) < 0.7 * mistakes_of(0.0)


def test_trap_1_all_have_both_kl_divergences_as_ends_in_the_right_order(pair):
    p, q = pair
    ends = {"forward": mean(kl(p, q)), "reverse": mean(kl(q, p))}
    assert value_of("se_kd", p, q, share=1.0) == pytest.approx(ends["forward"], rel=1e-6)
    for end, beta in (("forward", 0.0), ("reverse", 1.0)):
        assert value_of("gkd", p, q, mixture=beta) == pytest.approx(ends[end], rel=1e-6)
        assert value_of("gkd", p, q, divergence=end) == pytest.approx(ends[end], rel=1e-6)
        assert value_of("abkd", p, q, alpha=1 - beta, beta=beta) == pytest.approx(ends[end], rel=1e-6)
        assert value_of("distillm", p, q, direction=end, skew=0.0) == pytest.approx(ends[end], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_equals_its_teacher_has_no_loss(pair, name):
    assert value_of(name, pair[0], pair[0].clone()) == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("distillm", {"direction": "forwards"}),
        ("distillm", {"skew": 1.5}),
        ("abkd", {"alpha": -0.2}),
        ("abkd", {"alpha": 0.0, "beta": 0.0}),
        ("gkd", {"mixture": 2.0}),
        ("gkd", {"share": 1.5}),
        ("gkd", {"divergence": "backward"}),
        ("gkd", {"max_new_tokens": 0}),
        ("gkd", {"sampling_temperature": -1.0}),
        ("gkd", {"writer": "pupil"}),
        ("gkd", {"replay": -1}),
        ("gkd", {"replay_share": 2.0}),
        ("gkd", {"task": "classification"}),
        ("gkd", {"weight": 0.0, "share": 1.0}),
        ("distillm", {"weight": 0.0, "share": 1}),
        ("se_kd", {"share": 0.0}),
        ("se_kd", {"share": 1.5}),
        ("se_kd", {"score": "entropie"}),
        *((name, {"weight": 1.2}) for name in NAMES),
        *((name, {"temperature": 0.0}) for name in NAMES),
    ],
)
def test_values_out_of_range_are_refused_when_it_is_built(name, wrong):
    with pytest.raises((ArgumentError, LimbeckError)):
        make(name, teacher=nn.Linear(2, 2), **wrong)
