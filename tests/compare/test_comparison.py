"""Several methods are compared fairly, and the right student is shipped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import limbeck
from job_events import collect_messages
from limbeck.compare import Outcome, experiment, run_job
from limbeck.compare.arm_recipes import mean_entropy, recipe_of, smoothing_of
from limbeck.compare.arms import run_arm
from limbeck.compare.result import verdict_of
from limbeck.errors import LimbeckError
from limbeck.export import export_run
from limbeck.job import job_text, make_job, read_job
from limbeck.metrics import load_tensors
from limbeck.models import read_config
from limbeck.report.run_data import read_run
from limbeck.report.summary import recommended_student as shipped_by
from limbeck.teachers import ModelTeacher, ShuffledTeacher
from small_jobs import blobs, contents, small_job

FOUR = ["teacher", "student alone", "label smoothing", "shuffled teacher"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of two methods with every control: its job and what came of it."""
    folder = tmp_path_factory.mktemp("compared")
    asked = small_job(
        blobs(folder / "blobs.npz"), methods=["hinton", {"name": "logit_matching"}], arms=[*FOUR, "distilled"],
        out=str(folder / "run"),
    )  # fmt: skip
    asked.pop("method", None)
    job = make_job(asked)
    return job, run_job(job), folder / "run"


# --- which arms there are -------------------------------------------------------------------------------------------


def test_each_method_is_an_arm_by_its_name(compared):
    _, result, run = compared
    assert list(result["arms"]) == [*FOUR, "hinton", "logit_matching"]
    roles = [arm["role"] for arm in result["arms"].values()]
    assert roles == ["teacher", "control", "control", "control", "method", "method"]
    assert result["arms"]["hinton"]["method"]["name"] == "hinton"
    assert sorted(folder.name for folder in (run / "arms").iterdir()) == sorted(
        name.replace(" ", "-") for name in result["arms"] if name != "teacher"
    )
    json.dumps(result, allow_nan=False)


def test_one_method_twice_has_two_names_and_a_job_survives_its_text(tmp_path):
    both = [{"name": "hinton", "temperature": 2.0}, {"name": "hinton", "temperature": 8.0}]
    job = make_job({**small_job("digits"), "methods": both})
    assert list(job.method_arms) == ["hinton", "hinton#2"]
    assert job.method_arms["hinton#2"].hyper == {"temperature": 8.0}
    (tmp_path / "job.yaml").write_text(job_text(job))
    assert make_job(read_job(tmp_path / "job.yaml")) == job


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ["hinton", "hintn"]}, "hintn"),
        ({"methods": ["hinton", "fitnets"]}, "--set methods.fitnets.hint="),
        ({"methods": ["logit_matching"], "method": "hinton"}, "Use one of the two keys"),
        ({"methods": ["mutual"], "arms": [*FOUR, "distilled"]}, "mutual .* leave out the arm 'shuffled teacher'"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, words):
    with pytest.raises(LimbeckError, match=words):
        make_job({**small_job("digits"), **changes})


# --- the controls ---------------------------------------------------------------------------------------------------


def test_labels_are_smoothed_until_they_are_as_soft_as_the_teacher(compared):
    _, result, run = compared
    found = result["arms"]["label smoothing"]["method"]
    assert found["name"] == "label_smoothing"
    # The teacher's answers to development data are about as soft as those to what the arms learn from.
    logits = load_tensors(run / "teacher" / "answers.safetensors")["development"]
    assert found["smoothing"] == pytest.approx(smoothing_of(mean_entropy(logits), 5), rel=0.5)
    assert 0 < found["smoothing"] < 1


def test_the_shuffled_arm_learns_by_the_first_method_from_displaced_answers():
    job = make_job({**small_job("digits"), "methods": ["logit_matching", "hinton"], "arms": [*FOUR, "distilled"]})
    teacher = ModelTeacher(torch.nn.Linear(2, 2))
    shuffled, straight = (recipe_of(job, arm, teacher) for arm in ("shuffled teacher", "logit_matching"))
    (one,), (other,) = shuffled.parts, straight.parts
    assert isinstance(one.teacher, ShuffledTeacher)
    assert one.teacher.inner is teacher
    assert other.teacher is teacher
    assert repr(one.objective) == repr(other.objective)


# --- what is left ---------------------------------------------------------------------------------------------------


def test_predictions_lie_beside_every_run_and_give_the_numbers_of_the_result(compared):
    job, result, run = compared
    answers = load_tensors(run / "teacher" / "answers.safetensors")
    assert len(answers["test"]) == len(answers["test_labels"]) == 60
    for name, arm in result["arms"].items():
        if arm["role"] == "teacher":
            shown = [answers]
        else:
            folder = run / "arms" / name.replace(" ", "-")
            shown = [load_tensors(folder / f"seed-{seed}" / "predictions.safetensors") for seed in range(job.seeds)]
        for part, wanted in (("test", arm["accuracy"]), ("development", arm.get("development"))):
            values = [float((one[part].argmax(1) == answers[f"{part}_labels"]).double().mean()) for one in shown]
            assert wanted is None or values == pytest.approx(wanted["values"])


def test_the_best_student_on_development_data_is_shipped(compared):
    _, result, run = compared
    shipped = result["shipped"]
    known = {
        (name, seed): value
        for name, arm in result["arms"].items() if arm["role"] == "method"
        for seed, value in enumerate(arm["development"]["values"])
    }  # fmt: skip
    means = {name: sum(v for (arm, _), v in known.items() if arm == name) for name in ("hinton", "logit_matching")}
    assert means[shipped["arm"]] == max(means.values())
    mine = {seed: value for (arm, seed), value in known.items() if arm == shipped["arm"]}
    assert mine[shipped["seed"]] == max(mine.values())
    assert "development" not in shipped, "the number that it was chosen by is too high"
    assert result["verdict"]["arm"] == shipped["arm"]
    assert read_config(run / "student")["metadata"]["arm"] == shipped["arm"]
    theirs = limbeck.load(run / "arms" / shipped["arm"] / f"seed-{shipped['seed']}" / "student").state_dict()
    ours = limbeck.load(run / "student").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(run.glob(".student*"))


def test_a_control_that_is_surely_better_is_what_is_shipped_everywhere(tmp_path, monkeypatch):
    """The folder, the result, the page's answer and the export name one arm, and the method's student is kept."""
    job = make_job(
        small_job(
            blobs(tmp_path / "blobs.npz"), arms=["student alone", "distilled"], seeds=3, out=str(tmp_path / "run")
        )
    )
    planted = {"student alone": 0.9, "distilled": 0.5}

    def won(*given):
        found = run_arm(*given)
        return found._replace(scores=np.arange(60) < 60 * planted[found.arm] + found.seed)

    monkeypatch.setattr(experiment, "run_arm", won)
    result = run_job(job)
    run = tmp_path / "run"
    assert result["verdict"]["interval"][1] < 0
    assert result["shipped"]["arm"] == read_config(run / "student")["metadata"]["arm"] == "student alone"
    assert "development" not in result["shipped"]
    assert read_config(run / "arms" / "distilled" / "seed-0" / "student")["metadata"]["arm"] == "distilled"
    assert shipped_by(read_run(run))[0] == "student alone"
    exported = export_run(run, to="folder")
    assert read_config(exported.path)["metadata"]["arm"] == "student alone"
    assert exported.notes == ()
    other = export_run(run, to="folder", arm="distilled")
    assert read_config(other.path)["metadata"]["arm"] == "distilled"


def test_a_method_may_ship_another_kind_of_model(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom limbeck import Loss, Recipe, Stage\nfrom limbeck.functional import cross_entropy\n\n\n"
        "def shipped(models):\n    return torch.nn.Sequential(models['student'], torch.nn.Identity())\n\n\n"
        "def own() -> Recipe:\n    return Recipe(Stage(Loss(cross_entropy)), ship=shipped)\n"
    )
    job = make_job(
        small_job(
            blobs(tmp_path / "blobs.npz"), method=f"{tmp_path / 'own.py'}:own", arms=["student alone", "distilled"],
            out=str(tmp_path / "run"), seeds=1,
        )
    )  # fmt: skip
    result = run_job(job)
    assert result["shipped"]["arm"] == "distilled"
    state = load_tensors(tmp_path / "run" / "student" / "model.safetensors")
    assert all(name.startswith("0.") for name in state), "the module that ship= names"
    assert read_config(tmp_path / "run" / "student")["model"]["class"].endswith("Sequential")


def test_a_folder_that_another_run_took_meanwhile_is_left_alone(tmp_path, monkeypatch):
    asked = small_job(blobs(tmp_path / "blobs.npz"), arms=["student alone", "distilled"], out=str(tmp_path / "run"))
    first, second = (make_job({**asked, "seeds": 1, "method": name}) for name in ("hinton", "logit_matching"))
    rehearse, before = experiment.dry_run, {}

    def slow(*given):
        monkeypatch.setattr(experiment, "dry_run", rehearse)
        run_job(first)
        before.update(contents(tmp_path / "run"))
        rehearse(*given)

    monkeypatch.setattr(experiment, "dry_run", slow)
    with pytest.raises(LimbeckError, match=r"another has taken it: give another --out"):
        run_job(second)
    assert contents(tmp_path / "run") == before


def test_processes_that_are_kept_follow_to_another_working_folder(tmp_path, monkeypatch):
    asked = small_job(
        "blobs.npz", teacher={"model": "mlp", "hidden": [8], "members": 2}, arms=["student alone", "distilled"],
        workers=2, seeds=1, out="run",
    )  # fmt: skip
    before = {}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        blobs(tmp_path / name / "blobs.npz")
        run_job(make_job(asked))
        for arm in ("student-alone", "distilled"):
            assert (tmp_path / name / "run" / "arms" / arm / "seed-0" / "predictions.safetensors").is_file()
        before = before or contents(tmp_path / "first")
    assert contents(tmp_path / "first") == before


# --- what is said ---------------------------------------------------------------------------------------------------


EXAMPLES = 10_000


def outcomes(arms):
    return [
        Outcome(arm, seed, {"accuracy": test}, development, scores=np.arange(EXAMPLES) < round(test * EXAMPLES))
        for arm, values in arms.items()
        for seed, (test, development) in enumerate(values)
    ]


def test_development_data_choose_the_method_and_test_data_judge_it():
    job = make_job({**small_job("digits"), "methods": ["hinton", "mutual"], "seeds": 3})
    alone = [(0.90, 0.9), (0.91, 0.9), (0.92, 0.9)]
    found = verdict_of(
        job,
        outcomes({
            "student alone": alone,
            "label smoothing": alone,
            "hinton": [(t + g, 0.95) for (t, _), g in zip(alone, (0.010, 0.011, 0.012), strict=True)],
            "mutual": [(t + 0.05, 0.91) for t, _ in alone],
        }),
        examples=10_000,
    )  # fmt: skip
    assert found["arm"] == "hinton"
    assert found["difference"] == pytest.approx(0.011)
    assert found["sentence"].startswith("Of 2 methods hinton is the best on development data. Distilling helped: +1.10")
    assert found["against"]["label smoothing"]["helps"] is True
    assert found["methods"]["mutual"]["difference"] == pytest.approx(0.05)
    assert found["methods"]["mutual"]["helps"] is True


def test_a_method_without_a_teacher_is_set_beside_no_shuffled_one():
    arms = ["student alone", "shuffled teacher", "distilled"]
    job = make_job({**small_job("digits"), "methods": ["hinton", "mutual"], "arms": arms})
    of = {name: [(0.9, 0.5)] * 2 for name in ("student alone", "shuffled teacher", "hinton")}
    for best, controls in ((0.6, []), (0.4, ["shuffled teacher"])):
        found = verdict_of(job, outcomes({**of, "mutual": [(0.9, best)] * 2}), examples=100)
        assert list(found["against"]) == controls


def test_without_labeled_development_data_nothing_is_reported_as_chosen_by_them():
    job = make_job({**small_job("digits"), "methods": ["hinton", "mutual"], "arms": ["student alone", "distilled"]})
    none = [(0.9, float("nan"))] * 2
    found = verdict_of(job, outcomes({"student alone": none, "hinton": none, "mutual": none}), examples=100)
    assert found["arm"] == "hinton"
    assert found["sentence"].startswith("No development example has a label: of 2 methods the first, hinton")
    one = outcomes({"student alone": none, "hinton": none, "mutual": [(0.9, 0.5)] * 2})
    assert verdict_of(job, one, examples=100)["arm"] == "mutual"


def test_the_control_as_the_method_gets_no_verdict():
    two = {"student alone": [(0.9, 0.9)] * 2, "distilled": [(0.9, 0.9)] * 2}
    job = make_job({**small_job("digits"), "method": "supervised", "arms": ["student alone", "distilled"]})
    verdict = verdict_of(job, outcomes(two), examples=100)
    assert verdict["difference"] is verdict["helps"] is None
    assert verdict["sentence"].startswith("No verdict")
    longer = make_job({**job.model_dump(mode="json"), "budgets": {"distilled": {"epochs": 9}}})
    assert verdict_of(longer, outcomes(two), examples=100)["difference"] == 0
    several = make_job({**small_job("digits"), "methods": ["supervised", "hinton"], "arms": job.arms})
    rows = outcomes({"student alone": two["distilled"], "supervised": two["distilled"], "hinton": [(0.8, 0.8)] * 2})
    verdict = verdict_of(several, rows, examples=100)
    assert verdict["difference"] is None
    assert verdict["methods"]["hinton"]["difference"] == pytest.approx(-0.1)


def test_one_method_does_not_seem_to_be_the_best_of_one():
    job = make_job({**small_job("digits"), "methods": ["hinton"], "arms": ["student alone", "distilled"]})
    found = verdict_of(job, outcomes({"student alone": [(0.9, 0.9)] * 2, "hinton": [(0.92, 0.9)] * 2}), examples=10_000)
    assert found["sentence"].startswith("Distilling helped: +2.00")


def test_a_method_that_trains_for_longer_is_not_praised_without_a_word(tmp_path):
    job = make_job(
        small_job(
            blobs(tmp_path / "blobs.npz"), arms=["student alone", "distilled"], seeds=1, out=str(tmp_path / "run"),
            teacher={"model": "cnn", "widths": [8]}, student={"model": "cnn", "widths": [4]},
            method={"name": "fitnets", "hint": "layer1", "guided": "layer1"},
        )
    )  # fmt: skip
    result = run_job(job)
    arms = result["arms"]
    assert arms["distilled"]["steps"] == 2 * arms["student alone"]["steps"]
    assert "It took 2.0 times as many optimizer steps" in result["verdict"]["sentence"]
    plain = run_job(job.model_copy(update={"method": make_job(small_job("digits")).method, "out": None}))
    assert plain["arms"]["distilled"]["steps"] == plain["arms"]["student alone"]["steps"] == 2 * -(-135 // 16)
    assert "optimizer steps" not in plain["verdict"]["sentence"]


def test_many_methods_are_not_each_given_a_chance_of_their_own():
    job = make_job({**small_job("digits"), "methods": ["hinton", *["logit_matching"] * 9], "seeds": 5})
    gains = dict.fromkeys(job.method_arms, (0.0,) * 5)
    gains["hinton"] = (0.010, 0.002, 0.006, 0.001, 0.009)  # p is 0.03 if nothing else were looked at
    found = verdict_of(
        job,
        outcomes({
            "student alone": [(0.9, 0.9)] * 5,
            "label smoothing": [(0.9, 0.9)] * 5,
            **{name: [(0.9 + gain, 0.9) for gain in some] for name, some in gains.items()},
        }),
        examples=10_000,
    )  # fmt: skip
    assert found["difference"] == pytest.approx(0.0056)
    assert found["helps"] is found["methods"]["hinton"]["helps"] is False
    assert found["p"] == found["methods"]["hinton"]["p"] > 0.05
    assert found["interval"] == found["methods"]["hinton"]["interval"]
    assert found["interval"][0] < 0, "what is said and what is drawn agree"
    assert "of 10 methods" in found["sentence"]
    alone = make_job({**small_job("digits"), "methods": ["hinton"], "seeds": 5})
    same = {"student alone": [(0.9, 0.9)] * 5, "label smoothing": [(0.9, 0.9)] * 5}
    few = outcomes({**same, "hinton": [(0.9 + gain, 0.9) for gain in gains["hinton"]]})
    assert verdict_of(alone, few, examples=EXAMPLES)["helps"] is True


def test_a_student_that_outputs_nan_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.out = nn.Linear(36, 5)\n"
        "    def forward(self, x):\n"
        "        return self.out(x.flatten(1)) * (1 if self.training else float('nan'))\n"
        "def build():\n    return Net()\n"
    )
    asked = small_job(blobs(tmp_path / "b.npz"), student=f"{tmp_path / 'mine.py'}:build", seeds=1, arms=["distilled"])
    said = []
    result = run_job(make_job(asked), callback=collect_messages(said))
    assert "distilled, seed 0: some outputs on test data are NaN; they count as wrong." in said
    assert result["arms"]["distilled"]["accuracy"]["mean"] == 0


def test_a_row_of_another_version_that_lacks_measures_is_taken_up(tmp_path):
    job = make_job(
        small_job(
            blobs(tmp_path / "blobs.npz"), arms=["student alone", "distilled"], seeds=1, out=str(tmp_path / "run")
        )
    )
    run_job(job)
    file = tmp_path / "run" / "metrics.jsonl"
    first, *rest = [json.loads(line) for line in file.read_text().splitlines()]
    first["measures"] = {"accuracy": first["measures"]["accuracy"]}
    lines = [{name: value for name, value in row.items() if name != "crc32"} for row in (first, *rest)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in lines))
    row = run_job(job, resume=True)["arms"][first["arm"]]
    assert set(row["measures"]) == {"accuracy"}
    assert row["nll"] is None


def test_controls_alone_are_trained_and_the_better_one_is_shipped(tmp_path):
    out = tmp_path / "run"
    asked = small_job(blobs(tmp_path / "blobs.npz"), arms=["teacher", "student alone", "label smoothing"], out=str(out))
    result = run_job(make_job(asked))
    assert {name: row["role"] for name, row in result["arms"].items()} == {
        "teacher": "teacher", "student alone": "control", "label smoothing": "control",
    }  # fmt: skip
    scores = {arm: result["arms"][arm]["development"]["mean"] for arm in ("student alone", "label smoothing")}
    assert result["shipped"]["arm"] == result["verdict"]["arm"] == max(scores, key=scores.get)
    assert result["verdict"]["difference"] is result["method"] is None
    assert "'distilled'" in result["verdict"]["sentence"]
    page = (out / "report.html").read_text()
    assert "None" in page
    assert "student alone compared with" not in page
    # A method can be added later, and the controls are kept.
    before = contents(out / "arms")
    more = run_job(make_job({**asked, "arms": [*asked["arms"], "distilled"]}), change=True)
    assert more["verdict"]["difference"] is not None
    after = contents(out / "arms")
    assert {name: after[name] for name in before} == before


def test_one_control_alone_ships_itself_and_may_be_exported(tmp_path):
    out = tmp_path / "run"
    job = make_job(small_job(blobs(tmp_path / "blobs.npz"), arms=["student alone"], seeds=1, out=str(out),
                             cache={"encoding": "float16"}, also=["cka"]))  # fmt: skip
    result = run_job(job)
    assert list(result["arms"]) == ["student alone"]
    assert read_config(out / "student")["metadata"]["arm"] == "student alone"
    assert export_run(out, to="folder").arm == "student alone"
