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
    """Export a run's student; notes go to standard error."""
    from limbeck.export import export_run

    found = export_run(run, to=to, arm=arm, out=out, raw=raw, license=license, calibration=calibration)
    if as_json:
        print(json.dumps(found.to_dict(), allow_nan=False))
    else:
        _show(found)
    for note in found.notes:
        print(f"Note: {note}", file=sys.stderr)


def run_cite(run: str, *, as_json: bool) -> None:
    """BibTeX of exactly what a run used."""
    from limbeck.export import bibtex, cite

    found = cite(run)
    if as_json:
        entries = [{"used": one.used, "key": one.key, "bibtex": one.bibtex} for one in found]
        print(json.dumps({"run": run, "entries": entries}))
    else:
        sys.stdout.write(bibtex(found))


def _show(found: ExportedRun) -> None:
    parity = found.parity
    looked = f"; {parity.nodes} of {parity.of} nodes compared one by one" if parity.nodes else ""
    # Paths are to be copied, so no line is broken in them.
    print(f"{found.path}  {_size(found.bytes)}")
    apart = f"at most {parity.max_difference:.2g} from the student's" if parity.max_difference else "the student's"
    before, after = (f"{100 * share:.2f} %" for share in (found.accuracy_before, found.accuracy_after))
    print(f"  logits     {apart} on {parity.examples:,} test examples{looked}")
    print(f"  accuracy   {before} before, {after} after, on all test data")
    if found.eight:
        _show_eight(found.eight)
    folder = found.path if found.path.is_dir() else found.path.parent
    print(f"  card       {folder / 'README.md'}")


def _show_eight(eight: QuantizationReport) -> None:
    choice = eight.choice
    best = choice.best
    right = "" if best.accuracy is None else f"{100 * best.accuracy:.2f} %, "
    kl = "" if best.kl is None else f"KL {best.kl:.2g} nats, "
    print(
        f"  calibrated {best}: {right}{kl}the best of {len(choice.tried)} on {choice.judged_on:,} development examples"
    )
    for size, one in eight.latency.items():
        print(f"  batch {size:<4} {one.int8:.3g} ms, {one.ratio:.2f} times float32's {one.float32:.3g} ms")


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
