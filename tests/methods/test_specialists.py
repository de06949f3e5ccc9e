"""Specialists start as their generalist, learn their classes, and teach the student."""

from __future__ import annotations

import copy
import json
import math
import warnings

import pytest
import torch
from torch import nn

from limbeck.cli import main
from limbeck.data import ArrayDataset, ShuffledLoader, SpecialistLoader, TorchLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError, LimbeckWarning, UnknownNameError
from limbeck.functional import cross_entropy
from limbeck.methods import make
from limbeck.methods.teachers.groups import confusion_groups
from limbeck.methods.teachers.specialist_training import combined, training
from limbeck.models import build
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.teachers import Ensemble, ModelTeacher, TeacherContext, TeacherRef
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted
from small_jobs import small_job

GROUPS = [[0, 1], [1, 2]]


def softmax(row):
    weights = [math.exp(x) for x in row]
    return [weight / sum(weights) for weight in weights]


def brute_force_dustbin_cross_entropy(student, labels, special):
    values = []
    for q, label in zip(map(softmax, student.tolist()), labels.tolist(), strict=True):
        rest = sum(share for c, share in enumerate(q) if c not in special)
        values.append(-math.log(q[label] if label in special else rest))
    return values


def brute_force_rest_kl(student, teacher, special):
    values = []
    for q, p in zip(map(softmax, student.tolist()), map(softmax, teacher.tolist()), strict=True):
        rest = [c for c in range(len(p)) if c not in special]
        mine, its = sum(q[c] for c in rest), sum(p[c] for c in rest)
        values.append(sum(p[c] * math.log(p[c] / its / (q[c] / mine)) for c in rest))
    return values


@pytest.fixture(scope="module")
def planted():
    return Planted()


def recipe(planted, **arguments):
    return make("specialists", **{"teacher": planted.truth, "groups": GROUPS, **arguments})


def learn(planted, made, *, student=None, labels="all", **options):
    data = ArrayDataset(planted.x, planted.labels if labels == "all" else labels, class_names=["a", "b", "c", "d"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LimbeckWarning)
        return distill(
            student or planted.student(), made, data,
            **{"batch_size": 40, "epochs": 2, "log_every": 10**6, "workers": 1, **options},
        ).finish()  # fmt: skip


# The kernels.


# Training.


def test_a_specialist_begins_exactly_as_its_generalist_and_the_generalist_stays(planted):
    data = ShuffledLoader(ArrayDataset(planted.x, planted.labels), batch_size=40)
    frozen = copy.deepcopy(planted.truth).requires_grad_(False)
    apart = training(frozen, GROUPS, data, epochs=1)
    begun = apart.makes["specialist-2"]({})
    assert same_weights(weights(begun), weights(frozen))
    assert all(parameter.requires_grad for parameter in begun.parameters())
    assert begun.training
    run = distill({"student": planted.student()}, apart, data, workers=1).finish()
    assert same_weights(weights(frozen), weights(planted.truth))
    assert not any(same_weights(weights(run.models[f"specialist-{n}"]), weights(frozen)) for n in (1, 2))
    assert run.student is run.models["specialist-1"]


def test_each_learns_from_half_special_data_by_its_own_objective(planted):
    data = ShuffledLoader(ArrayDataset(planted.x, planted.labels), batch_size=40, seed=3)
    stages = list(training(planted.truth, GROUPS, data, epochs=5, soft=0.5, optimizer=Optimizer("sgd")).stages())
    assert [stage.trains for stage in stages] == ["specialist-1", "specialist-2"]
    for stage, group in zip(stages, GROUPS, strict=True):
        assert isinstance(stage.loader, SpecialistLoader)
        assert stage.loader.special == tuple(group)
        assert (stage.loader.batch_size, stage.epochs, stage.optimizer.name) == (40, 5, "sgd")
        assert set(stage.objective.named_leaves()) == {"dustbin_cross_entropy", "rest_kl"}
    seeds = {stage.loader.seed for stage in stages}
    for seed in (0, 1):
        data = ShuffledLoader(ArrayDataset(planted.x, planted.labels), batch_size=40, seed=seed)
        seeds |= {stage.loader.seed for stage in training(planted.truth, GROUPS, data, epochs=5).stages()}
    assert len(seeds) == 6
    assert not seeds & set(range(10_000)), "the seeds of other repetitions"


def test_the_first_half_alone_gives_the_combined_teacher(planted):
    loader = ShuffledLoader(ArrayDataset(planted.x, planted.labels), batch_size=40)
    run = distill({"student": planted.student()}, training(planted.truth, GROUPS, loader, epochs=1), loader, workers=1)
    run.finish()
    together = combined(planted.truth, GROUPS, loader, active=2, mean="geometric")
    counts = [int(torch.isin(planted.labels, torch.tensor(group)).sum()) for group in GROUPS]
    assert together.oversampling == pytest.approx([(120 - count) / count for count in counts])
    assert (together.active, together.mean) == (2, "geometric")
    assert together.names == {"specialist-1", "specialist-2"}


def clouds(count, draw, *, classes=8, spread=4.0):
    """Four pairs of clouds of points: which pair is easy, which of the two is not."""
    labels = torch.randint(classes, (count,), generator=draw)
    pair, half = labels // 2, labels % 2
    where = torch.stack([(pair % 2) * 10.0, (pair // 2) * 10.0, half * 2.0 - 1], 1)
    noise = torch.randn(count, 3, generator=draw) * torch.tensor([spread, spread, 0.8])
    return where + noise, labels


def test_specialists_answer_better_than_their_generalist_and_say_true_probabilities():
    """A generalist that was stopped early; a factor left out leaves too much for the special classes."""
    draw = torch.Generator().manual_seed(0)
    (x, labels), (test, truth) = clouds(2000, draw), clouds(4000, draw)
    generalist = build("mlp", inputs=3, classes=8, hidden=[32], seed=0)
    optimizer = Optimizer("adam", lr=5e-3)
    distill(generalist, make("supervised"), (x, labels), epochs=6, optimizer=optimizer, log_every=10**6).finish()
    loader = ShuffledLoader(ArrayDataset(x, labels), batch_size=64)
    groups = confusion_groups(generalist, loader, clusters=4, size=2)
    assert groups == ((0, 1), (2, 3), (4, 5), (6, 7))
    run = distill(
        {"generalist": generalist}, training("generalist", groups, loader, epochs=15), loader,
        optimizer=optimizer, log_every=10**6, workers=1,
    ).finish()  # fmt: skip
    together = combined("generalist", groups, loader)
    nll = {}
    for name, factors in (("corrected", together.oversampling), ("as trained", (1.0,) * 4)):
        together.oversampling = factors
        batch = ArrayDataset(test, truth).take(torch.arange(len(test)))
        with together.open(TeacherContext(models=run.models)) as answer:
            logits = answer(batch)["logits"]
        nll[name] = float(cross_entropy(logits, labels=truth).mean())
    with torch.no_grad():
        nll["generalist"] = float(cross_entropy(generalist.eval()(test), labels=truth).mean())
    print(nll)
    assert nll["corrected"] < nll["generalist"] - 0.02
    assert nll["corrected"] < nll["as trained"]


# The whole method.


def test_groups_training_and_the_student_s_lessons_in_one_run(planted):
    run = learn(planted, recipe(planted, specialist_epochs=1, soft=0.1))
    assert run.student is run.models["student"]
    assert list(run.models) == ["student", "specialist-1", "specialist-2"]
    assert run.history[-1].stage.endswith("distilling specialists")
    assert set(run.history[-1].terms) == {"kl_divergence", "cross_entropy"}
    assert not same_weights(weights(run.student), weights(planted.student()))


def test_specialists_that_do_not_move_teach_what_their_generalist_does(planted):
    """The combination of a generalist with copies of itself is itself, corrected for nothing."""
    still = recipe(planted, optimizer={"name": "sgd", "lr": 1e-30}, groups=[[0, 1], [2, 3]])
    data = (torch.randn(80, 10), torch.arange(80) % 4)
    ours = distill(planted.student(), still, data, epochs=2, batch_size=20, workers=1).finish()
    theirs = distill(planted.student(), make("hinton", teacher=planted.truth), data, epochs=2, batch_size=20).finish()
    for mine, other in zip(ours.student.parameters(), theirs.student.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


def test_in_processes_and_in_place_it_is_the_same(planted):
    one, two = (learn(planted, recipe(planted), workers=workers) for workers in (1, 2))
    assert same_weights(weights(one.student), weights(two.student))


def test_a_broken_run_goes_on_to_the_same_weights(planted, tmp_path):
    def start(out, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LimbeckWarning)
            data = ArrayDataset(planted.x, planted.labels)
            made = make("specialists", teacher=planted.truth, clusters=2, size=2, cover=True)
            return distill(
                planted.student(), made, data, batch_size=40, epochs=2, log_every=1, out=out, workers=1, **options
            )

    whole = start(tmp_path / "whole").finish()
    for stop in (1, 4):
        for number, _ in enumerate(start(tmp_path / f"cut-{stop}"), 1):
            if number == stop:
                break
        again = start(tmp_path / f"cut-{stop}", resume=True).finish()
        assert same_weights(weights(whole.student), weights(again.student))


def test_a_folder_of_other_groups_is_not_taken_up(planted, tmp_path):
    learn(planted, recipe(planted), out=tmp_path / "run", epochs=1)
    with pytest.raises(LimbeckError, match="belongs to another run: functions"):
        learn(planted, recipe(planted, groups=[[0, 1], [2, 3]]), out=tmp_path / "run", epochs=1, resume=True)
    with pytest.raises(LimbeckError, match="belongs to another run: functions"):
        learn(planted, recipe(planted, soft=0.5), out=tmp_path / "run", epochs=1, resume=True)


def test_a_generalist_of_the_run_has_reads_of_its_own_too(planted):
    data = ShuffledLoader(ArrayDataset(planted.x, planted.labels), batch_size=40)
    named = TeacherRef("generalist", preprocess=lambda b: b.inputs)
    stage = next(training(named, GROUPS, data, epochs=1).stages())
    assert stage.preprocess is named.preprocess


def test_examples_without_a_label_count_as_what_the_generalist_takes_them_for(planted):
    with torch.no_grad():
        said = planted.truth(planted.x).argmax(-1)
    half = planted.labels.clone()
    half[::2] = -100
    data = ShuffledLoader(ArrayDataset(planted.x, half), batch_size=40)
    stage = next(training(planted.truth, GROUPS, data, epochs=1).stages())
    assert torch.equal(stage.loader.classes, torch.where(half == -100, said, half))
    unlabeled = ShuffledLoader(ArrayDataset(planted.x), batch_size=40)
    stage = next(training(planted.truth, GROUPS, unlabeled, epochs=1).stages())
    assert torch.equal(stage.loader.classes, said)
    run = learn(planted, recipe(planted, labels=False), labels=None)
    assert set(run.history[-1].terms) == {"kl_divergence"}


def test_a_generalist_with_reads_of_its_own_gives_them_to_its_specialists(planted):
    wide = torch.cat([planted.x, planted.x], 1)
    live = ModelTeacher(planted.truth, preprocess=lambda b: b.inputs[:, :10])
    data = ArrayDataset(wide, planted.labels)
    with pytest.warns(LimbeckWarning):
        run = distill(
            build("mlp", inputs=20, classes=4, hidden=[8], seed=0), make("specialists", teacher=live, groups=GROUPS),
            data, epochs=1, workers=1,
        ).finish()  # fmt: skip
    assert run.finished


def test_classes_in_no_group_are_reported_in_one_sentence(planted):
    data = (planted.x, planted.labels)
    sentence = (
        r"1 of 4 classes .* \(3\)\..*"
        r"add them to groups"
    )
    with pytest.warns(LimbeckWarning, match=sentence):
        distill(planted.student(), recipe(planted), data, epochs=1, workers=1).finish()
    with pytest.raises(LimbeckError, match=r"1 of 4 classes .* \(3\)\. cover=True"):
        distill(planted.student(), recipe(planted, cover=True), data, epochs=1, workers=1).finish()
    named = ArrayDataset(*data, class_names=["cat", "dog", "hen", "frog"])
    with pytest.warns(LimbeckWarning, match=r"1 of 4 classes .*\(frog\)"):
        distill(planted.student(), recipe(planted), named, epochs=1, workers=1).finish()


def test_groups_may_be_given_by_the_classes_names(planted):
    run = learn(planted, recipe(planted, groups=[["a", "b"], ["c", "d"]]))
    assert "specialist-2" in run.models
    with pytest.raises(UnknownNameError, match="Unknown class 'e'"):
        learn(planted, recipe(planted, groups=[["a", "e"]]))


# What goes wrong.


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"groups": [[0]]}, r"Group 1 is \[0\]"),
        ({"groups": [[0, 4]]}, "Group 1 has class 4; classes run from 0 to 3"),
        ({"groups": [[0, 1, 2, 3]]}, "none is left for its dustbin"),
        ({"groups": None, "clusters": 5, "size": 2}, "clusters=5 is more than the 4 classes"),
        ({"groups": None, "size": 1}, "size=1"),
        ({"groups": None, "size": 4}, "size=4 of 4 classes"),
    ],
)
def test_groups_that_cannot_be(planted, arguments, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        learn(planted, recipe(planted, **arguments))


def test_an_ensemble_is_no_single_network(planted):
    pair = Ensemble(planted.truth, planted.student())
    with pytest.raises(LimbeckError, match=r"Ensemble is not a single network"):
        learn(planted, recipe(planted, teacher=pair))


def test_batches_that_come_as_they_do_have_no_special_half(planted):
    batches = [(planted.x[:60], planted.labels[:60]), (planted.x[60:], planted.labels[60:])]
    with (
        pytest.warns(LimbeckWarning),
        pytest.raises(LimbeckError, match="TorchLoader"),
    ):
        distill(planted.student(), recipe(planted), TorchLoader(batches), epochs=1).finish()


def test_a_class_of_which_there_is_no_example(planted):
    few = ArrayDataset(planted.x[planted.labels > 1], planted.labels[planted.labels > 1])
    with (
        pytest.warns(LimbeckWarning),
        pytest.raises(LimbeckError, match=r"No example is of the special classes \[0, 1\]"),
    ):
        distill(planted.student(), recipe(planted), few, epochs=1).finish()


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = small_job("digits", seeds=1, arms=["distilled"], train_examples=200)
    job["method"] = {"name": "specialists", "clusters": 2, "size": 3}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as ended:
            main(["distill", "job.yaml", "--json", "--out", "run"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    result = json.loads(said.out)
    assert result["method"]["name"] == "specialists"
    notes = [line for line in said.err.splitlines() if "in no group of a specialist" in line]
    assert len(notes) == 1
    assert notes[0].endswith("cover=True.")
    assert not [line for line in said.err.splitlines() if "Warning" in line]


def test_it_composes_as_any_recipe(planted):
    before = Stage(next(make("supervised").stages()).objective, trains="student", epochs=1)
    run = learn(planted, Recipe(before, recipe(planted)), student=nn.Sequential(nn.Linear(10, 4)))
    assert run.history[0].stage.startswith("0 ")
    assert "specialist-1" in run.models
