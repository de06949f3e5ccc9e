"""Were several runs judged on the same data?"""

from __future__ import annotations

import torch

from limbeck.errors import LimbeckError
from limbeck.report.evidence import Evidence


def same_data(evidences: list[Evidence]) -> None:
    """Refuse to set runs of different data beside each other.

    Raises:
        LimbeckError: If two runs were judged on different test examples.
    """
    first = evidences[0]
    for other in evidences[1:]:
        for key in ("name", "test", "classes"):
            ours, theirs = first.data.get(key), other.data.get(key)
            if ours is not None and theirs is not None and ours != theirs:
                raise _differ(first, other, f"{key} {ours} and {theirs}")
        if first.labels is not None and other.labels is not None and not torch.equal(first.labels, other.labels):
            raise _differ(first, other, "other labels")


def _differ(first: Evidence, other: Evidence, how: str) -> LimbeckError:
    return LimbeckError(
        f"{first.folder} and {other.folder} were judged on different data ({how}), so their numbers cannot be set "
        "beside each other. Give runs of the same data, or make a report of each."
    )
