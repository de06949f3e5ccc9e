"""Checks of the data: inputs and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.doctor.context import CheckContext, Finding, draw_examples, fail, passed, warn

LABELS = "labels"


def check_labels(context: CheckContext) -> Finding:
    """Check that every label is a class, class names are unique, and every class has training examples."""
    labels, classes, names = context.train.labels, context.classes, context.class_names
    if labels is None:
        return warn(LABELS, None, "The data have no labels, so their order cannot be checked.")
    labeled = labels[labels != IGNORED]
    outside = labeled[(labeled < 0) | (labeled >= classes)]
    if len(outside):
        first = int(outside[0])
        return fail(
            LABELS, len(outside),
            f"Label {first} is not a class: the {classes} classes are 0 to {classes - 1}. Use {IGNORED} for examples "
            "without a label.", f"{len(outside)} of {len(labeled)}",
        )  # fmt: skip
    if names is not None and len(names) != len(set(names)):
        duplicate = next(name for name in names if names.count(name) > 1)
        return fail(LABELS, classes, f"Two classes have the name {duplicate!r}; names must be unique.")
    counts = torch.bincount(labeled.flatten(), minlength=classes)
    missing = [str(names[i]) if names else str(i) for i in range(classes) if counts[i] == 0]
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        return warn(
            LABELS, classes,
            f"{len(missing)} of {classes} classes have no training examples ({listed}). Are labels counted from 1, or "
            "is train_examples too small?", f"{classes} classes",
        )  # fmt: skip
    fewest = int(counts.min())
    return passed(
        LABELS, classes, f"Labels run from 0 to {classes - 1}; the rarest class has {fewest:,} examples.",
        f"{classes} classes",
    )  # fmt: skip


INPUTS = "inputs"

_INPUT_EXAMPLES = 256

_FAR, _WIDE, _NARROW = 5.0, 20.0, 1e-3


def check_inputs(context: CheckContext) -> Finding:
    """Check that the model inputs are finite, near 0, and not constant."""
    tensors = list(_floating(context.preprocess(draw_examples(context.train, _INPUT_EXAMPLES))))
    if not tensors:
        return passed(INPUTS, None, "The model inputs are integers, such as token ids.")
    numbers = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    if not bool(numbers.isfinite().all()):
        count = int((~numbers.isfinite()).sum())
        return fail(INPUTS, None, f"{count} of {len(numbers):,} input values are infinite or NaN.")
    mean, std = float(numbers.mean()), float(numbers.std())
    value, text = {"mean": mean, "std": std}, f"{mean + 0.0:.2g} ± {std:.2g}" if abs(mean) > 5e-3 else f"0 ± {std:.2g}"
    if abs(mean) > _FAR or std > _WIDE:
        hint = (
            "Inputs far from 0 slow down or prevent learning. Normalize them (data.mean and data.std, or preprocess)."
        )
    elif std < _NARROW:
        hint = "The inputs are almost constant. Are they divided twice?"
    else:
        return passed(INPUTS, value, "Mean and standard deviation of the model inputs.", text)
    return warn(INPUTS, value, hint, text)


def _floating(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _floating(part)
