"""Regression metrics equal those of scikit-learn and SciPy; unknown targets are left out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from sklearn import metrics

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.metrics import METRICS, REGRESSION_METRICS, Estimates, evaluate


def some(rows=60, outputs=3):
    targets = 5 * torch.randn(rows, outputs) + 2
    return Estimates(
        targets + torch.randn(rows, outputs), torch.randn(rows, outputs), targets, torch.rand(rows, outputs) + 0.1
    )


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("rows", [2, 60])
def test_every_measure_is_the_reference_s(rows, outputs):
    given = some(rows, outputs)
    found = {name: m.value for name, m in evaluate(given, REGRESSION_METRICS).items()}
    y, f = given.targets.double().numpy(), given.student.double().numpy()
    assert found == pytest.approx(
        {
            "mse": metrics.mean_squared_error(y, f),
            "rmse": metrics.mean_squared_error(y, f) ** 0.5,
            "mae": metrics.mean_absolute_error(y, f),
            "r2": metrics.r2_score(y, f),
            "gaussian_nll": -norm.logpdf(y, f, given.variance.double().numpy() ** 0.5).mean(),
            "mse_to_teacher": metrics.mean_squared_error(given.teacher.double().numpy(), f),
        },
        rel=1e-9,
    )


def test_unknown_targets_count_nowhere():
    given = some()
    targets = given.targets.clone()
    targets[::2, 0] = math.nan
    targets[:, 2] = math.nan
    holed = given._replace(targets=targets)
    for name, found in evaluate(holed, ["mse", "mae", "gaussian_nll", "r2"]).items():
        assert found.count == 30 + 60
        first = REGRESSION_METRICS[name](Estimates(*(part[1::2, :1] for part in given)))
        second = REGRESSION_METRICS[name](Estimates(*(part[:, 1:2] for part in given)))
        mean = (first.value + second.value) / 2 if name == "r2" else (first.total + second.total) / 90
        assert found.value == pytest.approx(mean, rel=1e-9)


def test_limits():
    same = torch.full((4, 1), 3.0)
    assert REGRESSION_METRICS["r2"](Estimates(same, targets=same)).value == 1.0
    assert REGRESSION_METRICS["r2"](Estimates(same + 1, targets=same)).value == 0.0
    assert REGRESSION_METRICS["r2"](Estimates(same[:1] + 1, targets=same[:1])).value == 0.0  # one example
    nothing = evaluate(Estimates(same, targets=same * math.nan), ["mse", "mae", "r2"])
    assert all(m.count == 0 and math.isnan(m.value) for m in nothing.values())
    huge = Estimates(torch.full((2, 1), 3e38), targets=torch.full((2, 1), -3e38))
    assert REGRESSION_METRICS["mse"](huge).value == pytest.approx(3.6e77, rel=1e-5)


def test_a_mean_predictor_explains_nothing():
    targets = torch.randn(50, 1).double()
    found = evaluate(Estimates(targets.mean().expand(50, 1), targets=targets), ["r2", "mse"])
    assert found["r2"].value == pytest.approx(0.0, abs=1e-12)
    assert found["mse"].value == pytest.approx(float(targets.var(correction=0)))


def test_what_does_not_fit_is_said(unchecked):
    given = some()
    with pytest.raises(LimbeckError, match="'mse' needs targets"):
        REGRESSION_METRICS["mse"](Estimates(given.student))
    with pytest.raises(LimbeckError, match=r"the student has \[60, 3\], targets \[60\]"):
        REGRESSION_METRICS["mse"](given._replace(targets=given.targets[:, 0]))
    with pytest.raises(LimbeckError, match="variance above 0"):
        REGRESSION_METRICS["gaussian_nll"](given._replace(variance=torch.zeros(60, 3)))
    with pytest.raises(UnknownNameError, match="metric 'accuracy'"):
        evaluate(given, ["accuracy"])
    with pytest.raises(LimbeckError, match=r"function of Predictions.*; got a tuple"):
        METRICS["accuracy"]((given.student, None, given.targets))
