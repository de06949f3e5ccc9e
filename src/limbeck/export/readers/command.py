"""The command: files in, one line of CSV an example out."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def main(
    open_student: Callable[[Path], Any], read_inputs: Callable[[list[Path], Any, Any], Any], *, layout: bool = False
) -> None:
    """Read the files that are named, and print the answer to each example and how probable the student thinks it."""
    parser = argparse.ArgumentParser(description="Answer raw examples with the student in this folder.")
    parser.add_argument("files", nargs="+", type=Path, help="what to read")
    parser.add_argument("--all", action="store_true", help="print the probability of every class")
    parser.add_argument("--logits", action="store_true", help="print the logits of every class")
    if layout:  # of files of text
        parser.add_argument("--charset", help="how the files write characters, such as cp1252")
        parser.add_argument("--separator", help="what stands between the columns of .csv and .tsv files; tab for a tab")
    typed = parser.parse_args()
    metadata, shape, answer = open_student(Path(__file__).parent)
    if layout:
        metadata = {
            **metadata,
            "charset": typed.charset,
            "separator": "\t" if typed.separator == "tab" else typed.separator,
        }
    inputs = read_inputs(typed.files, metadata, shape)
    count = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    parts = [
        answer({n: v[i : i + 250] for n, v in inputs.items()} if isinstance(inputs, dict) else inputs[i : i + 250])
        for i in range(0, count, 250)
    ]
    logits = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 0))
    names = metadata.get("class_names") or [str(number) for number in range(logits.shape[1])]
    apart = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    columns = logits if typed.logits else apart / apart.sum(axis=1, keepdims=True)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["answer", *names] if typed.all or typed.logits else ["answer", "probability"])
    for row, best in zip(columns, logits.argmax(axis=1) if count else [], strict=True):
        rows.writerow([names[best], *(f"{x:.9g}" for x in (row if typed.all or typed.logits else [row[best]]))])
