"""Which of several processes writes?"""

from __future__ import annotations

import os


def leads() -> bool:
    """Whether this process is the first of those that a distributed strategy has launched: it alone writes."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return all(rank == "0" for rank in ranks)
