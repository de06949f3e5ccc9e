"""An export's read.py handles raw rows, images and texts without limbeck."""

from __future__ import annotations

import contextlib
import csv
import io
import runpy
import sys

import numpy as np
import pytest
import torch

import limbeck as lb
from export_runs import read_alone
from integrations.tiny import bert, texts
from limbeck.errors import LimbeckError
from limbeck.export import export_run, include_encoding, predict_onnx, to_folder, to_onnx, write_reader
from limbeck.functional import cross_entropy
from small_jobs import small_job

SOAK = pytest.mark.soak
NEW = (
    "label,work,age,year,flag,size,unused\n"
    ", Private,39,20210105,true,1.5,x\n"
    ",Private,,20210106,false,,y\n"
    ',"a, ""b""", 25 ,20210107,true,-2e-1,z\n'
    ",gov , 3e1,20210103,yes,7,w\n"
    ",GOV,NA,20210103,False,?,w\n"
    ",never seen,17.25,20200101,false,0,\n"
    ",,81,,true,3,\n"
)


def read_here(folder, *typed):
    """What read.py prints in this process, which has imported everything already, and the line with which it ends."""
    out, ending = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", [str(folder / "read.py"), *map(str, typed)])
        patch.setitem(sys.modules, "limbeck", None)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as error:
            ending = error.code
    return out.getvalue(), ending


def answers_here(folder, *typed):
    """The numbers that read.py prints in this process."""
    printed, ending = read_here(folder, *typed, "--logits")
    assert ending is None
    _, *rows = csv.reader(io.StringIO(printed))
    return np.array([[float(cell) for cell in row[1:]] for row in rows])


def answers(folder, *files, how="--logits"):
    """What read.py prints in a process of its own: the classes' names, the answers, the numbers."""
    head, *rows = csv.reader(io.StringIO(read_alone(folder, *files, how).out))
    return head[1:], [row[0] for row in rows], np.array([[float(cell) for cell in row[1:]] for row in rows])


def refused(folder, *typed):
    """The one line with which read.py ends."""
    printed, ending = read_here(folder, *typed)
    assert printed == ""
    assert isinstance(ending, str)  # which Python prints to the standard error, and exits with 1
    assert len(ending.splitlines()) == 1
    return ending


def table(path, rows, seed):
    draw = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["label", "work", "age", "year", "flag", "size", "unused"])
        for _ in range(rows):
            work, age, flag = (
                draw.choice([" Private", 'a, "b"', "Gov"]),
                draw.integers(17, 90),
                draw.choice(["true", "false"]),
            )
            label = " >50K" if age + 30 * (work == "Gov") + draw.normal(0, 9) > 60 else " <=50K"
            year = 20210101 + draw.integers(0, 30)
            out.writerow([label, "" if draw.random() < 0.1 else work, "" if draw.random() < 0.1 else age, year, flag,
                          round(draw.normal(), 3), "u"])  # fmt: skip
    return path


@pytest.fixture(scope="module")
def adults(tmp_path_factory):
    """A run on a table whose values have spaces, quotes, gaps, and a column far from 0; and new rows of it."""
    folder = tmp_path_factory.mktemp("adults")
    (folder / "new.csv").write_text(NEW)
    data = {"name": str(table(folder / "train.csv", 160, 0)), "test": str(table(folder / "test.csv", 40, 1)),
            "target": "label", "ignore": ["unused"]}  # fmt: skip
    teacher = {"model": "mlp", "hidden": [32], "check": False}
    lb.run_job(lb.make_job(small_job(data, teacher=teacher, seeds=1, arms=["distilled"], out=str(folder / "run"))))
    return folder


def predicted(folder, student, file):
    """Limbeck's own logits, on the documented way."""
    rows, _ = lb.read_table(file, encoding=lb.load_encoding(student))
    assert (rows.labels == -100).all() or file.name != "new.csv"
    with torch.no_grad():
        return lb.load(student)(rows.take(torch.arange(len(rows))).inputs).numpy()


@pytest.mark.parametrize(("to", "raw"), [("onnx", True), pytest.param("onnx", False, marks=SOAK), ("folder", False)])
def test_rows_of_a_table(adults, tmp_path, to, raw):
    found = export_run(adults / "run", to=to, raw=raw, out=tmp_path / "out")
    assert found.parity.max_difference < 1e-4
    assert found.score_after == found.score_before
    expected = predicted(adults, adults / "run" / "student", adults / "new.csv")
    names, said, logits = answers(tmp_path / "out", adults / "new.csv")
    assert names == ["<=50K", ">50K"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert said == [names[place] for place in expected.argmax(1)]


def test_raw_inputs_are_the_columns_and_the_cards_code_fills_them(adults, tmp_path, monkeypatch):
    import onnxruntime

    found = export_run(adults / "run", to="onnx", raw=True, out=tmp_path / "out")
    session = onnxruntime.InferenceSession(found.path)
    kinds = {one.name: one.type for one in session.get_inputs()}
    wanted = {"work": "string", "age": "float", "year": "double", "flag": "string", "size": "float"}
    assert kinds == {name: f"tensor({kind})" for name, kind in wanted.items()}
    text = (tmp_path / "out" / "README.md").read_text()
    assert '"Gov", "Private", "a, \\\\"b\\\\"", other' in text
    assert "normalizes by itself" not in text
    rows = list(csv.DictReader(io.StringIO(NEW)))
    rows[3]["flag"] = "true"  # that yes means true is known to read.py alone
    columns = {name: [row[name].strip() for row in rows] for name in kinds}
    for name in ("age", "year", "size"):
        columns[name] = [np.nan if cell in ("", "NA", "?") else float(cell) for cell in columns[name]]
    monkeypatch.chdir(tmp_path / "out")
    scope = {"columns": columns}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    expected = predicted(adults, adults / "run" / "student", adults / "new.csv")
    np.testing.assert_allclose(scope["logits"], expected, atol=1e-5)
    assert list(scope["answers"]) == [["<=50K", ">50K"][place] for place in expected.argmax(1)]


def test_the_card_of_a_folder_encodes_new_rows(adults, tmp_path, monkeypatch):
    export_run(adults / "run", to="folder", out=tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "load_encoding" in code
    monkeypatch.chdir(tmp_path / "out")
    (tmp_path / "out" / "new.csv").write_text(NEW)
    scope = {}
    exec(code, scope)
    expected = predicted(adults, adults / "run" / "student", adults / "new.csv")
    assert np.array_equal(scope["logits"].detach().numpy(), expected)


@SOAK
def test_8_bits_take_raw_rows_too(adults, tmp_path):
    found = export_run(adults / "run", to="int8", raw=True, calibration="minmax", out=tmp_path / "out")
    assert abs(found.score_after - found.score_before) < 0.2
    expected = predicted(adults, adults / "run" / "student", adults / "test.csv")
    _, said, logits = answers(tmp_path / "out", adults / "test.csv")
    assert len(said) == 40
    assert np.abs(logits - expected).max() < 0.5


def test_rows_are_laid_out_as_the_training_file_unless_it_is_reported(tmp_path):
    text = "größe;n;y\n" + "\n".join(f"{'äöü'[i % 3]};{i % 5};{'ab'[i % 2]}" for i in range(30)) + "\n"
    for name, given, charset in (
        ("train.csv", text, "latin-1"), ("comma.csv", text.replace(";", ","), "utf-8"),
        ("tab.csv", text.replace(";", "\t"), "utf-16"), ("utf8.csv", text, "utf-8"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(given.encode(charset))
    data, encoding = lb.read_table(tmp_path / "train.csv", target="y", separator=";", charset="latin-1")
    student = lb.build("mlp", inputs=len(encoding.features), classes=2, hidden=[4], seed=0)
    lb.distill(student, lb.Stage(lb.Loss(cross_entropy), epochs=1), data, out=tmp_path / "run").finish()
    folder = tmp_path / "run" / "student"
    assert lb.load_encoding(folder) == encoding
    write_reader(folder)
    expected = predicted(tmp_path, folder, tmp_path / "train.csv")
    np.testing.assert_allclose(answers(folder, tmp_path / "train.csv")[2], expected, atol=1e-5)
    for name, typed in (
        ("comma.csv", ["--separator", ",", "--charset", "utf8"]),
        ("tab.csv", ["--separator", "tab", "--charset", "utf-16"]),
    ):
        np.testing.assert_allclose(answers_here(folder, tmp_path / name, *typed), expected, atol=1e-5)
    assert "--charset" in refused(folder, tmp_path / "train.csv", "--charset", "utf-8")
    assert "cp77777" in refused(folder, tmp_path / "train.csv", "--charset", "cp77777")
    assert "--separator" in refused(folder, tmp_path / "train.csv", "--separator", "|")
    assert ";;" in refused(folder, tmp_path / "train.csv", "--separator", ";;")
    assert "nowhere.csv" in refused(folder, tmp_path / "nowhere.csv")


def test_a_student_distilled_in_python_explains_what_it_reads(adults, tmp_path):
    data, encoding = lb.read_table(adults / "train.csv", target="label", ignore=["unused"])
    rest, _ = lb.split(data, fraction=0.2, seed=0)
    student = lb.build("mlp", inputs=len(encoding.features), classes=2, hidden=[4], seed=0)
    run = lb.distill(student, lb.Stage(lb.Loss(cross_entropy), epochs=1), rest, out=tmp_path / "run").finish()
    assert lb.load_encoding(tmp_path / "run" / "student") == encoding
    assert lb.load_preprocess(tmp_path / "run" / "student").to_dict() == {"preprocess": "unchanged"}
    inputs = data.take(torch.arange(50)).inputs
    expected = predicted(adults, tmp_path / "run" / "student", adults / "new.csv")
    to_onnx(run.student, inputs, tmp_path / "onnx" / "model.onnx")
    plain = predict_onnx(tmp_path / "onnx" / "model.onnx", inputs)
    include_encoding(tmp_path / "onnx" / "model.onnx", encoding)
    assert write_reader(tmp_path / "onnx" / "model.onnx") == tmp_path / "onnx" / "read.py"
    names, _, logits = answers(tmp_path / "onnx", adults / "new.csv")
    assert names == ["<=50K", ">50K"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert plain.shape == (50, 2)
    to_folder(lb.load(tmp_path / "run" / "student"), tmp_path / "again")
    assert lb.load_encoding(tmp_path / "again") == encoding


@pytest.mark.parametrize(
    ("to", "raw"), [("onnx", False), pytest.param("onnx", True, marks=SOAK), pytest.param("folder", False, marks=SOAK)]
)
def test_arrays_of_images_and_files_of_them(done, tmp_path, to, raw):
    from PIL import Image

    images = np.load(done.parent / "blobs.npz")["x_test"][:5]
    np.save(tmp_path / "some.npy", images)
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    export_run(done, to=to, raw=raw, out=tmp_path / "out")
    student, preprocess = lb.load(done / "student"), lb.load_preprocess(done / "student")
    with torch.no_grad():
        expected = student(preprocess(lb.Batch(torch.from_numpy(images)))).softmax(1).numpy()
    _, said, found = answers(tmp_path / "out", tmp_path / "some.npy", tmp_path / "one.png", how="--all")
    np.testing.assert_allclose(found, np.concatenate([expected, expected[:1]]), atol=1e-5)
    assert said[-1] == said[0]
    assert said[0].startswith("class ")


@pytest.mark.parametrize(("name", "shape", "arguments"), [
    pytest.param("cnn", (1, 9, 9), {"channels": 1, "classes": 3, "widths": [3, 4, 5], "size": 9}, marks=SOAK),
    ("resnet14", (3, 8, 8), {"channels": 3, "classes": 3, "width": 4}),
])  # fmt: skip
def test_convolutions_in_plain_pytorch(tmp_path, name, shape, arguments):
    net = lb.build(name, seed=0, **arguments)
    images = torch.randint(0, 256, (4, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocess = lb.NormalizeImages((0.4,) * shape[0], (0.2,) * shape[0], scale=1 / 255)
    net.train()(preprocess(lb.Batch(images)))  # so that running statistics are no zeros and ones
    told = {"preprocess": preprocess.to_dict(), "input_shape": list(shape)}
    write_reader(lb.save(net.eval(), tmp_path / "student", metadata=told))
    np.save(tmp_path / "some.npy", images.numpy())
    with torch.no_grad():
        expected = net(preprocess(lb.Batch(images))).numpy()
    names, _, logits = answers(tmp_path / "student", tmp_path / "some.npy")
    assert names == ["0", "1", "2"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("to", ["onnx", pytest.param("folder", marks=SOAK)])
def test_texts(tmp_path, to):
    examples, net = texts(), bert(seed=0).eval()
    told = {"class_names": ["good", "bad"]}
    examples.tokenizer.model_max_length = 12
    said = ["a fine film", "dull " * 40, "slow, and “moving”"]
    (tmp_path / "new.csv").write_text("id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(said)))
    with torch.no_grad():
        expected = net(**lb.data.TokenizeOnRead(examples.tokenizer)(lb.Batch(said))).logits.numpy()
    if to == "onnx":
        to_onnx(net, examples.take(torch.arange(6)).inputs, tmp_path / "out" / "model.onnx", metadata=told)
    else:
        lb.save(net, tmp_path / "out", metadata=told)
    examples.tokenizer.save_pretrained(tmp_path / "out")
    write_reader(tmp_path / "out" / "model.onnx" if to == "onnx" else tmp_path / "out")
    _, _, logits = answers(tmp_path / "out", tmp_path / "new.csv")
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_what_cannot_be_read_is_refused(tmp_path, done):
    lb.save(torch.nn.Linear(2, 2), tmp_path / "own", metadata={"input_shape": [2]})
    with pytest.raises(LimbeckError, match="your own class"):
        write_reader(tmp_path / "own")
    with pytest.raises(LimbeckError, match="student has no table encoding"):
        lb.load_encoding(done / "student")
    with pytest.raises(LimbeckError, match="target="):
        lb.read_table(tmp_path / "new.csv")


def test_a_student_of_several_labels_answers_with_labels(tmp_path):
    net = lb.build("cnn", channels=1, classes=3, widths=[3], size=6, seed=0)
    images = torch.randint(0, 256, (5, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocess = lb.NormalizeImages((0.4,), (0.2,), scale=1 / 255)
    task = {"name": "multi_label", "labels": 3, "names": ["red", "green", "blue"]}
    metadata = {"preprocess": preprocess.to_dict(), "input_shape": [1, 6, 6], "task": task}
    write_reader(lb.save(net.eval(), tmp_path / "student", metadata=metadata))
    np.save(tmp_path / "some.npy", images.numpy())
    with torch.no_grad():
        expected = net(preprocess(lb.Batch(images))).sigmoid().numpy()
    names = ["|".join(name for name, p in zip(task["names"], row, strict=True) if p > 0.5) for row in expected]
    header, said, found = answers(tmp_path / "student", tmp_path / "some.npy", how="--all")
    assert (header, said) == (task["names"], names)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    lines = read_here(tmp_path / "student", tmp_path / "some.npy")[0].splitlines()
    assert lines[0] == "answer,probability"
    together = np.maximum(expected, 1 - expected).prod(1)
    np.testing.assert_allclose([float(line.rpartition(",")[2]) for line in lines[1:]], together, atol=1e-5)
