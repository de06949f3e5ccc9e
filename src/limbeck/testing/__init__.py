"""Checks of the laws that kernels, losses, teachers, loaders, transforms and methods must satisfy."""

from __future__ import annotations

from limbeck.testing.head import check_head
from limbeck.testing.kernel import LAWS, Claim, check_kernel
from limbeck.testing.loader import check_loader
from limbeck.testing.method import check_method
from limbeck.testing.objective import OBJECTIVE_LAWS, check_objective
from limbeck.testing.teacher import check_teacher
from limbeck.testing.transform import check_transform

__all__ = [
    "LAWS",
    "OBJECTIVE_LAWS",
    "Claim",
    "check_head",
    "check_kernel",
    "check_loader",
    "check_method",
    "check_objective",
    "check_teacher",
    "check_transform",
]
