"""How does `compare` make one job of several methods, and what does it show at its end?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.cli.jobs import asked_for, check_methods, named_methods, run_distill

if TYPE_CHECKING:
    from limbeck.job import Job

_SEEDS = 5
"""Of a comparison whose job says nothing of seeds: an interval needs several, and five find a gain of one point."""


def run_compare(path: str | None, flags: Mapping[str, Any], settings: Sequence[str], *, as_json: bool) -> None:
    """Run every method, every control and every seed; leave a page."""
    run_distill(comparison(path, flags, settings), as_json=as_json, stem="compare")


def comparison(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """The job of a comparison: all arms but those that a file leaves out, five seeds unless it says how many."""
    from limbeck.consent import may_run
    from limbeck.job import ARMS, make_job
    from limbeck.methods import method
    from limbeck.models import UserFile

    found = asked_for(path, {**flags, "methods": named_methods(flags)}, settings)
    found.setdefault("seeds", _SEEDS)
    job = make_job(found)
    check_methods(job)
    if "arms" in found:
        return job
    # A job that is only printed may name a file that nobody wants run.
    own = UserFile.parse(job.method.name)
    taught = (own is not None and not may_run(own.file)) or method(job.method.name).has_teacher
    return make_job({**found, "arms": [arm for arm in ARMS if taught or arm != "shuffled teacher"]})
