"""Figures as SVG, made from plain numbers."""

from __future__ import annotations

from limbeck.report.figures.accuracies import accuracies_figure
from limbeck.report.figures.classes import ClassRow, change_figure, classes_figure, confusion_figure
from limbeck.report.figures.curves import SearchedArm, search_figure, training_figure, trials_below
from limbeck.report.figures.differences import DifferenceRow, differences_figure
from limbeck.report.figures.extra_metrics import Decline, cka_figure, corruptions_figure
from limbeck.report.figures.fidelity import Bin, deviation_figure, reliability_figure
from limbeck.report.figures.pareto import CostPoint, pareto_figure, pareto_front

__all__ = [
    "Bin",
    "ClassRow",
    "CostPoint",
    "Decline",
    "DifferenceRow",
    "SearchedArm",
    "accuracies_figure",
    "change_figure",
    "cka_figure",
    "classes_figure",
    "confusion_figure",
    "corruptions_figure",
    "deviation_figure",
    "differences_figure",
    "pareto_figure",
    "pareto_front",
    "reliability_figure",
    "search_figure",
    "training_figure",
    "trials_below",
]
