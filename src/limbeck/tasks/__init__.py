"""Tasks: what targets and outputs mean, how they are learned and how they are scored."""

from __future__ import annotations

from limbeck.tasks.classification import Classification
from limbeck.tasks.language_modeling import LanguageModeling
from limbeck.tasks.multi_label import MultiLabel
from limbeck.tasks.registry import get_task, load_task, task_from_dict, task_names
from limbeck.tasks.regression import Regression
from limbeck.tasks.segmentation import Segmentation
from limbeck.tasks.task import Evaluation, EvaluationState, Score, Task

__all__ = [
    "Classification",
    "Evaluation",
    "EvaluationState",
    "LanguageModeling",
    "MultiLabel",
    "Regression",
    "Score",
    "Segmentation",
    "Task",
    "get_task",
    "load_task",
    "task_from_dict",
    "task_names",
]
