"""Which methods are there, and what can each not do without? One row for each, checked by test_methods."""

from __future__ import annotations

ROWS = {
    "supervised": {},
    "label_smoothing": {},
    "hinton": {},
    "function_matching": {},
    "specialists": {"groups": [[0, 1], [1, 2]]},
    "logit_matching": {},
    "fitnets": {"hint": "layer1", "guided": "layer1"},
    "born_again": {"generations": 2},
    "mutual": {},
    "mean_teacher": {},
    "privileged": {},
}
