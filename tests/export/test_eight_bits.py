"""The gain and loss of 8 bits are measured and reported."""

from __future__ import annotations

import time

import pytest
import torch

from export_runs import front
from limbeck.cli.results import _show_int8
from limbeck.export import export_run, formats, int8_report
from limbeck.export.int8 import QuantizationChoice, QuantizationTrial
from limbeck.export.int8_report import LatencyPair, QuantizationReport, benchmark_pair

BEST = QuantizationTrial("entropy", True, 0.9, 0.01)
CHOICE = QuantizationChoice(BEST, (QuantizationTrial("minmax", True, 0.88, 0.02), BEST), 512, 2000)


class Planted:
    """A session that answers as another one does, but later, or otherwise."""

    def __init__(self, session, *, seconds=0.0, answer=lambda logits: logits):
        self.session, self.seconds, self.answer = session, seconds, answer

    def get_inputs(self):
        return self.session.get_inputs()

    def run(self, names, feed):
        until = time.process_time() + self.seconds
        while time.process_time() < until:
            pass
        return [self.answer(found) for found in self.session.run(names, feed)]


def plant(monkeypatch, name, **how):
    """From now on, the file of this name is opened as such a session."""
    real = formats.open_session

    def opened(file, **more):
        session = real(file, **more)
        return Planted(session, **how) if file.name == name else session

    monkeypatch.setattr(formats, "open_session", opened)
    monkeypatch.setattr(int8_report, "_MOST", 20)  # such a difference needs no 300 passes


def notes(done, tmp_path):
    found = export_run(done, to="int8", out=tmp_path / "out", calibration="minmax")
    assert {note for note in found.notes if "To ship" not in note} <= set(
        front(found)[1].replace("\n* ", "\n").splitlines()
    )
    return found, [note for note in found.notes if "times smaller" not in note and "To ship" not in note]


def test_a_slower_file_is_said_to_be_slower(done, tmp_path, monkeypatch):
    plant(monkeypatch, "model_int8.onnx", seconds=0.004)
    found, (note,) = notes(done, tmp_path)
    assert note.startswith("On this machine 8 bits are slower: ")
    assert "times as long for one example (" in note
    assert "times as long for 64 examples (" in note
    assert all(one.int8 > 4 and one.ratio > 2 for one in found.eight.latency.values())


def test_a_faster_file_is_not(done, tmp_path, monkeypatch):
    plant(monkeypatch, "model.onnx", seconds=0.004)
    found, said = notes(done, tmp_path)
    assert said == []
    assert all(one.ratio < 0.5 for one in found.eight.latency.values())


def test_a_file_that_is_worse_is_said_to_be_worse(done, tmp_path, monkeypatch):
    plant(monkeypatch, "model.onnx", seconds=0.004)
    plant(monkeypatch, "model_int8.onnx", answer=lambda logits: -logits)
    found, (note,) = notes(done, tmp_path)
    lost = 100 * (found.score_before - found.score_after)
    assert lost > 20
    assert note == f"8 bits cost {lost:.2f} points of accuracy on 60 test examples, which is more than 1.00 points; the float32 file (--to onnx) is better."  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("full", "after", "ratio", "said"),
    [
        (4000, 0.891, 1.04, []),
        (1999, 0.9, 1.0, ["1,000 bytes instead of 1,999"]),
        (2000, 0.889, 1.0, ["1.10 points of accuracy on 500"]),
        (2000, 0.9, 1.06, ["1.06 times as long for one example"]),
        (1000, 0.5, 3.0, ["less than 2 times smaller", "40.00 points", "slower"]),
    ],
)
def test_from_where_on_it_is_said(full, after, ratio, said):
    eight = QuantizationReport(full, CHOICE, {1: LatencyPair(2.0, 2.0 * ratio), 64: LatencyPair(3.0, 3.0)})
    found = list(eight.notes(size=1000, before=0.9, after=after, examples=500))
    assert len(found) == len(said)
    assert all(part in note and note.count(". ") == 0 for part, note in zip(said, found, strict=True))


@pytest.mark.parametrize("pair", [LatencyPair(0.0, 0.0), LatencyPair(0.0, 10.0), LatencyPair(10.0, 0.0)])
def test_a_time_of_zero_on_a_coarse_clock_has_no_ratio(pair, capsys):
    report = QuantizationReport(4000, CHOICE, {1: pair, 64: LatencyPair(2.0, 1.0)})
    assert pair.ratio is None
    assert report.to_dict()["milliseconds"]["batch_1"]["ratio"] is None
    assert list(report.notes(size=1000, before=0.9, after=0.9, examples=500)) == []
    card = list(report.lines())[-1]
    assert f"{pair.int8:.3g} ms for one example ({pair.float32:.3g} ms in float32)" in card
    assert "(0.50 times the 2 ms of float32)" in card
    _show_int8(report)
    assert "0.50 times the 2 ms of float32" in capsys.readouterr().out


def test_both_files_are_timed_in_turn():
    order = []

    class Noted:
        def __init__(self, name):
            self.name = name

        def get_inputs(self):
            return [type("Input", (), {"name": "inputs"})]

        def run(self, names, feed):
            order.append((self.name, len(feed["inputs"])))

    found = benchmark_pair(Noted("full"), Noted("small"), torch.zeros(5, 2), batches=(1, 64))
    assert set(found) == {1, 64}
    assert {size for _, size in order} == {1, 64}
    timed = [name for name, size in order if size == 64][6:]
    pairs = {tuple(timed[i : i + 2]) for i in range(0, len(timed), 2)}
    assert pairs == {("full", "small"), ("small", "full")}


def test_what_was_tried_is_in_json_and_on_the_card(done, tmp_path):
    found = export_run(done, to="int8", out=tmp_path / "out")
    told, (_, text) = found.to_dict(), front(found)
    assert {(one["method"], one["symmetric"]) for one in told["tried"]} == {
        (method, symmetric) for method in ("minmax", "entropy", "percentile") for symmetric in (True, False)
    }
    assert told["calibrated_on"] == 135
    assert told["judged_on"] == 15
    for trial in found.eight.choice.tried:
        assert f"{trial}: {100 * trial.accuracy:.2f} %, KL {trial.kl:.2g} nats" in text
    assert f"Calibration: {found.eight.choice.best}, on 135 training examples; weights per channel. Best of 6 on 15 " in text  # fmt: skip # noqa: E501
    assert "Median time on one CPU thread" in text


def test_neither_calibration_nor_choice_sees_test_data(done, tmp_path, monkeypatch):
    seen = []
    real = formats.choose_int8

    def choosing(model, calibration, held_out, path, **more):
        seen.append((calibration, held_out, more["labels"]))
        return real(model, calibration, held_out, path, **more)

    monkeypatch.setattr(formats, "choose_int8", choosing)
    export_run(done, to="int8", out=tmp_path / "out", calibration="minmax")
    from limbeck.export.finished_run import open_finished
    from limbeck.job.splits import train_and_development

    run = open_finished(done)
    data = run.data()
    train, development = train_and_development(run.job, data)
    ((calibration, held_out, labels),) = seen

    def inputs(examples):
        return {row.numpy().tobytes() for row in data.preprocess(examples.take(torch.arange(len(examples))))}

    assert {row.numpy().tobytes() for row in calibration} == inputs(train)
    assert {row.numpy().tobytes() for row in held_out} == inputs(development)
    assert not inputs(data.test) & (inputs(train) | inputs(development))
    assert sorted(labels.tolist()) == sorted(development.labels.tolist())
