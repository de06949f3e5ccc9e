"""Beyer et al., 2021, arXiv:2106.05237."""

from limbeck.papers.beyer2021.ablation import MATCHING

TITLE = (
    "Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov, Knowledge distillation: A good teacher is patient and "
    "consistent, 2021, arXiv:2106.05237"
)
EXPERIMENTS = (MATCHING,)
