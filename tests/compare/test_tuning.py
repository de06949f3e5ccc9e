"""Settings are chosen on development data, with equal effort for every arm."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings

import numpy as np
import pytest

import limbeck as lb
from fuzzing import read_as_good
from killing import states_at_kills
from limbeck.compare import tuning
from limbeck.compare.tuning import read_ranges, trials, tune
from limbeck.compare.tuning.search_space import spaces_of, start_of, with_values
from limbeck.compare.tuning.trials import Trial, append_trial, best_of, load_trials, sobol_point
from limbeck.errors import DataError, LimbeckError
from limbeck.job import collect_settings, make_job, read_job, read_search
from limbeck.methods import method, names
from limbeck.methods.card import SearchRange
from limbeck.tasks import LanguageModeling
from small_jobs import blobs, small_job

ARMS = ["student alone", "label smoothing", "distilled"]


@pytest.fixture
def job(tmp_path):
    def made(name="search", **changes):
        data = tmp_path / "blobs.npz"
        if not data.exists():
            blobs(data)
        return make_job(small_job(data, out=str(tmp_path / name), **changes))

    return made


def trials_of(result):
    """All that was tried and found, but for the clock."""
    return {
        arm: [(t["number"], t["values"], t["accuracy"], t["nll"]) for t in row["trials"]]
        for arm, row in result["arms"].items()
    }


def test_every_arm_has_as_many_trials_and_begins_with_the_job_s_own_values(job):
    result = tune(job(), trials=3)
    assert list(result["arms"]) == ARMS
    for row in result["arms"].values():
        assert len(row["trials"]) == len(row["accuracies"]) == 3
        assert row["own"] == row["trials"][0]
        assert row["own"]["values"]["lr"] == 0.01
        assert row["own"]["values"]["epochs"] == 2
        assert row["best_so_far"] == list(np.maximum.accumulate(row["accuracies"]))
        assert row["best"]["accuracy"] == max(row["accuracies"]) >= row["own"]["accuracy"]
        assert row["epochs"] == sum(t["values"]["epochs"] for t in row["trials"])
        assert all(low <= t["values"][n] <= high for t in row["trials"] for n, (low, high) in row["searched"].items())
    assert set(result["arms"]["student alone"]["searched"]) == {"lr", "epochs"}
    assert set(result["arms"]["label smoothing"]["searched"]) == {"lr", "epochs", "smoothing"}
    assert set(result["arms"]["distilled"]["searched"]) == {"lr", "epochs", "temperature", "weight"}
    assert result["arms"]["distilled"]["own"]["values"]["temperature"] == 4.0
    assert result["development"]["examples"] == 15
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_test_data_are_never_read(job, tmp_path):
    """With other test pictures and labels every trial is the same, to the bit."""
    first = tune(job("one"), trials=2)
    held = dict(np.load(tmp_path / "blobs.npz"))
    held["x_test"] = 255 - held["x_test"]
    held["y_test"] = held["y_test"][::-1].copy()
    np.savez(tmp_path / "blobs.npz", **held)
    assert trials_of(tune(job("two"), trials=2)) == trials_of(first)


def test_what_it_writes_is_a_job_that_runs_as_it_is(job, tmp_path):
    result = tune(job(), trials=3)
    best = make_job({**read_job(tmp_path / "search" / "best.yaml"), "out": str(tmp_path / "run")})
    for arm, row in result["arms"].items():
        values = row["best"]["values"]
        assert best.budget_of(arm).lr == pytest.approx(values["lr"])
        assert best.budget_of(arm).epochs == values["epochs"]
    assert best.method.hyper["temperature"] == result["arms"]["distilled"]["best"]["values"]["temperature"]
    assert best.budgets["label smoothing"].smoothing == result["arms"]["label smoothing"]["best"]["values"]["smoothing"]
    found = lb.run_job(best)
    assert found["method"]["temperature"] == best.method.hyper["temperature"]
    assert found["arms"]["label smoothing"]["method"]["smoothing"] == best.budgets["label smoothing"].smoothing
    for arm in ARMS:
        setting = json.loads((tmp_path / "run" / "arms" / arm.replace(" ", "-") / "seed-0" / "run.json").read_text())
        assert setting["setting"]["epochs"] == best.budget_of(arm).epochs
        assert setting["setting"]["optimizer"]["lr"] == pytest.approx(best.budget_of(arm).lr)
    kept = read_search(tmp_path / "run")
    assert {arm: list(row.accuracies) for arm, row in kept.arms.items()} == {
        arm: row["accuracies"] for arm, row in result["arms"].items()
    }
    assert kept.list_changes(collect_settings(read_job(tmp_path / "run" / "job.yaml"), found["arms"])) == []
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Equal effort: 3 settings tried for every arm, the baselines too" in page
    assert "did not use all chosen settings" not in page
    assert not (tmp_path / "run" / "teacher" / "run.json").exists(), "the search's teacher teaches, not another one"


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(job, monkeypatch):
    whole = tune(job("whole"), trials=3)
    real, left = trials.run_trial, [5]

    def stopping(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(trials, "run_trial", stopping)
    with pytest.raises(KeyboardInterrupt):
        tune(job("stopped"), trials=3)
    monkeypatch.setattr(trials, "run_trial", real)
    again = tune(job("stopped"), trials=3)
    assert trials_of(again) == trials_of(whole)


def test_one_that_is_done_may_be_given_more_trials_and_runs_none_twice(job, monkeypatch):
    first = tune(job(), trials=1)
    real, ran = trials.run_trial, []
    monkeypatch.setattr(trials, "run_trial", lambda *a, **o: ran.append(a[1:3]) or real(*a, **o))
    more = tune(job(), trials=2)
    assert ran == [(arm, 1) for arm in ARMS]
    assert {arm: found[:1] for arm, found in trials_of(more).items()} == trials_of(first)


def test_several_methods_are_tuned_each_with_its_own(job):
    found = tune(job(methods=["hinton", "logit_matching"]), trials=1, ranges={"epochs": (1.0, 1.0)})
    assert list(found["arms"]) == ["student alone", "label smoothing", "hinton", "logit_matching"]
    best = make_job(read_job(found["best"]))
    assert list(best.method_arms) == ["hinton", "logit_matching"]
    assert best.method_arms["hinton"].hyper == {"temperature": 4.0, "weight": 0.9}
    assert best.method_arms["logit_matching"].hyper == {}


def test_side_by_side_is_one_after_another(job):
    """Arms in processes of their own try the same settings and find the same, with a store of answers too."""
    alone = tune(job("alone"), trials=2)
    beside = tune(job("beside", workers=2, cache={"encoding": "float32"}), trials=2)
    assert {a: [t[1] for t in found] for a, found in trials_of(beside).items()} == {
        a: [t[1] for t in found] for a, found in trials_of(alone).items()
    }
    best = make_job(read_job(beside["best"]))
    assert best.cache.folder.endswith("beside/answers")


def test_a_trial_that_diverges_is_the_worst_and_ends_nothing(job):
    teacher = {"model": "mlp", "hidden": [32], "train": {"epochs": 2, "lr": 0.01, "batch_size": 16}}
    budget = {"epochs": 1, "lr": 0.01, "batch_size": 16, "optimizer": "sgd"}
    asked = job(arms=["student alone", "distilled"], teacher=teacher, budget=budget)
    found = tune(asked, trials=2, ranges={"lr": SearchRange(0.01, 1e38, log=True)})
    for row in found["arms"].values():
        assert row["accuracies"][1] == 0
        assert row["diverged"] == 1
        assert row["best"]["number"] == 0


def test_a_value_of_the_job_outside_its_range_widens_it(tmp_path):
    job = make_job(small_job(blobs(tmp_path / "b.npz"), method={"name": "hinton", "temperature": 40}))
    assert spaces_of(job, {}, smoothing=0.1)["distilled"]["temperature"] == SearchRange(1.0, 40, log=True)


def test_a_range_that_is_given_is_kept_and_begins_nearest_to_the_job(job):
    found = tune(job(), trials=2, ranges={"epochs": (1.0, 1.0)})
    for row in found["arms"].values():
        assert [t["values"]["epochs"] for t in row["trials"]] == [1, 1]
        assert [t["epochs"] for t in row["trials"]] == [1, 1]


def test_epochs_that_the_method_sets_itself_are_not_searched(tmp_path):
    job = make_job(small_job(blobs(tmp_path / "b.npz"), method={"name": "hinton", "epochs": 1}))
    spaces = spaces_of(job, {}, smoothing=0.1)
    assert "epochs" not in spaces["distilled"]
    assert "epochs" in spaces["student alone"]


def test_values_go_to_their_place_in_the_job(tmp_path):
    job = make_job(small_job(blobs(tmp_path / "b.npz"), arms=["student alone", "shuffled teacher", "distilled"]))
    changed = with_values(job, "distilled", {"lr": 0.5, "epochs": 7, "temperature": 3.0})
    assert changed.budget_of("distilled").epochs == changed.budget_of("shuffled teacher").epochs == 7
    assert changed.budget_of("student alone") == job.budget
    assert changed.method.hyper == {"temperature": 3.0}
    assert start_of(changed, "distilled", 0.1)["lr"] == 0.5


def test_the_next_values_depend_on_the_trials_alone():
    space = {"lr": SearchRange(1e-4, 1.0, log=True), "epochs": SearchRange(1, 9, log=True, whole=True)}
    done = [Trial(i, {"lr": 0.5**i, "epochs": i % 9 + 1}, 0.5 + 0.01 * i, 1.0, 1.0, i) for i in range(12)]
    for so_far in (done[:3], done):
        one, two = (trials.propose("distilled", space, {"lr": 0.1, "epochs": 3}, so_far) for _ in range(2))
        assert one == two
        assert 1 <= one["epochs"] <= 9
        assert isinstance(one["epochs"], int)
    assert trials.propose("distilled", space, {"lr": 0.1, "epochs": 3}, []) == {"lr": 0.1, "epochs": 3}


def test_few_trials_see_all_of_a_range_and_every_arm_the_same_learning_rates():
    lr, weight = SearchRange(1e-5, 1e-1, log=True), SearchRange(0.0, 1.0)
    own, other = {"weight": weight, "lr": lr}, {"lr": lr, "epochs": SearchRange(2, 9, whole=True)}
    points = [sobol_point(own, number) for number in range(8)]
    assert sorted(int(2 * (math.log10(p["lr"]) + 5)) for p in points) == list(range(8))
    assert sorted(int(8 * p["weight"]) for p in points) == list(range(8))
    assert [p["lr"] for p in points] == [sobol_point(other, number)["lr"] for number in range(8)]
    assert sorted(sobol_point(other, number)["epochs"] for number in range(8)) == list(range(2, 10))
    assert sobol_point({"lr": SearchRange(0.1, 0.1, log=True)}, 3) == {"lr": pytest.approx(0.1)}


def test_a_search_finds_a_planted_best():
    """A hill over the learning rate: thirty trials come near its top, from a start far away."""
    space, done = {"lr": SearchRange(1e-5, 1.0, log=True)}, []
    for number in range(30):
        values = trials.propose("student alone", space, {"lr": 1e-5}, done)
        height = -((np.log10(values["lr"]) + 2.5) ** 2)
        done.append(Trial(number, values, float(height), 0.0, 0.0, 1))
    assert abs(np.log10(best_of(done).values["lr"]) + 2.5) < 0.3


def test_where_less_is_better_the_least_wins_and_a_run_that_diverged_does_not():
    score, space, done = LanguageModeling.primary, {"lr": SearchRange(1e-5, 1.0, log=True)}, []
    for number in range(30):
        values = trials.propose("student alone", space, {"lr": 1e-5}, done, score=score)
        depth = 2.0 + (np.log10(values["lr"]) + 2.5) ** 2
        done.append(Trial(number, values, float(depth), 0.0, 0.0, 1))
    assert abs(np.log10(best_of(done, score).values["lr"]) + 2.5) < 0.3
    failed = Trial(30, {}, score.diverged, None, 0.0, 1)
    assert best_of([failed, *done], score) == best_of(done, score)


def test_of_equal_accuracies_the_lower_nll_wins_then_the_earlier():
    three = [Trial(0, {}, 0.5, 1.0, 1.0, 1), Trial(1, {}, 0.5, 0.4, 1.0, 1), Trial(2, {}, 0.5, 0.4, 1.0, 1)]
    assert best_of(three).number == 1


def test_a_line_that_a_kill_cut_short_does_not_count(tmp_path):
    for number in range(3):
        append_trial(tmp_path, Trial(number, {"lr": 0.1}, 0.5, 1.0, 1.0, 2))
    path = tmp_path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [trial.number for trial in load_trials(tmp_path)] == [0, 1]
    append_trial(tmp_path, Trial(2, {"lr": 0.1}, 0.5, 1.0, 1.0, 2))
    assert [trial.number for trial in load_trials(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("name", names())
def test_ranges_are_of_the_method_s_own_numbers_and_hold_their_defaults(name):
    found = method(name)
    for parameter, declared in found.card.ranges.items():
        assert declared.low <= found.parameters[parameter].default <= declared.high


@pytest.mark.parametrize(
    ("trials", "changes", "ranges", "said"),
    [
        (0, {}, {}, "at least one setting for each arm; got trials=0"),
        (1, {}, {"temprature": (1.0, 2.0)}, "Unknown parameter to tune 'temprature'. Did you mean 'temperature'"),
        (1, {}, {"temperature": (3.0, 2.0)}, "smallest to its largest value; got 3.0..2.0"),
        (1, {}, {"lr": (0.0, 1.0)}, r"above 0; got 0.0..1.0"),
        (1, {}, {"epochs": (1.0, 2.5)}, "epochs: A range of whole numbers"),
        (1, {}, {"weight": (0.0, 2.0)}, "weight is a number from 0 to 1; got 2.0"),
        (1, {"development": 0.005}, {}, "1 of these has a label"),
        (1, {"devices": 2}, {}, "one device; got devices=2"),
        (1, {"track": "tensorbord"}, {}, "Did you mean 'tensorboard'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_paid_for(job, tmp_path, trials, changes, ranges, said):
    with pytest.raises(LimbeckError) as error:
        tune(job(**changes), trials=trials, ranges=ranges)
    assert said in str(error.value)
    assert not (tmp_path / "search").exists()


def test_a_folder_of_another_search_is_refused_and_left_alone(job, tmp_path):
    tune(job(), trials=1)
    with pytest.raises(LimbeckError, match="search of another job: its budget is"):
        tune(job(budget={"epochs": 1, "lr": 0.01, "batch_size": 16}), trials=1)
    with pytest.raises(LimbeckError, match=r"lr of student alone runs from .* and in this one it runs"):
        tune(job(), trials=2, ranges={"lr": (1e-3, 1.0)})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(LimbeckError, match="already holds something that is no search"):
        tune(job("full"), trials=1)
    with pytest.raises(LimbeckError, match="is a file"):
        tune(job("full/notes.txt"), trials=1)


def test_without_optuna_it_explains_what_to_type(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[tune\]'"):
        tune(job(), trials=1)


def test_without_a_folder_it_explains_what_to_type(job):
    with pytest.raises(LimbeckError, match="--out"):
        tune(job().model_copy(update={"out": None}), trials=1)


@pytest.mark.parametrize("text", ["lr", "lr=", "=1..2", "lr=a..b", "lr=1..inf", "lr=nan"])
def test_a_range_that_cannot_be_read(text):
    with pytest.raises(LimbeckError, match=r"--range takes NAME=LOW\.\.HIGH"):
        read_ranges([text])


def test_optuna_s_own_voice_is_left_as_it_was():
    optuna = trials.import_optuna()
    before = optuna.logging.get_verbosity()
    done = [Trial(i, {"lr": 0.5}, 1.0, 0.0, 1.0, 1) for i in range(10)]
    trials.propose("a", {"lr": SearchRange(0.1, 1.0)}, {"lr": 0.5}, done)
    assert optuna.logging.get_verbosity() == before
    assert tuning.tune is tune


def test_a_search_whose_teacher_is_damaged_reports_it_and_trains_it_again(job, tmp_path):
    tune(job(), trials=1)
    best = (tmp_path / "search" / "best.yaml").read_text()
    (tmp_path / "search" / "teacher" / "student" / "config.json").unlink()
    with pytest.raises(DataError, match="Remove it"):
        tune(job(), trials=1)
    shutil.rmtree(tmp_path / "search" / "teacher")
    tune(job(), trials=1)
    assert (tmp_path / "search" / "best.yaml").read_text() == best


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")
def test_no_harmed_file_of_a_search_is_read_as_good(job, tmp_path):
    """What is asked for again comes out the same, or is refused."""
    asked = job()
    tune(asked, trials=2)

    def look():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = tune(asked, trials=2)
        best = (tmp_path / "search" / "best.yaml").read_text()
        return [trials_of(found), found["teacher"]["accuracy"], best], [str(one.message) for one in said]

    assert read_as_good(tmp_path / "search", "**/*", look, 80) == []


@pytest.mark.soak
def test_a_search_killed_at_any_write_goes_on_as_if_it_had_not_been(job, tmp_path):
    asked, out, whole = job(), tmp_path / "search", []
    states = states_at_kills(out, lambda: whole.append(tune(asked, trials=1)), tmp_path / "states")
    best = (out / "best.yaml").read_text()
    assert len(states) > 40
    for state in states:
        shutil.rmtree(out)
        shutil.copytree(state, out)
        again = tune(asked, trials=1)
        assert trials_of(again) == trials_of(whole[0]), state
        assert (out / "best.yaml").read_text() == best, state
        assert not [one for one in out.rglob("*") if "partial" in one.name or one.name == ".lock"], state
    print(f"tune: {len(states)} kills, all go on to the same")
