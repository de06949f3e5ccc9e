"""`limbeck report`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError


def run_report(runs: Sequence[str], *, out: str | None, as_json: bool) -> None:
    """Write the page, and say where it is, what the verdict is, and what it cannot say.

    Raises:
        LimbeckError: If a run cannot be read, or the page cannot be written.
    """
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise LimbeckError("A run is named twice; name each once.")
    began = time.perf_counter()
    from limbeck.report import read_run, write_report

    evidences = [read_run(run) for run in runs]
    path = write_report(evidences, out)
    made: dict[str, Any] = {
        "report": str(path), "runs": list(runs), "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - began, 3),
        "verdicts": [evidence.verdict.get("sentence") for evidence in evidences],
        "unknown": [sentence for evidence in evidences for sentence in evidence.unknown],
    }  # fmt: skip
    if as_json:
        print(json.dumps(made, allow_nan=False))
        return
    for run, verdict in zip(runs, made["verdicts"], strict=True):
        print(f"{run}: {verdict}" if len(runs) > 1 else verdict)
    for sentence in made["unknown"]:
        print(f"Not known: {sentence}")
    print(f"\n{made['bytes'] / 1e3:,.0f} kB in {made['seconds']:.1f} s; open it in a browser:\n    {path}")
