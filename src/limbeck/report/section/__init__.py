"""What stands in each section of a report? One file for each group of questions."""

from __future__ import annotations

from limbeck.report.section.besides import besides_section
from limbeck.report.section.classes import classes_section
from limbeck.report.section.cost import cost_section
from limbeck.report.section.examples import examples_section
from limbeck.report.section.fidelity import fidelity_section
from limbeck.report.section.protocol import next_section, protocol_section, unknown_section
from limbeck.report.section.search import search_section
from limbeck.report.section.several import several_section
from limbeck.report.section.table import arms_section
from limbeck.report.section.top import top_section
from limbeck.report.section.training import training_section

__all__ = [
    "arms_section",
    "besides_section",
    "classes_section",
    "cost_section",
    "examples_section",
    "fidelity_section",
    "next_section",
    "protocol_section",
    "search_section",
    "several_section",
    "top_section",
    "training_section",
    "unknown_section",
]
