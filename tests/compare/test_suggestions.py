"""Reasons and commands after a verdict that is no clear yes: each rule speaks where its evidence holds, else not."""

from __future__ import annotations

import json
import math
import shlex
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from limbeck.compare import run_job
from limbeck.compare.arms import Outcome
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.dry_run import describe_few_steps
from limbeck.compare.suggestions import JudgedRun, find_fall, suggest
from limbeck.job import make_job, read_job, read_suggestions, split_rerun, with_settings
from limbeck.report.page import report_page
from limbeck.report.run_data import read_run
from limbeck.tasks import LanguageModeling
from small_jobs import blobs, small_job

WORST, CLEAR = [-0.05, -0.02], [0.02, 0.05]


def outcome(arm, seed, correct, steps):
    return Outcome(arm, seed, {"accuracy": float(np.mean(correct))}, 0.9, steps=steps, scores=correct)


def judged(tmp_path, *, interval, teacher=0.95, alone=0.9, ours=0.9, smoothed=0.88, steps=5000, seeds=3, helps=None,
           against=None, by="seeds", **job):  # fmt: skip
    """A run with these accuracies; its arms differ by seed, or on many examples, as `by` says."""
    draw, out = np.random.default_rng(0), tmp_path / "my run"
    asked = make_job(small_job("digits", seeds=seeds, **{"student": {"model": "mlp", "hidden": [8]}, **job}))
    outcomes = []
    for arm in ("student alone", "distilled"):
        for seed in range(seeds):
            right = np.arange(400) < 360 + (0 if by == "examples" else int(draw.integers(-30, 30)))
            outcomes.append(outcome(arm, seed, np.roll(right, 40 * (arm == "distilled")) if by == "examples" else right,
                                    steps))  # fmt: skip
    means = {"teacher": teacher, "student alone": alone, "label smoothing": smoothed, "distilled": ours}
    rows = {arm: {"accuracy": {"mean": mean}, "nll": 0.5} for arm, mean in means.items()}
    verdict = {"arm": "distilled", "difference": ours - alone, "interval": interval, "comparisons": 1,
               "helps": helps if interval is None else interval[0] > 0, "against": against or {}}  # fmt: skip
    return JudgedRun(asked, rows, verdict, outcomes, out)


def curves(run, arm, loss, term=None):
    for seed in range(run.job.seeds):
        folder = run.out / "arms" / arm.replace(" ", "-") / f"seed-{seed}"
        folder.mkdir(parents=True)
        noise = np.random.default_rng(seed).normal(0, 0.02, 100)
        lines = ({"stage": "0", "step": 50 * i, "loss": loss(i / 100) * (1 + noise[i]),
                  "terms": {"cross_entropy": term or loss(i / 100)}} for i in range(100))  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def whys(run):
    return [one["why"] for one in suggest(run)]


def named(run, word):
    return next((one for one in suggest(run) if word in one["why"]), None)


def test_a_clear_yes_needs_nothing(tmp_path):
    assert suggest(judged(tmp_path, interval=CLEAR, ours=0.94, steps=10)) == []


def test_a_yes_that_label_smoothing_may_match_is_reported_as_regularization(tmp_path):
    equal = {"label smoothing": {"interval": [-0.01, 0.01]}}
    found = named(judged(tmp_path, interval=CLEAR, ours=0.93, smoothed=0.93, against=equal), "Label smoothing")
    assert found["type"].startswith("limbeck export ")
    assert "93.00 %" in found["evidence"]


def test_label_smoothing_that_is_better_does_not_seem_to_do_as_well(tmp_path):
    better = {"label smoothing": {"interval": [-0.05, -0.02], "difference": -0.03}}
    found = named(judged(tmp_path, interval=CLEAR, ours=0.93, smoothed=0.96, against=better), "Label smoothing")
    assert "better" in found["why"]
    assert "as well" not in found["why"]


def test_label_smoothing_that_does_not_help_explains_nothing(tmp_path):
    equal = {"label smoothing": {"interval": [-0.01, 0.01]}}
    assert named(judged(tmp_path, interval=WORST, ours=0.89, smoothed=0.89, against=equal), "Label smoothing") is None


@pytest.mark.parametrize(("smoothed", "explains"), [(5.9, False), (5.3, True)])
def test_label_smoothing_is_compared_in_the_direction_of_the_metric(tmp_path, smoothed, explains):
    """Of nats per token less is better; a control with more explains no gain."""
    equal = {"label smoothing": {"interval": [-0.7, 0.1]}}
    run = judged(tmp_path, interval=WORST, against=equal, by="examples")
    values = {"teacher": 5.2, "student alone": 5.5, "label smoothing": smoothed, "distilled": 5.6}
    rows = {arm: {"nll": {"mean": value}} for arm, value in values.items()}
    assert (named(run._replace(rows=rows, task=LanguageModeling()), "Label smoothing") is not None) is explains


@pytest.mark.parametrize(("teacher", "said"), [(0.89, True), (0.91, False)])
def test_a_teacher_that_is_no_better_comes_first(tmp_path, teacher, said):
    found = whys(judged(tmp_path, interval=WORST, teacher=teacher, steps=10))
    assert ("teacher is no better" in found[0]) is said


@pytest.mark.parametrize(("loss", "falls"), [(lambda t: 2.0 - t, True), (lambda t: 0.5 + math.exp(-12 * t), False)])
def test_a_loss_that_still_falls_asks_for_more_epochs(tmp_path, loss, falls):
    run = judged(tmp_path, interval=WORST)
    curves(run, "distilled", loss)
    found = named(run, "still learning")
    assert (found is not None) is falls
    if falls:
        assert "budget.epochs=6" in found["type"]


def test_noise_is_no_fall(tmp_path):
    alarms = 0
    for number in range(40):
        run = judged(tmp_path / str(number), interval=WORST, seeds=1)
        draw = np.random.default_rng(100 + number)
        curves(run, "distilled", lambda t, draw=draw: 1 + 0.2 * draw.normal())
        alarms += find_fall(run.out / "arms" / "distilled") is not None
    assert alarms <= 4


@pytest.mark.parametrize(
    ("steps", "temperature", "said"), [(300, 4.0, True), (300, 1.0, False), (504, 4.0, False), (50_000, 4.0, False)]
)
def test_few_steps_and_a_high_temperature(tmp_path, steps, temperature, said):
    run = judged(tmp_path, interval=WORST, steps=steps, method={"name": "hinton", "temperature": temperature})
    found = named(run, "high temperature")
    assert (found is not None) is said
    if said:
        assert "method.temperature=1" in found["type"]


@pytest.mark.parametrize(("steps", "falls", "said"), [(504, True, True), (504, False, False), (50_000, True, False)])
def test_from_500_steps_on_only_a_falling_loss_blames_the_temperature(tmp_path, steps, falls, said):
    run = judged(tmp_path, interval=WORST, steps=steps, method={"name": "hinton", "temperature": 4.0})
    curves(run, "distilled", lambda t: 2.0 - t if falls else 0.5 + math.exp(-12 * t))
    found = named(run, "high temperature")
    assert (found is not None) is said
    if said:
        assert "fell" in found["evidence"]


def test_a_measured_reason_comes_before_one_from_the_number_of_steps(tmp_path):
    better = {"label smoothing": {"interval": [-0.05, -0.02], "difference": -0.03}}
    run = judged(tmp_path, interval=WORST, ours=0.88, smoothed=0.92, against=better, steps=300,
                 method={"name": "hinton", "temperature": 4.0})  # fmt: skip
    found = whys(run)
    places = [next(i for i, why in enumerate(found) if word in why) for word in ("Label smoothing", "high temperature")]
    assert places == sorted(places)


@pytest.mark.parametrize(("by", "word"), [("seeds", "because of the seeds"), ("examples", "test data are few")])
def test_a_wide_interval_is_of_seeds_or_of_examples(tmp_path, by, word):
    found = named(judged(tmp_path, interval=[-0.03, 0.03], by=by), "interval is wide")
    assert word in found["why"]
    assert (found["type"] is not None and found["type"].endswith("--set seeds=6")) is (by == "seeds")


def test_more_seeds_are_no_advice_where_all_seeds_are_equal(tmp_path):
    """Trees that draw no random numbers: few examples that differ, so that rounding is most of the width."""
    run = judged(tmp_path, interval=[-0.03, 0.03], seeds=2)
    same = [one._replace(scores=np.arange(40) < (30 + (one.arm == "distilled"))) for one in run.outcomes]
    found = named(run._replace(outcomes=same), "interval is wide")
    assert "test data are few" in found["why"]
    assert found["type"] is None
    assert "2 seeds make 0" in found["evidence"]


def test_one_seed_is_reported_to_be_more(tmp_path):
    assert suggest(judged(tmp_path, interval=None, seeds=1))[0]["type"].endswith("--set seeds=5")


def test_what_was_learned_by_heart_is_seen(tmp_path):
    run = judged(tmp_path, interval=WORST)
    curves(run, "student alone", lambda t: 0.01, term=0.01)
    assert "by heart" in " ".join(whys(run))


def test_a_search_is_offered_where_there_was_none(tmp_path):
    assert "No search" in whys(judged(tmp_path, interval=WORST))[-1]
    assert "No search" not in " ".join(whys(judged(tmp_path, interval=WORST, search="runs/tune")))


def test_at_most_four_and_without_a_folder_no_command(tmp_path):
    run = judged(tmp_path, interval=[-0.03, 0.03], teacher=0.8, steps=10)
    assert len(suggest(run)) == 4
    assert all(one["type"] is None for one in suggest(run._replace(out=None)))


def test_it_stands_in_the_result_and_on_the_page_and_every_command_parses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = blobs(tmp_path / "d.npz", classes=3, train=90, test=40)
    job = small_job(data, seeds=2, arms=["teacher", "student alone", "distilled"], out="a run",
                    teacher={"model": "mlp", "hidden": [8], "check": False},
                    budget={"epochs": 1, "lr": 1e-6, "batch_size": 32})  # fmt: skip
    result = run_job(make_job(job))
    found = result["verdict"]["advice"]
    assert 2 <= len(found) <= 4
    assert json.loads((tmp_path / "a run" / "result.json").read_text())["verdict"]["advice"] == found
    page = report_page([read_run("a run")])
    assert all(one["why"] in page for one in found)
    shown = [(split_rerun(one["type"]) or (None, one["type"]))[1] for one in found if one["type"] is not None]
    assert all(text in unescape(page) for text in shown)
    assert page.count("--out NEW") == any("--out NEW" in str(one["type"]) for one in found)
    for one in found:
        if one["type"] is not None:
            check_command(shlex.split(one["type"]))


def check_command(words):
    assert words[0] == "limbeck"
    place, settings = Path(words[2]), [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    place = place / "job.yaml" if words[1] in ("resume", "export") else place
    assert place.is_file()
    make_job(with_settings(read_job(place), settings))


def test_commands_follow_a_run_that_was_moved():
    one = {"why": "w", "evidence": "e", "type": "limbeck distill 'a run/job.yaml' --set budget.epochs=3 --out NEW"}
    two = {"why": "w", "evidence": "e", "type": "limbeck resume 'a run' --set seeds=6"}
    found = read_suggestions({"run": "a run", "verdict": {"advice": [one, two, {"why": 3}, "x"]}}, Path("b"))
    assert [it["type"] for it in found] == [
        "limbeck distill b/job.yaml --set budget.epochs=3 --out NEW", "limbeck resume b --set seeds=6",
    ]  # fmt: skip
    assert read_suggestions({"run": "a run", "verdict": {}}, Path("b")) == []


def test_few_steps_are_reported_before_training(tmp_path):
    few = make_job(small_job(blobs(tmp_path / "d.npz"), seeds=1))
    messages = []
    run_job(few, callback=lambda event: messages.append(str(event)))
    note = next(n for n, text in enumerate(messages) if "budget.epochs=56" in text)  # 9 steps an epoch
    assert note < next(n for n, text in enumerate(messages) if "Training the teacher" in text)
    many = few.model_copy(update={"budget": few.budget.model_copy(update={"epochs": 60})})
    assert describe_few_steps(many, load_comparison_data(many)) is None


@pytest.mark.parametrize(("steps", "epochs"), [(40, 250), (499, 21)])
def test_the_advice_after_a_run_has_the_epochs_of_the_note_before_it(tmp_path, steps, epochs):
    budget = {"epochs": 20, "batch_size": 64}
    run = judged(tmp_path, interval=WORST, steps=steps, budget=budget)
    curves(run, "distilled", lambda t: 2.0 - t)
    for word in ("few steps to learn", "still learning"):
        assert f"--set budget.epochs={epochs} " in named(run, word)["type"]
    enough = judged(tmp_path, interval=WORST, steps=steps * epochs // 20, budget={**budget, "epochs": epochs})
    assert named(enough, "few steps to learn") is None


def test_a_method_with_several_stages_does_not_lower_the_epochs(tmp_path):
    run = judged(tmp_path, interval=WORST, steps=40, budget={"epochs": 20})
    two = [one._replace(steps=80) if one.arm == "distilled" else one for one in run.outcomes]
    assert "--set budget.epochs=250 " in named(run._replace(outcomes=two), "few steps to learn")["type"]
