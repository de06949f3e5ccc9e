"""`limbeck distill`: runs a job and prints its result."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import limbeck
from limbeck.checksums import read_json
from limbeck.data import load_data, preprocess_from_dict
from limbeck.job import make_job, read_job
from limbeck.models import read_config
from small_jobs import ARMS, accuracies, blobs, environment, job_file, small_job, typed, typed_here, weights


def test_one_object_comes_on_standard_output_and_all_else_on_the_other(done):
    _, ended = done
    assert ended.code == 0
    assert list(ended.result["arms"]) == list(ARMS)
    assert "Training the teacher" in ended.err


def test_every_arm_has_what_a_program_reads(done):
    arms = done[1].result["arms"]
    for name, arm in arms.items():
        accuracy = arm["accuracy"]
        assert len(accuracy["values"]) == (1 if name == "teacher" else 2)
        assert accuracy["mean"] == pytest.approx(np.mean(accuracy["values"]))
        assert accuracy["std"] == pytest.approx(np.std(accuracy["values"], ddof=1) if name != "teacher" else 0)
        assert 0 <= arm["agreement"] <= 1
        assert arm["nll"] > 0
        assert arm["milliseconds"] > 0
    assert arms["teacher"]["agreement"] == 1
    assert arms["teacher"]["parameters"] == 36 * 32 + 32 + 32 * 5 + 5
    assert {arms[name]["parameters"] for name in ARMS[1:]} == {36 * 6 + 6 + 6 * 5 + 5}


def test_the_verdict_is_the_paired_difference_of_the_values_shown(done):
    result = done[1].result
    verdict, seen = result["verdict"], accuracies(result)
    pairs = np.subtract(seen["distilled"], seen["student alone"])
    assert verdict["difference"] == pytest.approx(pairs.mean())
    assert len(set(map(tuple, list(seen.values())[1:]))) == 3, "arms that differ"
    low, high = verdict["interval"]
    assert low <= verdict["difference"] <= high
    assert verdict["helps"] is bool(low > 0)
    assert f"{100 * pairs.mean():+.2f} points" in verdict["sentence"]
    assert result["seconds"] > 0
    assert result["run"] == "run"


def test_the_folder_holds_job_metrics_result_and_student(done):
    folder, ended = done
    run = folder / "run"
    assert read_json(run / "result.json") == ended.result
    assert (run / "result.svg").read_text().startswith("<svg")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["seed"]) for line in lines] == [(arm, seed) for seed in (0, 1) for arm in ARMS[1:]]
    assert yaml.safe_load((run / "job.yaml").read_text())["budget"]["epochs"] == 2


def scored(student, data):
    """A student's test accuracy, by its own word on how it reads."""
    preprocess = preprocess_from_dict(read_config(student)["metadata"]["preprocess"])
    batch = data.test.take(torch.arange(len(data.test)))
    with torch.no_grad():
        return (limbeck.load(student)(preprocess(batch)).argmax(1) == batch.labels).double().mean().item()


def test_the_student_opens_in_one_line_and_predicts_what_the_result_says(done):
    folder, ended = done
    student = folder / "run" / "student"
    found = scored(student, load_data(folder / "blobs.npz"))
    assert found == ended.result["arms"]["distilled"]["accuracy"]["values"][0]
    told = read_config(student)["metadata"]
    assert told["class_names"] == [f"class {letter}" for letter in "abcde"]
    assert told["input_shape"] == [1, 6, 6]
    assert (told["arm"], told["method"]) == ("distilled", "hinton")


def test_what_a_method_ships_is_what_is_judged(here, limbeck, job):
    """The last generation, not the first."""
    born = ["--method", "born_again", "--set", "method.generations=2", "--set", "arms=[distilled]"]
    ended = limbeck("distill", job, *born, "--seeds", 2, "--out", "run", "--json")
    data = load_data(here / "blobs.npz")
    values = ended.result["arms"]["distilled"]["accuracy"]["values"]
    assert values == [scored(path, data) for path in (here / "run/student", here / "run/arms/distilled/seed-1/student")]
    first = limbeck("distill", job, *born, "--set", "method.generations=1", "--out", "first", "--json")
    assert first.result["arms"]["distilled"]["accuracy"]["values"] != values


def test_flags_a_printed_job_and_python_are_the_same_job(done, here, limbeck):
    folder, ended = done
    flags = ["--teacher", "mlp", "--student", "mlp", "--data", folder / "blobs.npz", "--seeds", "2"]
    for setting in ("teacher.hidden=[32]", "student.hidden=[6]", "budget.epochs=2", "budget.lr=1e-2"):
        flags += ["--set", setting]
    flags += ["--set", "budget.batch_size=16"]
    printed = limbeck("distill", *flags, "--print-job")
    assert printed.code == 0
    (here / "printed.yaml").write_text(printed.out)
    assert not (here / "runs").exists()
    by_flags = limbeck("distill", *flags, "--out", "flags", "--json").result
    assert accuracies(by_flags) == accuracies(ended.result)
    assert weights(here / "flags" / "student") == weights(folder / "run" / "student")
    by_file, by_python = read_job("printed.yaml"), small_job(folder / "blobs.npz")
    assert without_folder(by_file) == without_folder(by_python) == without_folder(read_job(folder / "job.yaml"))


def without_folder(job):
    return make_job({**job, "out": None})


@pytest.mark.soak  # test_interrupted.py holds it too, with Ctrl-C in between
def test_two_processes_side_by_side_give_the_same_numbers(done):
    folder, ended = done
    beside = typed("distill", "job.yaml", "--set", "workers=2", "--out", "beside", "--json", cwd=folder)
    assert beside.code == 0, beside.err
    assert accuracies(beside.result) == accuracies(ended.result)
    assert weights(folder / "beside" / "student") == weights(folder / "run" / "student")


def test_an_ensemble_of_digits_teaches_with_shifted_pictures(limbeck):
    job = small_job(
        "digits",
        teacher={"model": "mlp", "hidden": [24], "members": 2, "train": {"epochs": 4, "lr": 0.01, "shift": 1}},
        train_examples=120,
        seeds=1,
    )
    ended = limbeck("distill", job_file_here(job), "--json")
    assert ended.code == 0, ended.err
    found = ended.result["data"]
    summary = found.pop("summary")
    assert [(part["name"], part["rows"]) for part in summary["parts"]] == [("train", 797), ("test", 1000)]
    assert all(0.1 <= share < 0.2 for share in found.pop("most_frequent").values())
    assert found == {
        "name": "digits", "train": 120, "development": 80, "test": 1000, "classes": 10,
        "class_names": [str(digit) for digit in range(10)],
    }  # fmt: skip
    one = 64 * 24 + 24 + 24 * 10 + 10
    assert ended.result["arms"]["teacher"]["parameters"] == 2 * one
    assert ended.result["run"] == "runs/hinton"


def job_file_here(job):
    from pathlib import Path

    return job_file(Path("here.yaml"), job)


def test_a_table_is_learnt_from_its_target_column(here, limbeck):
    draw = np.random.default_rng(0)
    with open(here / "rows.csv", "w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["width", "color", "kind"])
        for _ in range(200):
            width, color = draw.uniform(), draw.choice(["red", "green"])
            table.writerow([f"{width:.3f}", color, "big" if width + (color == "red") > 0.8 else "small"])
    settings = ["data.target=kind", "teacher.hidden=[16]", "student.hidden=[4]", "budget.epochs=4", "budget.lr=0.02"]
    words = [word for setting in settings for word in ("--set", setting)] + ["--seeds", 1, "--json"]
    ended = limbeck("distill", "--data", "rows.csv", "--teacher", "mlp", "--student", "mlp", *words)
    assert ended.code == 0, ended.err
    assert ended.result["data"]["classes"] == 2
    assert read_config(here / ended.result["run"] / "student")["metadata"]["class_names"] == ["big", "small"]


def test_a_folder_of_pictures_is_learnt_from_its_subfolders(here, limbeck):
    image = pytest.importorskip("PIL.Image", reason="pictures need the extra `image`")
    draw = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 10)):
        for kind, level in (("day", 190), ("night", 60)):
            folder = here / "pictures" / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.normal(level, 20, (8, 8)).clip(0, 255).astype(np.uint8)
                image.fromarray(pixels).save(folder / f"{number}.png")
    job = small_job(
        "pictures",
        teacher={"model": "cnn", "widths": [4]},
        student={"model": "cnn", "widths": [2]},
        budget={"epochs": 2, "lr": 0.02, "batch_size": 16},
        seeds=1,
    )
    ended = limbeck("distill", job_file_here(job), "--json")
    assert ended.code == 0, ended.err
    assert ended.result["data"]["test"] == 20
    assert read_config(here / ended.result["run"] / "student")["metadata"]["class_names"] == ["day", "night"]


ONE = ("--seeds", 1, "--set", "arms=[distilled]")


@pytest.mark.parametrize("method", ["mutual", "mean_teacher", "born_again", "logit_matching", "label_smoothing"])
def test_every_method_can_be_typed(limbeck, job, method):
    ended = limbeck("distill", job, "--method", method, *ONE, "--json")
    assert ended.code == 0, ended.err
    assert ended.result["verdict"]["helps"] is None
    assert "student alone" in ended.result["verdict"]["sentence"]
    assert list(ended.result["arms"]) == ["distilled"]


def test_a_method_of_two_stages_takes_addresses(limbeck, job):
    hints = ["--set", "method.hint=layer1", "--set", "method.guided=layer1"]
    ended = limbeck("distill", job, "--method", "fitnets", *hints, "--seeds", 1, "--json")
    assert ended.code == 0, ended.err
    assert ended.result["method"] == {"name": "fitnets", "hint": "layer1", "guided": "layer1"}


def test_a_function_in_my_own_file_builds_the_student(here, limbeck, job):
    (here / "my.py").write_text(
        "from torch import nn\n\n\ndef build(input_shape, classes, wide=False):\n"
        "    assert wide\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
    )
    ended = limbeck("distill", job, "--student", "my.py:build", "--set", "student.wide=true", *ONE)
    assert ended.code == 0, ended.err
    assert "build=lambda: build(input_shape=(1, 6, 6), classes=5, wide=True)" in ended.out
    opened = limbeck_load("runs/hinton/student")
    assert opened[1].weight.shape == (5, 36)


def limbeck_load(path):
    from torch import nn

    return limbeck.load(path, build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5)))


@pytest.mark.parametrize(
    "setting",
    ["precision=bf16-mixed", "budget.accumulate=2", "budget.clip=0.01", "budget.shift=1", "budget.optimizer=sgd",
     "budget.decay=constant", "budget.warmup=5", "budget.options={weight_decay: 5.0}", "method.temperature=1",
     "method.weight=0.1", "teacher.mean=arithmetic", "teacher.train.lr=0.003"],
)  # fmt: skip
def test_every_setting_does_something(limbeck, job, done, taught, setting):
    ensemble = ["--set", "teacher.members=2"] if "mean" in setting else []
    trains = setting.startswith("teacher")  # the others find a trained one
    teacher = [] if trains else ["--set", f"teacher={taught[0]}"]
    changed = limbeck("distill", job, *teacher, "--set", setting, *ensemble, *SHORT)
    assert changed.code == 0, changed.err
    before = done[1].result["arms"] if trains else taught[1]
    if ensemble:
        before = limbeck("distill", job, *ensemble, *SHORT).result["arms"]
    seen = [arms["distilled"]["measures"]["nll"]["values"][0] for arms in (before, changed.result["arms"])]
    assert seen[0] != seen[1]
    alone = [arms["student alone"]["measures"]["nll"]["values"][0] for arms in (before, changed.result["arms"])]
    assert (alone[0] == alone[1]) == setting.startswith(("method", "teacher")), "the controls know no teacher"


SHORT = ("--set", "teacher.check=false", "--seeds", 1, "--set", "arms=[student alone, distilled]", "--json")


@pytest.fixture(scope="module")
def taught(done, tmp_path_factory):
    """The trained teacher of the finished job, as a setting, and the arms of a job that begins with it."""
    folder = tmp_path_factory.mktemp("taught")
    teacher = f"{{model: {done[0] / 'run' / 'teacher' / 'student'}}}"
    words = ["distill", done[0] / "job.yaml", "--set", f"teacher={teacher}", *SHORT, "--out", "run"]
    return teacher, typed_here(*words, cwd=folder).result["arms"]


def test_few_labels_are_enough(here, limbeck, job):
    parts = dict(np.load(here / "blobs.npz"))
    parts["y_train"][40:] = -100
    np.savez(here / "few.npz", **parts)
    flags = ["--data", "few.npz", "--method", "mean_teacher", "--set", "teacher.train={epochs: 20, lr: 0.01}"]
    ended = limbeck("distill", job, *flags, "--seeds", 1, "--set", "development=0.3", "--json")
    assert ended.code == 0, ended.err
    assert ended.result["data"]["classes"] == 5
    assert ended.result["arms"]["distilled"]["measures"]["accuracy"]["mean"] > 0.2


def test_the_first_free_folder_is_taken(here, limbeck, job):
    (here / "runs" / "hinton").mkdir(parents=True)
    (here / "runs" / "hinton" / "note").write_text("mine")
    ended = limbeck("distill", job, *ONE, "--json")
    assert ended.result["run"] == "runs/hinton-2"


@pytest.mark.slow
def test_two_processes_that_share_every_batch_write_one_result(done):
    folder, ended = done
    words = ["distill", "job.yaml", "--set", "devices=2", "--set", "strategy=ddp", "--seeds", "1", "--out", "ddp"]
    words += ["--set", "arms=[teacher, student alone, distilled]"]
    shared = typed(*words, "--json", cwd=folder)
    assert shared.code == 0, shared.err
    assert shared.err.count("Training the teacher") == 1
    assert len((folder / "ddp" / "metrics.jsonl").read_text().splitlines()) == 2
    alone, found = accuracies(ended.result), accuracies(shared.result)
    assert list(found) == ["teacher", "student alone", "distilled"]
    for name, values in found.items():
        assert values[0] == pytest.approx(alone[name][0], abs=0.02)


def test_help_needs_no_torch():
    script = (
        "import sys\nfrom limbeck.cli import main\ntry:\n    main(['distill', '--help'])\nexcept SystemExit as ended:\n"
        "    print(ended.code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True)
    assert said.stdout.splitlines()[-1] == "0 False False"
    assert "--print-job" in said.stdout


def test_a_typo_in_a_command_is_one_sentence(limbeck):
    ended = limbeck("distil")
    assert ended.code == 2
    assert "distill" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_nothing_typed_shows_the_help():
    from pathlib import Path

    ended = typed_here(cwd=Path.cwd())
    assert "distill" in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_blobs_can_be_learnt(tmp_path):
    """The other tests of this file mean nothing if the data teach nothing."""
    data = load_data(blobs(tmp_path / "b.npz"))
    assert (len(data.train), len(data.test), len(data.class_names)) == (150, 60, 5)
