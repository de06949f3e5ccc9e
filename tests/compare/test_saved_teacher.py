"""A saved teacher of another task or of other inputs is refused before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.teacher import open_teacher
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from limbeck.models import build

DRAW = np.random.default_rng(0)


def open_for(data, teacher, **changes):
    data = {"name": str(data), "target": "y"} if data.suffix == ".csv" else str(data)
    job = make_job({"data": data, "teacher": str(teacher), "student": {"model": "mlp", "hidden": [4]}, **changes})
    return open_teacher(job, load_comparison_data(job))


def tags(path, labels=2):
    x = DRAW.normal(size=(60, 4)).astype(np.float32)
    np.savez(path, x=x, y=(x[:, :labels] + x[:, 1 : labels + 1] > 0).astype(np.uint8))
    return path


def saved(folder, *, inputs=4, classes=2, **metadata):
    model = build("mlp", inputs=inputs, classes=classes, hidden=[4])
    return lb.save(model, folder, metadata={"input_shape": [inputs], **metadata})


def test_a_student_of_another_task_is_refused(tmp_path):
    folder = saved(tmp_path / "student", task={"name": "classification", "classes": 2})
    with pytest.raises(LimbeckError, match=r"trained for classification.* multi_label.*--task classification"):
        open_for(tags(tmp_path / "tags.npz"), folder)
    open_for(tags(tmp_path / "tags.npz"), saved(tmp_path / "same", task={"name": "multi_label", "labels": 2}))
    open_for(tags(tmp_path / "tags.npz"), saved(tmp_path / "unknown"))


def test_a_classifier_in_a_file_teaches_no_labels(tmp_path):
    joblib = pytest.importorskip("joblib")
    trees = pytest.importorskip("sklearn.tree")
    x = DRAW.normal(size=(60, 4))
    joblib.dump(trees.DecisionTreeClassifier().fit(x, (x[:, 0] > 0).astype(int)), tmp_path / "tree.joblib")
    with pytest.raises(LimbeckError, match=r"DecisionTreeClassifier with the classes 0, 1\b.*multi_label"):
        open_for(tags(tmp_path / "tags.npz", labels=3), f"sklearn:{tmp_path / 'tree.joblib'}")


def columns(*names):
    numbers = [{"name": name, "mean": 0.0, "std": 1.0, "missing": False, "kind": "number"} for name in names]
    return {"target": "y", "class_names": ["0", "1"], "columns": numbers}


def write_table(path, *names):
    rows = [",".join(map(str, (*DRAW.normal(size=len(names)).round(3), i % 2))) for i in range(60)]
    path.write_text("\n".join([",".join((*names, "y")), *rows]) + "\n")
    return path


@pytest.mark.parametrize("theirs", [("a", "b"), ("a", "b", "other")])
def test_a_student_of_another_table_is_refused_with_the_columns_of_both(tmp_path, theirs):
    folder = saved(tmp_path / "student", inputs=len(theirs), encoding=columns(*theirs))
    data = write_table(tmp_path / "rows.csv", "a", "b", "c")
    with pytest.raises(LimbeckError, match=rf"a table with {len(theirs)} columns \({', '.join(theirs)}\).*\(a, b, c\)"):
        open_for(data, folder)
    same = saved(tmp_path / "same", inputs=3, encoding=columns("a", "b", "c"))
    open_for(data, same)


def test_a_student_of_a_table_is_no_teacher_of_images(tmp_path):
    folder = saved(tmp_path / "student", encoding=columns("a", "b", "c", "d"), preprocess={"preprocess": "unchanged"})
    x = torch.randint(0, 255, (60, 8, 8), dtype=torch.uint8).numpy()
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(60) % 2)
    with pytest.raises(LimbeckError, match=r"with 4 columns \(a, b, c, d\), and .* images of 1x8x8"):
        open_for(tmp_path / "images.npz", folder)


@pytest.fixture
def answers(tmp_path):
    """A table with the classes yes and no, and its training part."""
    rows = [",".join(map(str, (*row.round(3), "yes" if row[0] > 0 else "no"))) for row in DRAW.normal(size=(80, 3))]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n")
    data = lb.load_data(tmp_path / "rows.csv", target="y")
    return tmp_path / "rows.csv", data.train.inputs.numpy(), np.array(data.class_names)[data.train.labels]


def dump(path, inputs, labels):
    joblib = pytest.importorskip("joblib")
    trees = pytest.importorskip("sklearn.tree")
    joblib.dump(trees.DecisionTreeClassifier(random_state=0).fit(inputs, labels), path)
    return f"sklearn:{path}"


def test_a_classifier_of_names_teaches_the_classes_of_these_names(tmp_path, answers):
    data, inputs, labels = answers
    teacher, _ = open_for(data, dump(tmp_path / "tree.joblib", inputs, labels))
    assert list(teacher.log_probabilities(inputs).argmax(1)) == [("no", "yes").index(label) for label in labels]
    other = np.where(labels == "yes", "ja", "no")
    with pytest.raises(LimbeckError, match=r"ja, no.* no, yes.*'ja' is none"):
        open_for(data, dump(tmp_path / "other.joblib", inputs, other))


def test_a_classifier_of_other_columns_is_refused_with_the_way_out(tmp_path, answers):
    data, inputs, labels = answers
    with pytest.raises(LimbeckError, match=r"2 features.*load_data\(\.\.\.\)\.train\.inputs"):
        open_for(data, dump(tmp_path / "tree.joblib", inputs[:, :2], labels))
