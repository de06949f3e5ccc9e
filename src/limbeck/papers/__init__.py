"""Reproductions of published experiments, with the numbers of the papers."""

from limbeck.papers.claim import Claim, ClaimResult, Figure, judge_claims
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import Experiment, ExperimentScale, Row, TaskFolder
from limbeck.papers.reproduction import Paper, Reproduction, paper, paper_names, summarize_claims, summary_text
from limbeck.papers.task_queue import Event, TaskFinished, TaskStarted, TimeEstimated

__all__ = [
    "Claim",
    "ClaimResult",
    "ClaimStudy",
    "Event",
    "Experiment",
    "ExperimentScale",
    "Figure",
    "Paper",
    "Reproduction",
    "Row",
    "SettingsSearch",
    "TaskFinished",
    "TaskFolder",
    "TaskStarted",
    "TimeEstimated",
    "judge_claims",
    "paper",
    "paper_names",
    "summarize_claims",
    "summary_text",
]
