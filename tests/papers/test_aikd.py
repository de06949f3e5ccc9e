"""AI-KD: the arms of its study, and the distance of two sets of outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.papers import ExperimentScale
from limbeck.papers.aikd import ARMS, FIGURES, STUDY, energy_distance, make_recipe


def test_the_distance_is_that_of_loops_and_0_for_equal_samples():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 2, generator=draw), 1 + torch.randn(7, 2, generator=draw)

    def mean(a, b):
        return sum(float((p - q).double().norm()) for p in a for q in b) / (len(a) * len(b))

    assert energy_distance(x, y) == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), rel=1e-5)
    assert energy_distance(x, x[[4, 3, 2, 1, 0]]) == pytest.approx(0, abs=1e-12)
    assert energy_distance(x, y + 5) > energy_distance(x, y)


@pytest.mark.parametrize(
    ("arm", "terms"),
    [
        ("alone", {"cross_entropy"}),
        ("kd", {"kl_divergence", "cross_entropy"}),
        ("previous", {"previous_predictions"}),
        ("ai_kd, no critic", {"previous_predictions", "kl_divergence"}),
        ("ai_kd", {"previous_predictions", "kl_divergence", "critic"}),
    ],
)
def test_each_arm_adds_a_term(arm, terms):
    (stage,) = make_recipe(arm, nn.Linear(4, 3)).stages()
    assert set(stage.objective.named_leaves()) == terms


def test_the_claims_are_judged():
    scale = ExperimentScale("quick", (0, 1, 2))
    results = {
        task.name: {figure.key: 50.0 + (10.0 if "/ai_kd/" in task.name and not figure.lower_is_better else 0.0)
                    + 0.01 * len(task.name) for figure in FIGURES}
        for task in STUDY.tasks(scale)
    }  # fmt: skip
    assert len([name for name in results if name.startswith("self/")]) == 3 * len(ARMS)
    assert len(STUDY.judge(scale, results)) == 5
