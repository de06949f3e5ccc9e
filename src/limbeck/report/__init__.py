"""The report page of a run, its figures, and its tables."""

from limbeck.report.calibration import plot_deviation, plot_reliability
from limbeck.report.classes import plot_class_changes, plot_confusion
from limbeck.report.costs import plot_pareto
from limbeck.report.extra_metrics import plot_cka, plot_corruptions
from limbeck.report.outputs import plot_predictions
from limbeck.report.page import report_page, write_report
from limbeck.report.paper_results import claims_markdown, paper_markdown, paper_tables
from limbeck.report.run_data import RunData, read_run
from limbeck.report.scores import plot_differences, plot_scores, result_svg
from limbeck.report.tables import arms_table, arms_tables, table_notes
from limbeck.report.training import plot_search, plot_training

__all__ = [
    "RunData",
    "arms_table",
    "arms_tables",
    "claims_markdown",
    "paper_markdown",
    "paper_tables",
    "plot_cka",
    "plot_class_changes",
    "plot_confusion",
    "plot_corruptions",
    "plot_deviation",
    "plot_differences",
    "plot_pareto",
    "plot_predictions",
    "plot_reliability",
    "plot_scores",
    "plot_search",
    "plot_training",
    "read_run",
    "report_page",
    "result_svg",
    "table_notes",
    "write_report",
]
