"""Papers' experiments, made again beside the papers' own numbers."""

from limbeck.reproduce.experiment import Desk, Experiment, Row, Scale, Task
from limbeck.reproduce.floor import Event
from limbeck.reproduce.reproduction import PAPERS, Paper, Reproduction, paper

__all__ = ["PAPERS", "Desk", "Event", "Experiment", "Paper", "Reproduction", "Row", "Scale", "Task", "paper"]
