"""`export_run`: export a student, check the result, and write its model card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from limbeck.atomic_io import new_partial_folder, publish_folder, write_text
from limbeck.consent import read_consent
from limbeck.data import Dataset, DataSplits, Subset, TokenDataset
from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.export.finished_run import FinishedRun, open_finished, rebuild_student
from limbeck.export.folder import check_free_path
from limbeck.export.formats import FORMATS, ExportedFile, ExportedRun, ExportRequest, check_calibration, check_format
from limbeck.export.int8 import CALIBRATIONS
from limbeck.export.model_card import make_card
from limbeck.export.usage import choose_reader, write_script
from limbeck.job import hide_private_paths, recommend, train_and_development
from limbeck.metrics.predictions import as_batches
from limbeck.models.hub import LibraryModel
from limbeck.models.quantization import is_fake_quantized
from limbeck.tasks import LanguageModeling, Regression, Task
from limbeck.tasks.text_samples import text_numbers


def export_run(
    run: str | Path,
    *,
    to: str,
    arm: str | None = None,
    out: str | Path | None = None,
    raw: bool = False,
    license: str | None = None,
    calibration: str | None = None,
    trust: bool = False,
) -> ExportedRun:
    """Export the student of a finished run, check it on the run's test data, and write its model card.

    Args:
        run: The folder of the run.
        to: ``folder`` (for `limbeck.load`), ``hf`` (for transformers), ``onnx``, or ``int8`` (8-bit ONNX).
        arm: The arm whose student is exported, such as ``student alone``; by default the one that the run recommends.
        out: A folder that is new or empty; by default ``RUN/export/TO``, or ``RUN/export/TO-ARM`` if an arm is given.
            It appears complete or not at all.
        raw: Whether an ONNX file contains the preprocessing: the normalization of pixels, or the encoding of a table,
            whose columns then are inputs.
        license: The license of the weights for the card, such as ``apache-2.0``.
        calibration: The calibration for 8 bits, ``minmax``, ``entropy`` or ``percentile``; if None, the best of them on
            the run's development data.
        trust: Whether Python files that the run's job names (``my.py:build``) may be run to build the student. A run's
            folder may come from someone else.

    Returns:
        Where the export is, its size, how much its outputs differ from the student's, and its accuracy.

    Raises:
        LimbeckError: If the folder holds no finished run, the output folder is in use, an extra is missing, the student
            cannot be exported, a file would have to be run and `trust` is False, or the export fails its check.

    Example:
        >>> # export_run("runs/hinton", to="onnx").parity.max_difference
    """
    if to not in FORMATS:
        raise unknown_name_error("format", to, FORMATS, argument="to")
    check_calibration(calibration, to)
    with read_consent("export_run", trust=trust):
        return _export(open_finished(run, arm=arm), to, arm, out, raw, license, calibration)


def _export(
    done: FinishedRun,
    to: str,
    arm: str | None,
    out: str | Path | None,
    raw: bool,
    license: str | None,
    calibration: str | None,
) -> ExportedRun:
    place = to if arm is None else f"{to}-{arm.replace(' ', '-')}"
    target = check_free_path(done.folder / "export" / place if out is None else out, argument="out")
    if target.suffix == ".onnx":
        raise ArgumentError(
            f"out must be a folder, in which the file is called model.onnx; got {target}.", argument="out"
        )
    data = done.data()
    student = rebuild_student(done, data)
    check_format(to, student, raw=raw, preprocess=data.preprocess, texts=data.tokenizer is not None)
    if calibration is not None and is_fake_quantized(student):
        raise ArgumentError(
            "The scales of this student were trained with it: leave out calibration.", argument="calibration"
        )
    train, development = train_and_development(done.job, data)
    if to in ("onnx", "int8"):
        data, train, development = replace(data, test=unpack(data.test)), unpack(train), unpack(development)
    metadata = {name: value for name, value in done.metadata.items() if value is not None}
    # A student is exported without its teacher, so nothing can be compared with it.
    task: Task = done.task.without_teacher() if isinstance(done.task, LanguageModeling) else done.task
    model = student
    before = task.evaluate(student, data.test, preprocess=data.preprocess).measures[task.primary.name]
    if isinstance(task, Regression) and to in ("onnx", "int8"):  # the file has no other place for the scale
        model, task = task.with_scale(student), task.without_scale()
        metadata["task"] = task.to_dict()
    request = ExportRequest(
        model, data.test, train, development, data.preprocess, raw, metadata,
        _tokenizer(done, data) if to == "hf" else data.tokenizer,
        tuple(CALIBRATIONS) if calibration is None else (calibration,), data.encoding, task,
    )  # fmt: skip
    work = new_partial_folder(target)
    try:
        written = FORMATS[to](request, work)
        mean = _mean_over_seeds(done) if task.primary == done.task.primary else None
        exported = _evaluate(written, data, task, before)._replace(mean=mean)
        reader = choose_reader(to, done.model_config, done.metadata, texts=data.tokenizer is not None)
        if reader is not None:
            write_script(reader, work, done.metadata)
        card, card_notes = make_card(done, data, exported, to=to, raw=raw, license=license, reader=reader)
        write_text(hide_private_paths(card, done.folder), work / "README.md")
        publish_folder(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    notes = (*exported.notes, *card_notes, *_doubts(done, arm))
    name = done.metadata.get("arm")
    return exported._replace(
        path=target / written.path.relative_to(work), notes=notes, arm=None if name is None else str(name)
    )


def unpack(examples: Dataset) -> Dataset:
    """Texts that share rows, each in a row of its own; other data are returned unchanged.

    A graph has no branch for packed rows, in which models of transformers keep the texts apart.
    """
    whole = examples
    while isinstance(whole, Subset):
        whole = whole.whole
    if not isinstance(whole, TokenDataset) or not whole.packing:
        return examples
    plain = TokenDataset(whole.texts, max_length=whole.max_length, overlap=whole.overlap, too_long="window")
    numbers = text_numbers(examples)
    parts = [plain.take(index).extra["text_number"][:, 0] for index in torch.arange(len(plain)).split(256)]
    return plain.select(torch.isin(torch.cat(parts), numbers).nonzero()[:, 0])


def _mean_over_seeds(done: FinishedRun) -> float | None:
    """The mean of the arm's primary metric over its seeds; None with one seed."""
    row = done.result["arms"].get(done.metadata.get("arm")) or {}
    score = row.get(done.task.primary.name) or {}
    return score["mean"] if len(score.get("values") or ()) > 1 else None


def _doubts(done: FinishedRun, arm: str | None) -> Iterator[str]:
    """Notes about a student that the user did not choose by name."""
    if arm is not None or not done.result["arms"]:
        return
    advice = recommend(done.result)
    if not advice.ready:
        yield f"This student should not be shipped yet. {advice.why}"
    elif advice.arm != done.metadata.get("arm"):  # a run of an earlier version always shipped the arm of its verdict
        yield f"To ship: {advice.answer}. {advice.why} To ship that one: --arm {quote(str(advice.arm))}."
    elif advice.others:
        options = " or ".join(f"--arm {quote(arm)}" for arm in advice.others)
        yield f"This is the student of {advice.arm}. {advice.sentence} To ship another: {options}."


_NO_CACHE = (
    "The ONNX file has no cache of keys and values, so each new token computes the whole text again. To write long "
    "texts, use the folder of transformers (--to hf)."
)


def _evaluate(written: ExportedFile, data: DataSplits, task: Task, before: float) -> ExportedRun:
    """Compute the primary metric of the export on all test data, and its size."""
    outputs = ((batch, written.predict(batch).float()) for batch in as_batches(data.test))
    after = task.evaluate_outputs(outputs).measures[task.primary.name]
    files = [written.path] if written.path.is_file() else [p for p in written.path.rglob("*") if p.is_file()]
    size = sum(file.stat().st_size for file in files)
    labeled = task.check(data.test, "test")
    eight = written.eight
    notes = eight.notes(size=size, before=before, after=after, examples=labeled, score=task.primary) if eight else ()
    if isinstance(task, LanguageModeling) and written.path.suffix == ".onnx":
        notes = (*notes, _NO_CACHE)
    return ExportedRun(written.path, size, written.parity, before, after, tuple(notes), eight, metric=task.primary)


def _tokenizer(done: FinishedRun, data: DataSplits) -> Any:
    """The data's tokenizer, or the tokenizer or image processor of the student's name, if it is on this machine."""
    if data.tokenizer is not None:
        return data.tokenizer
    model = LibraryModel.parse(done.job.student.model)
    if model is None or model.prefix != "hf":
        return None
    from transformers import AutoImageProcessor, AutoTokenizer

    for kind in (AutoTokenizer, AutoImageProcessor):
        try:
            return kind.from_pretrained(model.name, local_files_only=True, trust_remote_code=False)
        except Exception:  # transformers has no specific error for a missing file
            continue
    return None
