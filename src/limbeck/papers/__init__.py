"""Reproductions of published experiments, with the numbers of the papers."""

from limbeck.papers.experiment import Experiment, ExperimentScale, Row, TaskFolder
from limbeck.papers.reproduction import PAPERS, Paper, Reproduction, paper
from limbeck.papers.task_queue import Event, TaskFinished, TaskStarted, TimeEstimated

__all__ = [
    "PAPERS",
    "Event",
    "Experiment",
    "ExperimentScale",
    "Paper",
    "Reproduction",
    "Row",
    "TaskFinished",
    "TaskFolder",
    "TaskStarted",
    "TimeEstimated",
    "paper",
]
