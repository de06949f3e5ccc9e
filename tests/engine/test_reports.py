"""The numbers of a report are correct."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from engine.stories import SGD, arrays, everything, make_loader, network, weights
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import cross_entropy, kernel, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.schedule import ramp

CE = Loss(cross_entropy)


def whole(rows: int = 12, batch_size: int = 12, **options) -> ShuffledLoader:
    return ShuffledLoader(
        arrays(rows, uneven=True, dtype=torch.float64, **options), batch_size=batch_size, shuffle=False
    )


# Gradient norms, against a brute-force computation.


def brute_force(student: nn.Module, teacher: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
    """The norms of 0.3 ce and 0.7 kl at the student's logits and at its parameters, by hand, on 12 examples."""
    batch = arrays(12, uneven=True, dtype=torch.float64).take(torch.arange(12))
    z, v = student(batch.inputs), teacher(batch.inputs).detach()
    labeled = (batch.labels >= 0) & batch.mask
    kl = (torch.softmax(v / 3, -1) * (torch.log_softmax(v / 3, -1) - torch.log_softmax(z / 3, -1))).sum(-1) * 9
    losses = {
        "cross_entropy": 0.3 * torch.nn.functional.cross_entropy(z[labeled], batch.labels[labeled]),
        "kl_divergence": 0.7 * kl[batch.mask].mean(),
    }
    outputs = {name: float(torch.autograd.grad(loss, z, retain_graph=True)[0].norm()) for name, loss in losses.items()}
    parameters = list(student.parameters())
    inside = {
        name: math.sqrt(sum(float(g.square().sum()) for g in torch.autograd.grad(loss, parameters, retain_graph=True)))
        for name, loss in losses.items()
    }
    return outputs, inside


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradient_norms_at_outputs_and_at_parameters(accumulate):
    student, teacher = network().double(), network(hidden=6, seed=7).double()
    outputs, inside = brute_force(copy.deepcopy(student), teacher)
    stage = Stage(0.3 * CE + 0.7 * Loss(kl_divergence, temperature=3.0), teacher=teacher, steps=1)
    run = distill(student, stage, whole(12, 12 // accumulate), accumulate=accumulate, parameter_norms=True).finish()
    assert run.history[0].gradient_norms == pytest.approx(outputs, rel=1e-6)
    assert run.history[0].parameter_norms == pytest.approx(inside, rel=1e-6)


def test_norms_at_outputs_include_what_is_tapped():
    """The hint's gradient is at the tapped layer, none at the logits: 2 * mean of squares, by hand."""
    student, teacher = network().double(), network(hidden=8, seed=7).double()
    batch = arrays(12, dtype=torch.float64).take(torch.arange(12))
    gap = (student[0](batch.inputs) - teacher[0](batch.inputs)).detach()
    wanted = (2.0 * 2 * gap / (12 * 8)).norm().item()
    stage = Stage(2.0 * Loss(squared_error, student="0", teacher="0") + 0.0 * CE, teacher=teacher, steps=1)
    data = ShuffledLoader(arrays(12, dtype=torch.float64), batch_size=12, shuffle=False)
    norms = distill(student, stage, data).finish().history[0].gradient_norms
    assert norms["squared_error@0"] == pytest.approx(wanted, rel=1e-6)
    assert norms["cross_entropy"] == 0.0


def test_norms_do_not_disturb_the_step():
    found = []
    for norms in (False, True):
        student = network(dropout=0.3)
        distill(
            student, everything(epochs=2), make_loader(), log_every=1, parameter_norms=norms, optimizer=SGD
        ).finish()
        found.append(weights(student))
    assert torch.equal(*found)


def test_what_is_not_requested_is_not_computed():
    report = distill(network(), Stage(CE, epochs=1), make_loader()).finish().history[-1]
    assert report.parameter_norms == {}


# Losses, terms, rates.


def test_means_are_over_all_steps_since_the_last_report():
    """With a learning rate of next to nothing, five steps' mean is that over all of the epoch's examples."""
    data = arrays(30, uneven=True, dtype=torch.float64)
    student, teacher = network().double(), network(seed=7, hidden=6).double()
    z, v = student(data.take(torch.arange(30)).inputs), teacher(data.take(torch.arange(30)).inputs)
    batch = data.take(torch.arange(30))
    labeled = (batch.labels >= 0) & batch.mask
    stage = Stage(CE + Loss(kl_divergence), teacher=teacher, epochs=1)
    plan = Optimizer("sgd", lr=1e-12)
    report = (
        distill(student, stage, ShuffledLoader(data, batch_size=7), optimizer=plan, log_every=100).finish().history[0]
    )
    assert report.step == 5
    ce = torch.nn.functional.cross_entropy(z[labeled], batch.labels[labeled])
    assert report.terms["cross_entropy"] == pytest.approx(ce.item(), rel=1e-6)
    assert report.terms["kl_divergence"] == pytest.approx(kl_divergence(z, v)[batch.mask].mean().item(), rel=1e-6)


def test_the_loss_is_the_weighted_sum_at_its_step():
    for report in distill(network(), everything(epochs=1), make_loader(), log_every=1):
        fraction = (report.step - 1) / (report.steps - 1)
        mix = {"cross_entropy": 0.3, "kl_divergence": 0.4 + 0.3 * fraction, "squared_error@0": 0.5}
        assert report.loss == pytest.approx(sum(mix[name] * mean for name, mean in report.terms.items()), rel=1e-5)


def test_reports_come_every_so_often_and_at_the_end():
    run = distill(network(), Stage(CE, steps=7), make_loader(), log_every=3).finish()
    assert [report.step for report in run.history] == [3, 6, 7]
    assert {report.steps for report in run.history} == {7}
    assert all(report.rate > 0 and report.seconds > 0 for report in run.history)


def test_epochs_count_passes_begun():
    run = distill(network(), Stage(CE, epochs=3), make_loader(16, batch_size=8), log_every=1).finish()
    assert [report.epoch for report in run.history] == [0, 0, 1, 1, 2, 2]


# Budgets and learning rates.


@pytest.mark.parametrize(
    ("stage", "setting", "steps"),
    [
        ({"epochs": 2}, {}, 8),
        ({"steps": 5}, {}, 5),
        ({}, {"epochs": 3}, 12),
        ({}, {"steps": 6}, 6),
        ({"epochs": 1}, {"steps": 6}, 4),
        ({"steps": 2}, {"epochs": 6}, 2),
        ({"epochs": 2}, {"accumulate": 3}, 4),
    ],
)
def test_a_stage_s_own_budget_comes_first(stage, setting, steps):
    run = distill(network(), Stage(CE, **stage), make_loader(30, batch_size=8), **setting).finish()
    assert run.history[-1].step == run.history[-1].steps == steps


def test_no_budget_is_one_sentence():
    with pytest.raises(LimbeckError, match=r"How long should the stage last\? Give it epochs"):
        distill(network(), Stage(CE), make_loader()).finish()


def test_learning_rates_are_exact():
    plan = Optimizer("sgd", lr=0.4, warmup=3, decay="cosine")
    run = distill(network(), Stage(CE, steps=12, optimizer=plan), make_loader(), log_every=1).finish()
    for t, report in enumerate(run.history):
        wanted = 0.4 * min(1, (t + 1) / 3) * 0.5 * (1 + math.cos(math.pi * max(t - 3, 0) / 9))
        assert report.lr == pytest.approx(wanted, abs=1e-15)


def test_a_user_s_optimizer_keeps_its_groups_own_rates():
    def make(parameters):
        mine = list(parameters)
        return torch.optim.SGD([{"params": mine[:1], "lr": 0.5}, {"params": mine[1:], "lr": 0.1}])

    student = network().double()
    plain = copy.deepcopy(student)
    batch = arrays(12, dtype=torch.float64).take(torch.arange(12))
    torch.nn.functional.cross_entropy(plain(batch.inputs), batch.labels).backward()
    with torch.no_grad():
        for parameter, rate in zip(plain.parameters(), [0.5, 0.1, 0.1, 0.1], strict=True):
            parameter -= rate * 0.5 * parameter.grad
    data = ShuffledLoader(arrays(12, dtype=torch.float64), batch_size=12, shuffle=False)
    distill(student, Stage(CE, steps=1, optimizer=Optimizer(make, warmup=2)), data).finish()
    assert float((weights(student) - weights(plain)).abs().max()) < 1e-14


def test_the_gradient_is_clipped_as_a_whole():
    """With plain SGD and lr 1 the step is the gradient, so its norm is seen."""
    for clip in (None, 1e-3):
        student, before = network().double(), network().double()
        plan = Optimizer("sgd", lr=1.0, decay="constant", clip=clip)
        distill(student, Stage(100.0 * CE, steps=1, optimizer=plan), whole(), log_every=1).finish()
        moved = float((weights(student) - weights(before)).norm())
        assert moved > 0.1 if clip is None else moved == pytest.approx(1e-3, rel=1e-2)


# Files.


def test_metrics_are_json_lines_with_every_term(tmp_path):
    run = distill(network(), everything(epochs=2), make_loader(), log_every=3, out=tmp_path / "run").finish()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(run.history) == 3
    for line, report in zip(lines, run.history, strict=True):
        assert line["step"] == report.step
        assert line["terms"] == pytest.approx(report.terms, rel=1e-6)
        assert (
            set(line["gradient_norms"]) == set(line["terms"]) == {"cross_entropy", "kl_divergence", "squared_error@0"}
        )


def test_the_run_is_described(tmp_path):
    distill(network(), everything(epochs=1), make_loader(), out=tmp_path / "run", seed=5).finish()
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["setting"]["seed"] == 5
    assert "kl_divergence, temperature=3.0" in described["recipe"][0]["objective"]
    assert described["recipe"][0]["teacher"]["fingerprint"]
    assert described["environment"]["packages"]["torch"] == torch.__version__


# Precision.


def test_kernels_see_float32_under_bfloat16():
    seen = []

    @kernel(per="example")
    def looking(student, teacher):
        seen.extend([student.dtype, teacher.dtype])
        return (student - teacher).square().mean(-1)

    student = network()
    inner = []
    student[0].register_forward_hook(lambda m, x, out: inner.append(out.dtype))
    stage = Stage(Loss(looking), teacher=network(seed=3), epochs=1)
    run = distill(student, stage, make_loader(), precision="bf16-mixed", log_every=1).finish()
    assert set(seen) == {torch.float32}
    assert set(inner) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())
    assert run.history[-1].loss < run.history[0].loss * 2


def test_bfloat16_learns_nearly_what_float32_does():
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        run = distill(network(), everything(epochs=10), make_loader(64), optimizer=SGD, precision=precision).finish()
        losses[precision] = run.history[-1].loss
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.1)


# Settings that make no sense.


@pytest.mark.parametrize("setting", [{"accumulate": 0}, {"log_every": 0}, {"epochs": -1}, {"workers": 0}])
def test_counts_are_at_least_one(setting):
    with pytest.raises(LimbeckError, match=rf"{next(iter(setting))} must be a whole number of at least 1"):
        distill(network(), Stage(CE, epochs=1), make_loader(), **setting)


def test_settings_that_contradict_each_other():
    with pytest.raises(LimbeckError, match=r"epochs or steps, not both"):
        distill(network(), Stage(CE, epochs=1), make_loader(), epochs=1, steps=1)
    with pytest.raises(LimbeckError, match=r"checkpoint_seconds must be at least 0"):
        distill(network(), Stage(CE, epochs=1), make_loader(), checkpoint_seconds=-1.0)


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"argument of distill\(\) 'acumulate'. Did you mean 'accumulate'"):
        distill(network(), Stage(CE, epochs=1), make_loader(), acumulate=2)


def test_a_precision_that_is_none_keeps_fabric_s_words():
    with pytest.raises(LimbeckError, match=r"This machine cannot run.*bf17"):
        distill(network(), Stage(CE, epochs=1), make_loader(), precision="bf17")


def test_a_schedule_reaches_its_end_at_the_last_step():
    seen = []

    @kernel(per="example")
    def watching(student, *, level):
        seen.append(level)
        return student.square().mean(-1)

    distill(network(), Stage(Loss(watching, level=ramp(1.0)), steps=5), make_loader(), log_every=1).finish()
    assert seen[-5:] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_positional_batch_need_not_be_a_source():
    inputs, labels = torch.randn(20, 5), torch.randint(3, (20,))
    for data in ((inputs, labels), ArrayDataset(inputs, labels)):
        run = distill(network(), Stage(CE, epochs=1), data, batch_size=8).finish()
        assert run.history[-1].steps == 3


def test_a_run_explains_how_far_it_is(tmp_path):
    run = distill(
        {"student": network(), "peer": network(seed=1)},
        Stage(CE, epochs=2),
        make_loader(12, batch_size=12),
        log_every=1,
    )
    assert repr(run) == "Run(not begun; models student, peer; in memory alone)"
    first = next(iter(run))
    assert repr(run) == (
        f"Run(step 1 of 2 in stage 'student', loss {first.loss:.4g}; models student, peer; in memory alone)"
    )
    assert repr(run.finish()).startswith("Run(finished, loss ")
    kept = distill(network(), Stage(CE, epochs=1), make_loader(12, batch_size=12), out=tmp_path / "run").finish()
    assert repr(kept).endswith(f"; models student; in {tmp_path / 'run'})")
    del run
