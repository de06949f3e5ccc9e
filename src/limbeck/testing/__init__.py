"""Does what you have added keep the laws? A check for each kind of thing."""

from __future__ import annotations

from limbeck.testing.head import check_head
from limbeck.testing.kernel import LAWS, Claim, check_kernel
from limbeck.testing.method import check_method
from limbeck.testing.objective import OBJECTIVE_LAWS, check_objective
from limbeck.testing.source import check_source
from limbeck.testing.teacher import check_teacher
from limbeck.testing.view import check_view

__all__ = [
    "LAWS",
    "OBJECTIVE_LAWS",
    "Claim",
    "check_head",
    "check_kernel",
    "check_method",
    "check_objective",
    "check_source",
    "check_teacher",
    "check_view",
]
