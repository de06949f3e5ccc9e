"""Do labels, classes and their names agree?"""

from __future__ import annotations

import torch

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.patient import Patient
from limbeck.signal import IGNORED

NAME = "labels"


def check(patient: Patient) -> Finding:
    """Every label is a class, every class has a name if any has, and examples to be learnt from."""
    labels, classes, names = patient.train.labels, patient.classes, patient.class_names
    if labels is None:
        return look(NAME, None, "The data have no labels: nothing can be said of their order.")
    known = labels[labels != IGNORED]
    outside = known[(known < 0) | (known >= classes)]
    if len(outside):
        first = int(outside[0])
        return wrong(
            NAME, len(outside),
            f"Label {first} is no class: there are {classes}, from 0 to {classes - 1}. An example without a label has "
            f"{IGNORED}.", f"{len(outside)} of {len(known)}",
        )  # fmt: skip
    if names is not None and len(names) != len(set(names)):
        double = next(name for name in names if names.count(name) > 1)
        return wrong(NAME, classes, f"Two classes are called {double!r}: give each a name of its own.")
    counts = torch.bincount(known.flatten(), minlength=classes)
    lacking = [str(names[i]) if names else str(i) for i in range(classes) if counts[i] == 0]
    if lacking:
        said = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        return look(
            NAME, classes,
            f"Nothing to learn from for {len(lacking)} of {classes} classes ({said}): are labels counted from 1, or is "
            "train_examples too small?", f"{classes} classes",
        )  # fmt: skip
    fewest = int(counts.min())
    return ok(
        NAME, classes, f"Labels run from 0 to {classes - 1}; the rarest class has {fewest:,} examples.",
        f"{classes} classes",
    )  # fmt: skip
