"""Checks of the data: inputs and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.doctor.context import CheckContext, draw_examples
from limbeck.doctor.finding import Finding, fail, passed, warn

LABELS = "labels"


def check_labels(patient: CheckContext) -> Finding:
    """Every label is a class, every class has a name if any has, and examples to be learnt from."""
    labels, classes, names = patient.train.labels, patient.classes, patient.class_names
    if labels is None:
        return warn(LABELS, None, "The data have no labels: nothing can be said of their order.")
    known = labels[labels != IGNORED]
    outside = known[(known < 0) | (known >= classes)]
    if len(outside):
        first = int(outside[0])
        return fail(
            LABELS, len(outside),
            f"Label {first} is no class: there are {classes}, from 0 to {classes - 1}. An example without a label has "
            f"{IGNORED}.", f"{len(outside)} of {len(known)}",
        )  # fmt: skip
    if names is not None and len(names) != len(set(names)):
        double = next(name for name in names if names.count(name) > 1)
        return fail(LABELS, classes, f"Two classes are called {double!r}: give each a name of its own.")
    counts = torch.bincount(known.flatten(), minlength=classes)
    lacking = [str(names[i]) if names else str(i) for i in range(classes) if counts[i] == 0]
    if lacking:
        said = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        return warn(
            LABELS, classes,
            f"Nothing to learn from for {len(lacking)} of {classes} classes ({said}): are labels counted from 1, or is "
            "train_examples too small?", f"{classes} classes",
        )  # fmt: skip
    fewest = int(counts.min())
    return passed(
        LABELS, classes, f"Labels run from 0 to {classes - 1}; the rarest class has {fewest:,} examples.",
        f"{classes} classes",
    )  # fmt: skip


INPUTS = "inputs"

_SIZE = 256

_FAR, _WIDE, _NARROW = 5.0, 20.0, 1e-3


def check_inputs(patient: CheckContext) -> Finding:
    """Finite, and neither far from 0 nor all but constant, as a model reads them."""
    found = list(_floating(patient.preprocess(draw_examples(patient.train, _SIZE))))
    if not found:
        return passed(INPUTS, None, "The models read whole numbers, such as token ids.")
    numbers = torch.cat([tensor.detach().double().flatten() for tensor in found])
    if not bool(numbers.isfinite().all()):
        count = int((~numbers.isfinite()).sum())
        return fail(INPUTS, None, f"{count} of {len(numbers):,} numbers that a model reads are infinite or no numbers.")
    mean, std = float(numbers.mean()), float(numbers.std())
    value, shown = {"mean": mean, "std": std}, f"{mean + 0.0:.2g} ± {std:.2g}" if abs(mean) > 5e-3 else f"0 ± {std:.2g}"
    if abs(mean) > _FAR or std > _WIDE:
        said = "Numbers far from 0 teach slowly, if at all: are they normalized (data.mean, data.std, or reads)?"
    elif std < _NARROW:
        said = "The inputs are all but constant: are they divided twice?"
    else:
        return passed(INPUTS, value, "Mean and standard deviation of what the models read.", shown)
    return warn(INPUTS, value, said, shown)


def _floating(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _floating(part)
