"""How is a student written in each format, and what does that then answer?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, unknown
from limbeck.export.choosing import choose_int8
from limbeck.export.eight_bits import EightBits
from limbeck.export.folder import check_hf, hf_reopened, to_folder, to_hf
from limbeck.export.onnx_file import CHECKED, to_onnx
from limbeck.export.parity import Parity, difference
from limbeck.export.ranges import CALIBRATIONS
from limbeck.export.session import chunks, length, needed, opened, run
from limbeck.export.speed import side_by_side
from limbeck.models import load
from limbeck.signal import Batch, Inputs
from limbeck.sources import Examples, Pixels, Unchanged, subsample
from limbeck.tap import Frozen, call, logits_of

_CALIBRATION = 512
"""Training examples that the ranges of activations are taken from."""
_JUDGED = 2000
"""Development examples on which the ways to 8 bits are compared."""
_TIMED = 64


class Asked(NamedTuple):
    """What is to be exported, and on what it is checked.

    Attributes:
        student: The plain module.
        test: The test examples; the first thousand are compared, all are judged.
        train: Training examples, for calibration.
        development: Examples carved from the training data, for choosing how to calibrate.
        reads: The student's way from a batch to its inputs.
        raw: Whether that way is to be a part of an ONNX file.
        metadata: What is written beside or into it.
        tokenizer: What a folder needs besides to read texts.
        calibrations: Which ways to 8 bits are tried.
    """

    student: nn.Module
    test: Examples
    train: Examples
    development: Examples
    reads: Callable[[Batch], Inputs]
    raw: bool
    metadata: Mapping[str, Any]
    tokenizer: Any = None
    calibrations: Sequence[str] = tuple(CALIBRATIONS)

    def inputs(self, examples: Examples, count: int) -> Inputs:
        """The first `count` examples as the exported file reads them."""
        batch = examples.take(torch.arange(min(count, len(examples))))
        return batch.inputs if self.raw else self.reads(batch)


class Written(NamedTuple):
    """What was written.

    Attributes:
        path: The file, or the folder.
        parity: How far its logits are from the student's.
        answer: Batch -> its logits.
        eight: How it was brought down to 8 bits, if it was.
    """

    path: Path
    parity: Parity
    answer: Callable[[Batch], Tensor]
    eight: EightBits | None = None


def write_folder(asked: Asked, out: Path) -> Written:
    """A limbeck folder, opened again and compared."""
    to_folder(asked.student, out, metadata=asked.metadata)
    if asked.tokenizer is not None:
        asked.tokenizer.save_pretrained(out)
    try:
        again = load(out)
    except LimbeckError:  # a class of the person's own
        again = load(out, build=lambda: copy.deepcopy(asked.student))
    return _modules(asked, again, out)


def write_hf(asked: Asked, out: Path) -> Written:
    """A Hugging Face folder, opened by stock ``from_pretrained`` and compared."""
    to_hf(asked.student, out, class_names=asked.metadata.get("class_names"), tokenizer=asked.tokenizer)
    return _modules(asked, hf_reopened(out), out)


def write_onnx(asked: Asked, out: Path) -> Written:
    """An ONNX file."""
    file = out / "model.onnx"
    reads = asked.reads if asked.raw else None
    parity = to_onnx(asked.student, asked.inputs(asked.test, CHECKED), file, reads=reads, metadata=asked.metadata)
    return Written(file, parity, _session(asked, file))


def write_int8(asked: Asked, out: Path) -> Written:
    """An ONNX file of 8-bit integers; the float32 one that it is made of is checked as ever, and not kept."""
    full, file = write_onnx(asked, out).path, out / "model_int8.onnx"
    calibration, judged = (
        subsample(examples, min(count, len(examples)), 0)
        for examples, count in ((asked.train, _CALIBRATION), (asked.development, _JUDGED))
    )
    choice = choose_int8(
        full, asked.inputs(calibration, _CALIBRATION), asked.inputs(judged, _JUDGED), file, labels=judged.labels,
        methods=asked.calibrations,
    )  # fmt: skip
    inputs = asked.inputs(asked.test, CHECKED)
    whole, small = opened(full, threads=1), opened(file, threads=1)
    apart = max(difference(run(whole, some)[0], run(small, some)[0]) for some in chunks(inputs))
    eight = EightBits(full.stat().st_size, choice, side_by_side(whole, small, asked.inputs(asked.test, _TIMED)))
    full.unlink()
    return Written(file, Parity(apart, length(inputs)), _session(asked, file), eight)


FORMATS: dict[str, Callable[[Asked, Path], Written]] = {
    "folder": write_folder,
    "hf": write_hf,
    "onnx": write_onnx,
    "int8": write_int8,
}
"""The formats by name."""


def check_calibration(calibration: str | None, to: str) -> None:
    """Refuse a calibration that there is not, or that a format has no use for.

    Raises:
        LimbeckError: Saying which there are, or which format it is for.
    """
    if calibration is not None and calibration not in CALIBRATIONS:
        raise unknown("calibration", calibration, CALIBRATIONS)
    if calibration is not None and to != "int8":
        raise LimbeckError(
            f"--calibration is for --to int8; --to {to} keeps float32, so there is nothing to calibrate."
        )


def check_format(to: str, student: nn.Module, *, raw: bool, reads: Callable[[Batch], Inputs]) -> None:
    """Refuse early what a format cannot be.

    Raises:
        LimbeckError: If the student is none that the format takes, an extra is missing, or `raw` does not apply.
    """
    if to == "hf":
        check_hf(student)
    if to in ("onnx", "int8"):
        for module in ("onnx", "onnxscript", "onnxruntime"):
            _ = needed(module, wanted=f"--to {to}")
        if raw and not isinstance(reads, (Pixels, Unchanged)):
            raise LimbeckError(
                f"--raw puts the way that pixels are read into the file; these data are read by {reads}."
            )
    elif raw:
        raise LimbeckError(f"--raw is for --to onnx and int8; a {to} holds the module alone.")


def _session(asked: Asked, file: Path) -> Callable[[Batch], Tensor]:
    session = opened(file)

    def answer(batch: Batch) -> Tensor:
        inputs = batch.inputs if asked.raw else asked.reads(batch)
        return torch.cat([torch.from_numpy(run(session, some)[0]) for some in chunks(inputs)])

    return answer


def _modules(asked: Asked, again: nn.Module, out: Path) -> Written:
    worst, inputs = 0.0, asked.inputs(asked.test, CHECKED)
    with torch.no_grad(), Frozen(asked.student), Frozen(again):
        for some in chunks(inputs):
            mine, other = (logits_of(call(model, some)).float() for model in (asked.student, again))
            worst = max(worst, difference(mine.numpy(), other.numpy()))
    if worst > 0:
        raise LimbeckError(
            f"The student in {out} answers otherwise than the one that was written, by up to {worst:.3g}."
        )

    def answer(batch: Batch) -> Tensor:
        with torch.no_grad(), Frozen(again):
            return logits_of(call(again, asked.reads(batch))).float()

    return Written(out, Parity(worst, length(inputs)), answer)
