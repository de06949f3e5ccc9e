"""`limbeck report`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError


def run_report(runs: Sequence[str], *, out: str | None, as_json: bool) -> None:
    """Write the report and print its path, the verdicts, and what is not known.

    Raises:
        LimbeckError: If a run cannot be read, the page cannot be written, or matplotlib is not installed.
    """
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise LimbeckError("The same run is given twice.")
    start = time.perf_counter()
    from limbeck.optional_imports import import_optional
    from limbeck.report import read_run, write_report

    import_optional("matplotlib", extra="report", purpose="A report")
    loaded_runs = [read_run(run) for run in runs]
    path = write_report(loaded_runs, out)
    summary: dict[str, Any] = {
        "report": str(path), "runs": list(runs), "bytes": path.stat().st_size,
        "seconds": round(time.perf_counter() - start, 3),
        "verdicts": [run.verdict.get("sentence") for run in loaded_runs],
        "unknown": [sentence for run in loaded_runs for sentence in run.unknown],
    }  # fmt: skip
    if as_json:
        print(json.dumps(summary, allow_nan=False))
        return
    for run, verdict in zip(runs, summary["verdicts"], strict=True):
        print(f"{run}: {verdict}" if len(runs) > 1 else verdict)
    for sentence in summary["unknown"]:
        print(f"Not known: {sentence}")
    print(f"\n{summary['bytes'] / 1e3:,.0f} kB in {summary['seconds']:.1f} s. Open the page in a browser:\n    {path}")
