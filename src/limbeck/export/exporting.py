"""`export_run`: a student exported, checked and described."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from limbeck.atomic_io import new_partial_folder, sync_folder, write_text
from limbeck.batch import IGNORED
from limbeck.consent import read_consent
from limbeck.data import DataSplits
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.export.card import model_card
from limbeck.export.exported_run import ExportedRun
from limbeck.export.finished_run import FinishedRun, open_finished, rebuild_combined_student
from limbeck.export.folder import check_free_path
from limbeck.export.formats import FORMATS, ExportedFile, ExportRequest, check_calibration, check_format
from limbeck.export.int8 import CALIBRATIONS
from limbeck.export.reader import choose_reader, write_reader_script
from limbeck.job import hide_private_paths, recommend, train_and_development
from limbeck.metrics import Predictions, accuracy, predict
from limbeck.metrics.predictions import as_batches
from limbeck.models.hub import LibraryModel


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
    """Export the student that a finished run ships, check it on the run's test data, and write its model card.

    Args:
        run: The run's folder.
        to: ``folder`` (for `limbeck.load`), ``hf`` (for transformers), ``onnx``, or ``int8`` (ONNX of 8-bit integers).
        arm: Whose student, ``student alone`` for one; by default the one that the run ships.
        out: A folder that is new or empty; ``RUN/export/TO`` by default, ``TO-ARM`` where an arm is named. It appears
            whole or not at all.
        raw: Whether the way that the data are read (normalization; the encoding of a table, whose columns then are
            inputs by their names) becomes a part of an ONNX file.
        license: What the card says of the weights' license, such as ``apache-2.0``.
        calibration: How 8 bits are calibrated, ``minmax``, ``entropy`` or ``percentile``; if None, what does best on
            the run's development data.
        trust: Whether Python files that the run's job names (``my.py:build``) may be run, to build the student anew:
            a run's folder may be a stranger's.

    Returns:
        Where it is, how large, how far its answers are from the student's, and how accurate it is.

    Raises:
        LimbeckError: If the run is none or not finished, the folder is taken, an extra is missing, the student cannot
            be exported, a file would have to be run and `trust` is False, or what was written does not answer as it
            should.

    Example:
        >>> # export_run("runs/hinton", to="onnx").parity.max_difference
    """
    if to not in FORMATS:
        raise unknown_name_error("format", to, FORMATS)
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
    target = check_free_path(done.folder / "export" / place if out is None else out)
    if target.suffix == ".onnx":
        raise LimbeckError(f"--out is a folder, in which the file is called model.onnx; got {target}.")
    data = done.data()
    student = rebuild_combined_student(done, data)
    check_format(to, student, raw=raw, preprocess=data.preprocess, texts=data.tokenizer is not None)
    train, development = train_and_development(done.job, data)
    request = ExportRequest(
        student, data.test, train, development, data.preprocess, raw, _metadata(done),
        _tokenizer(done, data) if to == "hf" else data.tokenizer,
        tuple(CALIBRATIONS) if calibration is None else (calibration,), data.encoding,
    )  # fmt: skip
    before = accuracy(predict(student, data.test, preprocess=data.preprocess)).value
    work = new_partial_folder(target)
    try:
        written = FORMATS[to](request, work)
        exported = _evaluate(written, data, before)
        reader = choose_reader(to, done.model_config, done.metadata, texts=data.tokenizer is not None)
        if reader is not None:
            write_reader_script(reader, work, done.metadata)
        card = model_card(done, data, exported, to=to, raw=raw, license=license, reader=reader)
        write_text(hide_private_paths(card, done.folder), work / "README.md")
        os.replace(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    sync_folder(target.parent)
    path, notes = target / written.path.relative_to(work), (*exported.notes, *_doubt(done, arm))
    return exported._replace(path=path, notes=notes)


def _doubt(done: FinishedRun, arm: str | None) -> Iterator[str]:
    """What to think of before shipping what nobody has asked for by name."""
    if arm is not None or not done.result["arms"]:
        return
    advice = recommend(done.result)
    if not advice.ready:
        yield f"This student should not be shipped yet. {advice.why}"
    elif advice.arm != done.metadata.get("arm"):  # a run of an earlier version, which always shipped what it had judged
        yield f"To ship: {advice.answer}. {advice.why} To ship that one: --arm {quote(str(advice.arm))}."
    elif advice.others:
        typed = " or ".join(f"--arm {quote(arm)}" for arm in advice.others)
        yield f"This is the student of {advice.arm}. {advice.sentence} To ship another: {typed}."


def _evaluate(written: ExportedFile, data: DataSplits, before: float) -> ExportedRun:
    logits = torch.cat([written.answer(batch).float() for batch in as_batches(data.test)])
    labels = data.test.labels
    after = accuracy(Predictions(logits.flatten(0, -2), None, None if labels is None else labels.flatten())).value
    files = [written.path] if written.path.is_file() else [p for p in written.path.rglob("*") if p.is_file()]
    size = sum(file.stat().st_size for file in files)
    counted = 0 if labels is None else int((labels != IGNORED).sum())
    eight = written.eight
    notes = eight.notes(size=size, before=before, after=after, examples=counted) if eight else ()
    return ExportedRun(written.path, size, written.parity, before, after, tuple(notes), eight)


def _metadata(done: FinishedRun) -> dict[str, Any]:
    return {name: value for name, value in done.metadata.items() if value is not None}


def _tokenizer(done: FinishedRun, data: DataSplits) -> Any:
    """The data's tokenizer; or that, or the image processor, of the student's name, if it is on this machine."""
    if data.tokenizer is not None:
        return data.tokenizer
    named = LibraryModel.parse(done.job.student.model)
    if named is None or named.library != "hf":
        return None
    import transformers

    for kind in ("AutoTokenizer", "AutoImageProcessor"):
        try:
            return getattr(transformers, kind).from_pretrained(
                named.name, local_files_only=True, trust_remote_code=False
            )
        except Exception:  # there is none of this kind; its absence has no type of its own
            continue
    return None
