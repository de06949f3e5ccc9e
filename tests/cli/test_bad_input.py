"""Does every mistake end in one clear sentence, a non-zero exit, and nothing lost?"""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.models import build, save
from small_jobs import Typed, blobs, contents, job_file, small_job, typed


def refused(ended, *words):
    """One sentence, on the right stream, with these words in it."""
    assert ended.code == 1, (ended.out, ended.err)
    *before, said = ended.err.splitlines()
    assert said.startswith("Error: ")
    assert all(line.startswith(("Data: ", "Training the", "Teacher loaded")) for line in before), ended.err
    for word in words:
        assert word in said
    return said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["budget.epohs=3"], ["budget.epohs", "'epochs'"]),
        (["budgte.epochs=3"], ["'budgte'", "'budget'"]),
        (["teacher.train.epoch=3"], ["teacher.train.epoch", "'epochs'"]),
        (["method.temprature=2"], ["temprature", "'temperature'"]),
        (["method.teacher=mlp"], ["teacher", "hinton"]),
        (["method.temperature=0"], ["temperature", "0"]),
        (["method.temperature=warm"], ["temperature", "'warm'"]),
        (["method.weight=1.5"], ["weight", "1.5"]),
        (["method=hintn"], ["'hintn'", "'hinton'"]),
        (["method=fitnets"], ["hint", "guided", "--set method.hint=..."]),
        (["method=fitnets", "method.hint=layr1", "method.guided=layer1"], ["'layr1'", "'layer1'"]),
        (["method=fitnets", "method.hint=layer1", "method.guided=layer9"], ["'layer9'", "layer1"]),
        (["method=privileged"], ["privileged"]),
        (["student.hiden=[3]"], ["student", "'hiden'", "'hidden'"]),
        (["student.hidden=[0]"], ["student", "hidden", "0"]),
        (["student=mpl"], ["student", "'mpl'", "'mlp'"]),
        (["teacher.model=cnnn"], ["teacher", "'cnnn'", "'cnn'"]),
        (["teacher.members=0"], ["teacher.members", "0"]),
        (["teacher.mean=harmonic"], ["teacher.mean", "harmonic"]),
        (["budget.epochs=-1"], ["budget.epochs", "-1"]),
        (["budget.epochs=many"], ["budget.epochs", "'many'"]),
        (["budget.lr=0"], ["budget.lr"]),
        (["budget.lr=.nan"], ["budget.lr", "nan"]),
        (["budget.lr=.inf"], ["budget.lr", "inf"]),
        (["budget.warmup=1.5"], ["warmup", "1.5"]),
        (["budget.optimiser=adamv"], ["'adamv'", "'adam"]),
        (["budget.options={momentun: 1}", "budget.optimiser=sgd"], ["'momentun'", "'momentum'"]),
        (["budget.decay=cosin"], ["budget.decay", "cosin"]),
        (["budget=5"], ["budget", "5"]),
        (["budget.epochs.more=5"], ["epochs", "more"]),
        (["seeds.x=5"], ["seeds", "x"]),
        (["seeds=0"], ["seeds", "0"]),
        (["development=1"], ["development", "1"]),
        (["train_examples=100000"], ["100000", "135"]),
        (["arms=[distilled, distiled]"], ["'distiled'", "'distilled'"]),
        (["arms=[student alone]"], ["'distilled'"]),
        (["arms=[distilled, distilled]"], ["'distilled'", "twice"]),
        (["arms=distilled"], ["arms", "'distilled'"]),
        (["strategy=ddpp"], ["ddpp"]),
        (["strategy=5"], ["strategy", "5"]),
        (["precision=33"], ["33"]),
        (["precision=half"], ["half"]),
        (["devices=none"], ["none"]),
        (["devices=2", "workers=2"], ["workers", "devices"]),
        (["workers=0"], ["workers", "0"]),
        (["epochs"], ["key=value", "'epochs'"]),
        (["=5"], ["key=value"]),
        (["student.hidden=[3"], ["student.hidden", "[3"]),
        (["data=digts"], ["'digts'", "'digits'"]),
        (["data={name: digits, targt: y}"], ["'targt'", "'target'"]),
        (["data.target=y"], ["target"]),
        (["data=null"], ["data", "--data"]),
    ],
)
def test_a_wrong_setting(limbeck, here, job, settings, words):
    before = contents(here)
    flags = [word for setting in settings for word in ("--set", setting)]
    refused(limbeck("distill", job, *flags, "--out", "run", "--json"), *words)
    assert contents(here) == before
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [digits\n", ["not YAML", "line 2"]),
        ("data: digits\n\tteacher: mlp\n", ["not YAML", "line 2"]),
        ("- data\n- digits\n", ["list"]),
        ("digits", ["str"]),
        ("", ["NoneType"]),
        ("{}", ["data", "--data"]),
        ("data: digits\nstudent: {model: mlp, hidden: [4]}\n", ["teacher", "--teacher"]),
        ("data: digits\nteacher: mlp\nstudent: {hidden: [4]}\n", ["student.model"]),
        ("data: digits\nteacher: {model: mlp}\nstudent: [mlp]\n", ["student"]),
        ("data: digits\nteacher: mlp\nstudent: mlp\n", ["teacher", "hidden"]),
        ("data: !!python/object/apply:os.system [ls]\n", ["not YAML"]),
        ("1: 2\n", ["'1'"]),
        ("\x00", ["not YAML"]),
    ],
)
def test_a_wrong_job_file(limbeck, here, text, words):
    (here / "wrong.yaml").write_text(text)
    refused(limbeck("distill", "wrong.yaml", "--out", "run"), *words)
    assert not (here / "run").exists()


def test_a_job_file_of_bytes(limbeck, here):
    (here / "wrong.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    refused(limbeck("distill", "wrong.yaml"), "wrong.yaml")


def test_no_job_file(limbeck):
    refused(limbeck("distill", "jbo.yaml"), "jbo.yaml")


def test_nothing_said_at_all(limbeck):
    refused(limbeck("distill"), "--data")


class TestData:
    def test_missing(self, limbeck, job):
        refused(limbeck("distill", job, "--data", "blob.npz", "--out", "run"), "blob.npz", "blobs.npz")

    def test_empty(self, limbeck, here, job):
        (here / "empty.npz").write_bytes(b"")
        refused(limbeck("distill", job, "--data", "empty.npz"), "empty.npz", "empty")

    def test_truncated(self, limbeck, here, job):
        whole = (here / "blobs.npz").read_bytes()
        (here / "half.npz").write_bytes(whole[: len(whole) // 2])
        refused(limbeck("distill", job, "--data", "half.npz"), "half.npz")

    def test_nan(self, limbeck, here, job):
        x = np.zeros((40, 3), np.float32)
        x[7, 1] = np.nan
        np.savez(here / "nan.npz", x=x, y=np.arange(40) % 2)
        refused(limbeck("distill", job, "--data", "nan.npz"), "NaN", "row 7")

    @pytest.mark.parametrize("wrong", [-1, 0.5])
    def test_labels_out_of_range(self, limbeck, here, job, wrong):
        labels = (np.arange(40) % 2).astype(float)
        labels[3] = wrong
        np.savez(here / "labels.npz", x=np.zeros((40, 3)), y=labels)
        refused(limbeck("distill", job, "--data", "labels.npz"), "labels", str(wrong))

    def test_a_label_above_the_class_names(self, limbeck, here, job):
        np.savez(here / "names.npz", x=np.zeros((40, 3)), y=np.arange(40) % 3, class_names=np.array(["a", "b"]))
        refused(limbeck("distill", job, "--data", "names.npz"), "class names", "2")

    def test_a_label_in_the_test_part_alone(self, limbeck, here, job):
        parts = {"x_train": np.zeros((40, 3)), "y_train": np.arange(40) % 2}
        np.savez(here / "extra.npz", **parts, x_test=np.zeros((9, 3)), y_test=np.arange(9) % 3)
        refused(limbeck("distill", job, "--data", "extra.npz"), "Label 2", "test")

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_no_labels(self, limbeck, here, job, part):
        labels = {"y_train": np.arange(40) % 2, "y_test": np.arange(9) % 2}
        labels[f"y_{part}"] = np.full_like(labels[f"y_{part}"], -100)
        np.savez(here / "bare.npz", x_train=np.zeros((40, 3)), x_test=np.zeros((9, 3)), **labels)
        refused(limbeck("distill", job, "--data", "bare.npz"), part, "no labels")

    def test_python_objects(self, limbeck, here, job):
        np.savez(here / "objects.npz", x=np.array([{"a": 1}] * 20, object), y=np.arange(20) % 2)
        refused(limbeck("distill", job, "--data", "objects.npz"), "Python objects")

    def test_flat_rows_for_a_network_of_pictures(self, limbeck, here, job):
        np.savez(here / "rows.npz", x=np.random.default_rng(0).normal(size=(60, 9)), y=np.arange(60) % 2)
        settings = ["--data", "rows.npz", "--student", "cnn", "--set", "student.widths=[4]"]
        refused(limbeck("distill", job, *settings, "--out", "run"), "student", "cnn", "(9,)")
        assert not (here / "run").exists()

    def test_a_table_without_a_target(self, limbeck, here, job):
        (here / "t.csv").write_text("a,b\n1,2\n3,4\n")
        refused(limbeck("distill", job, "--data", "t.csv"), "target")

    def test_a_column_that_is_not_there(self, limbeck, here, job):
        (here / "t.csv").write_text("width,kind\n" + "1,a\n2,b\n" * 20)
        refused(limbeck("distill", job, "--data", "t.csv", "--set", "data.target=knd"), "'knd'", "'kind'")


class TestModels:
    def test_a_student_with_other_classes_than_the_data(self, limbeck, here, job):
        save(build("mlp", inputs=36, classes=10, hidden=[4], seed=0), here / "ten")
        refused(limbeck("distill", job, "--student", "ten"), "student", "10 classes", "data have 5")

    def test_a_teacher_with_other_classes_than_the_data(self, limbeck, here, job):
        save(build("mlp", inputs=36, classes=10, hidden=[4], seed=0), here / "ten")
        refused(limbeck("distill", job, "--teacher", "ten", "--out", "run"), "teacher", "10 classes", "data have 5")
        refused(limbeck("distill", job, "--teacher", "ten", "--set", "teacher.check=false"), "10 classes")
        assert not (here / "run").exists()

    def test_a_teacher_for_pictures_of_another_size(self, limbeck, here, job):
        save(build("mlp", inputs=49, classes=5, hidden=[4], seed=0), here / "seven")
        refused(limbeck("distill", job, "--teacher", "seven"), "teacher seven", "1x6x6")

    def test_a_teacher_that_knows_nothing(self, limbeck, here, job):
        net = build("mlp", inputs=36, classes=5, hidden=[4], seed=0)
        nn.init.zeros_(net.classifier.weight)
        save(net, here / "new")
        said = refused(limbeck("distill", job, "--teacher", "new", "--out", "run"), "chance", "teacher.check=false")
        assert "20.0 %" in said
        again = limbeck("distill", job, "--teacher", "new", "--set", "teacher.check=false", "--seeds", 1, "--json")
        assert again.code == 0, again.err
        assert again.result["arms"]["teacher"]["accuracy"]["mean"] < 0.4

    def test_a_teacher_whose_classes_stand_in_another_order(self, limbeck, here, job):
        names = [f"class {letter}" for letter in "bacde"]
        save(build("mlp", inputs=36, classes=5, hidden=[4], seed=0), here / "t", metadata={"class_names": names})
        refused(limbeck("distill", job, "--teacher", "t"), "'class b'", "'class a'", "label order")

    def test_members_of_a_teacher_that_is_loaded(self, limbeck, here, job):
        save(build("mlp", inputs=36, classes=5, hidden=[4], seed=0), here / "t")
        refused(limbeck("distill", job, "--teacher", "t", "--set", "teacher.members=3"), "members=3", "3 times")

    def test_a_pickle(self, limbeck, here, job):
        (here / "my.py").write_text(
            "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5))\n"
        )
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).state_dict(), here / "w.pt")
        said = refused(limbeck("distill", job, "--teacher", "my.py:build@w.pt"), "pickle", "limbeck convert")
        assert "w.pt" in said
        refused(limbeck("distill", job, "--teacher", "w.pt"), "w.pt", "my.py:build@w.pt")

    def test_a_pickle_is_never_run(self, limbeck, here, job):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(here / "sprung"),)

        (here / "my.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(36, 5)\n")
        (here / "trap.pt").write_bytes(pickle.dumps(Trap()))
        refused(limbeck("distill", job, "--teacher", "my.py:build@trap.pt"), "trap.pt")
        assert not (here / "sprung").exists()

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("raise ValueError('no\\nway')", ["ValueError", "no way", "line 4"]),
            ("return 5", ["int", "torch.nn.Module"]),
            ("return nn.Linear(7, 5)", ["student my.py:build", "1x6x6"]),
            ("return nn.Linear(36, 5) if classes == 1 else Broken()", ["student my.py:build", "'missing'"]),
        ],
    )
    def test_my_own_file(self, limbeck, here, job, body, words):
        (here / "my.py").write_text(
            "from torch import nn\n\ndef build(classes):\n"
            f"    {body}\n\nclass Broken(nn.Module):\n    def forward(self, x):\n        return self.missing(x)\n"
        )
        refused(limbeck("distill", job, "--student", "my.py:build"), *words)

    def test_my_own_network_that_fails_when_it_learns(self, limbeck, here, job):
        (here / "my.py").write_text(
            "from torch import nn\n\n\nclass Odd(nn.Linear):\n    def forward(self, x):\n"
            "        if self.training:\n            return self.noise[0]\n"
            "        return super().forward(x.flatten(1))\n"
            "\n\ndef build():\n    return Odd(36, 5)\n"
        )
        refused(limbeck("distill", job, "--student", "my.py:build", "--out", "run"), "'noise'")
        assert not (here / "run").exists()

    def test_a_function_that_is_not_in_my_file(self, limbeck, here, job):
        (here / "my.py").write_text("def build():\n    pass\n")
        refused(limbeck("distill", job, "--student", "my.py:biuld"), "'biuld'", "'build'")

    def test_a_file_that_is_not_there(self, limbeck, job):
        refused(limbeck("distill", job, "--student", "mine.py:build"), "mine.py")


class TestFolder:
    def test_one_that_holds_a_run_is_left_alone(self, limbeck, done, job):
        run = done[0] / "run"
        before = contents(run)
        refused(limbeck("distill", job, "--out", run), "already holds", "limbeck resume")
        assert contents(run) == before

    def test_one_that_holds_anything_is_left_alone(self, limbeck, here, job):
        (here / "full").mkdir()
        (here / "full" / "note").write_text("mine")
        refused(limbeck("distill", job, "--out", "full"), "already holds")
        assert contents(here / "full") == {"note": b"mine"}

    def test_a_file(self, limbeck, here, job):
        (here / "file").write_text("mine")
        refused(limbeck("distill", job, "--out", "file"), "is a file")
        assert (here / "file").read_text() == "mine"

    def test_a_folder_inside_a_file(self, limbeck, here, job):
        (here / "file").write_text("mine")
        refused(limbeck("distill", job, "--out", "file/run"), "cannot be written")

    def test_one_that_may_not_be_written(self, limbeck, job, monkeypatch):
        from pathlib import Path

        # Whoever runs this may be root, who may write anywhere.
        def denied(path, *_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", denied)
        refused(limbeck("distill", job, "--out", "locked/run"), "cannot be written", "Permission denied")

    def test_a_mistake_leaves_the_folder_free(self, limbeck, here, job):
        refused(limbeck("distill", job, "--student", "mpl", "--out", "run"))
        ended = limbeck("distill", job, "--out", "run", "--seeds", 1, "--set", "arms=[distilled]", "--json")
        assert ended.code == 0, ended.err

    def test_a_full_disk_is_no_traceback(self, limbeck, job, monkeypatch):
        from limbeck.compare import experiment

        def full(*_, **__):
            raise OSError(28, "No space left on device", "runs")

        monkeypatch.setattr(experiment, "note", full)
        refused(limbeck("distill", job, "--seeds", 1), "No space left")


class TestLoss:
    @pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_one_that_is_no_number_stops_the_job(self, here, workers):
        blobs(here / "blobs.npz")
        job = small_job("blobs.npz", teacher={"model": "mlp", "hidden": [32], "train": {"epochs": 3, "lr": 0.01}})
        job_file(here / "job.yaml", {**job, "budget": {"optimiser": "sgd", "lr": 1e30, "warmup": 0}})
        ended = typed("distill", "job.yaml", "--set", f"workers={workers}", "--out", "run", cwd=here)
        refused(Typed(ended.code, "", ended.err), "nan", "learning rate")
        assert (here / "run" / "teacher" / "student" / "config.json").exists()


class TestResume:
    def test_nothing_there(self, limbeck):
        refused(limbeck("resume", "runs/none"), "runs/none")

    def test_no_run(self, limbeck, here):
        (here / "some").mkdir()
        refused(limbeck("resume", "some"), "no job.yaml")

    def test_a_run_made_in_python(self, limbeck, here):
        (here / "some").mkdir()
        (here / "some" / "run.json").write_text("{}")
        refused(limbeck("resume", "some"), "Python", "resume=True")

    def test_another_job(self, done, monkeypatch):
        import limbeck as lb
        from limbeck.errors import LimbeckError

        monkeypatch.chdir(done[0])
        before = contents(done[0] / "run")
        other = lb.make_job(small_job(done[0] / "blobs.npz", out="run", seeds=3))
        with pytest.raises(LimbeckError, match=r"another job.*seeds"):
            lb.run_job(other, resume=True)
        assert contents(done[0] / "run") == before


def test_debug_shows_where_it_came_from(tmp_path):
    blobs(tmp_path / "blobs.npz")
    job_file(tmp_path / "job.yaml", small_job("blobs.npz"))
    plain = typed("distill", "job.yaml", "--student", "mpl", cwd=tmp_path)
    assert plain.code == 1
    assert "Traceback" not in plain.err
    assert plain.err.splitlines()[-1].startswith("Error: student: Unknown model 'mpl'. Did you mean 'mlp'?")
    debug = typed("distill", "job.yaml", "--student", "mpl", "--debug", cwd=tmp_path)
    assert debug.code != 0
    assert "Traceback" in debug.err
    assert "Unknown model 'mpl'" in debug.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distill", "--sudent", "mlp"], "--student"),
        (["distill", "--seeds", "many"], "'--seeds'"),
        (["distill", "--seeds", "0"], "'--seeds'"),
        (["resume"], "See `limbeck resume --help`."),
        (["methods", "--jsn"], "--json"),
    ],
)
def test_a_wrong_command_line(limbeck, words, said):
    ended = limbeck(*words)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err


def test_a_method_that_there_is_not(limbeck):
    refused(limbeck("methods", "hintn"), "'hintn'", "'hinton'")
    refused(limbeck("methods", "hintn", "--json"), "'hinton'")
