"""Specialists give their classes, corrected for their training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import LimbeckError, MissingOutputError, UnknownNameError
from limbeck.functional import pooled
from limbeck.teachers import ModelTeacher, MovingAverage, Specialists, TeacherContext, check_groups, special_classes
from limbeck.testing import check_teacher

CPU = torch.device("cpu")
GROUPS = [[0, 1, 2], [2, 3]]
CLASSES = 6


class Said(nn.Module):
    """Answers with fixed rows, by the number in the input, and remembers what it was asked."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)
        self.asked = []

    def forward(self, inputs):
        self.asked.append(inputs[:, 0].long().tolist())
        return self.logits[inputs[:, 0].long()]


def people(batch=30, *, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return [Said((2 * torch.randn(batch, CLASSES, generator=draw)).to(dtype)) for _ in range(3)]


def ask(teacher, batch=30, **columns):
    numbers = torch.arange(batch, dtype=torch.float64)[:, None]
    with teacher.open(TeacherContext()) as answer:
        return answer(Batch(numbers, **columns))["logits"]


def test_it_is_the_pooled_distribution_of_those_who_are_active():
    generalist, *members = people()
    found = ask(Specialists(generalist, members, GROUPS))
    special = special_classes(check_groups(GROUPS), CLASSES)
    active = special.T[generalist.logits.argmax(-1)]
    log_p = [said.logits.log_softmax(-1) for said in (generalist, *members)]
    wanted = pooled(log_p[0], torch.stack(log_p[1:], 1), special, active)
    torch.testing.assert_close(found.softmax(-1), wanted.exp())


def test_without_an_active_specialist_it_is_the_generalist_bit_for_bit():
    generalist, *members = people(dtype=torch.float32)
    nobody = ~torch.isin(generalist.logits.argmax(-1), torch.tensor([0, 1, 2, 3]))
    assert 0 < int(nobody.sum()) < 30
    found = ask(Specialists(generalist, members, GROUPS))
    assert torch.equal(found[nobody], generalist.logits[nobody])
    assert not (found[~nobody] == generalist.logits[~nobody]).all(-1).any()


def test_a_specialist_is_called_once_and_about_its_own_rows_alone():
    generalist, *members = people()
    ask(Specialists(generalist, members, GROUPS))
    top = generalist.logits.argmax(-1)
    for member, group in zip(members, GROUPS, strict=True):
        assert member.asked == [torch.isin(top, torch.tensor(group)).nonzero()[:, 0].tolist()]


def test_more_first_guesses_ask_more_specialists():
    counts = []
    for active in (1, 2, CLASSES):
        generalist, *members = people()
        ask(Specialists(generalist, members, GROUPS, active=active))
        counts.append(sum(len(member.asked[0]) for member in members))
    assert counts[0] < counts[1] < counts[2] == 60


def test_a_specialist_that_is_still_its_generalist_changes_nothing():
    generalist = people()[0]
    found = ask(Specialists(generalist, [generalist, generalist], GROUPS))
    torch.testing.assert_close(found, generalist.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_oversampling_shifts_the_dustbin_s_log_odds_by_its_logarithm(mean):
    """Undone by the factor, a specialist that favors its own classes is its generalist once more."""
    generalist = people()[0]
    favored = [Said(generalist.logits.clone()) for _ in GROUPS]
    factors = [7.0, 0.25]
    for said, group, factor in zip(favored, GROUPS, factors, strict=True):
        said.logits[:, group] += math.log(factor)
    found = ask(Specialists(generalist, favored, GROUPS, mean=mean, oversampling=factors))
    torch.testing.assert_close(found, generalist.logits, rtol=0, atol=1e-8)
    assert not torch.allclose(ask(Specialists(generalist, favored, GROUPS, mean=mean)), generalist.logits, atol=0.1)


def test_a_head_of_its_own_says_the_same_as_the_whole_head():
    generalist, *members = people()
    groups = [[2, 0, 1], [3, 2]]
    heads = []
    for member, group in zip(members, groups, strict=True):
        rest = [c for c in range(CLASSES) if c not in group]
        dustbin = member.logits[:, rest].logsumexp(-1, keepdim=True)
        heads.append(Said(torch.cat([member.logits[:, group], dustbin], -1)))
    factors = [3.0, 2.0]
    one, two = (ask(Specialists(generalist, said, groups, oversampling=factors)) for said in (members, heads))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_it_keeps_every_law_of_teachers(mean):
    teacher = Specialists(nn.Linear(3, 5), [nn.Linear(3, 5), nn.Linear(3, 3)], [[0, 1, 2, 3], [3, 4]], mean=mean)
    check_teacher(teacher, Batch(torch.randn(12, 3)))
    named = Specialists("generalist", ["one", nn.Linear(3, 5)], [*GROUPS[:1], [3, 4]], active=2)
    check_teacher(named, Batch(torch.randn(12, 3)), models={"generalist": nn.Linear(3, 5), "one": nn.Linear(3, 5)})
    assert named.names == {"generalist", "one"}


def test_masked_classes_and_narrow_logits_stay_finite():
    generalist, *members = people()
    for said in (generalist, *members):
        said.logits[:, 5] = -torch.inf
    members[0].logits[:, :3] = -torch.inf
    narrow = [Said(said.logits.bfloat16()) for said in (generalist, *members)]
    found = ask(Specialists(narrow[0], narrow[1:], GROUPS))
    assert found.dtype == torch.float32
    assert bool(found.softmax(-1).isfinite().all())


def test_autocast_changes_nothing_in_how_answers_are_pooled():
    generalist, *members = people(dtype=torch.float32)
    teacher = Specialists(generalist, members, GROUPS)
    wanted = ask(teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ask(teacher), wanted, rtol=0, atol=1e-6)


def test_whatever_a_batch_holds_goes_along():
    """Inputs in a mapping, further columns, ids: a member's own reads may want any of them."""
    generalist, *members = people()
    preprocess = [ModelTeacher(member, preprocess=lambda b: b.extra["numbers"]["n"]) for member in members]
    numbers = torch.arange(30.0)[:, None]
    with Specialists(generalist, preprocess, GROUPS).open(TeacherContext(preprocess=lambda b: b.inputs["x"])) as answer:
        found = answer(Batch({"x": numbers}, id=torch.arange(30), extra={"numbers": {"n": numbers}}))["logits"]
    torch.testing.assert_close(found, ask(Specialists(generalist, members, GROUPS)))


def test_its_hash_depends_on_all_that_its_answers_do():
    one, two = nn.Linear(2, 6), nn.Linear(2, 6)
    prints = {
        Specialists(*given, **options).fingerprint
        for given, options in [
            ((one, [one, two], GROUPS), {}),
            ((one, [two, one], GROUPS), {}),
            ((two, [one, two], GROUPS), {}),
            ((one, [one, two], [[0, 1, 2], [2, 4]]), {}),
            ((one, [one, two], GROUPS), {"active": 2}),
            ((one, [one, two], GROUPS), {"mean": "geometric"}),
            ((one, [one, two], GROUPS), {"oversampling": [1.0, 2.0]}),
        ]
    }
    assert len(prints) == 7


def test_a_member_that_changes_makes_it_change():
    teacher = Specialists(nn.Linear(3, 6), [nn.Linear(3, 6), MovingAverage(decay=0.5)], GROUPS)
    assert teacher.capabilities.changes
    student = nn.Linear(3, 6)
    session = teacher.open(TeacherContext(models={"student": student}))
    session.after_step()
    assert session.state_dict()["2"]["steps"] == 1


# What goes wrong.


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([[0, 1], [2]], r"Group 2 is \[2\]"),
        ([[0, 1], []], r"Group 2 is \[\]"),
        ([[0, 1], [2, 2]], "Group 2 has class 2 twice"),
        ([[0, -1], [1, 2]], "Group 1 has class -1"),
        ([[0, 1.5], [1, 2]], r"Group 1 has 1\.5"),
        ([[0, "cat"], [1, 2]], "Group 1 has the name 'cat'"),
        ([0, 1], r"Group 1 .*\[3, 5, 8\]; got 0"),
        ([], "groups is a list of lists of classes"),
    ],
)
def test_groups_that_make_no_sense(groups, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        check_groups(groups)


def test_groups_beside_the_classes_that_there_are():
    with pytest.raises(LimbeckError, match="Group 1 has class 4; classes run from 0 to 3"):
        check_groups([[0, 4]], classes=4)
    with pytest.raises(LimbeckError, match="Group 1 has all 3 classes"):
        check_groups([[0, 1, 2]], classes=3)
    with pytest.raises(UnknownNameError, match=r"Unknown class 'dgo'\. Did you mean 'dog'"):
        check_groups([["cat", "dgo"]], class_names=["cat", "dog", "cow"])


def test_groups_are_checked_beside_the_generalist_when_it_first_answers():
    generalist, *members = people()
    with pytest.raises(LimbeckError, match="Group 2 has class 6; classes run from 0 to 5"):
        ask(Specialists(generalist, members, [[0, 1], [2, 6]]))
    with pytest.raises(LimbeckError, match=r"active=7.* 6 classes"):
        ask(Specialists(generalist, members, GROUPS, active=7))


def test_members_groups_and_factors_go_together():
    a, b = nn.Identity(), nn.Identity()
    with pytest.raises(LimbeckError, match="got 1 members, 2 groups and 2 factors"):
        Specialists(a, [b], GROUPS)
    with pytest.raises(LimbeckError, match="got 2 members, 2 groups and 1 factors"):
        Specialists(a, [a, b], GROUPS, oversampling=[2.0])
    with pytest.raises(LimbeckError, match=r"a factor above 0 for each specialist; got \[1\.0, 0\.0\]"):
        Specialists(a, [a, b], GROUPS, oversampling=[1.0, 0.0])
    with pytest.raises(UnknownNameError, match="Unknown mean 'harmonic'"):
        Specialists(a, [a, b], GROUPS, mean="harmonic")
    with pytest.raises(LimbeckError, match=r"active.*got 0"):
        Specialists(a, [a, b], GROUPS, active=0)


def test_logits_that_fit_neither():
    generalist, *members = people()
    with pytest.raises(LimbeckError, match=r"Specialist 2 has 5 logits.* 6, or 3"):
        ask(Specialists(generalist, [members[0], Said(torch.zeros(30, 5))], GROUPS))
    with pytest.raises(LimbeckError, match=r"\[30, 2, 6\]"):
        ask(Specialists(Said(torch.zeros(30, 2, 6)), members, GROUPS))


def test_only_logits_can_be_read():
    teacher = Specialists(nn.Linear(3, 6), [nn.Linear(3, 6), nn.Linear(3, 6)], GROUPS)
    with pytest.raises(MissingOutputError, match=r"'layer1'.*specialists"):
        teacher.open(TeacherContext(requires=frozenset({"logits", "layer1"})))


@pytest.mark.parametrize("giant", [1e3, 1e6, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_scale_of_giant_logits_swallows_nothing(giant, sign):
    generalist, *members = people(dtype=torch.float32)
    # All of one sign, so that their scale is as giant as they are.
    generalist.logits = sign * giant * (1 + generalist.logits.abs())
    found = ask(Specialists(generalist, members, GROUPS))
    special = special_classes(check_groups(GROUPS), CLASSES)
    log_p = [said.logits.double().log_softmax(-1) for said in (generalist, *members)]
    active = special.T[generalist.logits.argmax(-1)]
    wanted = pooled(log_p[0], torch.stack(log_p[1:], 1), special, active)
    torch.testing.assert_close(found.double().softmax(-1), wanted.exp(), atol=1e-3, rtol=0)


@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_sense_is_refused_in_a_sentence():
    generalist, *members = people()
    for wrong in (["a", 1.0], 2.0, [None, 1.0]):
        with pytest.raises(LimbeckError, match="oversampling"):
            Specialists(generalist, members, GROUPS, oversampling=wrong)
    for wrong in (torch.tensor(1.7), torch.tensor([1, 2]), 1.0):
        with pytest.raises(LimbeckError, match="a class is an integer from 0"):
            check_groups([[wrong, 3]])
    assert check_groups([[torch.tensor(1), 3]]) == ((1, 3),)
    members[0].logits = members[0].logits[:, None]
    with pytest.raises(LimbeckError, match=r"Specialist 1 has logits of \[\d+, 1, 6\]"):
        ask(Specialists(generalist, members, GROUPS))
