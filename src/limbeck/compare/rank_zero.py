"""Which process of several writes."""

from __future__ import annotations

from limbeck.engine import is_first_rank
from limbeck.job import Job


def is_rank_zero(job: Job) -> bool:
    """Whether this process is the first of those that a job's distributed strategy launches: it alone writes."""
    return is_first_rank(devices=job.devices, strategy=job.strategy)
