"""Jobs with an ensemble of different models, an estimator in a file, and several teachers."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

import limbeck as lb
from limbeck.cache import is_cache
from limbeck.compare import run_job
from limbeck.compare.comparison_data import check_classes
from limbeck.consent import allow_all, allow_only
from limbeck.errors import DataError, LimbeckError
from limbeck.export import export_run
from limbeck.job import SEVERAL, job_text, make_job, read_job
from limbeck.job.routes import find_route_column, read_routes
from limbeck.metrics import load_tensors
from limbeck.report import write_report
from limbeck.tasks import Classification
from limbeck.teachers import EstimatorFile
from small_jobs import job_file, small_job, taught_network


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a saved network, and a forest in a file."""
    import joblib

    folder = tmp_path_factory.mktemp("several")
    net, data = taught_network(folder)
    lb.save(net, folder / "net")
    with np.load(folder / "data.npz") as arrays:
        rows = (arrays["x_train"].reshape(150, -1) / 255.0).astype(np.float32)
        labels = arrays["y_train"]
    batch = data.train.take(torch.arange(len(data.train)))
    rows = torch.as_tensor(data.preprocess(batch)).flatten(1).numpy()
    joblib.dump(RandomForestClassifier(30, random_state=0).fit(rows, labels), folder / "forest.joblib")
    return folder


def several(folder, **changes):
    return small_job(
        folder / "data.npz", student={"model": "mlp", "hidden": [6]}, arms=["teacher", "student alone", "distilled"],
        **changes,
    )  # fmt: skip


def job_of(folder, teacher, **changes):
    return make_job({**several(folder), "teacher": teacher, **changes})


def teachers_job(folder, teachers, **changes):
    return make_job({**{k: v for k, v in several(folder).items() if k != "teacher"}, "teachers": teachers, **changes})


def routed(**routes):
    return {name: {"model": "mlp", "route": route} for name, route in routes.items()}


@pytest.fixture(scope="module")
def finished(place):
    """A finished run of three teachers, one of them trained by the job, each with a cache of its own."""
    teachers = {
        "net": {"model": str(place / "net"), "weight": 2},
        "forest": f"sklearn:{place / 'forest.joblib'}",
        "small": {"model": "mlp", "hidden": [8]},
    }
    job = teachers_job(place, teachers, seeds=1, cache=str(place / "cache"), out=str(place / "run"))
    return run_job(job), place / "run"


# --- settings -------------------------------------------------------------------------------------------------------


def test_models_of_a_list_are_named_by_their_files_and_functions(place):
    teacher = {"ensemble": ["mlp", "sklearn:a/forest.joblib", "my.py:build", "mlp", {"model": "runs/x/net.v2"}]}
    job = job_of(place, teacher)
    assert list(job.teacher.parts) == ["mlp", "forest", "build", "mlp-2", "net"]
    assert job.names_files
    assert job.teacher.weights == [1.0] * 5


def test_several_teachers_survive_the_text_of_a_job(place, tmp_path):
    job = teachers_job(place, {"big": {"model": "resnet8", "width": 4, "weight": 3}, "small": "mlp"})
    assert job.teacher.model == SEVERAL
    assert job.teacher.parts["big"].arguments == {"width": 4}
    assert job.teacher.weights == [3.0, 1.0]
    (tmp_path / "job.yaml").write_text(job_text(job))
    values = read_job(tmp_path / "job.yaml")
    assert make_job(values) == job
    again = make_job({**values, "teachers": {"small": {"weight": 0.5}}})
    assert again.teacher.weights == [3.0, 0.5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"ensemble": ["mlp"]}}, "two models or more"),
        ({"teacher": {"ensemble": ["mlp", "cnn"], "members": 2}}, "members=2"),
        ({"teacher": {"ensemble": ["mlp", "cnn"], "model": "resnet8"}}, "model=resnet8"),
        ({"teacher": {"ensemble": ["mlp", "cnn"], "hidden": [3]}}, r"teacher\.ensemble\.NAME\.hidden"),
        ({"teacher": {"ensemble": {"a b": "mlp", "c": "cnn"}}}, "'a b'"),
        ({"teacher": {"ensemble": ["mlp", "shallow"]}}, "shallow"),
        ({"teacher": {"ensemble": {"a": "mlp", "b": {"model": "cnn", "weight": 0}}}}, "weight"),
        ({"teacher": "mlp", "teachers": ["mlp", "cnn"]}, "one of the two keys"),
        ({"teacher": {"ensemble": "mlp"}}, "'mlp'"),
        ({"teacher": None, "teachers": {"a": "mlp", "b": {"model": "cnn", "weight": -1}}}, "weight"),
        (
            {"teacher": None, "teachers": {"a": "mlp", "b": {"model": "cnn", "route": "default"}}},
            r"teachers\.a has no route",
        ),
        ({"teacher": None, "teachers": routed(a="default", b="default")}, "default alone"),
        ({"teacher": None, "teachers": routed(a={"x": 1}, b={"y": 2})}, r"one column; got \['x', 'y'\]"),
        ({"teacher": None, "teachers": routed(a={"x": 1, "y": 2}, b={"x": 2})}, r"teachers\.a\.route is one column"),
        ({"teacher": None, "teachers": routed(a={"x": 1}, b="default", c="default")}, "both the default"),
        (
            {"teacher": None, "teachers": {"a": {"model": "mlp", "route": {"x": 1}, "weight": 2}, "b": "mlp"}},
            "weight 2",
        ),
        ({"teacher": {"ensemble": {"a": "mlp", "b": True}}}, "True"),
        ({"teacher": None, "teachers": {"a": "mlp", "b": True}}, "True"),
        ({"teacher": None, "teachers": ["mlp", 3]}, "got 3"),
        ({"teacher": {"ensemble": ["hf:a", "hf:b"]}, "student": {"model": "shallow", "layers": 2}}, "2 members"),
    ],
)
def test_settings_that_make_no_sense(place, changes, words):
    with pytest.raises(LimbeckError, match=words):
        make_job({**several(place), **changes})


# --- a run ----------------------------------------------------------------------------------------------------------


def test_each_teacher_has_a_row_and_the_teacher_is_their_weighted_mean(finished, place):
    result, run = finished
    rows = result["arms"]
    assert list(rows)[:4] == ["teacher", "teacher net", "teacher forest", "teacher small"]
    assert [rows[f"teacher {name}"]["role"] for name in ("net", "forest", "small")] == ["member"] * 3
    assert rows["teacher net"]["accuracy"]["mean"] > 0.6
    assert rows["teacher forest"]["parameters"] is None
    answers = load_tensors(run / "teacher" / "answers.safetensors")["test"]
    data = lb.load_data(str(place / "data.npz"))
    batch = data.test.take(torch.arange(len(data.test)))
    inputs = torch.as_tensor(data.preprocess(batch))
    net = lb.load(place / "net")(inputs).detach()
    forest = lb.SklearnTeacher(EstimatorFile(place / "forest.joblib").open()).log_probabilities(inputs)
    small = lb.load(run / "teacher" / "student") if (run / "teacher" / "student").is_dir() else None
    if small is not None:
        torch.testing.assert_close(answers, (2 * net + forest + small(inputs).detach()) / 4, rtol=1e-4, atol=1e-4)
    assert answers.shape == net.shape


def test_each_teacher_has_a_cache(finished, place):
    assert [is_cache(str(place / "cache" / name)) for name in ("net", "forest", "small")] == [True] * 3


def test_other_weights_use_the_same_caches(finished, place):
    teachers = {"net": {"model": str(place / "net"), "weight": 1}, "forest": f"sklearn:{place / 'forest.joblib'}"}
    before = {path: path.stat().st_mtime_ns for path in (place / "cache").rglob("*.bin")}
    run_job(teachers_job(place, teachers, seeds=1, cache=str(place / "cache")))
    assert {path: path.stat().st_mtime_ns for path in (place / "cache").rglob("*.bin")} == before


def test_the_run_has_a_page_and_exports_with_its_card(finished, tmp_path):
    _, run = finished
    page = write_report([run])
    assert "teacher forest" in (run / "report.html").read_text()
    assert page is not None
    with allow_all():
        export_run(run, to="onnx", out=tmp_path / "onnx")
    card = (tmp_path / "onnx" / "README.md").read_text()
    assert "weights 2:1:1" in card
    assert "forest.joblib" in card
    assert str(run.parent) not in card
    job = (run / "job.yaml").read_text()
    assert str(run.parent) not in job


def test_a_job_with_routes_has_a_row_for_each_teacher_and_one_cache(place):
    classes = sorted({*np.load(place / "data.npz")["y_train"].tolist()})
    teachers = {
        "net": {"model": str(place / "net"), "route": {"labels": classes[:1]}},
        "forest": {"model": f"sklearn:{place / 'forest.joblib'}", "route": "default"},
    }
    result = run_job(teachers_job(place, teachers, seeds=1, cache=str(place / "routed")))
    assert is_cache(str(place / "routed"))
    assert {"teacher", "teacher net", "teacher forest"} <= {*result["arms"]}
    del teachers["forest"]["route"]
    teachers["forest"]["route"] = {"labels": classes[1:-1]}
    with pytest.raises(LimbeckError, match=rf"labels={classes[-1]}.*default"):
        run_job(teachers_job(place, teachers, seeds=1))


def test_a_route_has_the_name_of_the_column_of_a_table():
    routes = read_routes({"a": {"half": "low"}, "b": "default"}, {"a": 1.0, "b": 1.0}, "teachers")
    assert find_route_column(routes, {"name": "letters.csv", "groups": "half"}) == "groups"
    for data in ("letters.csv", {"name": "letters.npz", "groups": "half"}, {"name": "letters.csv", "groups": "x"}):
        assert find_route_column(routes, data) == "half"


def test_an_expert_on_some_classes_gets_the_option_that_names_all():
    logits, task = torch.zeros(1, 2), Classification(4)
    with pytest.raises(LimbeckError, match="class_names="):
        check_classes(logits, "The teacher", task, is_teacher=True)
    with pytest.raises(LimbeckError, match=r"have 4\.$"):
        check_classes(logits, "The student", task)


def test_a_method_of_several_teachers_gets_them_by_name_with_a_cache_each(place):
    teachers = {"net": str(place / "net"), "forest": f"sklearn:{place / 'forest.joblib'}"}
    method = {"name": "multi_teacher", "weights": "learned"}
    run_job(teachers_job(place, teachers, seeds=1, method=method, cache=str(place / "each")))
    assert [is_cache(str(place / "each" / name)) for name in teachers] == [True] * 2


def test_an_ensemble_of_different_models_has_one_cache(place):
    teacher = {"ensemble": [str(place / "net"), f"sklearn:{place / 'forest.joblib'}"], "mean": "arithmetic"}
    result = run_job(job_of(place, teacher, seeds=1, cache=str(place / "one")))
    assert is_cache(str(place / "one"))
    assert {"teacher net", "teacher forest"} <= {*result["arms"]}


def test_an_estimator_in_a_file_teaches_alone(place):
    teacher = {"model": f"sklearn:{place / 'forest.joblib'}", "floor": 1e-3}
    result = run_job(job_of(place, teacher, seeds=1))
    assert result["arms"]["teacher"]["size_note"].startswith("RandomForestClassifier")
    with pytest.raises(LimbeckError, match=r"'flor'.*floor"):
        run_job(job_of(place, {**teacher, "flor": 1.0}))


# --- estimator files ------------------------------------------------------------------------------------------------


def test_a_pickle_that_only_a_job_names_is_not_opened(place):
    file = EstimatorFile(place / "forest.joblib")
    with allow_only("limbeck distill"), pytest.raises(LimbeckError, match=r"pickle .*forest\.joblib.*--trust"):
        file.open()
    with allow_only("limbeck distill", ["--teacher", str(file)]):
        assert file.open().n_estimators == 30
    with allow_only("limbeck distill", ["--set", f"teacher={file}"]):
        assert file.open().n_estimators == 30
    with allow_all():
        assert file.open().n_estimators == 30


@pytest.mark.parametrize(
    "kind", [lambda: RandomForestClassifier(5, random_state=0), lambda: HistGradientBoostingClassifier(max_iter=3)]
)
def test_the_fingerprint_is_that_of_the_content(kind, tmp_path):
    """Pickles of equal estimators differ: they depend on which of their strings and arrays are the same object."""
    import joblib

    draw = np.random.default_rng(0)
    rows, labels = draw.normal(size=(60, 4)), np.arange(60) % 3
    one, other = kind().fit(rows, labels), kind().fit(rows + 1, labels)
    mark = lb.SklearnTeacher(one).fingerprint
    joblib.dump(one, tmp_path / "one.joblib")
    for again in (copy.deepcopy(one), *(EstimatorFile(tmp_path / "one.joblib").open() for _ in range(2))):
        again.predict_proba(rows)
        assert lb.SklearnTeacher(again).fingerprint == mark
    assert lb.SklearnTeacher(other).fingerprint != mark
    assert lb.SklearnTeacher(one, floor=1e-3).fingerprint != mark


def test_files_that_hold_no_classifier(tmp_path):
    import joblib

    with pytest.raises(LimbeckError, match=r"no file .*nothing\.joblib"):
        EstimatorFile(tmp_path / "nothing.joblib").open()
    (tmp_path / "damaged.joblib").write_bytes(b"no pickle")
    with pytest.raises(DataError, match=r"damaged\.joblib"):
        EstimatorFile(tmp_path / "damaged.joblib").open()
    joblib.dump(RandomForestClassifier(), tmp_path / "unfitted.joblib")
    with pytest.raises(DataError, match="no fitted classifier"):
        EstimatorFile(tmp_path / "unfitted.joblib").open()
    (tmp_path / "forest.skops").write_bytes(b"")
    with pytest.raises(LimbeckError, match=r"skops|cannot be read"):
        EstimatorFile(tmp_path / "forest.skops").open()


def test_the_command_line_asks_before_it_opens_a_pickle(place, monkeypatch, capsys):
    from limbeck.cli import main

    monkeypatch.chdir(place)
    job_file(place / "job.yaml", {**several(place), "teacher": "sklearn:forest.joblib", "seeds": 1})

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code or 0, capsys.readouterr()

    code, said = run("cache", "info", "job.yaml")
    assert (code, "--trust" in said.err) == (1, True)
    code, said = run("cache", "info", "job.yaml", "--trust")
    assert code == 0, said.err
    code, said = run("cache", "build", "job.yaml", "--teacher", "sklearn:forest.joblib", "--set", "cache.folder=c")
    assert (code, is_cache("c")) == (0, True)
    teachers = "{net: net, forest: 'sklearn:forest.joblib'}"
    flags = ["--data", "data.npz", "--set", f"teachers={teachers}", "--set", "cache.folder=each", "--json"]
    code, said = run("cache", "build", *flags)
    assert code == 0, said.err
    assert [json.loads(line)["store"] for line in said.out.splitlines()] == ["each/net", "each/forest"]
    code, said = run("cache", "verify", *flags[:-1], "--sample", "20")
    assert (code, said.out.count("checksums match")) == (0, 2), said.err


def test_the_weights_that_agre_kd_gives_are_in_the_result_without_the_biased_model(place, tmp_path):
    teachers = {
        "net": str(place / "net"),
        "other": {"model": "mlp", "hidden": [4]},
        "erm": {"model": "mlp", "hidden": [3]},
    }
    method = {"name": "agre_kd", "biased": "erm"}
    rows = run_job(teachers_job(place, teachers, method=method, out=str(tmp_path / "run")))["arms"]
    weights = rows["distilled"]["teacher_weights"]
    assert list(weights) == ["net", "other"]
    assert sum(one["mean"] for one in weights.values()) == pytest.approx(1, abs=1e-5)
    assert weights["net"]["mean"] not in (0.0, 0.5, 1.0)  # measured, and not where it began
    assert f"{weights['net']['mean']:.3f}" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("method", ["multi_teacher", "rl_kd", "hinton"])
def test_the_weights_of_several_teachers_are_in_the_result_and_on_the_page(place, tmp_path, method):
    teachers = {"net": {"model": str(place / "net"), "weight": 3}, "other": {"model": "mlp", "hidden": [4]}}
    job = teachers_job(place, teachers, method=method, out=str(tmp_path / "run"))
    rows = run_job(job)["arms"]
    weights = rows["distilled"]["teacher_weights"]
    assert list(weights) == ["net", "other"]
    assert all(len(one["values"]) == job.seeds for one in weights.values())
    means = [one["mean"] for one in weights.values()]
    assert all(0 <= mean <= 1 for mean in means)
    if method == "hinton":
        assert means == [0.75, 0.25]
    if method == "multi_teacher":
        assert sum(means) == pytest.approx(1, abs=1e-5)
    assert "teacher_weights" not in rows["student alone"]
    assert f"{means[0]:.3f}" in (tmp_path / "run" / "report.html").read_text()
    resumed = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(resumed["teacher_weights"]) == {"net", "other"}
