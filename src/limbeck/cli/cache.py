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

from limbeck.cli.options import DataName, Json, Settings, TeacherName
from limbeck.cli.progress import ProgressCallback, duration, print_message
from limbeck.cli.terminal import CommandGroup
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cache import Store
    from limbeck.compare.cache_plan import CachePlan
    from limbeck.job import Job

Flags = Mapping[str, Any]


def run_build(path: str | None, flags: Flags, settings: Sequence[str], *, as_json: bool) -> None:
    """Build a job's store, or go on building it."""
    job = _job(path, flags, settings)
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare.build_cache import build

            store = build(job, callback=callback)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where it stopped; what is done is kept.", file=sys.stderr)
        sys.exit(130)
    _show_store(store, as_json=as_json)


def run_info(path: str | None, flags: Flags, settings: Sequence[str], *, as_json: bool) -> None:
    """What a store holds; of a job what each encoding would take, and what its store holds if it has one."""
    from limbeck.cache import Store, is_store

    if path is not None and is_store(path):
        _show_store(Store(path), as_json=as_json)
        return
    _check_there(path)
    from limbeck.compare.cache_plan import plan

    job = _job(path, flags, settings)
    where = None if job.cache is None or (job.cache.folder is None and job.out is None) else _folder(job)
    store = Store(where) if where is not None and is_store(where) else None
    _show_plan(plan(job), store, as_json=as_json)


def run_verify(
    path: str | None, flags: Flags, settings: Sequence[str], *, sample: int, seed: int | None, as_json: bool
) -> None:
    """Check every shard, and, of a job, some answers against the teacher.

    Raises:
        LimbeckError: If anything is wrong.
    """
    from limbeck.cache import Store, is_store
    from limbeck.teachers.output_layer import check_head

    folder = path is not None and is_store(path)
    if folder and sample:
        raise LimbeckError(
            "To ask the teacher again, say who it is: limbeck cache verify JOB --sample 100, or limbeck cache verify "
            f"--teacher TEACHER --data DATA --set cache.folder={path} --sample 100."
        )
    if not folder:
        _check_there(path)
    job = None if folder else _job(path, flags, settings)
    store = Store(path if job is None and path is not None else _folder(job))
    head = check_head(store)
    wrong = [str(error) for error in (*store.verify(), *([] if head is None else [head]))]
    for sentence in wrong:
        print_message(sentence, to_error=True)
    found: dict[str, Any] = {**_facts(store), "damaged": wrong}
    again = None
    if job is not None and sample and not wrong:
        from limbeck.compare.build_cache import check

        seed = time.time_ns() % 2**31 if seed is None else seed
        again = check(job, sample=sample, seed=seed)
        found["recheck"] = {**again._asdict(), "divergence": _plain(again.divergence), "seed": seed}
    if as_json:
        print(json.dumps(found))
    elif not wrong:
        print(f"{store.location.name}: {len(store):,} answers in {len(store.manifest.shards)} shards, all as written.")
    if again is not None:
        _judge(again, asked=sample, seed=seed, as_json=as_json)
    if wrong:
        files = len(store.manifest.shards) + ("head" in store.manifest.about)
        raise LimbeckError(f"{len(wrong)} of {files} files are damaged; see above.")


def _check_there(path: str | None) -> None:
    """Refuse a path at which there is nothing, or a folder that is no store.

    Raises:
        LimbeckError: Saying what is made by what.
    """
    if path is None or ("://" not in path and Path(path).is_file()):
        return
    what = "is a folder without a store" if Path(path).is_dir() else "There is neither a store nor a job file at"
    said = f"{path} {what}" if Path(path).is_dir() else f"{what} {path}"
    raise LimbeckError(
        f"{said}: `limbeck cache build --teacher TEACHER --data DATA --set cache.folder={path}` makes a store."
    )


def _plain(number: float) -> float | None:
    return None if math.isnan(number) else number


def _judge(again: Any, *, asked: int, seed: int | None, as_json: bool) -> None:
    said = f"Asked again about {again.answers} examples (--seed {seed}): "
    said += f"{100 * again.identical:.1f} % identical to the bit"
    said += "." if again.is_sampled else f", {again.distance_text}."
    if again.answers > asked:
        said += f" The teacher is asked in whole batches: so many hold the {asked} of --sample."
    if again.is_sampled:
        said += f" {again.distance_text[0].upper()}{again.distance_text[1:]}."
    if not again.same:
        raise LimbeckError(f"{said} The teacher gives other answers than those that are stored.")
    print_message(said, to_error=as_json)


def _job(path: str | None, flags: Flags, settings: Sequence[str]) -> Job:
    """A job for its teacher and data alone: who learns does not matter here."""
    from limbeck.cli.jobs import job_from_flags

    asked = dict(flags) if path is not None else {"student": "mlp", **flags}
    return job_from_flags(path, asked, settings)


def _folder(job: Job | None) -> str:
    from limbeck.compare.teacher_cache import folder_of

    if job is None:
        raise LimbeckError("Name a job file or the folder of a store.")
    return folder_of(job)


def _facts(store: Store) -> dict[str, Any]:
    origin = store.manifest.origin
    return {
        "store": store.location.name,
        "answers": len(store),
        "examples": store.manifest.about.get("examples"),
        "shards": len(store.manifest.shards),
        "bytes": store.bytes,
        "encodings": {address: column["encoding"] for address, column in origin.answers.items()},
        "teacher": origin.teacher,
        "data": origin.data,
        "views": origin.views,
        "precision": origin.precision,
    }


def _show_store(store: Store, *, as_json: bool) -> None:
    facts = _facts(store)
    if as_json:
        print(json.dumps(facts))
        return
    kept = ", ".join(f"{address} as {_named(spec)}" for address, spec in facts["encodings"].items())
    print(
        f"{facts['store']}: {facts['answers']:,} answers ({kept}) in {facts['shards']} shard(s), "
        f"{_size(facts['bytes'])}."
    )


def _show_plan(plan: CachePlan, store: Store | None, *, as_json: bool) -> None:
    if as_json:
        there = None if store is None else _facts(store)
        print(json.dumps({**plan._asdict(), "estimates": [_as_json(one) for one in plan.estimates], "store": there}))
        return
    if store is not None:
        _show_store(store, as_json=False)
    from rich.table import Table

    from limbeck.cli.terminal import make_console

    views = f", {plan.views} views of each example" if plan.views > 1 else ""
    print(f"{plan.answers:,} answers{views}: the teacher takes about {duration(plan.seconds)} on this machine.")
    table = Table("encoding", "bytes each", "in all", "KL error, nats")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in plan.estimates:
        error = "unbiased" if one.error == float("inf") else f"{one.error:.2g}"
        table.add_row(_named(one.encoding), f"{one.bytes:,}", _size(one.total), error)
    console = make_console()
    if not console.is_terminal:
        console.width = 100
    console.print(table)
    print(f"Errors are those of {plan.sample} examples' answers at T = 1. To build: limbeck cache build ... --set")
    print(f"cache.encoding=float16{_part_of(plan)}.")


def _part_of(plan: CachePlan) -> str:
    """How one encoding that keeps a part of the classes is typed, where there is any in the table."""
    tops = [one.encoding for one in plan.estimates if one.encoding["name"] == "top-k"]
    if not tops:
        return ""
    typed = ", ".join(f"{key}: {value}" for key, value in tops[len(tops) // 2].items())
    return f", or --set cache.encoding='{{{typed}}}'"


def _as_json(one: Any) -> dict[str, Any]:
    return {**one._asdict(), "error": None if one.error == float("inf") else one.error}


def _named(spec: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']}({rest})" if rest else str(spec["name"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count} bytes"


cache = CommandGroup(no_args_is_help=True, help="The teacher's stored answers: asked once, checked, shared.")

Asked = Annotated[str | None, typer.Argument(help="A job file; --set changes what it says.")]


@cache.command("build")
def cache_build(
    job: Asked = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Ask the teacher about all training data; stopped, it goes on where it was."""
    run_build(job, {"teacher": teacher, "data": data}, settings or [], as_json=as_json)


@cache.command("info")
def cache_info(
    job: Annotated[str | None, typer.Argument(help="A job file, or the folder of a store.")] = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Bytes, time and error of each encoding before anything is built; or what a store holds."""
    run_info(job, {"teacher": teacher, "data": data}, settings or [], as_json=as_json)


@cache.command("verify")
def cache_verify(
    job: Annotated[str | None, typer.Argument(help="A job file, or the folder of a store.")] = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Ask the teacher again about so many examples; it needs a job.")
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which examples --sample asks about; others every time by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every byte of a store and compare its checksums; exit code 1 if anything is wrong."""
    run_verify(job, {"teacher": teacher, "data": data}, settings or [], sample=sample, seed=seed, as_json=as_json)
