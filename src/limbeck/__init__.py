"""Knowledge distillation in PyTorch.

Public names are imported on first use, so that `limbeck --help` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.batch import Batch as Batch
    from limbeck.batch import Outputs as Outputs
    from limbeck.batch import Progress as Progress
    from limbeck.batch import Term as Term
    from limbeck.compare import checkup as checkup
    from limbeck.compare import run_job as run_job
    from limbeck.compare import tune as tune
    from limbeck.data import ArrayDataset as ArrayDataset
    from limbeck.data import BalancedLoader as BalancedLoader
    from limbeck.data import Chain as Chain
    from limbeck.data import ColorJitter as ColorJitter
    from limbeck.data import Crop as Crop
    from limbeck.data import CutMix as CutMix
    from limbeck.data import Cutout as Cutout
    from limbeck.data import Flip as Flip
    from limbeck.data import ImageFolder as ImageFolder
    from limbeck.data import Loader as Loader
    from limbeck.data import Mixup as Mixup
    from limbeck.data import NormalizeImages as NormalizeImages
    from limbeck.data import RandAugment as RandAugment
    from limbeck.data import RandomShift as RandomShift
    from limbeck.data import ResizedCrop as ResizedCrop
    from limbeck.data import ShuffledLoader as ShuffledLoader
    from limbeck.data import SpecialistLoader as SpecialistLoader
    from limbeck.data import TextDataset as TextDataset
    from limbeck.data import TorchLoader as TorchLoader
    from limbeck.data import load_data as load_data
    from limbeck.data import load_encoding as load_encoding
    from limbeck.data import load_preprocess as load_preprocess
    from limbeck.data import read_npz as read_npz
    from limbeck.data import read_table as read_table
    from limbeck.data import split as split
    from limbeck.engine import Run as Run
    from limbeck.engine import StepReport as StepReport
    from limbeck.engine import TensorBoard as TensorBoard
    from limbeck.engine import Tracker as Tracker
    from limbeck.engine import TrainConfig as TrainConfig
    from limbeck.engine import distill as distill
    from limbeck.engine import track as track
    from limbeck.errors import DataError as DataError
    from limbeck.errors import LimbeckError as LimbeckError
    from limbeck.errors import LimbeckWarning as LimbeckWarning
    from limbeck.errors import MissingOutputError as MissingOutputError
    from limbeck.errors import UnknownNameError as UnknownNameError
    from limbeck.functional import Projector as Projector
    from limbeck.functional import kernel as kernel
    from limbeck.integrations import DistillationLoss as DistillationLoss
    from limbeck.job import Job as Job
    from limbeck.job import make_job as make_job
    from limbeck.job import read_job as read_job
    from limbeck.judging import Judgment as Judgment

    # From its module: in `limbeck.judging`, the name is that of the module as well, and mypy takes one for the other.
    from limbeck.judging.judge import judge as judge
    from limbeck.losses import Loss as Loss
    from limbeck.losses import Objective as Objective
    from limbeck.models import build as build
    from limbeck.models import load as load
    from limbeck.models import reinitialize as reinitialize
    from limbeck.models import save as save
    from limbeck.recipe import Optimizer as Optimizer
    from limbeck.recipe import Recipe as Recipe
    from limbeck.recipe import Stage as Stage
    from limbeck.schedule import Schedule as Schedule
    from limbeck.schedule import constant as constant
    from limbeck.schedule import cosine as cosine
    from limbeck.schedule import ramp as ramp
    from limbeck.schedule import sigmoid_ramp as sigmoid_ramp
    from limbeck.schedule import steps as steps
    from limbeck.tap import Tapped as Tapped
    from limbeck.tasks import load_task as load_task
    from limbeck.teachers import AlignedTeacher as AlignedTeacher
    from limbeck.teachers import CachedTeacher as CachedTeacher
    from limbeck.teachers import CrossTokenizerTeacher as CrossTokenizerTeacher
    from limbeck.teachers import Ensemble as Ensemble
    from limbeck.teachers import ModelTeacher as ModelTeacher
    from limbeck.teachers import MovingAverage as MovingAverage
    from limbeck.teachers import PrecomputedTeacher as PrecomputedTeacher
    from limbeck.teachers import RoutedTeacher as RoutedTeacher
    from limbeck.teachers import ServedTeacher as ServedTeacher
    from limbeck.teachers import ShuffledTeacher as ShuffledTeacher
    from limbeck.teachers import SklearnTeacher as SklearnTeacher
    from limbeck.teachers import Specialists as Specialists
    from limbeck.teachers import Teacher as Teacher
    from limbeck.teachers import TeacherRef as TeacherRef
    from limbeck.teachers import fill_cache as fill_cache

_WHERE = {
    "batch": ("Batch", "Outputs", "Progress", "Term"),
    "compare": ("checkup", "run_job", "tune"),
    "data": (
        "ArrayDataset", "BalancedLoader", "Chain", "ColorJitter", "Crop", "CutMix", "Cutout", "load_encoding", "Flip",
        "ImageFolder", "load_data", "Loader", "Mixup", "NormalizeImages", "load_preprocess", "RandAugment",
        "RandomShift", "read_npz", "read_table", "ResizedCrop", "ShuffledLoader", "SpecialistLoader", "split",
        "TextDataset", "TorchLoader",
    ),
    "engine": ("distill", "Run", "StepReport", "TensorBoard", "track", "Tracker", "TrainConfig"),
    "errors": ("DataError", "LimbeckError", "LimbeckWarning", "MissingOutputError", "UnknownNameError"),
    "functional": ("kernel", "Projector"),
    "integrations": ("DistillationLoss",),
    "job": ("Job", "make_job", "read_job"),
    "judging": ("judge", "Judgment"),
    "losses": ("Loss", "Objective"),
    "models": ("build", "load", "reinitialize", "save"),
    "recipe": ("Optimizer", "Recipe", "Stage"),
    "schedule": ("constant", "cosine", "ramp", "Schedule", "sigmoid_ramp", "steps"),
    "tap": ("Tapped",),
    "tasks": ("load_task",),
    "teachers": (
        "AlignedTeacher", "CachedTeacher", "CrossTokenizerTeacher", "Ensemble", "fill_cache", "ModelTeacher",
        "MovingAverage", "PrecomputedTeacher", "RoutedTeacher", "ServedTeacher", "ShuffledTeacher", "SklearnTeacher",
        "Specialists", "Teacher", "TeacherRef",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _WHERE.items() for name in names}
_MODULES = (
    "integrations", "export", "functional", "generation", "metrics", "methods", "models", "data", "teachers", "testing",
)  # fmt: skip

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
