"""`limbeck report`, `export` and `cite`: what is made of a finished run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError, printable
from limbeck.optional_imports import import_optional

if TYPE_CHECKING:
    from limbeck.export import ExportedRun
    from limbeck.export.int8_report import QuantizationReport


def run_report(runs: Sequence[str], *, out: str | None, as_json: bool) -> None:
    """Write the report and print its path, the verdicts, and what is not known.

    Raises:
        LimbeckError: If a run cannot be read, the page cannot be written, or matplotlib is not installed.
    """
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise LimbeckError("The same run is given twice.")
    start = time.perf_counter()
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


def run_export(
    run: str, *, to: str, arm: str | None, out: str | None, raw: bool, license: str | None, calibration: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Export the student of a run; notes go to standard error.

    Raises:
        LimbeckError: As `limbeck.export.export_run`. If an option is wrong, the message begins with it.
    """
    from limbeck.export import export_run

    try:
        exported = export_run(run, to=to, arm=arm, out=out, raw=raw, license=license, calibration=calibration)
    except (ArgumentError, UnknownNameError) as error:
        if error.argument not in ("to", "arm", "out", "raw", "calibration"):
            raise
        raise LimbeckError(f"--{error.argument}: {error}") from error
    if as_json:
        print(json.dumps(exported.to_dict(), allow_nan=False))
    else:
        _show(exported)
    for note in exported.notes:
        print(f"Note: {note}", file=sys.stderr)


def run_cite(run: str, *, as_json: bool) -> None:
    """Print BibTeX entries for the methods, data and software that a run used."""
    from limbeck.export import bibtex, cite

    citations = cite(run)
    if as_json:
        entries = [{"used": entry.used, "key": entry.key, "bibtex": entry.bibtex} for entry in citations]
        print(json.dumps({"run": run, "entries": entries}))
    else:
        sys.stdout.write(bibtex(citations))


def _show(exported: ExportedRun) -> None:
    parity = exported.parity
    nodes = f"; {parity.nodes} of {parity.of} nodes compared one by one" if parity.nodes else ""
    # Plain `print`: rich would wrap paths, which people copy.
    print(f"{exported.path}  {_size(exported.bytes)}")
    if exported.arm is not None:
        print(f"  arm        {printable(exported.arm)}")
    largest = parity.max_difference
    # With large values float32 cannot agree to the usual 1e-4.
    limit = f" ({parity.allowed:.2g} is allowed for values this large)" if 1e-4 < largest <= parity.allowed else ""
    match = f"differ by at most {largest:.2g}{limit} from the student's" if largest else "equal the student's"
    metric = exported.metric
    before, after = (metric.format(value) for value in (exported.score_before, exported.score_after))
    print(f"  logits     {match} on {parity.examples:,} test examples{nodes}")
    print(f"  {metric.title:<10} {before} before, {after} after, on all test data{exported.of_seed}")
    if exported.eight:
        _show_int8(exported.eight)
    folder = exported.path if exported.path.is_dir() else exported.path.parent
    print(f"  card       {folder / 'README.md'}")


def _show_int8(report: QuantizationReport) -> None:
    choice = report.choice
    best = choice.best
    accuracy = "" if best.accuracy is None else f"{100 * best.accuracy:.2f} %, "
    unit = "KL {} nats" if choice.distance_title == "KL divergence" else choice.distance_title + " {}"
    kl = "" if best.kl is None else unit.format(f"{best.kl:.2g}") + ", "
    number, examples = len(choice.tried), choice.judged_on
    if choice.best.method == "trained":
        print(f"  scales     {best}")
    else:
        print(f"  calibrated {best}: {accuracy}{kl}the best of {number} on {examples:,} development examples")
    for size, latency in report.latency.items():
        print(f"  batch {size:<4} {latency.int8:.3g} ms, {latency.describe_difference()}")


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
