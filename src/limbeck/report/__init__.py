"""Show what came of a run."""

from limbeck.report.paper import paper_markdown, paper_table
from limbeck.report.picture import arms_picture
from limbeck.report.table import arms_table

__all__ = ["arms_picture", "arms_table", "paper_markdown", "paper_table"]
