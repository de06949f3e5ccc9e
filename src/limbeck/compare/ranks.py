"""Which of several processes writes?"""

from __future__ import annotations

from limbeck.engine import is_first_rank
from limbeck.job import Job


def leads(job: Job) -> bool:
    """Whether this process is the first of those that a job's distributed strategy launches: it alone writes."""
    return is_first_rank(devices=job.devices, strategy=job.strategy)
