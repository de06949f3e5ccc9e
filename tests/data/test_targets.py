"""Targets of regression, several labels and segmentation: the task that is inferred, and the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import load_data
from limbeck.errors import DataError, LimbeckError

DRAW = np.random.default_rng(0)


def table(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def test_fractions_are_for_regression_and_the_summary_reports_it(tmp_path):
    name = table(tmp_path / "a.csv", "x,y", [(i % 7, f"{i / 3:.4f}") for i in range(50)])
    data = load_data(name, target="y")
    assert (data.task, data.target_names, data.class_names) == ("regression", ("y",), None)
    assert data.train.labels is None
    assert (len(data.train), len(data.test)) == (40, 10)
    values = torch.cat([data.train.targets, data.test.targets])
    assert values.dtype == torch.float32
    assert sorted(values[:, 0].tolist()) == pytest.approx([round(i / 3, 4) for i in range(50)])
    assert "task" in data.summary.facts
    assert "--task classification" in data.summary.facts["task"]


def test_missing_targets_are_nan(tmp_path):
    name = table(tmp_path / "a.csv", "x,y", [(i % 7, "" if i % 5 == 0 else i + 0.5) for i in range(50)])
    data = load_data(name, target="y")
    assert sum(int(part.targets.isnan().sum()) for part in (data.train, data.test)) == 10
    assert sum(part.unlabeled for part in data.summary.parts) == 10


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([i % 5 for i in range(100)], "classification"),
        ([7 * i % 211 + 3 * (i % 2) for i in range(100)], "regression"),
        ([i % 30 for i in range(100)], "classification"),  # every class index occurs
        (["a", "b"] * 50, "classification"),
    ],
)
def test_whole_numbers_are_classes_unless_most_are_different(tmp_path, values, task):
    name = table(tmp_path / "a.csv", "x,y", [(DRAW.normal(), value) for value in values])
    assert load_data(name, target="y").task == task


def test_the_user_decides(tmp_path):
    name = table(tmp_path / "a.csv", "x,y", [(i % 7, i % 4) for i in range(40)])
    assert load_data(name, target="y", task="regression").train.targets.shape == (32, 1)
    assert load_data(name, target="y", task="classification").train.labels is not None


def test_several_target_columns(tmp_path):
    rows = [(DRAW.normal(), i % 2, i % 3 == 0, i / 7) for i in range(60)]
    name = table(tmp_path / "a.csv", "x,a,b,c", [(x, a, int(b), c) for x, a, b, c in rows])
    data = load_data(name, target=["a", "b"], ignore="c")
    assert (data.task, data.target_names) == ("multi_label", ("a", "b"))
    assert data.train.targets.dtype == torch.int64
    assert [column.name for column in data.encoding.columns] == ["x"]
    data = load_data(name, target=["a", "c"], ignore="b")
    assert (data.task, data.target_names) == ("regression", ("a", "c"))


def test_labels_in_a_text_column(tmp_path):
    labels = ["red|blue", "blue", "", "green | red"]
    train = table(tmp_path / "train.csv", "x,tags", [(i, labels[i % 4] or "none") for i in range(40)])
    data = load_data(train, target="tags", delimiter="|")
    assert (data.task, data.target_names) == ("multi_label", ("blue", "green", "none", "red"))
    assert set(map(tuple, data.train.targets.tolist())) == {(1, 0, 0, 1), (1, 0, 0, 0), (0, 0, 1, 0), (0, 1, 0, 1)}
    test = table(tmp_path / "test.csv", "x,tags", [(1, "red|violet")])
    with pytest.raises(DataError, match="violet"):
        load_data(train, target="tags", delimiter="|", test=test)


def test_another_table_has_the_same_targets(tmp_path):
    train = table(tmp_path / "train.csv", "x,y", [(i % 7, i / 3) for i in range(50)])
    test = table(tmp_path / "test.csv", "x,y", [(1, 2), (2, 4)])
    data = load_data(train, target="y", test=test)
    assert data.test.targets.tolist() == [[2.0], [4.0]]
    assert data.encoding == type(data.encoding).from_dict(data.encoding.to_dict())


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("targets", "task", "shape"),
    [
        (DRAW.normal(size=20), "regression", (1,)),
        (DRAW.normal(size=(20, 3)), "regression", (3,)),
        ((DRAW.random((20, 3)) > 0.4).astype(np.uint8), "multi_label", (3,)),
    ],
)
def test_arrays(tmp_path, targets, task, shape):
    parts = {"x_train": DRAW.normal(size=(20, 4)), "y_train": targets}
    parts |= {"x_val": parts["x_train"], "y_val": targets, "x_test": parts["x_train"], "y_test": targets}
    data = load_data(save(tmp_path / "a.npz", **parts))
    assert data.task == task
    for part in (data.train, data.development, data.test):
        assert part.targets.shape == (20, *shape)
        assert part.labels is None


def test_masks_in_an_array(tmp_path):
    masks = DRAW.integers(0, 3, (12, 8, 9)).astype(np.uint8)
    masks[0, 0, 0] = 255
    data = load_data(save(tmp_path / "a.npz", x=DRAW.integers(0, 255, (12, 8, 9, 3)).astype(np.uint8), y=masks))
    assert data.task == "segmentation"
    labels = torch.cat([data.train.labels, data.test.labels])
    assert labels.shape == (12, 8, 9)
    assert int((labels == -100).sum()) == 1


@pytest.mark.parametrize("parts", [("",), ("train/", "test/")])
def test_a_folder_of_images_and_masks(tmp_path, parts):
    image = pytest.importorskip("PIL.Image")
    for part in parts:
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for i in range(10):
            mask = DRAW.integers(0, 2, (8, 6)).astype(np.uint8)
            image.fromarray(mask * 200).save(tmp_path / part / "images" / f"{i}.png")
            image.fromarray(mask).save(tmp_path / part / "masks" / f"{i}.png")
    data = load_data(str(tmp_path))
    assert data.task == "segmentation"
    batch = data.train.take(torch.arange(3))
    assert torch.equal(batch.labels, (batch.inputs > 100).long())
    assert data.train.labels.shape[1:] == (8, 6)
    (tmp_path / parts[0] / "masks" / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "options"),
    [("digits", {"task": "regression"}), ("digits", {"task": "segmentation"})],
)
def test_data_that_do_not_fit_the_task_are_refused(name, options):
    with pytest.raises(DataError, match=options["task"]):
        load_data(name, **options)


def test_wrong_values_are_refused(tmp_path):
    name = table(tmp_path / "a.csv", "x,a,b", [(i, i % 3, "red") for i in range(20)])
    with pytest.raises(DataError, match="red"):
        load_data(name, target="b", ignore="a", task="regression")
    with pytest.raises(DataError, match="2"):
        load_data(name, target=["a", "x"], ignore="b", task="multi_label")
    with pytest.raises(DataError, match="'c'"):
        load_data(name, target=["a", "c"])
    with pytest.raises(LimbeckError, match="delimiter"):
        load_data("digits", delimiter="|")


def test_a_function_of_the_user(tmp_path):
    (tmp_path / "own.py").write_text(
        "import torch\n\ndef load():\n    x = torch.randn(20, 3)\n    return (x, x[:, 0]), (x, x[:, 0])\n"
    )
    data = load_data(f"{tmp_path / 'own.py'}:load")
    assert data.task == "regression"
    assert data.train.targets.shape == (20, 1)


def test_three_numbers_are_not_reported_to_fit_classification(tmp_path):
    name = table(tmp_path / "a.csv", "x,car,dog,boat", [(i % 7, i / 3, i / 4, i + 0.5) for i in range(50)])
    columns = ["car", "dog", "boat"]
    assert "--task" not in load_data(name, target=columns).summary.facts["task"]
    with pytest.raises(DataError, match=r"--task regression"):
        load_data(name, target=columns, task="classification")


def test_the_task_that_the_summary_names_fits(tmp_path):
    name = table(tmp_path / "a.csv", "x,a,b", [(i % 7, i % 2, int(i % 3 == 0)) for i in range(50)])
    assert "--task regression" in load_data(name, target=["a", "b"]).summary.facts["task"]
    assert load_data(name, target=["a", "b"], task="regression").train.targets.is_floating_point()


def test_several_columns_without_brackets(tmp_path):
    name = table(tmp_path / "a.csv", "x,car,dog,boat", [(i % 7, i / 3, i / 4, i + 0.5) for i in range(50)])
    with pytest.raises(DataError, match=r"data\.target=\[car,dog,boat\]"):
        load_data(name, target="car,dog,boat")
    with pytest.raises(LimbeckError, match="classes, numbers or labels"):
        load_data(name)


def test_a_text_that_differs_in_each_row_is_left_out_under_every_name(tmp_path):
    for flat in ("flat", "rooms"):
        name = table(tmp_path / f"{flat}.csv", f"{flat},x,y", [(f"number {i}", i % 7, "ab"[i % 2]) for i in range(60)])
        data = load_data(name, target="y")
        assert data.encoding.features == ("x",)
        assert "rename" not in data.note
        assert f"--set data.text={flat}" in data.note
    assert load_data(name, target="y", text=flat).task == "classification"


def prices(path, cells):
    return table(path, "x,y", [(i % 7, cells.get(i, f"{i + 0.5}")) for i in range(100)])


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({9: "on request", 3: "1.200 EUR", 20: "12OO"}, ("3 of 100 rows", "'1.200 EUR' in row 3", "'12OO' in row 20")),
        ({i: f"{i} EUR" for i in range(100)}, ("'0 EUR' in row 0", "Remove the unit", "instead of 0 EUR")),
        ({5: "548 EUR"}, ("'548 EUR' in row 5", "Remove the unit")),
        ({i: f'"1,{i + 100}.00"' for i in range(50, 100)}, ("'1,150.00' in row 50", "50 of 100 rows", "1150.00")),
        ({5: "on request", 8: "on request"}, ("'on request' in row 5", "2 of 100 rows", 'data.missing=["on request"]')),
        ({5: "12OO"}, ("'12OO' in row 5", 'data.missing=["12OO"]')),
    ],
)
def test_a_text_among_numbers_is_quoted_with_its_row(tmp_path, cells, words):
    with pytest.raises(DataError) as caught:
        load_data(prices(tmp_path / "a.csv", cells), target="y", task="regression")
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_yes_in_a_column_of_0_and_1_is_the_cell_that_is_quoted(tmp_path):
    rows = [(i % 5, i % 2, "yes" if i == 7 else i % 3 // 2) for i in range(60)]
    with pytest.raises(DataError, match=r"'dog' has texts in 1 of 60 rows.* 'yes' in row 7"):
        load_data(table(tmp_path / "a.csv", "x,cat,dog", rows), target=["cat", "dog"], task="multi_label")


def test_texts_that_mean_unknown_are_read_and_noted(tmp_path):
    name = prices(tmp_path / "a.csv", {5: "NA", 6: "?", 7: "on request"})
    data = load_data(name, target="y", task="regression", missing=["on request"])
    assert sum(part.unlabeled for part in data.summary.parts) == 3
    assert any("target 'y'" in note and "'on request' (1 row)" in note for note in data.summary.notes)


def pictures(size=8):
    return DRAW.integers(0, 255, (12, size, size)).astype(np.uint8), DRAW.integers(0, 3, (12, size, size)).astype("u1")


@pytest.mark.parametrize(
    ("x", "y"),
    [("images", "masks"), ("x", "masks"), ("x_train", "train_masks"), ("train_images", "train_masks"), ("x", "mask")],
)
def test_arrays_called_masks_are_the_targets_of_segmentation(tmp_path, x, y):
    images, masks = pictures()
    data = load_data(save(tmp_path / "a.npz", **{x: images, y: masks}))
    assert (data.task, data.train.labels.shape[1:]) == ("segmentation", (8, 8))


def test_an_array_called_mask_beside_labels_is_none(tmp_path):
    images, masks = pictures()
    data = load_data(save(tmp_path / "a.npz", train_images=images, train_labels=np.arange(12) % 3, train_masks=masks))
    assert data.task == "classification"
    data = load_data(
        save(tmp_path / "b.npz", x_train=DRAW.normal(size=(12, 3)), mask_train=np.ones((12, 3)), y_train=[0, 1] * 6)
    )
    assert data.train.take(torch.tensor([0])).extra["mask"].shape == (1, 3)


def test_a_file_without_masks_lists_its_arrays_and_the_names_that_are_read(tmp_path):
    images, masks = pictures()
    name = save(tmp_path / "a.npz", x=images, regions=masks)
    with pytest.raises(DataError, match=r"regions \[12, 8, 8\].*y_train"):
        load_data(name, task="segmentation")


@pytest.mark.parametrize("task", [None, "segmentation"])
def test_masks_of_another_size_are_refused_with_both_sizes(tmp_path, task):
    colored = DRAW.integers(0, 255, (12, 8, 8, 3)).astype(np.uint8)
    for images in (pictures()[0], colored, colored.transpose(0, 3, 1, 2)):
        with pytest.raises(DataError, match=r"masks are 6x6 .*images are 8x8"):
            load_data(save(tmp_path / "a.npz", x=images, y=pictures(6)[1]), task=task)


def test_a_mask_file_of_another_size_is_refused_by_name(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(4):
                side = 6 if (part, kind, i) == ("test", "masks", 2) else 8
                image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / part / kind / f"{i}.png")
    with pytest.raises(DataError, match=r"2\.png is 6x6, its image 2\.png is 8x8"):
        load_data(str(tmp_path))
    assert len(load_data(str(tmp_path), size=(8, 8)).test) == 4
