"""All arms share the same data and initial weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.compare.comparison_data import eval_batches, load_comparison_data, make_train_config
from limbeck.compare.student_start import make_student
from limbeck.compare.teacher import ask
from limbeck.compare.teacher_checks import check_teacher
from limbeck.data import ArrayDataset, Chain, CutMix, Flip, RandomShift
from limbeck.errors import LimbeckError
from limbeck.job import Budget, CacheSettings, make_job, train_loader
from limbeck.teachers import ModelTeacher
from small_jobs import blobs, small_job


@pytest.fixture
def material(tmp_path):
    return load_comparison_data(make_job(small_job(blobs(tmp_path / "blobs.npz"), train_examples=100, development=0.2)))


def test_the_parts_are_disjoint_and_even(material):
    assert (len(material.train), len(material.development), len(material.data.test)) == (100, 30, 60)
    assert not set(material.train.ids.tolist()) & set(material.development.ids.tolist())
    assert torch.bincount(material.train.labels).tolist() == [20] * 5
    assert torch.bincount(material.development.labels).tolist() == [6] * 5
    assert (material.input_shape, material.classes) == ((1, 6, 6), 5)


def test_the_classes_are_those_of_all_training_data(tmp_path):
    """Three of two hundred examples are of the last class; a small part of them may have none."""
    labels = np.concatenate([np.arange(200) % 2, [2, 2, 2]])
    np.savez(tmp_path / "rare.npz", x_train=np.ones((203, 4)), y_train=labels, x_test=np.ones((3, 4)), y_test=[0, 1, 2])
    job = make_job(small_job(tmp_path / "rare.npz", train_examples=4))
    assert load_comparison_data(job).classes == 3


def test_data_of_one_class_are_refused(tmp_path):
    np.savez(
        tmp_path / "one.npz", x_train=np.ones((20, 4)), y_train=np.zeros(20), x_test=np.ones((3, 4)), y_test=[0] * 3
    )
    with pytest.raises(LimbeckError, match="one class"):
        load_comparison_data(make_job(small_job(tmp_path / "one.npz")))


def test_a_teacher_that_is_always_right_is_not_refused_for_few_examples():
    few = ArrayDataset(torch.zeros(2, 1), torch.tensor([0, 1]))
    assert check_teacher(torch.eye(2), few, classes=2, loaded=False) == 1.0
    with pytest.raises(LimbeckError, match=r"50.0 %, and chance gives 50.0 %, up to 100.0 %"):
        check_teacher(torch.tensor([[1.0, 0.0]] * 2), few, classes=2, loaded=False)


def test_a_seed_is_an_order(material):
    def ids(seed):
        return [batch.id.tolist() for batch in train_loader(material.train, Budget(batch_size=32), seed=seed)]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    assert sorted(number for batch in ids(0) for number in batch) == sorted(material.train.ids.tolist())


def test_the_budget_shapes_the_stream(material):
    def first(**budget):
        return next(iter(train_loader(material.train, Budget(**budget), seed=0)))

    assert len(first(batch_size=16).labels) == 16
    assert len(first(batch_size=33).labels) == 33
    still, moved = first(), first(shift=1)
    assert still.id.tolist() == moved.id.tolist()
    whole = material.data.train.take(torch.arange(150))
    originals = dict(zip(whole.id.tolist(), whole.inputs, strict=True))
    assert all(torch.equal(row, originals[number]) for number, row in zip(still.id.tolist(), still.inputs, strict=True))
    shifted = [
        not torch.equal(row, originals[number]) for number, row in zip(moved.id.tolist(), moved.inputs, strict=True)
    ]
    assert sum(shifted) > 50


def test_the_budget_names_the_views_and_only_what_reads_no_labels_gets_mixtures(material):
    budget = Budget(batch_size=16, shift=1, augment=["flip"], mix="cut_mix")
    plain, mixing = (train_loader(material.train, budget, seed=3, mixed=mixed) for mixed in (False, True))
    assert plain.augment == mixing.augment == Chain(RandomShift(1, seed=3), Flip(seed=3))
    assert plain.mix is None
    assert mixing.mix == CutMix(seed=3)
    one, other = plain.peek(), mixing.peek()
    assert torch.equal(one.id, other.id)
    assert torch.equal(one.labels, other.extra["labels"])
    assert other.labels is None
    kept = train_loader(material.train, budget, seed=3, mixed=True, cache=CacheSettings(views=2))
    assert (kept.augment, kept.mix, kept.views) == (Chain(RandomShift(1), Flip()), CutMix(), 2)
    assert torch.equal(kept.peek().id, one.id)


def test_predictions_are_asked_in_order_whatever_the_batches(material):
    assert torch.cat([batch.id for batch in eval_batches(material.train)]).tolist() == material.train.ids.tolist()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 5))
    logits = ask(ModelTeacher(net), material.data.test, material)
    batch = material.data.test.take(torch.arange(60))
    with torch.no_grad():
        assert torch.allclose(logits, net(material.data.preprocess(batch)), atol=1e-6)


def test_the_budget_is_the_engines(material):
    job = make_job(small_job("digits", precision="bf16-mixed", fuse_output_layer=False))
    budget = Budget(epochs=7, accumulate=3, lr=0.5, warmup=4, decay="linear", clip=2, options={"weight_decay": 0.1})
    setting = make_train_config(job, budget, material, seed=5)
    assert (setting.epochs, setting.accumulate, setting.seed, setting.precision) == (7, 3, 5, "bf16-mixed")
    assert setting.fuse_output_layer is False
    made = setting.optimizer
    assert (made.name, made.lr, made.warmup, made.decay, made.clip) == ("adamw", 0.5, 4, "linear", 2)
    assert made.options == {"weight_decay": 0.1}


def logits_with(accuracy, count=1000, classes=10):
    labels = torch.arange(count) % classes
    right = torch.arange(count) < accuracy * count
    wrong = (labels + 1 + torch.arange(count) // classes % (classes - 1)) % classes  # no renaming would mend them
    answers = torch.where(right, labels, wrong)
    return torch.nn.functional.one_hot(answers, classes).float(), ArrayDataset(torch.zeros(count, 1), labels)


def test_a_teacher_at_chance_is_refused():
    logits, examples = logits_with(0.1)
    with pytest.raises(LimbeckError, match=r"1000 .* is 10\.0 %.*gives 10\.0 %.*normalization.*check=false"):
        check_teacher(logits, examples, classes=10, loaded=True)
    with pytest.raises(LimbeckError, match=r"teacher\.train\.epochs"):
        check_teacher(logits, examples, classes=10, loaded=False)


def test_a_teacher_above_chance_is_not():
    logits, examples = logits_with(0.15)
    assert check_teacher(logits, examples, classes=10, loaded=True) == pytest.approx(0.15)


def test_chance_is_wider_where_there_are_few_examples():
    # Two standard errors of ten guesses among two classes reach up to 0.82.
    logits, examples = logits_with(0.8, count=10, classes=2)
    with pytest.raises(LimbeckError, match="chance"):
        check_teacher(logits, examples, classes=2, loaded=True)


@pytest.mark.parametrize(("accuracy", "passes"), [(0.6, False), (0.76, False), (0.8, True)])
def test_a_teacher_is_set_beside_the_most_frequent_class(accuracy, passes):
    labels = (torch.arange(1000) >= 760).long()
    right = (torch.arange(1000) * 617) % 1000 < 1000 * accuracy
    logits = torch.nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()
    examples = ArrayDataset(torch.zeros(1000, 1), labels)
    if passes:
        assert check_teacher(logits, examples, classes=2, loaded=False) == pytest.approx(accuracy)
    else:
        with pytest.raises(LimbeckError, match=r"most frequent class gives 76\.0 %"):
            check_teacher(logits, examples, classes=2, loaded=False)


def test_a_teacher_that_names_one_class_always_is_refused():
    labels = (torch.arange(1000) >= 760).long()
    logits = torch.tensor([[1.0, 0.0]]).expand(1000, 2)
    with pytest.raises(LimbeckError, match=r"76\.0 %"):
        check_teacher(logits, ArrayDataset(torch.zeros(1000, 1), labels), classes=2, loaded=True)


def test_without_labels_a_teacher_is_not_checked():
    logits, _ = logits_with(0.1)
    bare = ArrayDataset(torch.zeros(1000, 1), torch.full((1000,), -100))
    assert np.isnan(check_teacher(logits, bare, classes=10, loaded=True))


def test_a_student_of_lazy_layers_is_whole_from_the_start_and_depends_on_its_seed_alone(tmp_path):
    lines = (
        "from torch import nn",
        "def build():",
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 5))",
        "def wrong():",
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.Linear(3, 5))",
    )
    (tmp_path / "mine.py").write_text("\n".join(lines))
    blob = blobs(tmp_path / "blobs.npz")
    job = make_job(small_job(blob, student=f"{tmp_path / 'mine.py'}:build", train_examples=100))
    material = load_comparison_data(job)
    one, same, other = (make_student(job, material, seed=seed).state_dict() for seed in (0, 0, 1))
    assert one["1.weight"].shape == (4, 36)
    assert torch.equal(one["1.weight"], same["1.weight"])
    assert not torch.equal(one["1.weight"], other["1.weight"])
    assert torch.equal(one["2.running_mean"], torch.zeros(4))
    with pytest.raises(LimbeckError, match="lazy layers, and its first call failed: mat1"):
        make_student(make_job(small_job(blob, student=f"{tmp_path / 'mine.py'}:wrong")), material, seed=0)
