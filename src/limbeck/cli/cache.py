"""`limbeck cache build`, `info` and `verify`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli.options import CommandGroup, DataName, Json, Settings, TeacherName
from limbeck.cli.terminal import ProgressCallback, duration, print_message
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cache import CacheReader
    from limbeck.compare.cache_plan import CachePlan
    from limbeck.job import Job

Flags = Mapping[str, Any]


def run_build(
    path: str | None, flags: Flags, settings: Sequence[str], *, as_json: bool, part: str | None = None
) -> None:
    """Build the teacher cache of a job, or one part of it, or continue building it."""
    from limbeck.cache import CachePart

    own = None if part is None else CachePart.parse(part)
    job = _job(path, flags, settings)
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare.teacher_cache import build

            stores = build(job, callback=callback, part=own)
    except KeyboardInterrupt:
        print("Interrupted. Finished work is saved; run the same command again to continue.", file=sys.stderr)
        sys.exit(130)
    if own is not None:
        rest = "all parts are joined" if stores else "the last part to end joins all of them"
        print_message(f"Part {own.number} of {own.count} is complete; {rest}.", to_error=as_json)
        if as_json and not stores:
            print(json.dumps({"part": own.number, "parts": own.count, "joined": False}))
    for store in stores:
        _show_store(store, as_json=as_json)


def run_info(path: str | None, flags: Flags, settings: Sequence[str], *, as_json: bool) -> None:
    """Show the content of a cache. For a job, show the cost of each encoding, and its cache if there is one."""
    from limbeck.cache import CacheReader, is_cache

    if path is not None and is_cache(path):
        _show_store(CacheReader(path), as_json=as_json)
        return
    _check_path(path)
    from limbeck.compare.cache_plan import plan

    job = _job(path, flags, settings)
    folders = [] if job.cache is None or (job.cache.folder is None and job.out is None) else _folders(job)
    stores = [CacheReader(folder) for folder in folders if is_cache(folder)]
    _show_plan(plan(job), stores[0] if stores else None, as_json=as_json)
    for store in stores[1:] if not as_json else ():
        _show_store(store, as_json=False)


def run_verify(
    path: str | None, flags: Flags, settings: Sequence[str], *, sample: int, seed: int | None, as_json: bool
) -> None:
    """Check every shard of a cache and, for a job, compare some stored outputs with the teacher.

    Raises:
        LimbeckError: If a check fails.
    """
    from limbeck.cache import CacheReader, is_cache

    is_folder = path is not None and is_cache(path)
    if is_folder and sample:
        raise LimbeckError(
            "--sample needs the teacher: type limbeck cache verify JOB --sample 100, or limbeck cache verify "
            f"--teacher TEACHER --data DATA --set cache.folder={path} --sample 100."
        )
    if not is_folder:
        _check_path(path)
    job = None if is_folder else _job(path, flags, settings)
    stores = (
        [CacheReader(path)] if job is None and path is not None else [CacheReader(folder) for folder in _folders(job)]
    )
    damaged = [_find_damage(store) for store in stores]
    rechecks: list[Any] = []
    if job is not None and sample and not any(damaged):
        from limbeck.compare.teacher_cache import check

        seed = time.time_ns() % 2**31 if seed is None else seed
        rechecks = check(job, sample=sample, seed=seed)
    for number, (store, errors) in enumerate(zip(stores, damaged, strict=True)):
        result: dict[str, Any] = {**_facts(store), "damaged": errors}
        if rechecks:
            divergence = _none_if_nan(rechecks[number].divergence)
            result["recheck"] = {**rechecks[number]._asdict(), "divergence": divergence, "seed": seed}
        shards = len(store.manifest.shards)
        if as_json:
            print(json.dumps(result))
        elif not errors:
            print(f"{store.location.name}: {len(store):,} outputs in {shards} shards, checksums match.")
    for recheck in rechecks:
        _report_recheck(recheck, sample=sample, seed=seed, as_json=as_json)
    for store, errors in zip(stores, damaged, strict=True):
        if errors:
            files = len(store.manifest.shards) + len({*store.manifest.files, *_own_head(store)})
            raise LimbeckError(f"{len(errors)} of {files} files are damaged; see above.")


def _find_damage(store: CacheReader) -> list[str]:
    """Print and return the errors of all files of a cache."""
    from limbeck.teachers.cache_request import check_head

    # Older caches do not name the file of their last layer among the others.
    head = None if {*_own_head(store)} <= store.manifest.files.keys() else check_head(store)
    errors = [str(error) for error in (*store.verify(), *([] if head is None else [head]))]
    for sentence in errors:
        print_message(sentence, to_error=True)
    return errors


def _own_head(store: CacheReader) -> list[str]:
    from limbeck.teachers.cache_request import HEAD_FILE

    return [HEAD_FILE] if "head" in store.manifest.about else []


def _check_path(path: str | None) -> None:
    """Refuse a path that is neither a cache nor a job file.

    Raises:
        LimbeckError: With the command that builds a cache.
    """
    if path is None or ("://" not in path and Path(path).is_file()):
        return
    problem = f"{path} is a folder without a cache" if Path(path).is_dir() else f"No cache or job file exists at {path}"
    raise LimbeckError(
        f"{problem}. To build a cache: `limbeck cache build --teacher TEACHER --data DATA --set cache.folder={path}`."
    )


def _none_if_nan(number: float) -> float | None:
    return None if math.isnan(number) else number


def _report_recheck(recheck: Any, *, sample: int, seed: int | None, as_json: bool) -> None:
    message = f"Recomputed {recheck.answers} examples (--seed {seed}): "
    message += f"{100 * recheck.identical:.1f} % are identical bit for bit"
    message += "." if recheck.is_sampled else f", {recheck.distance_text}."
    if recheck.answers > sample:
        message += f" Only whole batches are recomputed; these contain the {sample} examples of --sample."
    if recheck.is_sampled:
        message += f" {recheck.distance_text[0].upper()}{recheck.distance_text[1:]}."
    if not recheck.same:
        raise LimbeckError(f"{message} The teacher's outputs differ from the stored ones.")
    print_message(message, to_error=as_json)


def _job(path: str | None, flags: Flags, settings: Sequence[str]) -> Job:
    """Make a job for its teacher and data. The student does not matter here, so it has a default."""
    from limbeck.cli.jobs import job_from_flags

    options = dict(flags) if path is not None else {"student": "mlp", **flags}
    return job_from_flags(path, options, settings)


def _folders(job: Job | None) -> list[str]:
    from limbeck.compare.teacher_cache import folders_of

    if job is None:
        raise LimbeckError("Give a job file or the folder of a cache.")
    return folders_of(job)


def _facts(store: CacheReader) -> dict[str, Any]:
    origin, positions = store.manifest.origin, store.keys.positions
    tokens = None if positions is None else int(positions.sum())
    return {
        "store": store.location.name,
        "answers": len(store),
        "examples": store.manifest.about.get("examples"),
        "shards": len(store.manifest.shards),
        "bytes": store.bytes,
        "tokens": tokens,
        "bytes_per_token": store.bytes / tokens if tokens else None,
        "tokenizer": store.manifest.about.get("tokenizer"),
        "inputs": "tokens.safetensors" in store.manifest.files,
        "encodings": {address: column["encoding"] for address, column in origin.outputs.items()},
        "teacher": origin.teacher,
        "data": origin.data,
        "views": origin.views,
        "precision": origin.precision,
    }


def _show_store(store: CacheReader, *, as_json: bool) -> None:
    facts = _facts(store)
    if as_json:
        print(json.dumps(facts))
        return
    columns = ", ".join(f"{address} as {_format_encoding(spec)}" for address, spec in facts["encodings"].items())
    print(
        f"{facts['store']}: {facts['answers']:,} outputs ({columns}) in {facts['shards']} shard(s), "
        f"{_size(facts['bytes'])}{_per_token(facts)}."
    )
    if facts["inputs"]:
        print(f"It has their inputs too: limbeck.data.open_cached_texts({facts['store']!r}).")


def _per_token(facts: Mapping[str, Any]) -> str:
    """Return the number of tokens with outputs, and the bytes of each; nothing where outputs have one shape."""
    if not facts["tokens"]:
        return ""
    tokenizer = f" of the tokenizer {facts['tokenizer']['name']}" if facts["tokenizer"] else ""
    return f": {facts['tokens']:,} tokens{tokenizer}, {facts['bytes_per_token']:.1f} bytes a token"


def _show_plan(plan: CachePlan, store: CacheReader | None, *, as_json: bool) -> None:
    if as_json:
        facts = None if store is None else _facts(store)
        estimates = [_as_json(estimate) for estimate in plan.estimates]
        print(json.dumps({**plan._asdict(), "estimates": estimates, "store": facts}))
        return
    if store is not None:
        _show_store(store, as_json=False)
    from rich.table import Table

    from limbeck.cli.terminal import make_console

    views = f", {plan.views} views of each example" if plan.views > 1 else ""
    tokens = "" if plan.tokens is None else f" of about {plan.tokens:,.1f} tokens"
    print(
        f"{plan.answers:,} outputs{tokens}{views}: computing them takes about {duration(plan.seconds)} on this machine."
    )
    table = Table("encoding", "bytes each" if plan.tokens is None else "bytes a token", "total", "KL error, nats")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in plan.estimates:
        error = "unbiased" if row.error == float("inf") else f"{row.error:.2g}"
        each = f"{row.bytes:,}" if plan.tokens is None else f"{row.bytes / plan.tokens:,.1f}"
        table.add_row(_format_encoding(row.encoding), each, _size(row.total), error)
    console = make_console()
    if not console.is_terminal:
        console.width = 100
    console.print(table)
    print(
        f"Errors are measured on {plan.sample} examples at temperature 1. To build the cache: limbeck cache build ..."
    )
    if any(row.encoding["name"] == "float16" for row in plan.estimates):
        print(f"--set cache.encoding=float16{_top_k_option(plan)}.")


def _top_k_option(plan: CachePlan) -> str:
    """Return how to type a top-k encoding, if there is one in the table."""
    tops = [row.encoding for row in plan.estimates if row.encoding["name"] == "top-k"]
    if not tops:
        return ""
    typed = ", ".join(f"{key}: {value}" for key, value in tops[len(tops) // 2].items())
    return f", or --set cache.encoding='{{{typed}}}'"


def _as_json(estimate: Any) -> dict[str, Any]:
    return {**estimate._asdict(), "error": None if estimate.error == float("inf") else estimate.error}


def _format_encoding(spec: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}({rest})" if rest else str(spec["name"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count} bytes"


cache = CommandGroup(no_args_is_help=True, help="Compute the teacher's outputs once and reuse them in every run.")

JobFile = Annotated[str | None, typer.Argument(help="A job file (YAML). --set overrides its values.")]


@cache.command("build")
def cache_build(
    job: JobFile = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Fill one of several parts, such as 2/4, while other processes fill the others. The last joins them."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute and store the teacher's outputs for all training data.

    If it is interrupted, the same command continues.
    """
    run_build(job, {"teacher": teacher, "data": data}, settings or [], as_json=as_json, part=part)


@cache.command("info")
def cache_info(
    job: Annotated[str | None, typer.Argument(help="A job file, or the folder of a cache.")] = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Show the content of a cache, or estimate size, time and error of each encoding before building one."""
    run_info(job, {"teacher": teacher, "data": data}, settings or [], as_json=as_json)


@cache.command("verify")
def cache_verify(
    job: Annotated[str | None, typer.Argument(help="A job file, or the folder of a cache.")] = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    sample: Annotated[int, typer.Option(min=0, help="Recompute this many examples with the teacher. Needs a job.")] = 0,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed that chooses the examples of --sample. Default: a new one each time."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read a whole cache and compare its checksums. The exit code is 1 if a file is damaged."""
    run_verify(job, {"teacher": teacher, "data": data}, settings or [], sample=sample, seed=seed, as_json=as_json)
