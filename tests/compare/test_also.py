"""Extra metrics of a job: values, bounds, early errors, and no effect on the result."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch

import limbeck
from job_events import collect_messages
from limbeck.compare import extra_metrics, run_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.corruptions import select_pictures
from limbeck.compare.extra_metrics import check_also, mean_best_cka
from limbeck.compare.result import MetricContext
from limbeck.data import ArrayDataset, SelectColumn, load_data, subsample
from limbeck.errors import LimbeckError
from limbeck.events import ignore_events
from limbeck.job import make_job, read_job
from limbeck.metrics import CORRUPTIONS, layer_cka, load_tensors, robustness
from limbeck.models import build
from limbeck.teachers import ModelTeacher
from small_jobs import blobs, small_job

TWO = ["teacher", "student alone", "distilled"]


def run(folder, data, **changes):
    """A job of a second with all that can be measured besides: what came of it, what was said, and its folder."""
    said = []
    every = ["attacks", "cka", "corruptions", "faithfulness", "groups", "sharpness"]
    asked_for = small_job(data, **{"arms": TWO, "also": every, **changes})
    job = make_job({**asked_for, "out": str(folder)})
    result = run_job(job, callback=collect_messages(said))
    return result, said, folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("also")
    regions = np.array(["north", "south", "east"] * 20)
    found = dict(np.load(blobs(folder / "blobs.npz")))
    np.savez(folder / "blobs.npz", **found, region_test=regions)
    return run(folder / "run", {"name": str(folder / "blobs.npz"), "groups": "region"})


def student(folder, arm, seed):
    own = folder / "arms" / arm.replace(" ", "-") / f"seed-{seed}"
    return limbeck.load(own / "student" if (own / "student").is_dir() else folder / "student")


def predictions(folder, arm, seed):
    return load_tensors(folder / "arms" / arm.replace(" ", "-") / f"seed-{seed}" / "predictions.safetensors")["test"]


# --- what is true ---------------------------------------------------------------------------------------------------


def test_layers_are_those_of_the_students_that_lie_on_disk(done):
    result, _, folder = done
    found = result["cka"]
    data = load_data(str(folder.parent / "blobs.npz"))
    teacher = limbeck.load(folder / "teacher" / "student")
    assert found["examples"] == 60
    assert list(found["arms"]) == ["student alone", "distilled"]
    for arm, row in found["arms"].items():
        ours = [layer_cka(student(folder, arm, seed), teacher, data.test, student_preprocess=data.preprocess,
                          teacher_preprocess=data.preprocess) for seed in (0, 1)]  # fmt: skip
        assert row["student_layers"] == list(ours[0].student_layers)
        assert found["teacher_layers"] == list(ours[0].teacher_layers)
        assert torch.allclose(torch.tensor(row["values"]).double(), (ours[0].values + ours[1].values) / 2, atol=1e-6)
        assert row["closest"]["values"] == pytest.approx([float(one.values.amax(1).mean()) for one in ours])
    assert found["sentence"].startswith("Layers: ")


def test_an_attack_never_raises_the_accuracy_and_no_attack_leaves_that_of_the_arm(done):
    result, _, _ = done
    found = result["attacks"]
    assert list(found["arms"]) == ["teacher", "student alone", "distilled"]
    for arm, row in found["arms"].items():
        assert row["clean"]["values"] == result["arms"][arm]["accuracy"]["values"]
        for weak, strong in zip((row["clean"], *row["robust"]), row["robust"], strict=False):
            assert all(a >= b for a, b in zip(weak["values"], strong["values"], strict=True))


def test_a_gap_that_an_attack_finds_is_never_above_its_bound(done):
    result, said, folder = done
    found = result["faithfulness"]
    assert list(found["arms"]) == ["student alone", "distilled"]
    for row in found["arms"].values():
        assert [len(row[key]) for key in ("attack", "bound", "faithful")] == [len(found["epsilons"])] * 3
        for attack, bound in zip(row["attack"], row["bound"], strict=True):
            assert all(0 < a <= b <= 1 for a, b in zip(attack["values"], bound["values"], strict=True))
        for small, large in zip(row["bound"], row["bound"][1:], strict=False):
            assert all(a < b for a, b in zip(small["values"], large["values"], strict=True))
    labels = torch.stack([predictions(folder, "distilled", seed).argmax(1) for seed in (0, 1)])
    teacher = limbeck.load(folder / "teacher" / "student").eval()
    data = load_data(str(folder.parent / "blobs.npz"))
    with torch.no_grad():
        theirs = teacher(data.preprocess(data.test.take(torch.arange(60)))).argmax(1)
    shown = found["arms"]["distilled"]["disagreement"]["values"]
    assert shown == pytest.approx((labels != theirs).double().mean(1).tolist())
    assert any("faithfulness on 60 test examples" in one for one in said)


def test_attacks_and_faithfulness_measure_every_method_and_not_only_that_of_the_verdict(tmp_path):
    result, _, _ = run(
        tmp_path / "run", blobs(tmp_path / "blobs.npz"), also=["attacks", "faithfulness", "sharpness"], seeds=1,
        methods=[{"name": "hinton"}, {"name": "logit_matching"}], arms=["student alone", "distilled"],
    )  # fmt: skip
    for metric in ("attacks", "faithfulness"):
        assert set(result[metric]["arms"]) == {"student alone", "hinton", "logit_matching"}
    assert len(result["sharpness"]["arms"]) == 2


def test_faithfulness_is_measured_at_the_radius_that_a_method_was_trained_with(tmp_path):
    result, _, _ = run(
        tmp_path / "run", blobs(tmp_path / "blobs.npz"), also="faithfulness", seeds=1, arms=["distilled"],
        method={"name": "faithful_distillation", "epsilon": 0.002},
    )  # fmt: skip
    found = result["faithfulness"]
    assert found["epsilons"] == ["0.002", "1/255", "4/255"]
    row = found["arms"]["distilled"]
    assert row["bound"][0]["mean"] < row["bound"][1]["mean"] < row["bound"][2]["mean"]
    assert "up to 0.002 " in found["sentence"]
    assert f"{row['bound'][0]['mean']:.2f} in distilled" in found["sentence"]


def test_faithfulness_needs_a_teacher_that_is_one_network_with_bounds(tmp_path):
    data, ensemble = blobs(tmp_path / "blobs.npz"), {"model": "mlp", "hidden": [8], "members": 2}
    assert "also: faithfulness compares" in refused(tmp_path, data, also="faithfulness", teacher=ensemble)


def test_sharpness_has_a_value_for_each_student(done):
    result, said, _ = done
    found = result["sharpness"]
    assert list(found["arms"]) == ["student alone", "distilled"]
    for row in found["arms"].values():
        assert len(row["trace"]["values"]) == len(row["top_eigenvalue"]["values"]) == 2
        assert all(0 < value < float("inf") for value in row["top_eigenvalue"]["values"])
    assert f"{found['examples']:,} training examples" in found["sentence"]
    assert any("sharpness of" in one for one in said)


def test_a_layer_that_is_constant_is_the_most_similar_to_none():
    assert mean_best_cka(torch.tensor([[0.5, torch.nan], [torch.nan, torch.nan]])) == 0.5


def test_a_teacher_is_as_its_own_student_is(tmp_path):
    """A student that begins as its teacher and is not moved has a unit diagonal, and the teacher's accuracy."""
    teacher = limbeck.save(build("mlp", inputs=36, classes=5, hidden=[8, 8]), tmp_path / "teacher")
    job = {"teacher": {"model": str(teacher), "check": False}, "student": {"model": str(teacher)},
           "budget": {"epochs": 1, "lr": 1e-30, "batch_size": 50}}  # fmt: skip
    result, _, _ = run(tmp_path / "run", blobs(tmp_path / "blobs.npz"), **job, seeds=1)
    for row in result["cka"]["arms"].values():
        assert np.diag(row["values"]).tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    rows = result["corruptions"]["arms"]
    assert rows["distilled"]["by"] == rows["student alone"]["by"] == rows["teacher"]["by"]


def test_images_as_they_are_give_the_accuracy_that_the_arm_has(done):
    result, _, _ = done
    for arm, row in result["corruptions"]["arms"].items():
        assert row["clean"]["values"] == result["arms"][arm]["accuracy"]["values"]
        assert list(row["by"]) == list(CORRUPTIONS)
        every = np.array([[level["values"] for level in levels] for levels in row["by"].values()])
        assert every.shape == (8, 5, len(row["clean"]["values"]))
        assert row["mean"]["values"] == pytest.approx(every.mean((0, 1)).tolist())
    assert result["corruptions"]["examples"] == 60


def test_bad_images_are_those_that_the_library_makes(done):
    result, _, folder = done
    data = load_data(str(folder.parent / "blobs.npz"))
    for arm, seed in (("student alone", 0), ("distilled", 1)):
        ours = robustness(student(folder, arm, seed), data.test, preprocess=data.preprocess)
        shown = result["corruptions"]["arms"][arm]["by"]
        for name, levels in ours.corrupted.items():
            assert [level["values"][seed] for level in shown[name]] == [one.value for one in levels.values()]


def test_the_worst_group_is_the_one_that_is_detected_by_hand(done):
    result, _, folder = done
    found, labels = result["groups"], torch.arange(60) % 5
    assert found["by"] == "region"
    assert found["examples"] == dict.fromkeys(("north", "south", "east"), 20)
    assert list(found["arms"]) == TWO
    for arm in TWO[1:]:
        by_hand = {}
        for place, name in enumerate(("north", "south", "east")):
            rows = torch.arange(60) % 3 == place
            shown = [predictions(folder, arm, seed) for seed in (0, 1)]
            by_hand[name] = [float((one.argmax(1) == labels)[rows].double().mean()) for one in shown]
        row = found["arms"][arm]
        assert set(row["accuracy"]) == set(by_hand)
        assert all(one["values"] == pytest.approx(by_hand[name]) for name, one in row["accuracy"].items())
        assert row["worst"]["mean"] == pytest.approx(min(sum(values) / 2 for values in by_hand.values()))
        assert sum(by_hand[row["worst"]["name"]]) / 2 == pytest.approx(row["worst"]["mean"])
        assert row["worst"]["examples"] == 20


def test_without_groups_of_their_own_classes_are_the_groups(tmp_path):
    result, said, _ = run(tmp_path / "run", blobs(tmp_path / "blobs.npz"), also="groups", seeds=1)
    assert {"cka", "corruptions"}.isdisjoint(result)
    assert result["groups"]["by"] == "classes"
    worst = result["groups"]["arms"]["distilled"]["worst"]
    assert worst["name"] in [f"class {letter}" for letter in "abcde"]
    assert worst["mean"] == pytest.approx(result["arms"]["distilled"]["measures"]["worst_class_accuracy"]["mean"])
    assert any("groups (5 classes)" in one for one in said)


def test_a_column_of_a_table_names_the_groups_without_being_asked_twice(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
    draw = np.random.default_rng(0)
    rows = [f"{draw.normal() + 4 * (i % 2):.3f},{('old', 'young')[i % 3 == 0]},{'ab'[i % 2]}" for i in range(240)]
    (tmp_path / "rows.csv").write_text("\n".join(["size,age,kind", *rows]))
    data = {"name": str(tmp_path / "rows.csv"), "target": "kind", "groups": "age"}
    result, _, _ = run(tmp_path / "run", data, also=[], seeds=1)
    assert result["groups"]["by"] == "age"
    assert set(result["groups"]["examples"]) == {"old", "young"}
    assert sum(result["groups"]["examples"].values()) == 48


def test_digits_end_at_16_and_a_part_of_them_is_asked_about(tmp_path):
    result, said, folder = run(tmp_path / "run", "digits", also=["corruptions"], seeds=1, budget={"epochs": 3})
    data = load_data("digits")
    part = subsample(data.test, 500, 0)
    right = (predictions(folder, "distilled", 0).argmax(1) == data.test.labels)[part.index]
    rows = result["corruptions"]["arms"]
    assert result["corruptions"]["examples"] == 500
    assert rows["distilled"]["clean"]["values"] == pytest.approx([float(right.double().mean())], abs=0.0021)
    assert any("corruptions of 500 test examples (about" in one for one in said)


def test_what_is_read_of_digits_is_what_their_students_read():
    job = make_job(small_job("digits", also="corruptions"))
    material = load_comparison_data(job)
    shown = select_pictures(MetricContext(job, material, ModelTeacher(torch.nn.Identity()), {}))
    batch = shown.batches[0]
    assert float(batch.inputs.max()) == 1.0
    whole = material.data.test.take(batch.id)
    torch.testing.assert_close(shown.preprocess(batch), material.data.preprocess(whole))
    torch.testing.assert_close(shown.teacher(batch), material.data.preprocess(whole))


def test_large_images_are_fewer_and_small_sets_whole():
    job = make_job(small_job("digits", also="corruptions"))
    material = load_comparison_data(job)

    def count(examples, side):
        test = ArrayDataset(torch.zeros(examples, 3, side, side, dtype=torch.uint8), torch.arange(examples) % 10)
        data = material.data.__class__("own", test, test, lambda batch: batch.inputs / 255, None)
        return select_pictures(
            MetricContext(job, material._replace(data=data), ModelTeacher(torch.nn.Identity()), {})
        ).examples

    assert [count(120, 8), count(700, 8), count(260, 224), count(150, 400)] == [120, 500, 166, 100]


# --- teachers and students of other kinds ---------------------------------------------------------------------------


def test_an_ensemble_answers_as_one_and_shows_the_layers_of_its_first(tmp_path):
    result, _, _ = run(
        tmp_path / "run", blobs(tmp_path / "blobs.npz"), also=["cka", "corruptions"], seeds=1,
        teacher={"model": "mlp", "hidden": [8], "members": 2},
    )  # fmt: skip
    assert result["cka"]["teacher"] == "member-0"
    assert result["corruptions"]["arms"]["teacher"]["clean"]["mean"] == result["arms"]["teacher"]["accuracy"]["mean"]


def test_of_several_methods_the_one_that_is_judged_is_looked_at(tmp_path):
    result, _, _ = run(tmp_path / "run", blobs(tmp_path / "blobs.npz"), methods=["hinton", "logit_matching"],
                       also=["cka", "groups"], arms=["student alone", "distilled"], seeds=1)  # fmt: skip
    assert list(result["cka"]["arms"]) == ["student alone", result["verdict"]["arm"]]
    assert list(result["groups"]["arms"]) == ["student alone", "hinton", "logit_matching"]


def test_a_student_that_is_shipped_as_another_kind_of_model_is_opened(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\nfrom limbeck import Loss, Recipe, Stage\nfrom limbeck.functional import cross_entropy\n\n\n"
        "def shipped(models):\n    return torch.nn.Sequential(models['student'], torch.nn.Identity())\n\n\n"
        "def own() -> Recipe:\n    return Recipe(Stage(Loss(cross_entropy)), ship=shipped)\n"
    )
    result, _, _ = run(tmp_path / "run", blobs(tmp_path / "blobs.npz"), method=f"{tmp_path / 'own.py'}:own", seeds=1,
                       also=["cka", "corruptions"])  # fmt: skip
    assert result["cka"]["arms"]["distilled"]["student_layers"][0].startswith("0.")
    row = result["corruptions"]["arms"]["distilled"]
    assert row["clean"]["values"] == result["arms"]["distilled"]["accuracy"]["values"]


# --- what is refused, and what may fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("also", "words"),
    [
        (["cka", "corruption"], "Unknown name in also 'corruption'. Did you mean 'corruptions'"),
        (["cka", "cka"], "'cka'"),
        ({"cka": True, "x": 1}, "also: input should be a valid"),
    ],
)
def test_what_no_one_measures_is_refused(also, words):
    with pytest.raises(LimbeckError, match=words):
        make_job(small_job("digits", also=also))


def refused(tmp_path, data, **changes):
    """The sentence, before anything is trained or written."""
    said = []
    job = make_job(small_job(data, **{"also": ["corruptions"], "out": str(tmp_path / "run"), **changes}))
    with pytest.raises(LimbeckError) as error:
        run_job(job, callback=collect_messages(said))
    assert not any("Training" in one for one in said)
    assert not (tmp_path / "run").exists()
    return str(error.value)


@pytest.mark.parametrize("also", ["attacks", "corruptions", "faithfulness"])
def test_what_is_no_image_is_refused_before_anything_is_trained(tmp_path, also):
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows, y=np.arange(60) % 2)
    said = refused(tmp_path, str(tmp_path / "rows.npz"), also=also)
    for word in (f"also: {also} needs images", "rows.npz is a row of 3 numbers", f"Leave {also} out of `also`."):
        assert word in said
    np.savez(tmp_path / "sound.npz", x=rows.reshape(20, 3, 3) * 9, y=np.arange(20) % 2)
    sound = refused(tmp_path, str(tmp_path / "sound.npz"), also=also)
    assert f"also: {also} needs bytes, or floats from 0 to 1" in sound


def test_students_that_no_one_keeps_cannot_be_measured(tmp_path):
    assert "out=..." in refused(tmp_path, blobs(tmp_path / "blobs.npz"), out=None)


def test_groups_that_are_names_of_examples_are_refused(tmp_path):
    found = dict(np.load(blobs(tmp_path / "blobs.npz", test=1010)))
    np.savez(tmp_path / "blobs.npz", **found, name_test=np.arange(1010))
    said = refused(tmp_path, {"name": str(tmp_path / "blobs.npz"), "groups": "name"}, also=[])
    for word in ("data.groups: name has 1,010 different", "1,010 test examples", "at most 1,000 groups"):
        assert word in said


def test_a_teacher_that_reads_something_else_has_no_bad_images():
    job = make_job(small_job("digits", also="corruptions", out="run"))
    teacher = ModelTeacher(torch.nn.Identity(), preprocess=SelectColumn("privileged"))
    with pytest.raises(LimbeckError, match=r"also: corruptions .* the teacher has other inputs"):
        check_also(MetricContext(job, load_comparison_data(job), teacher, {"teacher": teacher.model}), ignore_events)


def test_layers_that_cannot_be_compared_are_refused(tmp_path):
    found = dict(np.load(blobs(tmp_path / "blobs.npz", test=3)))
    np.savez(tmp_path / "blobs.npz", **found)
    assert "also: layer_cka needs a batch of at least 4" in refused(tmp_path, str(tmp_path / "blobs.npz"), also="cka")


def test_what_fails_at_the_end_takes_no_result_away(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, logger="limbeck")

    def full(seen):
        raise RuntimeError("out of memory\nand a long tail")

    monkeypatch.setattr(extra_metrics, "_METRICS", {**extra_metrics._METRICS, "cka": full})
    result, _, folder = run(tmp_path / "run", blobs(tmp_path / "blobs.npz"), also=["cka", "groups"], seeds=1)
    assert list(result["cka"]) == ["sentence"]
    assert result["cka"]["sentence"].startswith("Failed: cka. RuntimeError: out of memory")
    assert result["groups"]["by"] == "classes"
    assert "Failed: cka. RuntimeError: out of memory" in (folder / "report.html").read_text()
    assert caplog.records[0].exc_info[0] is RuntimeError


def test_a_run_that_is_taken_up_again_says_the_same(done, tmp_path):
    result, _, folder = done
    again = shutil.copytree(folder, tmp_path / "run")
    (again / "result.json").unlink()
    found = run_job(make_job({**read_job(again / "job.yaml"), "out": str(again)}), resume=True)
    assert all(found[name] == result[name] for name in ("cka", "corruptions", "groups"))


def test_nothing_is_measured_besides_unless_it_is_requested(tmp_path):
    result, said, folder = run(tmp_path / "run", blobs(tmp_path / "blobs.npz"), also=[], seeds=1)
    assert {"cka", "corruptions", "groups"}.isdisjoint(result)
    assert not any("Besides" in one for one in said)
    assert "Extra metrics" not in (folder / "report.html").read_text()
