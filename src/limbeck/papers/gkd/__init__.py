"""Agarwal et al., 2023, arXiv:2306.13649: text of the student against given text."""

from limbeck.papers.gkd.captions import CAPTIONS
from limbeck.papers.gkd.gsm8k import GSM8K
from limbeck.papers.gkd.maze_table import MAZE_ALL, MAZE_FEW

TITLE = (
    "Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist and Bachem, On-Policy Distillation of Language Models: Learning "
    "from Self-Generated Mistakes, 2023, arXiv:2306.13649"
)
SEEDS = {"quick": 1, "full": 5}
"""Paired seeds of every arm."""
CLAIM = "A student that is taught on text that it writes itself ends better than one that is taught on given text."
EXPERIMENTS = (MAZE_FEW, MAZE_ALL, CAPTIONS, GSM8K)
