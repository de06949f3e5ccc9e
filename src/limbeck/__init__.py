"""limbeck: knowledge distillation that is right, paid once, and judged.

The public names are resolved when they are first used, so that `limbeck --help` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.bridges import Tutor as Tutor
    from limbeck.compare import checkup as checkup
    from limbeck.compare import run_job as run_job
    from limbeck.compare import tune as tune
    from limbeck.engine import Report as Report
    from limbeck.engine import Run as Run
    from limbeck.engine import Setting as Setting
    from limbeck.engine import TensorBoard as TensorBoard
    from limbeck.engine import Tracker as Tracker
    from limbeck.engine import distill as distill
    from limbeck.engine import track as track
    from limbeck.errors import DataError as DataError
    from limbeck.errors import LimbeckError as LimbeckError
    from limbeck.errors import LimbeckWarning as LimbeckWarning
    from limbeck.errors import MissingSignalError as MissingSignalError
    from limbeck.errors import UnknownNameError as UnknownNameError
    from limbeck.functional import Projector as Projector
    from limbeck.functional import kernel as kernel
    from limbeck.job import Job as Job
    from limbeck.job import make_job as make_job
    from limbeck.job import read_job as read_job
    from limbeck.judging import Judgement as Judgement
    from limbeck.judging import judge as judge
    from limbeck.models import build as build
    from limbeck.models import fresh as fresh
    from limbeck.models import load as load
    from limbeck.models import save as save
    from limbeck.objective import Loss as Loss
    from limbeck.objective import Objective as Objective
    from limbeck.recipe import Optimiser as Optimiser
    from limbeck.recipe import Recipe as Recipe
    from limbeck.recipe import Stage as Stage
    from limbeck.schedule import Schedule as Schedule
    from limbeck.schedule import constant as constant
    from limbeck.schedule import cosine as cosine
    from limbeck.schedule import ramp as ramp
    from limbeck.schedule import sigmoid_ramp as sigmoid_ramp
    from limbeck.schedule import steps as steps
    from limbeck.signal import Batch as Batch
    from limbeck.signal import Progress as Progress
    from limbeck.signal import Signal as Signal
    from limbeck.signal import Term as Term
    from limbeck.sources import Arrays as Arrays
    from limbeck.sources import Chain as Chain
    from limbeck.sources import Crop as Crop
    from limbeck.sources import CutMix as CutMix
    from limbeck.sources import CutOut as CutOut
    from limbeck.sources import Flip as Flip
    from limbeck.sources import HalfSpecial as HalfSpecial
    from limbeck.sources import ImageFolder as ImageFolder
    from limbeck.sources import Jitter as Jitter
    from limbeck.sources import Loader as Loader
    from limbeck.sources import Mixup as Mixup
    from limbeck.sources import Pixels as Pixels
    from limbeck.sources import RandAugment as RandAugment
    from limbeck.sources import ResizedCrop as ResizedCrop
    from limbeck.sources import Shift as Shift
    from limbeck.sources import Shuffled as Shuffled
    from limbeck.sources import Source as Source
    from limbeck.sources import Texts as Texts
    from limbeck.sources import encoding_of as encoding_of
    from limbeck.sources import load_data as load_data
    from limbeck.sources import read_npz as read_npz
    from limbeck.sources import read_table as read_table
    from limbeck.sources import reads_of as reads_of
    from limbeck.sources import split as split
    from limbeck.tap import Tapped as Tapped
    from limbeck.teachers import Cached as Cached
    from limbeck.teachers import Displaced as Displaced
    from limbeck.teachers import Ensemble as Ensemble
    from limbeck.teachers import Live as Live
    from limbeck.teachers import MovingAverage as MovingAverage
    from limbeck.teachers import Named as Named
    from limbeck.teachers import Recorded as Recorded
    from limbeck.teachers import Scikit as Scikit
    from limbeck.teachers import Specialists as Specialists
    from limbeck.teachers import Teacher as Teacher
    from limbeck.teachers import fill as fill

_WHERE = {
    "bridges": ("Tutor",),
    "compare": ("checkup", "run_job", "tune"),
    "engine": ("Report", "Run", "Setting", "TensorBoard", "Tracker", "distill", "track"),
    "errors": ("DataError", "LimbeckError", "LimbeckWarning", "MissingSignalError", "UnknownNameError"),
    "functional": ("Projector", "kernel"),
    "job": ("Job", "make_job", "read_job"),
    "judging": ("Judgement", "judge"),
    "models": ("build", "fresh", "load", "save"),
    "objective": ("Loss", "Objective"),
    "recipe": ("Optimiser", "Recipe", "Stage"),
    "schedule": ("Schedule", "constant", "cosine", "ramp", "sigmoid_ramp", "steps"),
    "signal": ("Batch", "Progress", "Signal", "Term"),
    "sources": (
        "Arrays", "Chain", "Crop", "CutMix", "CutOut", "Flip", "HalfSpecial", "ImageFolder", "Jitter",
        "Loader", "Mixup", "Pixels", "RandAugment", "ResizedCrop", "Shift", "Shuffled", "Source", "Texts",
        "encoding_of", "load_data", "read_npz", "reads_of", "read_table", "split",
    ),
    "tap": ("Tapped",),
    "teachers": (
        "Cached", "Displaced", "Ensemble", "Live", "MovingAverage", "Named", "Recorded", "Scikit", "Specialists",
        "Teacher", "fill",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _WHERE.items() for name in names}
_MODULES = ("bridges", "export", "functional", "measure", "methods", "models", "sources", "teachers", "testing")

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"limbeck.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"limbeck.{name}")
    from limbeck.errors import nearest

    near = nearest(name, __all__)
    raise AttributeError(f"limbeck has no {name!r}." + (f" Did you mean {near!r}?" if near else ""))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
