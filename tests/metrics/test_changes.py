"""Changed classes are found, and unchanged ones are not."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest, false_discovery_control, ttest_rel

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics import Predictions, class_accuracy, class_changes


def shown(right, labels, classes):
    """Predictions that are right where `right` says so."""
    said = torch.where(right, labels, (labels + 1) % classes)
    return Predictions(torch.eye(classes)[said], labels=labels)


def drawn(rates, labels, classes, seeds=1):
    """Each seed right with a probability that depends on the class."""
    return [shown(torch.rand(len(labels)) < rates[s, labels], labels, classes) for s in range(seeds)]


def labels_of(classes, each):
    return torch.arange(classes).repeat_interleave(each)


def test_one_pair_is_the_exact_mcnemar_test_adjusted_by_benjamini_and_hochberg():
    classes, labels = 8, labels_of(8, 60)
    before, after = (drawn(torch.rand(1, classes), labels, classes)[0] for _ in range(2))
    found = class_changes(before, after)
    p = []
    for label, change in enumerate(found):
        inside = labels == label
        first, second = (one.student[inside].argmax(1) == label for one in (before, after))
        won, lost = int((~first & second).sum()), int((first & ~second).sum())
        assert (change.label, change.examples, change.gained, change.lost) == (label, 60, won, lost)
        assert change.difference == pytest.approx((won - lost) / 60)
        p.append(binomtest(won, won + lost, 0.5).pvalue if won + lost else 1.0)
        assert change.p_value == pytest.approx(p[-1], rel=1e-9)
    adjusted = false_discovery_control(p)
    assert [c.adjusted for c in found] == pytest.approx(adjusted.tolist())
    assert [c.changed for c in found] == (adjusted <= 0.05).tolist()
    assert [c.before for c in found] == pytest.approx(class_accuracy(before).tolist())


def test_over_seeds_the_larger_of_two_p_values():
    classes, labels = 5, labels_of(5, 80)
    before, after = (drawn(torch.rand(4, classes), labels, classes, seeds=4) for _ in range(2))
    found = class_changes(before, after)
    first, second = (torch.stack([class_accuracy(one) for one in each]) for each in (before, after))
    for label, change in enumerate(found):
        by_t = ttest_rel(second[:, label], first[:, label]).pvalue
        inside = labels == label
        net = sum(
            (b.student[inside].argmax(1) == label).int() - (a.student[inside].argmax(1) == label).int()
            for a, b in zip(before, after, strict=True)
        )
        by_sign = binomtest(int((net > 0).sum()), int((net != 0).sum()), 0.5).pvalue
        assert change.p_value == pytest.approx(max(by_t, by_sign), rel=1e-6)
        assert change.before == pytest.approx(float(first[:, label].mean()))


def test_the_other_way_round_is_the_same_test():
    classes, labels = 6, labels_of(6, 40)
    before, after = (drawn(torch.rand(3, classes), labels, classes, seeds=3) for _ in range(2))
    for one, other in zip(class_changes(before, after), class_changes(after, before), strict=True):
        assert (one.gained, one.lost, one.p_value) == (other.lost, other.gained, pytest.approx(other.p_value))
        assert one.difference == pytest.approx(-other.difference)


def test_the_same_predictions_have_not_changed():
    labels = labels_of(3, 20)
    same = drawn(torch.full((3, 3), 0.5), labels, 3, seeds=3)
    for change in (*class_changes(same[0], same[0]), *class_changes(same, same)):
        assert (change.p_value, change.changed, change.difference) == (1.0, False, 0.0)


def test_seeds_that_all_agree_leave_it_to_the_examples():
    labels = labels_of(2, 40)
    before, after = shown(torch.zeros(80).bool(), labels, 2), shown(labels == 0, labels, 2)
    found = class_changes([before] * 3, [after] * 3)
    assert (found[0].changed, found[1].changed) == (True, False)
    assert found[0].p_value == pytest.approx(2 * 0.5**40)


def false_calls(classes, planted, simulations, seeds=1, wobble=0.0):
    """The mean share of false calls among calls, how many simulations call one falsely, and the planted ones found."""
    labels, share, any_false, power = labels_of(classes, 100), 0.0, 0, 0.0
    for _ in range(simulations):
        noise = wobble * torch.randn(2, seeds, classes)
        rates = torch.full((seeds, classes), 0.75)
        better = rates.clone()
        better[:, :planted] += 0.2
        before, after = (
            drawn((r + e).clamp(0, 1), labels, classes, seeds) for r, e in zip((rates, better), noise, strict=True)
        )
        found = class_changes(before, after) if seeds > 1 else class_changes(before[0], after[0])
        called = torch.tensor([change.changed for change in found])
        false = int(called[planted:].sum())
        share += false / max(int(called.sum()), 1)
        any_false += false > 0
        power += float(called[:planted].float().mean()) if planted else 0.0
    return share / simulations, any_false / simulations, power / simulations


def test_where_nothing_changed_hardly_any_simulation_calls_a_class():
    _, any_false, _ = false_calls(classes=10, planted=0, simulations=200)
    assert any_false <= 0.09  # 0.05, and three standard errors of 200 simulations


def test_of_the_classes_that_are_called_few_are_false_and_the_planted_are_detected():
    share, _, power = false_calls(classes=20, planted=5, simulations=100)
    assert share <= 0.05
    assert power >= 0.6


def test_seeds_that_wobble_by_themselves_are_no_change():
    """Each run has classes of its own luck: of one pair, McNemar's test calls that a change; over seeds it is none."""
    _, alone, _ = false_calls(classes=10, planted=0, simulations=60, seeds=1, wobble=0.08)
    _, over_seeds, _ = false_calls(classes=10, planted=0, simulations=60, seeds=5, wobble=0.08)
    assert over_seeds <= 0.13 < alone


def test_classes_without_examples_and_rows_without_labels():
    labels = torch.tensor([0, 0, IGNORED, 0, 0])
    before, after = (Predictions(torch.eye(3)[[k] * 5], labels=labels) for k in (1, 0))
    found = class_changes(before, after)
    assert (found[0].examples, found[0].gained, found[0].p_value) == (4, 4, 0.125)
    for empty in found[1:]:
        assert empty.examples == 0
        assert not empty.changed
        assert all(math.isnan(value) for value in (empty.before, empty.p_value, empty.adjusted))


def test_what_cannot_be_compared_is_said():
    one = shown(torch.ones(4).bool(), torch.tensor([0, 1, 0, 1]), 2)
    other = shown(torch.ones(4).bool(), torch.tensor([0, 1, 1, 1]), 2)
    with pytest.raises(LimbeckError, match="labels differ"):
        class_changes(one, other)
    with pytest.raises(LimbeckError, match="1 before and 2 after"):
        class_changes(one, [one, one])
    with pytest.raises(LimbeckError, match="0 before and 0 after"):
        class_changes([], [])
    with pytest.raises(LimbeckError, match=r"rate=5"):
        class_changes(one, one, rate=5.0)
    with pytest.raises(LimbeckError, match="needs labels"):
        class_changes(one._replace(labels=None), one)
