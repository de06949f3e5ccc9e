"""Reproductions of published experiments, with the numbers of the papers."""

from limbeck.papers.experiment import Experiment, ExperimentScale, Row, Task, TaskFolder
from limbeck.papers.reproduction import PAPERS, Paper, Reproduction, paper
from limbeck.papers.scheduler import Event

__all__ = [
    "PAPERS",
    "Event",
    "Experiment",
    "ExperimentScale",
    "Paper",
    "Reproduction",
    "Row",
    "Task",
    "TaskFolder",
    "paper",
]
