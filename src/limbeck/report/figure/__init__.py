"""How does each figure of a report look? One file a figure; all are SVG, and take plain numbers."""

from __future__ import annotations

from limbeck.report.figure.accuracies import accuracies_figure
from limbeck.report.figure.cka import cka_figure
from limbeck.report.figure.classes import ClassRow, classes_figure
from limbeck.report.figure.confusion import change_figure, confusion_figure
from limbeck.report.figure.corruptions import Decline, corruptions_figure
from limbeck.report.figure.deviation import deviation_figure
from limbeck.report.figure.differences import Difference, differences_figure
from limbeck.report.figure.pareto import CostPoint, front, pareto_figure
from limbeck.report.figure.reliability import Bin, reliability_figure
from limbeck.report.figure.search import Searched, search_figure, trials_below
from limbeck.report.figure.training import training_figure

__all__ = [
    "Bin",
    "ClassRow",
    "CostPoint",
    "Decline",
    "Difference",
    "Searched",
    "accuracies_figure",
    "change_figure",
    "cka_figure",
    "classes_figure",
    "confusion_figure",
    "corruptions_figure",
    "deviation_figure",
    "differences_figure",
    "front",
    "pareto_figure",
    "reliability_figure",
    "search_figure",
    "training_figure",
    "trials_below",
]
