"""The report page of a run."""

from limbeck.report.page import report_page, write_report
from limbeck.report.paper_table import paper_markdown, paper_table
from limbeck.report.readme_svg import arms_picture
from limbeck.report.run_data import RunData, read_run
from limbeck.report.terminal_table import arms_table, arms_tables, table_notes

__all__ = [
    "RunData",
    "arms_picture",
    "arms_table",
    "arms_tables",
    "paper_markdown",
    "paper_table",
    "read_run",
    "report_page",
    "table_notes",
    "write_report",
]
