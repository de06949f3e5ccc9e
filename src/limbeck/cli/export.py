"""`limbeck export` and `cite`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.export import ExportedRun
    from limbeck.export.int8_report import QuantizationReport


def run_export(
    run: str, *, to: str, arm: str | None, out: str | None, raw: bool, license: str | None, calibration: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Export the student of a run; notes go to standard error."""
    from limbeck.export import export_run

    exported = export_run(run, to=to, arm=arm, out=out, raw=raw, license=license, calibration=calibration)
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
    largest = parity.max_difference
    match = f"differ by at most {largest:.2g} from the student's" if largest else "equal the student's"
    before, after = (f"{100 * share:.2f} %" for share in (exported.accuracy_before, exported.accuracy_after))
    print(f"  logits     {match} on {parity.examples:,} test examples{nodes}")
    print(f"  accuracy   {before} before, {after} after, on all test data")
    if exported.eight:
        _show_int8(exported.eight)
    folder = exported.path if exported.path.is_dir() else exported.path.parent
    print(f"  card       {folder / 'README.md'}")


def _show_int8(report: QuantizationReport) -> None:
    choice = report.choice
    best = choice.best
    accuracy = "" if best.accuracy is None else f"{100 * best.accuracy:.2f} %, "
    kl = "" if best.kl is None else f"KL {best.kl:.2g} nats, "
    number, examples = len(choice.tried), choice.judged_on
    print(f"  calibrated {best}: {accuracy}{kl}the best of {number} on {examples:,} development examples")
    for size, latency in report.latency.items():
        print(f"  batch {size:<4} {latency.int8:.3g} ms, {latency.ratio:.2f} times float32 ({latency.float32:.3g} ms)")


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
