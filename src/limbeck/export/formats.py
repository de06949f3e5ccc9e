"""The export formats: how each is written, opened again and compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.data import Dataset, Identity, NormalizeImages, TableEncoding, subsample
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.export.folder import check_hf, reopen_hf, to_folder, to_hf
from limbeck.export.int8 import CALIBRATIONS, TRAINED, QuantizationChoice, choose_int8
from limbeck.export.int8_report import QuantizationReport, benchmark_pair
from limbeck.export.onnx_file import CHECKED, Parity, file_inputs, max_difference, to_onnx
from limbeck.export.onnx_session import count_examples, open_session, run, split_chunks
from limbeck.export.table_graph import include_encoding, raw_columns
from limbeck.export.trained_scales import to_int8_trained
from limbeck.metrics.predictions import rows_at_once
from limbeck.model_call import call, logits_of
from limbeck.models import load, load_weights, set_token_ids, transforms_of
from limbeck.models.quantization import is_fake_quantized, remove_fake_quantize
from limbeck.optional_imports import import_optional
from limbeck.tap import FrozenParameters
from limbeck.tasks import Classification, Score, Task
from limbeck.teachers.estimators import EstimatorModule, save_estimator

_CALIBRATION = 512
"""Number of training examples from which the ranges of activations are measured."""
_JUDGED = 2000
"""Number of development examples on which quantizations are compared."""
_TIMED = 64
_FEWEST = 16
"""Texts that are compared at least, however large the vocabulary is; quantization needs them."""


class ExportRequest(NamedTuple):
    """A student to export, and the data that it is checked on.

    Attributes:
        student: The plain module.
        test: The test examples: outputs are compared on the first thousand, the metric is computed on all.
        train: Training examples, for calibration.
        development: Examples held out of the training data, for the choice of a calibration.
        preprocess: Function from a batch to the student's inputs.
        raw: Whether an ONNX file contains the preprocessing.
        metadata: JSON values that are written into or beside the export.
        tokenizer: A tokenizer that is saved with the export.
        calibrations: The calibrations for 8 bits that are tried.
        encoding: How a table is turned into numbers; with `raw` it becomes a part of an ONNX file.
        task: What the outputs of `student` mean.
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
    task: Task = Classification()

    def inputs(self, examples: Dataset, count: int) -> Inputs:
        """The first `count` examples as inputs of the exported file (rows of a table are encoded).

        Of texts, they are as many as have some million logits.
        """
        most = min(max(rows_at_once(examples, most=count), _FEWEST), count, len(examples))
        return self.read(examples.take(torch.arange(most)))

    def read(self, batch: Batch) -> Inputs:
        """The inputs of the exported file for a batch (rows of a table are encoded)."""
        return batch.inputs if self.reads_in_file else file_inputs(self.student, self.preprocess(batch))

    @property
    def reads_in_file(self) -> bool:
        """Whether the network is exported with its normalization; the encoding of a table is added later."""
        return self.raw and self.encoding is None


class ExportedFile(NamedTuple):
    """A file or folder that was written.

    Attributes:
        path: The file or folder.
        parity: How much its logits differ from the student's.
        predict: Function from a batch to its logits.
        eight: The report of the quantization to 8 bits, if there was one.
    """

    path: Path
    parity: Parity
    predict: Callable[[Batch], Tensor]
    eight: QuantizationReport | None = None


class ExportedRun(NamedTuple):
    """The result of an export.

    Attributes:
        path: The exported file or folder; ``README.md`` is beside or in it.
        bytes: Its size, without the card.
        parity: The largest difference of its logits from the student's, and the number of test examples compared.
        score_before: The primary metric of the student on all test data, in PyTorch: the accuracy of a classifier.
        score_after: The same of the export, opened again.
        notes: Warnings and notes before you ship it.
        eight: The report of the quantization to 8 bits; None in float32.
        arm: The arm of the run whose student it is; None in runs of earlier versions, which did not store it.
        metric: The primary metric: its name and how people read it.
        mean: The metric's mean over the seeds of the arm; None with one seed. The exported student is of the first.
    """

    path: Path
    bytes: int
    parity: Parity
    score_before: float
    score_after: float
    notes: tuple[str, ...] = ()
    eight: QuantizationReport | None = None
    arm: str | None = None
    metric: Score = Classification.primary
    mean: float | None = None

    @property
    def of_seed(self) -> str:
        """Which seed's the score is, as the end of a sentence; empty for a run with one seed."""
        return "" if self.mean is None else f"; this is seed 0, the mean over seeds is {self.metric.format(self.mean)}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "path": str(self.path),
            "arm": self.arm,
            "bytes": self.bytes,
            "max_difference": self.parity.max_difference,
            "metric": self.metric.name,
            "score_before": self.score_before,
            "score_after": self.score_after,
            **(self.eight.to_dict() if self.eight else {}),
        }


def write_folder(request: ExportRequest, out: Path) -> ExportedFile:
    """Write a folder for `limbeck.load`, open it again and compare."""
    to_folder(set_token_ids(request.student, request.tokenizer), out, metadata=request.metadata)
    if request.tokenizer is not None:
        request.tokenizer.save_pretrained(out)
    try:
        again = load(out)
    except LimbeckError:  # a user's own class, which cannot be built from the folder alone
        # The copy has the changes that `load` would make again after a build.
        again = load_weights(copy.deepcopy(request.student), out)
    return _compare_modules(request, again, out)


def write_hf(request: ExportRequest, out: Path) -> ExportedFile:
    """Write a folder of transformers, open it with ``from_pretrained`` and compare."""
    to_hf(request.student, out, class_names=request.metadata.get("class_names"), tokenizer=request.tokenizer)
    # Zeros in place of removed channels change the order of sums.
    return _compare_modules(request, reopen_hf(out), out, rounding=1e-4 if transforms_of(request.student) else 0.0)


def write_onnx(request: ExportRequest, out: Path) -> ExportedFile:
    """Write an ONNX file."""
    file = out / "model.onnx"
    return _finish_onnx(request, file, _plain_onnx(request, file))


def write_int8(request: ExportRequest, out: Path) -> ExportedFile:
    """Write an ONNX file of 8-bit integers; the float32 file that it is compared with is checked and deleted."""
    full, file = out / "model.onnx", out / "model_int8.onnx"
    inputs = request.inputs(request.test, CHECKED)
    if is_fake_quantized(request.student):
        in_float = remove_fake_quantize(copy.deepcopy(request.student))
        _plain_onnx(request._replace(student=in_float), full)
        preprocess = request.preprocess if request.reads_in_file else None
        parity = to_int8_trained(request.student, inputs, file, preprocess=preprocess, metadata=request.metadata)
        choice = QuantizationChoice(TRAINED, (TRAINED,), 0, 0)
    else:
        _plain_onnx(request, full)
        choice = _measure_scales(request, full, file)
        parity = Parity(_difference(full, file, inputs), count_examples(inputs))
    float32, int8 = open_session(full, threads=1), open_session(file, threads=1)
    eight = QuantizationReport(
        full.stat().st_size, choice, benchmark_pair(float32, int8, request.inputs(request.test, _TIMED))
    )
    full.unlink()
    return _finish_onnx(request, file, parity, eight)


def _measure_scales(request: ExportRequest, full: Path, file: Path) -> QuantizationChoice:
    """Quantize a float32 file after training, in the way that is best on development data."""
    calibration, development = (
        subsample(examples, min(count, len(examples)), 0)
        for examples, count in ((request.train, _CALIBRATION), (request.development, _JUDGED))
    )
    return choose_int8(
        full, request.inputs(calibration, _CALIBRATION), request.inputs(development, _JUDGED), file,
        labels=development.labels if isinstance(request.task, Classification) else None,
        methods=request.calibrations, task=request.task,
    )  # fmt: skip


def _difference(full: Path, file: Path, inputs: Inputs) -> float:
    """The largest difference of a logit between two files."""
    first, second = open_session(full), open_session(file)
    return max(max_difference(run(first, part)[0], run(second, part)[0]) for part in split_chunks(inputs))


def _plain_onnx(request: ExportRequest, file: Path) -> Parity:
    """Write the network, with the normalization of pixels if `raw` asks for it."""
    preprocess = request.preprocess if request.reads_in_file else None
    return to_onnx(
        request.student, request.inputs(request.test, CHECKED), file, preprocess=preprocess, metadata=request.metadata
    )


def _finish_onnx(
    request: ExportRequest, file: Path, parity: Parity, eight: QuantizationReport | None = None
) -> ExportedFile:
    """Save the tokenizer beside an ONNX file, or add the encoding of a table if `raw` asks for it."""
    if request.tokenizer is not None:
        request.tokenizer.save_pretrained(file.parent)
    if not request.raw or request.encoding is None:
        return ExportedFile(file, parity, _session(request, file), eight)
    plain, inputs = open_session(file), request.inputs(request.test, CHECKED)
    before = np.concatenate([run(plain, part)[0] for part in split_chunks(inputs)])
    include_encoding(file, request.encoding)
    predict = _open_raw(request.encoding, file)
    after = torch.cat([predict(part) for part in split_chunks(inputs)]).numpy()
    if (difference := max_difference(before, after)) > parity.allowed and eight is None:
        raise LimbeckError(
            f"The encoding of the table in {file.name} is not that of the data: logits differ by {difference:.3g}."
        )
    worst = parity._replace(max_difference=max(parity.max_difference, difference))
    return ExportedFile(file, worst, lambda batch: predict(request.preprocess(batch)), eight)


def _open_raw(encoding: TableEncoding, file: Path) -> Callable[[Inputs], Tensor]:
    """Function from encoded features to the logits of a file that takes the table's own columns."""
    session = open_session(file)

    def predict(features: Inputs) -> Tensor:
        return torch.from_numpy(session.run(None, raw_columns(encoding, features.numpy()))[0])

    return predict


def write_joblib(request: ExportRequest, out: Path) -> ExportedFile:
    """Write an estimator as it is, open the file again and compare."""
    file, student = out / "model.joblib", cast(EstimatorModule, request.student)
    save_estimator(student, file)
    own = copy.copy(student.teacher)
    own.estimator = import_optional("joblib", extra="sklearn", purpose="Opening an estimator").load(file)
    return _compare_modules(request, EstimatorModule(own, fitted=True), file)


FORMATS: dict[str, Callable[[ExportRequest, Path], ExportedFile]] = {
    "folder": write_folder,
    "hf": write_hf,
    "onnx": write_onnx,
    "int8": write_int8,
    "joblib": write_joblib,
}
"""The formats by name."""


def check_calibration(calibration: str | None, to: str) -> None:
    """Check that the calibration exists, and that the format uses one.

    Raises:
        UnknownNameError: If there is no such calibration.
        ArgumentError: If the format does not use one.
    """
    if calibration is not None and calibration not in CALIBRATIONS:
        raise unknown_name_error("calibration", calibration, CALIBRATIONS, argument="calibration")
    if calibration is not None and to != "int8":
        raise ArgumentError(
            f"A calibration is for the format int8; {to} stays in float32. Leave out calibration.",
            argument="calibration",
        )


def check_format(
    to: str, student: nn.Module, *, raw: bool, preprocess: Callable[[Batch], Inputs], texts: bool = False
) -> None:
    """Check before any work whether the student can be exported in the format.

    Raises:
        LimbeckError: If the student does not fit the format, an extra is missing, or `raw` does not apply.
    """
    if isinstance(student, EstimatorModule) != (to == "joblib"):
        kind = "an estimator, which is exported as it is: type --to joblib (skl2onnx makes ONNX of forests and trees)"
        kind = (
            f"a network: choose one of {', '.join(name for name in FORMATS if name != 'joblib')}"
            if to == "joblib"
            else kind
        )
        raise ArgumentError(f"The student of this run is {kind}.", argument="to")
    if to in ("onnx", "hf") and is_fake_quantized(student):
        raise ArgumentError(
            f"This student was trained with rounded weights and inputs, and {to} is in full precision. Type --to int8, "
            "which writes its scales, or --to folder.",
            argument="to",
        )
    if to == "hf":
        check_hf(student)
    if to in ("onnx", "int8"):
        for module in ("onnx", "onnxscript", "onnxruntime"):
            import_optional(module, extra="export", purpose=f"The format {to}")
        if raw and texts:
            raise ArgumentError(
                "No ONNX operation splits texts into tokens, so raw does not work for texts. Leave it out: read.py "
                "beside the file reads texts with tokenizer.json.",
                argument="raw",
            )
        if raw and not isinstance(preprocess, (NormalizeImages, Identity)):
            raise ArgumentError(
                f"raw includes the normalization of pixels or the encoding of a table; these data are preprocessed by "
                f"{preprocess}. Leave it out.",
                argument="raw",
            )
    elif raw:
        raise ArgumentError(
            f"raw is for the formats onnx and int8; {to} contains only the module. Leave it out.", argument="raw"
        )


def _session(request: ExportRequest, file: Path) -> Callable[[Batch], Tensor]:
    session = open_session(file)

    def predict(batch: Batch) -> Tensor:
        return torch.cat([torch.from_numpy(run(session, part)[0]) for part in split_chunks(request.read(batch))])

    return predict


def _compare_modules(request: ExportRequest, again: nn.Module, out: Path, *, rounding: float = 0.0) -> ExportedFile:
    """Check that a module that was opened again has the same outputs: to the bit, or up to a share of the largest."""
    worst, largest, inputs = 0.0, 1.0, request.inputs(request.test, CHECKED)
    with torch.no_grad(), FrozenParameters(request.student), FrozenParameters(again):
        for part in split_chunks(inputs):
            before, after = (logits_of(call(model, part)).float() for model in (request.student, again))
            worst = max(worst, max_difference(before.numpy(), after.numpy()))
            largest = max(largest, float(before.abs().max()))
    if worst > rounding * largest:
        raise LimbeckError(f"The logits of the student in {out} differ from the written one's by up to {worst:.3g}.")

    def predict(batch: Batch) -> Tensor:
        with torch.no_grad(), FrozenParameters(again):
            return logits_of(call(again, request.preprocess(batch))).float()

    return ExportedFile(out, Parity(worst, count_examples(inputs)), predict)
