"""Impossible exports are refused, with nothing left behind."""

from __future__ import annotations

import pytest

from export_runs import OWN, finished
from limbeck.errors import LimbeckError
from limbeck.export import FORMATS, export_run
from small_jobs import blobs, contents


def test_not_hugging_face(done):
    with pytest.raises(LimbeckError, match=r"Mlp is not a Hugging Face model.*--to onnx"):
        export_run(done, to="hf")
    assert not (done / "export" / "hf").exists()


def test_an_unknown_format(done):
    with pytest.raises(LimbeckError, match="Did you mean 'onnx'"):
        export_run(done, to="onxx")
    assert set(FORMATS) == {"folder", "hf", "onnx", "int8", "joblib"}


def test_a_place_that_is_taken(done, tmp_path):
    (tmp_path / "note").write_text("mine")
    for out in (tmp_path, tmp_path / "note"):
        with pytest.raises(LimbeckError, match="Choose another folder"):
            export_run(done, to="folder", out=out)
    with pytest.raises(LimbeckError, match=r"called model\.onnx"):
        export_run(done, to="onnx", out=tmp_path / "student.onnx")
    assert contents(tmp_path) == {"note": b"mine"}


ANSWER = """        return {"logits": self.out(self.body(x)), "features": self.body(x)}"""
STRANGE = {
    "a way that depends on values": (
        "        x = x * 2 if x.sum() > 0 else x\n" + ANSWER,
        r"^Net cannot be exported to ONNX: .*values of a tensor at own.py, line \d+",
    ),
    "an operation that ONNX lacks": (
        "        x = x + 0 * torch.linalg.eigvals(x[:, 0, :2, :2]).real.sum()\n" + ANSWER,
        r"Net cannot be exported to ONNX: .*--to folder",
    ),
    "an answer that is no number": (
        "        x = x * float('nan')\n" + ANSWER,
        r"returns NaN for \d+ of \d+ real examples",
    ),
    "an answer without logits": (
        """        return {"features": self.body(x)}""",
        r"logits",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A finished run of a network of a person's own, which stands in own.py."""
    folder = tmp_path_factory.mktemp("strange") / "run"
    return finished(folder, student=f"{folder / 'own.py'}:build")


@pytest.mark.parametrize("to", ["onnx", "int8"])
@pytest.mark.parametrize("what", STRANGE)
def test_a_student_that_cannot_be_exported(own_run, tmp_path, capfd, what, to):
    code, said = STRANGE[what]
    assert ANSWER in OWN
    (own_run.parent / "own.py").write_text(OWN.replace(ANSWER, code))
    with pytest.raises(LimbeckError, match=said) as error:
        export_run(own_run, to=to, out=tmp_path / "out", trust=True)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_such_a_student_still_has_its_weights(own_run, tmp_path):
    code, _ = STRANGE["a way that depends on values"]
    (own_run.parent / "own.py").write_text(OWN.replace(ANSWER, code))
    assert export_run(own_run, to="folder", out=tmp_path / "out", trust=True).parity.max_difference == 0


def test_nothing_is_left_where_someone_stops_it(done, tmp_path, monkeypatch):
    """After the files are written, and before they are judged."""

    def stopped(*_):
        assert list(tmp_path.glob(".*/model_int8.onnx"))
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.export.exporter._evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_run(done, to="int8", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_calibration_that_there_is_not(done, tmp_path):
    with pytest.raises(LimbeckError, match=r"Unknown calibration 'entropie'. Did you mean 'entropy'"):
        export_run(done, to="int8", out=tmp_path / "out", calibration="entropie")
    with pytest.raises(LimbeckError, match=r"calibration is for the format int8"):
        export_run(done, to="onnx", out=tmp_path / "out", calibration="entropy")
    assert not list(tmp_path.iterdir())


def test_raw_where_it_means_nothing(done, tmp_path):
    with pytest.raises(LimbeckError, match="raw is for the formats onnx and int8"):
        export_run(done, to="folder", out=tmp_path / "out", raw=True)


def test_data_that_have_changed(tmp_path):
    run = finished(tmp_path)
    blobs(tmp_path / "blobs.npz", test=50)
    with pytest.raises(LimbeckError, match="50 test examples, but had 60"):
        export_run(run, to="folder")
