"""The export formats, and the outputs of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.data import Dataset, Identity, NormalizeImages, TableEncoding, subsample
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.export.folder import check_hf, reopen_hf, to_folder, to_hf
from limbeck.export.int8 import CALIBRATIONS
from limbeck.export.int8_report import QuantizationReport, benchmark_pair
from limbeck.export.int8_search import choose_int8
from limbeck.export.onnx_file import CHECKED, TOLERANCE, to_onnx
from limbeck.export.onnx_session import count_examples, open_session, run, split_chunks
from limbeck.export.parity import Parity, max_difference
from limbeck.export.table_graph import include_encoding, raw_columns
from limbeck.model_call import call, logits_of
from limbeck.models import load
from limbeck.optional_imports import import_optional
from limbeck.tap import FrozenParameters

_CALIBRATION = 512
"""Training examples that the ranges of activations are taken from."""
_JUDGED = 2000
"""Development examples on which the ways to 8 bits are compared."""
_TIMED = 64


class ExportRequest(NamedTuple):
    """What is to be exported, and on what it is checked.

    Attributes:
        student: The plain module.
        test: The test examples; the first thousand are compared, all are judged.
        train: Training examples, for calibration.
        development: Examples carved from the training data, for choosing how to calibrate.
        preprocess: The student's way from a batch to its inputs.
        raw: Whether that way is to be a part of an ONNX file.
        metadata: What is written beside or into it.
        tokenizer: What a folder needs besides to read texts.
        calibrations: Which ways to 8 bits are tried.
        encoding: How a table was turned into numbers; with `raw` it becomes a part of an ONNX file.
    """

    student: nn.Module
    test: Dataset
    train: Dataset
    development: Dataset
    preprocess: Callable[[Batch], Inputs]
    raw: bool
    metadata: Mapping[str, Any]
    tokenizer: Any = None
    calibrations: Sequence[str] = tuple(CALIBRATIONS)
    encoding: TableEncoding | None = None

    def inputs(self, examples: Dataset, count: int) -> Inputs:
        """The first `count` examples as the exported file reads them; of a table, encoded."""
        return self.read(examples.take(torch.arange(min(count, len(examples)))))

    def read(self, batch: Batch) -> Inputs:
        """What a file is given for a batch; of a table, encoded."""
        return batch.inputs if self.reads_in_file else self.preprocess(batch)

    @property
    def reads_in_file(self) -> bool:
        """Whether normalization is exported together with the network; a table's encoding is put before it later."""
        return self.raw and self.encoding is None


class ExportedFile(NamedTuple):
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
    eight: QuantizationReport | None = None


def write_folder(request: ExportRequest, out: Path) -> ExportedFile:
    """A limbeck folder, opened again and compared."""
    to_folder(request.student, out, metadata=request.metadata)
    if request.tokenizer is not None:
        request.tokenizer.save_pretrained(out)
    try:
        again = load(out)
    except LimbeckError:  # a class of the person's own
        again = load(out, build=lambda: copy.deepcopy(request.student))
    return _modules(request, again, out)


def write_hf(request: ExportRequest, out: Path) -> ExportedFile:
    """A Hugging Face folder, opened by stock ``from_pretrained`` and compared."""
    to_hf(request.student, out, class_names=request.metadata.get("class_names"), tokenizer=request.tokenizer)
    return _modules(request, reopen_hf(out), out)


def write_onnx(request: ExportRequest, out: Path) -> ExportedFile:
    """An ONNX file."""
    file = out / "model.onnx"
    return _finished_onnx(request, file, _plain_onnx(request, file))


def write_int8(request: ExportRequest, out: Path) -> ExportedFile:
    """An ONNX file of 8-bit integers; the float32 one that it is made of is checked as ever, and not kept."""
    full, file = out / "model.onnx", out / "model_int8.onnx"
    _plain_onnx(request, full)
    calibration, held_out = (
        subsample(examples, min(count, len(examples)), 0)
        for examples, count in ((request.train, _CALIBRATION), (request.development, _JUDGED))
    )
    choice = choose_int8(
        full, request.inputs(calibration, _CALIBRATION), request.inputs(held_out, _JUDGED), file,
        labels=held_out.labels,
        methods=request.calibrations,
    )  # fmt: skip
    inputs = request.inputs(request.test, CHECKED)
    whole, small = open_session(full, threads=1), open_session(file, threads=1)
    apart = max(max_difference(run(whole, some)[0], run(small, some)[0]) for some in split_chunks(inputs))
    eight = QuantizationReport(
        full.stat().st_size, choice, benchmark_pair(whole, small, request.inputs(request.test, _TIMED))
    )
    full.unlink()
    return _finished_onnx(request, file, Parity(apart, count_examples(inputs)), eight)


def _plain_onnx(request: ExportRequest, file: Path) -> Parity:
    """The network, with the normalization of pixels where that is asked for."""
    preprocess = request.preprocess if request.reads_in_file else None
    return to_onnx(
        request.student, request.inputs(request.test, CHECKED), file, preprocess=preprocess, metadata=request.metadata
    )


def _finished_onnx(
    request: ExportRequest, file: Path, parity: Parity, eight: QuantizationReport | None = None
) -> ExportedFile:
    """What was written; with a table's encoding in it where that is asked for, and a tokenizer beside it."""
    if request.tokenizer is not None:
        request.tokenizer.save_pretrained(file.parent)
    if not request.raw or request.encoding is None:
        return ExportedFile(file, parity, _session(request, file), eight)
    plain, inputs = open_session(file), request.inputs(request.test, CHECKED)
    before = np.concatenate([run(plain, some)[0] for some in split_chunks(inputs)])
    include_encoding(file, request.encoding)
    answer = _raw_session(request.encoding, file)
    after = torch.cat([answer(some) for some in split_chunks(inputs)]).numpy()
    if (apart := max_difference(before, after)) > TOLERANCE and eight is None:
        raise LimbeckError(
            f"The table's encoding in {file.name} is not the one of the data: logits differ by {apart:.3g}."
        )
    worst = parity._replace(max_difference=max(parity.max_difference, apart))
    return ExportedFile(file, worst, lambda batch: answer(request.preprocess(batch)), eight)


def _raw_session(encoding: TableEncoding, file: Path) -> Callable[[Inputs], Tensor]:
    """Encoded features -> the answer of a file that takes the table's own columns."""
    session = open_session(file)

    def answer(features: Inputs) -> Tensor:
        return torch.from_numpy(session.run(None, raw_columns(encoding, features.numpy()))[0])

    return answer


FORMATS: dict[str, Callable[[ExportRequest, Path], ExportedFile]] = {
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
        raise unknown_name_error("calibration", calibration, CALIBRATIONS)
    if calibration is not None and to != "int8":
        raise LimbeckError(
            f"--calibration is for --to int8; --to {to} keeps float32, so there is nothing to calibrate."
        )


def check_format(
    to: str, student: nn.Module, *, raw: bool, preprocess: Callable[[Batch], Inputs], texts: bool = False
) -> None:
    """Refuse early what a format cannot be.

    Raises:
        LimbeckError: If the student is none that the format takes, an extra is missing, or `raw` does not apply.
    """
    if to == "hf":
        check_hf(student)
    if to in ("onnx", "int8"):
        for module in ("onnx", "onnxscript", "onnxruntime"):
            _ = import_optional(module, extra="export", purpose=f"--to {to}")
        if raw and texts:
            raise LimbeckError(
                "--raw cannot put the cutting of texts into tokens into an ONNX file; without it, read.py beside the "
                "file reads texts by tokenizer.json."
            )
        if raw and not isinstance(preprocess, (NormalizeImages, Identity)):
            raise LimbeckError(
                f"--raw puts the way that pixels or a table are read into the file; these data are read by "
                f"{preprocess}."
            )
    elif raw:
        raise LimbeckError(f"--raw is for --to onnx and int8; a {to} holds the module alone.")


def _session(request: ExportRequest, file: Path) -> Callable[[Batch], Tensor]:
    session = open_session(file)

    def answer(batch: Batch) -> Tensor:
        return torch.cat([torch.from_numpy(run(session, some)[0]) for some in split_chunks(request.read(batch))])

    return answer


def _modules(request: ExportRequest, again: nn.Module, out: Path) -> ExportedFile:
    worst, inputs = 0.0, request.inputs(request.test, CHECKED)
    with torch.no_grad(), FrozenParameters(request.student), FrozenParameters(again):
        for some in split_chunks(inputs):
            mine, other = (logits_of(call(model, some)).float() for model in (request.student, again))
            worst = max(worst, max_difference(mine.numpy(), other.numpy()))
    if worst > 0:
        raise LimbeckError(
            f"The student in {out} answers otherwise than the one that was written, by up to {worst:.3g}."
        )

    def answer(batch: Batch) -> Tensor:
        with torch.no_grad(), FrozenParameters(again):
            return logits_of(call(again, request.preprocess(batch))).float()

    return ExportedFile(out, Parity(worst, count_examples(inputs)), answer)
