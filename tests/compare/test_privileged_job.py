"""The privileged teacher of a job gets its own inputs, or is refused before training."""

from __future__ import annotations

import numpy as np
import pytest

import limbeck as lb
from limbeck.data import SelectColumn
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.job import make_job
from small_jobs import contents, small_job


@pytest.fixture
def data(tmp_path):
    """Inputs that tell nothing, and a column beside them that tells all."""
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 240), ("test", 90)):
        labels = np.arange(count) % 3
        arrays |= {
            f"x_{part}": draw.normal(size=(count, 6)).astype(np.float32),
            f"y_{part}": labels,
            f"privileged_{part}": (3 * np.eye(6)[labels] + draw.normal(0, 0.3, (count, 6))).astype(np.float32),
            f"narrow_{part}": np.eye(3)[labels].astype(np.float32),
        }
    np.savez(tmp_path / "rows.npz", **arrays)
    return tmp_path / "rows.npz"


def saved(data, column, width):
    """A teacher that learnt from the column, and says so."""
    train = lb.load_data(data).train
    teacher = lb.build("mlp", inputs=width, classes=3, hidden=[16], seed=0)
    stage = lb.Stage(lb.Loss(cross_entropy), optimizer=lb.Optimizer(lr=0.02), epochs=15)
    lb.distill(teacher, stage, train, preprocess=SelectColumn(column)).finish()
    folder = data.parent / f"teacher-{column}"
    return str(lb.save(teacher, folder, metadata={"preprocess": SelectColumn(column).to_dict()}))


def job(data, teacher, **method):
    out = str(data.parent / "run")
    given = {"name": "privileged", **method}
    return make_job(small_job(data, teacher=teacher, method=given, seeds=1, arms=["teacher", "distilled"], out=out))


def test_a_teacher_that_would_be_trained_on_the_student_s_inputs_is_refused(data):
    before = contents(data.parent)
    with pytest.raises(
        LimbeckError, match=r"trains its teacher.*SelectColumn.*lb\.save\(.*'preprocess': \{'preprocess'"
    ):
        lb.run_job(job(data, {"model": "mlp", "hidden": [16]}))
    assert contents(data.parent) == before


def test_one_that_explains_what_it_reads_is_asked_and_judged_on_that(data):
    result = lb.run_job(job(data, saved(data, "privileged", 6)))
    assert result["arms"]["teacher"]["measures"]["accuracy"]["mean"] > 0.9
    assert result["teacher_development_accuracy"] > 0.9


def test_one_whose_inputs_have_another_shape_is_refused_before_anything_is_paid_for(data):
    with pytest.raises(LimbeckError, match=r"fails on inputs of shape 6.*inputs of its own.*use Python"):
        lb.run_job(job(data, saved(data, "narrow", 3), preprocess="narrow"))
    assert not (data.parent / "run").exists()
