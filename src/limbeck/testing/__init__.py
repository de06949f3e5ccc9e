"""Checks of the laws that kernels, losses, teachers, loaders, transforms and methods must satisfy; `serve_model`."""

from __future__ import annotations

from limbeck.testing.data import check_loader, check_transform
from limbeck.testing.kernel import LAWS, check_kernel
from limbeck.testing.law import LawError
from limbeck.testing.losses import OBJECTIVE_LAWS, check_head, check_objective
from limbeck.testing.method import check_method
from limbeck.testing.model_server import Answer, ModelServer, serve_model
from limbeck.testing.teacher import check_teacher

__all__ = [
    "LAWS",
    "OBJECTIVE_LAWS",
    "Answer",
    "LawError",
    "ModelServer",
    "check_head",
    "check_kernel",
    "check_loader",
    "check_method",
    "check_objective",
    "check_teacher",
    "check_transform",
    "serve_model",
]
