"""Data and models that cannot be used are refused before training."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.models import build, save
from small_jobs import refused


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

    def test_a_label_in_the_development_part_alone(self, limbeck, here, job):
        parts = {"x_train": np.zeros((40, 3)), "y_train": np.arange(40) % 2}
        np.savez(
            here / "extra.npz", **parts, x_val=np.zeros((9, 3)), y_val=np.arange(9) % 3, x_test=np.zeros((9, 3)),
            y_test=np.arange(9) % 2,
        )  # fmt: skip
        refused(limbeck("distill", job, "--data", "extra.npz"), "Label 2", "development")

    def test_development_examples_of_another_shape(self, limbeck, here, job):
        draw, parts = np.random.default_rng(0), {}
        for part, (count, width) in {"train": (60, 9), "val": (20, 4), "test": (20, 9)}.items():
            parts |= {f"x_{part}": draw.normal(size=(count, width)), f"y_{part}": np.arange(count) % 2}
        np.savez(here / "other.npz", **parts)
        refused(limbeck("distill", job, "--data", "other.npz", "--out", "run"), "development", "[4]", "[9]")
        assert not (here / "run").exists()

    @pytest.mark.parametrize(
        ("preprocess", "said"),
        [("lambda batch: 1 / 0", "division"), ("lambda batch: None", "None"), ("lambda: 0", "argument")],
    )
    def test_own_reads_that_fail(self, limbeck, here, job, preprocess, said):
        (here / "own.py").write_text(
            "import torch\n\n\ndef load():\n    part = torch.randn(40, 3), torch.arange(40) % 2\n"
            f"    return {{'train': part, 'test': part, 'preprocess': {preprocess}}}\n"
        )
        refused(limbeck("distill", job, "--data", "own.py:load", "--out", "run"), "preprocess of own.py:load", said)
        assert not (here / "run").exists()

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_no_labels(self, limbeck, here, job, part):
        labels = {"y_train": np.arange(40) % 2, "y_test": np.arange(9) % 2}
        labels[f"y_{part}"] = np.full_like(labels[f"y_{part}"], -100)
        np.savez(here / "bare.npz", x_train=np.zeros((40, 3)), x_test=np.zeros((9, 3)), **labels)
        refused(limbeck("distill", job, "--data", "bare.npz"), part, "no labels")

    def test_python_objects(self, limbeck, here, job):
        np.savez(here / "objects.npz", x=np.array([{"a": 1}] * 20, object), y=np.arange(20) % 2)
        refused(limbeck("distill", job, "--data", "objects.npz"), "Python objects")

    def test_flat_rows_for_a_network_of_images(self, limbeck, here, job):
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

    def test_a_teacher_for_images_of_another_size(self, limbeck, here, job):
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

    def test_a_teacher_of_other_classes(self, limbeck, here, job):
        names = [f"class {letter}" for letter in "bzcde"]  # of the same ones in another order, the data take its order
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
