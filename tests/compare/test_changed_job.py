"""A job that is taken up again with other settings: what is kept, what is done again, what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import limbeck as lb
from limbeck.compare.changed_job import changed_job
from limbeck.errors import LimbeckError
from limbeck.events import Message, StepsTaken
from limbeck.job import make_job, read_job, with_settings
from small_jobs import accuracies, blobs, contents, small_job, weights

ARMS = ["teacher", "student alone", "distilled"]


class StoppedError(Exception):
    pass


def settings(folder, *changes):
    return make_job({**with_settings(dict(read_job(folder / "job.yaml")), changes), "out": str(folder)})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A job whose first arm is done, whose second was begun, and which then failed."""
    folder = tmp_path_factory.mktemp("stopped")
    asked = small_job(blobs(folder / "blobs.npz"), seeds=1, arms=ARMS, out=str(folder / "run"))

    def fail(event):
        if isinstance(event, StepsTaken) and event.run.startswith("distilled"):
            raise StoppedError

    with pytest.raises(StoppedError):
        lb.run_job(make_job(asked), callback=fail)
    return folder / "run", asked


@pytest.fixture
def folder(stopped, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(stopped[0], tmp_path / "run")


def fresh(stopped, tmp_path, *changes):
    return lb.run_job(make_job({**with_settings(dict(stopped[1]), changes), "out": str(tmp_path / "fresh")}))


def test_what_does_not_depend_on_a_setting_is_kept_and_the_rest_is_as_in_a_new_run(stopped, folder, tmp_path):
    before = {name: contents(folder / name) for name in ("teacher", "arms/student-alone")}
    events = []
    result = lb.run_job(settings(folder, "method.temperature=2.0"), change=True, callback=events.append)
    assert {name: contents(folder / name) for name in before} == before
    texts = [event.text for event in events if isinstance(event, Message)]
    assert any("method.temperature" in text and "distilled" in text for text in texts)
    assert all(event.run.startswith("distilled") for event in events if isinstance(event, StepsTaken))
    new = fresh(stopped, tmp_path, "method.temperature=2.0")
    assert accuracies(result) == accuracies(new)
    assert weights(folder / "student") == weights(tmp_path / "fresh" / "student")
    assert read_job(folder / "job.yaml")["method"]["temperature"] == 2.0


def test_a_budget_is_changed_for_the_arms_and_the_trained_teacher_keeps_its_own(stopped, folder, tmp_path):
    before = contents(folder / "teacher")
    result = lb.run_job(settings(folder, "budget.epochs=1", "student.hidden=[4]"), change=True)
    assert contents(folder / "teacher") == before
    kept = {f"teacher.train.{name}={value}" for name, value in stopped[1]["budget"].items()}
    new = fresh(stopped, tmp_path, "budget.epochs=1", "student.hidden=[4]", *sorted(kept))
    assert accuracies(result) == accuracies(new)
    assert weights(folder / "student") == weights(tmp_path / "fresh" / "student")
    assert weights(folder / "arms/student-alone/seed-0/student") == weights(
        tmp_path / "fresh/arms/student-alone/seed-0/student"
    )


def test_a_finished_job_gets_more_seeds_and_no_other_settings(folder):
    first = lb.run_job(settings(folder), resume=True)
    with pytest.raises(LimbeckError, match=r"finished and judged.*method\.temperature"):
        lb.run_job(settings(folder, "method.temperature=2.0"), change=True)
    assert (folder / "result.json").is_file()
    more = lb.run_job(settings(folder, "seeds=2"), change=True)
    assert {arm: values[:1] for arm, values in accuracies(more).items()} == accuracies(first)
    fewer = lb.run_job(settings(folder, "seeds=1"), change=True)
    assert accuracies(fewer) == accuracies(first)


def test_a_finished_job_whose_teacher_is_damaged_keeps_its_result(folder):
    lb.run_job(settings(folder), resume=True)
    checkpoint = folder / "teacher" / "checkpoint.safetensors"
    damaged = bytearray(checkpoint.read_bytes())
    damaged[-1] ^= 1
    checkpoint.write_bytes(damaged)
    before = contents(folder)
    with pytest.raises(LimbeckError, match=r"checkpoint\.safetensors is damaged"):
        lb.run_job(settings(folder, "seeds=2"), change=True)
    assert {name: one for name, one in contents(folder).items() if name != ".lock"} == {
        name: one for name, one in before.items() if name != ".lock"
    }


@pytest.mark.parametrize(
    "change", ["teacher.hidden=[16]", "precision=bf16-mixed", "development=0.2", "teacher.train.epochs=3"]
)
def test_another_teacher_than_the_trained_one_is_refused_and_nothing_is_touched(folder, change):
    before = contents(folder)
    with pytest.raises(LimbeckError, match=change.partition("=")[0].removesuffix(".epochs")):
        lb.run_job(settings(folder, change), change=True)
    assert contents(folder) == before


def test_a_setting_that_makes_no_sense_touches_nothing(folder):
    before = contents(folder)
    with pytest.raises(LimbeckError):
        lb.run_job(settings(folder, "method.temperature=-1"), change=True)
    assert {name: one for name, one in contents(folder).items() if name != ".lock"} == {
        name: one for name, one in before.items() if name != ".lock"
    }


def test_what_each_setting_is_detected_to_change(folder):
    def again(*changes):
        return changed_job(settings(folder, *changes))[1].again

    assert again("seeds=4", "workers=2", "also=[cka]", "teacher.check=false") == ()
    assert again("methods=[hinton, logit_matching]") == ("distilled",)
    assert again("budgets.distilled.lr=0.1") == ("distilled",)
    assert again("budgets={student alone: {lr: 0.1}}") == ("student alone",)
    assert again("data.num_workers=2") == ()  # how many threads decode changes no bit
    assert again("budget.drop_last=true") == ("student alone", "distilled")
    (folder / "teacher" / "answers.safetensors").unlink()  # as if its training were not over
    assert changed_job(settings(folder, "teacher.train.lr=0.1"))[1].teacher
    with pytest.raises(LimbeckError, match="holds another job"):
        lb.run_job(settings(folder, "method.temperature=2.0"), resume=True)


def test_groups_can_be_added_to_a_finished_job(tmp_path):
    draw = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'xy'[int(a > 0)]},{'pq'[i % 2]}" for i, (a, b) in enumerate(draw.normal(size=(200, 2)))]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,y,half", *rows]) + "\n")
    data = {"name": str(tmp_path / "rows.csv"), "target": "y", "ignore": ["half"]}
    job = small_job(data, arms=["teacher", "student alone", "distilled"], seeds=1, out=str(tmp_path / "run"))
    before = lb.run_job(make_job({**job, "cache": {"encoding": "float16"}}))
    assert "groups" not in before
    files = contents(tmp_path / "run" / "arms")
    after = lb.run_job(settings(tmp_path / "run", "data.groups=half", "also=[groups]"), change=True)
    assert set(after["groups"]["examples"]) == {"p", "q"}
    assert accuracies(after) == accuracies(before)
    assert contents(tmp_path / "run" / "arms") == files
    with pytest.raises(LimbeckError, match=r"data\.ignore"):
        lb.run_job(settings(tmp_path / "run", "data.ignore=[b]"), change=True)
