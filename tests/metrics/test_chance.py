"""Distributions equal those of scipy.stats, which a report does not import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from scipy.stats import binom, false_discovery_control, t

from limbeck.metrics.multiple_comparisons import false_discovery_rates
from limbeck.metrics.statistics import binomial_cdf, t_ppf, t_sf


def test_student():
    scores = np.array([-np.inf, -3.0, 0.0, 0.7, 2.776, 40.0, np.inf, np.nan])
    for degrees in (1, 2, 4, 9, 400):
        assert np.array_equal(t_sf(scores, degrees), t.sf(scores, degrees), equal_nan=True)
        for share in (0.5, 0.9, 0.975, 0.9995):
            assert t_ppf(share, degrees) == t.ppf(share, degrees)


def test_coins():
    tosses = np.array([0, 1, 5, 30, 31, 1000, 1000, 2000])
    heads = np.array([0, 0, 2, 4, 15, 400, 500, 700])
    np.testing.assert_allclose(binomial_cdf(heads, tosses), binom.cdf(heads, tosses, 0.5), rtol=1e-11)


def test_false_discoveries():
    draw = np.random.default_rng(0)
    for many in (1, 2, 10, 100):
        p = draw.random(many) ** 3
        assert np.array_equal(false_discovery_rates(p), false_discovery_control(p))
    assert false_discovery_rates(np.array([1.0, 1.0])).tolist() == [1.0, 1.0]


LOADED = """
import sys, torch
from limbeck.metrics import Predictions, class_changes
from limbeck.report.arms import read_stat

logits, labels = torch.eye(3), torch.arange(3)
class_changes([Predictions(logits, None, labels)] * 2, [Predictions(-logits, None, labels)] * 2)
read_stat({"values": [0.1, 0.2]})
print("scipy.special" in sys.modules, "scipy.stats" in sys.modules)
"""


def test_a_report_loads_no_more_than_it_needs():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout == "True False\n", done.stderr
