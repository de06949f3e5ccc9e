"""Show what came of a run."""

from limbeck.report.table import arms_table

__all__ = ["arms_table"]
