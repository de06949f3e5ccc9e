"""The sections of the report page."""

from __future__ import annotations

from limbeck.report.sections.arms import arms_section
from limbeck.report.sections.classes import classes_section
from limbeck.report.sections.cost import cost_section
from limbeck.report.sections.examples import examples_section
from limbeck.report.sections.extra_metrics import extra_metrics_section
from limbeck.report.sections.fidelity import fidelity_section
from limbeck.report.sections.headline import top_section
from limbeck.report.sections.protocol import next_section, protocol_section, unknown_section
from limbeck.report.sections.search import search_section
from limbeck.report.sections.several import several_section
from limbeck.report.sections.training import training_section

__all__ = [
    "arms_section",
    "classes_section",
    "cost_section",
    "examples_section",
    "extra_metrics_section",
    "fidelity_section",
    "next_section",
    "protocol_section",
    "search_section",
    "several_section",
    "top_section",
    "training_section",
    "unknown_section",
]
