"""Show what came of a run."""

from limbeck.report.evidence import Evidence, read_evidence
from limbeck.report.page import report_page, write_report
from limbeck.report.paper import paper_markdown, paper_table
from limbeck.report.picture import arms_picture
from limbeck.report.table import arms_table, arms_tables, over_seeds

__all__ = [
    "Evidence",
    "arms_picture",
    "arms_table",
    "arms_tables",
    "over_seeds",
    "paper_markdown",
    "paper_table",
    "read_evidence",
    "report_page",
    "write_report",
]
