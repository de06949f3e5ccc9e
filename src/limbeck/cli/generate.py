"""`limbeck generate`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from limbeck.cli.terminal import duration, print_message
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.generated_texts import DecodingOptions, TextSummary, TextsWritten

_LINE_SECONDS = 10.0  # between two lines of progress
_EXAMPLES = 3


def run_generate(
    teacher: str,
    data: str,
    out: str,
    *,
    options: DecodingOptions,
    samples: int,
    filters: Sequence[str],
    prompt: str,
    answer: str | None,
    tokenizer: str | None,
    model: str | None,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Let a teacher write texts, filter them, and print a summary and the next command."""
    from limbeck.generated_texts import generate_texts, open_filters, open_writer, read_prompts

    if samples > 1 and options.generation.temperature == 0:
        raise LimbeckError(
            f"--samples {samples} with --temperature 0 writes the same text {samples} times: type --samples 1, or a "
            "temperature above 0."
        )
    # All that is cheap is checked before a model is opened.
    rules, prompts = open_filters(filters), read_prompts(data, prompt=prompt, answer=answer)
    writer = open_writer(teacher, options=options, tokenizer=tokenizer, model=model)
    print_message(f"{len(prompts):,} prompts, {samples} samples each, by {teacher}.", to_error=True)
    try:
        summary = generate_texts(
            writer,
            prompts,
            out,
            samples=samples,
            filters=rules,
            batch_size=batch_size,
            callback=_ProgressLines(),
        )
    except KeyboardInterrupt:
        print("Interrupted. All texts so far are saved; the same command continues.", file=sys.stderr)
        sys.exit(130)
    if as_json:
        print(json.dumps(summary.as_json(), allow_nan=False))
    else:
        _show(summary)


class _ProgressLines:
    """Prints a line of progress from time to time."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: TextsWritten) -> None:
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            speed = f", {progress.tokens_per_second:,.0f} tokens a second" if progress.tokens_per_second else ""
            print_message(f"... {progress.texts:,} of {progress.total:,} texts{speed}", to_error=True)


def _show(summary: TextSummary) -> None:
    share = f" ({summary.kept / summary.texts:.0%})" if summary.texts else ""
    known = "" if summary.tokens is None else f", {summary.tokens:,} new tokens"
    lines = [
        ("prompts", f"{summary.prompts:,}, {summary.prompts_kept:,} of them with a text that was kept"),
        ("texts", f"{summary.texts:,}{known}" + (f"; {summary.earlier:,} were there before" * bool(summary.earlier))),
        ("kept", f"{summary.kept:,}{share}"),
        *(("refused", f"{count:,}  {reason}") for reason, count in summary.refused.items()),
        ("cut off", f"{summary.cut_off:,} reached the largest number of new tokens"),
    ]
    if summary.tokens_per_second is not None:
        rate = f"{summary.tokens_per_second:,.0f} tokens a second, {duration(summary.seconds)} of writing"
        lines.append(("speed", rate))
    for name, value in lines:
        print(f"{name:<8} {value}")
    if not summary.kept:
        print(f"\nNo text was kept. All texts are in {summary.all_texts}; the same command with another --filter costs")
        print("nothing.")
        return
    _show_examples(summary.out)
    print(f"\nAll texts, also the refused ones: {summary.all_texts}")
    print("\nThe next command:\n")
    data = quote(str(summary.out))
    print(f"    limbeck distill --teacher TEACHER --student STUDENT --data {data} --method supervised")


def _show_examples(path: Path) -> None:
    """Print the first texts, because a wrong prompt format shows there first."""
    print()
    with path.open(encoding="utf-8") as file:
        for line in (line for line, _ in zip(file, range(_EXAMPLES), strict=False)):
            row = json.loads(line)
            prompt = row["prompt"] if "prompt" in row else row["messages"][-2]["content"]
            text = row["completion"] if "prompt" in row else row["messages"][-1]["content"]
            print(f"  {_shorten(str(prompt), 50)!r} -> {_shorten(text, 60)!r}")


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
