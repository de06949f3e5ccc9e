"""Are the inputs numbers of a size that networks are used to?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.patient import Patient, drawn

NAME = "inputs"
_SIZE = 256
_FAR, _WIDE, _NARROW = 5.0, 20.0, 1e-3


def check(patient: Patient) -> Finding:
    """Finite, and neither far from 0 nor all but constant, as a model reads them."""
    found = list(_floating(patient.reads(drawn(patient.train, _SIZE))))
    if not found:
        return ok(NAME, None, "The models read whole numbers, such as token ids.")
    numbers = torch.cat([tensor.detach().double().flatten() for tensor in found])
    if not bool(numbers.isfinite().all()):
        count = int((~numbers.isfinite()).sum())
        return wrong(NAME, None, f"{count} of {len(numbers):,} numbers that a model reads are infinite or no numbers.")
    mean, std = float(numbers.mean()), float(numbers.std())
    value, shown = {"mean": mean, "std": std}, f"{mean + 0.0:.2g} ± {std:.2g}" if abs(mean) > 5e-3 else f"0 ± {std:.2g}"
    if abs(mean) > _FAR or std > _WIDE:
        said = "Numbers far from 0 teach slowly, if at all: are they normalised (data.mean, data.std, or reads)?"
    elif std < _NARROW:
        said = "The inputs are all but constant: are they divided twice?"
    else:
        return ok(NAME, value, "Mean and standard deviation of what the models read.", shown)
    return look(NAME, value, said, shown)


def _floating(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        if inputs.is_floating_point():
            yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _floating(part)
