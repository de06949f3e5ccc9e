"""Jobs of regression, several labels and segmentation, from data to report and export."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.cli.jobs import opening_lines
from limbeck.compare import checkup, run_job
from limbeck.errors import DataError, LimbeckError
from limbeck.job import make_job, read_run_job, recommend, unit_statements
from limbeck.job.result import list_custom_metrics, read_result, read_task
from limbeck.metrics import load_tensors
from limbeck.tasks import task_names
from task_runs import TASKS, finished, job_of, write_data

pytestmark = pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")


@pytest.mark.parametrize("name", TASKS)
def test_a_job_says_its_task_and_every_arm_has_its_metrics(name):
    folder, result = finished(name)
    task = read_task(read_result(folder))
    assert (task.name, task) == (name, read_task(result))
    assert set(result["arms"]) == {"teacher", "student alone", "distilled"} | (
        {"label smoothing"} if task.no_smoothing is None else set()
    )
    for arm, row in result["arms"].items():
        assert {"accuracy"} & set(row) == set()
        assert set(row["measures"]) <= set(task.metrics)
        assert row[task.primary.name]["values"] == row["measures"][task.primary.name]["values"], arm
    assert list_custom_metrics(result) == []
    assert result["shipped"][task.primary.name] == result["arms"]["distilled"][task.primary.name]["values"][0]


@pytest.mark.parametrize("name", TASKS)
def test_the_verdict_is_about_the_primary_metric_and_test_examples(name):
    folder, result = finished(name)
    task, verdict = read_task(result), result["verdict"]
    means = [result["arms"][arm][task.primary.name]["mean"] for arm in ("distilled", "student alone")]
    assert verdict["difference"] == pytest.approx(task.primary.gain(*means))
    assert verdict["covers"] == "seeds and test examples"
    assert verdict["interval"][0] < verdict["difference"] < verdict["interval"][1]
    assert task.primary.title in verdict["sentence"]
    assert recommend(read_result(folder)).arm is not None


@pytest.mark.parametrize("name", TASKS)
def test_stored_outputs_give_the_numbers_of_the_result(name):
    folder, result = finished(name)
    task = read_task(result)
    targets = load_tensors(folder / "teacher" / "answers.safetensors")["test_labels"]
    outputs = load_tensors(folder / "arms" / "distilled" / "seed-1" / "predictions.safetensors")["test"]
    value = task.measure(outputs, targets)[task.primary.name]
    assert value == pytest.approx(result["arms"]["distilled"][task.primary.name]["values"][1], abs=1e-6)


def test_maps_of_logits_are_never_stored():
    folder, result = finished("segmentation")
    outputs = load_tensors(folder / "arms" / "distilled" / "seed-0" / "predictions.safetensors")["test"]
    assert outputs.dtype == torch.uint8
    assert outputs.shape == (result["data"]["test"], 10, 10)


def test_outputs_of_a_regression_are_in_the_unit_of_the_targets():
    folder, result = finished("regression")
    answers = load_tensors(folder / "teacher" / "answers.safetensors")
    assert 200 < float(answers["test"].mean()) < 400
    measures = result["arms"]["teacher"]["measures"]
    truth = float((answers["test"] - answers["test_labels"]).double().square().mean().sqrt())
    assert measures["rmse"]["mean"] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_a_resumed_job_changes_nothing_and_more_seeds_keep_the_first(name, tmp_path):
    folder, result = finished(name)
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "result.json").unlink()
    job = make_job({**read_run_job(copy), "out": str(copy)})
    again = run_job(job, resume=True)
    assert again["verdict"]["difference"] == result["verdict"]["difference"]
    assert again["verdict"]["covers"] == result["verdict"]["covers"]
    more = run_job(make_job({**read_run_job(copy), "out": str(copy), "seeds": 3}), change=True)
    metric = read_task(result).primary.name
    assert more["arms"]["distilled"][metric]["values"][:2] == result["arms"]["distilled"][metric]["values"]
    assert len(more["arms"]["distilled"][metric]["values"]) == 3


@pytest.mark.parametrize("name", TASKS)
def test_the_page_says_what_the_task_measures(name):
    pytest.importorskip("matplotlib")
    folder, result = finished(name)
    task, page = read_task(result), (folder / "report.html").read_text()
    assert task.primary.title in page
    assert 'id="outputs"' in page
    assert 'id="fidelity"' not in page
    expected = {"regression": "price", "multi_label": "green", "segmentation": "IoU"}[name]
    assert expected in page
    assert lb.report.write_report([folder]).read_text() == page


def test_predictions_are_plotted_against_targets():
    pytest.importorskip("matplotlib")
    folder, result = finished("regression")
    ax = lb.report.plot_predictions(folder)
    assert len(ax.lines[1].get_xdata()) == result["data"]["test"]
    with pytest.raises(ValueError, match="numbers"):
        lb.report.plot_predictions(finished("multi_label")[0])


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("to", ["folder", "onnx"])
def test_an_export_scores_as_the_student_does(name, to, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    folder, result = finished(name)
    task = read_task(result)
    exported = lb.export.export_run(folder, to=to, arm="distilled", out=tmp_path / to)
    assert exported.score_before == pytest.approx(result["shipped"][task.primary.name], abs=1e-6)
    assert exported.score_after == pytest.approx(exported.score_before, abs=1e-5)
    assert exported.to_dict()["metric"] == task.primary.name
    assert task.primary.title in (tmp_path / to / "README.md").read_text()


def test_an_onnx_file_of_a_regression_returns_the_unit_of_the_targets(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder, _ = finished("regression")
    exported = lb.export.export_run(folder, to="onnx", arm="distilled", out=tmp_path / "onnx")
    data = lb.load_data({"name": str(folder.parent / "houses.csv"), "target": "price"})
    outputs = lb.export.predict_onnx(exported.path, data.test.inputs)
    stored = load_tensors(folder / "arms" / "distilled" / "seed-0" / "predictions.safetensors")["test"]
    assert torch.allclose(outputs, stored, rtol=1e-4)


def test_the_folder_of_a_student_says_how_its_outputs_are_scaled():
    folder, result = finished("regression")
    metadata = json.loads((folder / "student" / "config.json").read_text())["metadata"]
    assert metadata["task"] == result["task"]
    assert metadata["task"]["std"][0] == pytest.approx(np.std(_targets(folder)), rel=0.2)


def _targets(folder):
    return load_tensors(folder / "teacher" / "answers.safetensors")["test_labels"].numpy()


def test_a_user_s_own_metric_of_a_regression(tmp_path):
    (tmp_path / "own.py").write_text(
        "def worst(targets, outputs):\n    return float((targets - outputs).abs().max())\n"
    )
    data = write_data(tmp_path)["regression"]
    arms = ["teacher", "student alone", "distilled"]
    job = job_of("regression", data, seeds=1, arms=arms, metrics=[f"{tmp_path / 'own.py'}:worst"])
    result = run_job(make_job(job))
    assert result["arms"]["distilled"]["measures"]["worst"]["mean"] > 0
    assert list_custom_metrics(result) == ["worst"]


@pytest.mark.parametrize(
    ("task", "data", "change", "value"),
    [
        ("regression", "digits", {}, "digits"),
        ("multi_label", "regression", {}, "price"),
        ("regresion", "regression", {}, "regression"),
    ],
)
def test_data_and_task_that_do_not_fit_are_refused(task, data, change, value, tmp_path):
    named = write_data(tmp_path).get(data, data)
    with pytest.raises(LimbeckError, match=value):
        run_job(make_job({**job_of("regression", named), "task": task, **change}))


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"method": "distillm"}, "distillm"),
        ({"method": {"name": "hinton", "temperature": 2.0}}, "temperature=2.0"),
        ({"task": {"name": "regression", "standardise": True}}, "standardize"),
    ],
)
def test_a_method_that_cannot_learn_the_task_says_so_when_the_job_is_built(changes, value, tmp_path):
    with pytest.raises(LimbeckError, match=value):
        make_job({**job_of("regression", write_data(tmp_path)["regression"]), "task": "regression", **changes})


def test_an_inferred_task_is_checked_before_training(tmp_path):
    with pytest.raises(LimbeckError, match="distillm"):
        run_job(make_job(job_of("regression", write_data(tmp_path)["regression"], method="distillm")))


def test_a_teacher_no_better_than_the_mean_is_refused(tmp_path):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=draw.normal(size=(80, 3)), y=draw.normal(size=80))
    with pytest.raises(LimbeckError, match=r"teacher\.check=false"):
        run_job(make_job(job_of("regression", str(tmp_path / "noise.npz"))))


def test_a_network_without_maps_is_refused(tmp_path):
    data = write_data(tmp_path)["segmentation"]
    models = {"teacher": {"model": "mlp", "hidden": [4]}, "student": {"model": "mlp", "hidden": [4]}}
    with pytest.raises(LimbeckError, match="fcn"):
        run_job(make_job({**job_of("segmentation", data), **models}))


def test_test_data_without_targets_are_refused(tmp_path):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(30, 3)), draw.normal(size=30)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=np.full(30, np.nan))
    with pytest.raises(DataError, match="test"):
        run_job(make_job(job_of("regression", str(tmp_path / "a.npz"))))


def test_every_task_has_a_job_here():
    assert {*TASKS, "classification", "language_modeling"} == set(task_names())


FOREST = """
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor


def numbers():
    return RandomForestRegressor(20, random_state=0)


def classes():
    return RandomForestClassifier(5, random_state=0)
"""


def test_a_regressor_teaches_a_regression_and_its_student_is_exported(tmp_path):
    (tmp_path / "own.py").write_text(FOREST)
    out = tmp_path / "run"
    job = job_of("regression", write_data(tmp_path)["regression"], out=str(out), seeds=1)
    result = run_job(make_job({**job, "teacher": f"{tmp_path / 'own.py'}:numbers"}))
    teacher, student = result["arms"]["teacher"], result["arms"]["distilled"]
    assert teacher["measures"]["r2"]["mean"] > 0.4
    # In the unit of the prices, 300, the teacher would pull the student far away from all targets.
    assert student["measures"]["r2"]["mean"] > -1
    exported = lb.export.export_run(out, to="folder", arm="distilled", out=tmp_path / "shipped", trust=True)
    assert "RandomForestRegressor has no parameters" in (tmp_path / "shipped" / "README.md").read_text()
    assert exported.path.is_dir()


def test_a_fitted_regressor_in_a_file_predicts_in_the_unit_of_the_targets(tmp_path):
    joblib = pytest.importorskip("joblib")
    from sklearn.ensemble import RandomForestRegressor

    data = write_data(tmp_path)["regression"]
    train = lb.load_data(data).train
    rows = lb.load_data(data).preprocess(train.take(torch.arange(len(train))))
    forest = RandomForestRegressor(10, random_state=0).fit(rows, train.targets.flatten())
    joblib.dump(forest, tmp_path / "forest.joblib")
    job = job_of("regression", data, out=str(tmp_path / "run"), seeds=1, arms=["teacher", "distilled"])
    result = run_job(make_job({**job, "teacher": f"sklearn:{tmp_path / 'forest.joblib'}"}))
    stored = load_tensors(tmp_path / "run" / "teacher" / "answers.safetensors")
    assert 200 < float(stored["test"].mean()) < 400
    assert result["arms"]["teacher"]["measures"]["r2"]["mean"] > 0.4


@pytest.mark.parametrize(("task", "function"), [("regression", "classes"), ("multi_label", "numbers")])
def test_an_estimator_of_another_kind_is_refused_with_a_way_out(tmp_path, task, function):
    (tmp_path / "own.py").write_text(FOREST)
    job = {**job_of(task, write_data(tmp_path)[task]), "teacher": f"{tmp_path / 'own.py'}:{function}"}
    with pytest.raises(LimbeckError, match="PrecomputedTeacher"):
        run_job(make_job(job))


@pytest.mark.parametrize("name", TASKS)
def test_the_doctor_finds_nothing_wrong(name, tmp_path):
    findings = list(checkup(make_job(job_of(name, write_data(tmp_path)[name])), seconds=5.0))
    assert [(one.name, one.sentence) for one in findings if one.state in ("wrong", "crash")] == []
    assert {"data", "teacher", "first step"} <= {one.name for one in findings}


def test_the_score_of_an_export_is_said_to_be_of_one_seed(tmp_path):
    folder, result = finished("regression")
    exported = lb.export.export_run(folder, to="folder", arm="distilled", out=tmp_path / "out")
    mean = result["arms"]["distilled"][exported.metric.name]["mean"]
    assert exported.of_seed == f"; this is seed 0, the mean over seeds is {exported.metric.format(mean)}"
    assert exported.of_seed in (tmp_path / "out" / "README.md").read_text()


def test_the_page_of_a_regression_says_what_its_curves_are_of():
    page = (finished("regression")[0] / "report.html").read_text()
    assert "squared error to the targets" in page
    assert "squared error to the teacher" in page
    assert "ensemble {}" not in page


def test_the_lines_that_open_a_student_of_regression_convert_its_outputs(tmp_path):
    folder, _ = finished("regression")
    lines = [line for line in opening_lines(folder) if "estimates" in line]
    assert len(lines) == 1
    assert "estimates = limbeck.load_task(" in (folder / "report.html").read_text()
    data = lb.load_data(write_data(tmp_path)["regression"])
    student = lb.load(folder / "student")
    names = {"limbeck": lb, "student": student, "inputs": data.test.take(torch.arange(len(data.test))).inputs}
    exec(lines[0], names)
    stored = load_tensors(folder / "arms" / "distilled" / "seed-0" / "predictions.safetensors")["test"]
    torch.testing.assert_close(names["estimates"], stored, rtol=1e-5, atol=1e-3)


def test_students_of_other_tasks_need_no_conversion():
    for name in ("multi_label", "segmentation"):
        assert unit_statements(finished(name)[0] / "student", path="student") == []
    assert lb.load_task(finished("multi_label")[0] / "student").name == "multi_label"
