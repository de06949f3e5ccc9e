"""The results of a search, its folder, and the job with the best values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from limbeck.checksums import read_json, write_json
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.teacher_cache import folder_of
from limbeck.compare.tuning.search_space import Space, with_values
from limbeck.compare.tuning.trials import Trial, best_of
from limbeck.errors import DataError, LimbeckError
from limbeck.job import Job, RunLayout, TeacherSettings, plain_name, search_job_texts, with_absolute_paths
from limbeck.job.paths import path_exists, restore_private_paths, split_private_paths
from limbeck.models import read_config
from limbeck.tasks import Score

_MAY_DIFFER = ("out", "workers", "track", "seeds", "search")

"""The keys that may differ when a search continues, because they do not change its results."""

SEARCH_PLACES = ".search.places.json"

"""A private file, like ``.places.json``: the paths on this machine of the things in `search.json`."""

_BEFORE = (".lock", ".search.json.partial", SEARCH_PLACES, f".{SEARCH_PLACES}.partial", "teacher", "answers", "tracked")

"""The files of a search that was stopped before it wrote its job."""


def check_search_folder(job: Job) -> Path:
    """Check that the search's folder is free, or holds a search of this job; returns the folder.

    Raises:
        LimbeckError: If it is a file, or holds something else or another job's search; the content is not changed.
    """
    out = Path(job.out or "")
    if out.exists() and not out.is_dir():
        raise LimbeckError(f"{out} is a file; a search needs a folder: give another --out.")
    if RunLayout(out).search.is_file():
        stored, (current, _) = _read_search(out)["job"], _describe_job(job)
        for key in _other_keys(job, stored, out):
            raise LimbeckError(
                f"{out} holds the search of another job: its {key} is {stored.get(key)!r}, this one's is "
                f"{current[key]!r}. Give another --out."
            )
    elif out.is_dir() and any(path.name not in _BEFORE for path in out.iterdir()):
        raise LimbeckError(f"{out} already holds something that is no search; give another --out.")
    return out


def claim_search_folder(job: Job, spaces: Mapping[str, Space], out: Path) -> None:
    """Write the job and the ranges of a search; for a search that continues, check them.

    Raises:
        LimbeckError: If a range differs from that of the existing trials.
    """
    ranges = {
        arm: {name: [search_range.low, search_range.high] for name, search_range in space.items()}
        for arm, space in spaces.items()
    }
    description, places = _describe_job(job)
    write_json(places, out / SEARCH_PLACES)
    if not RunLayout(out).search.is_file():
        write_json({"job": description, "spaces": ranges}, RunLayout(out).search)
        return
    stored = _read_search(out)["spaces"]
    for arm, space in ranges.items():
        for name in {**space, **stored.get(arm, {})}:
            before, now = stored.get(arm, {}).get(name), space.get(name)
            if before != now:
                raise LimbeckError(
                    f"{out} holds a search in which {name} of {arm} runs from {_ends(before)}, and in this one it runs "
                    f"from {_ends(now)}: their trials cannot be mixed. Give another --out."
                )


def _ends(ends: Any) -> str:
    whole = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, (int, float)) for end in ends)
    return "nowhere" if ends is None else f"{ends[0]:g} to {ends[1]:g}" if whole else repr(ends)


def _describe_job(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job of the search as the user wrote it, and the paths in it."""
    description, places = split_private_paths(_dumped(job), _dumped(with_absolute_paths(job)), {})
    return description, places


def _dumped(job: Job) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(job.model_dump(mode="json")))
    return {key: value for key, value in values.items() if key not in _MAY_DIFFER}


def _other_keys(job: Job, stored: Mapping[str, Any], out: Path) -> Iterator[str]:
    """The keys in which the job of the search in a folder differs from this job.

    Two paths are the same if they lead to the same place; or, if that no longer exists, if they have the same name.
    """
    current, _ = _describe_job(job)
    whole, places = _dumped(with_absolute_paths(job)), _places(out)
    resolved = restore_private_paths(stored, places)
    for key, value in whole.items():
        if resolved.get(key) == value or (stored.get(key) == current[key] and not _is_there(places, key)):
            continue
        yield key


def _places(out: Path) -> dict[str, Any]:
    try:
        return read_json(out / SEARCH_PLACES)
    except DataError:
        return {}


def _is_there(places: Mapping[str, Any], key: str) -> bool:
    """Whether the path under a key of the job still exists."""
    own = [one for name, one in places.items() if name.split(".")[0] == key and isinstance(one, Mapping)]
    return any(path_exists(one.get("path")) for one in own)


def _read_search(out: Path) -> dict[str, Any]:
    search = read_json(RunLayout(out).search)
    for key in ("job", "spaces"):
        if not isinstance(search.get(key), dict) or not all(isinstance(one, dict) for one in _parts(search[key], key)):
            raise DataError(
                f"{RunLayout(out).search} is damaged: its {key} cannot be read. Choose another folder: --out."
            )
    return search


def _parts(value: dict[str, Any], key: str) -> list[Any]:
    return list(value.values()) if key == "spaces" else []


def best_job(job: Job, trials_by_arm: Mapping[str, list[Trial]], out: Path, score: Score) -> Job:
    """The job with the best values of every arm, and the teacher that was trained for the search.

    An ensemble is trained again, to the same weights, because a job cannot refer to several networks on disk.

    Raises:
        DataError: If the teacher was trained for the search and its files are damaged.
    """
    for arm, trials in trials_by_arm.items():
        job = with_values(job, arm, best_of(trials, score).values)
    update: dict[str, Any] = {"out": None, "search": str(out)}
    trained = RunLayout(out).trained_teacher
    # A fitted classifier has no run folder.
    if not job.teacher.has_weights and len(job.teacher.parts) == 1 and (RunLayout(out).teacher / "run.json").exists():
        _check_whole(trained)
        update["teacher"] = TeacherSettings(model=str(trained), check=job.teacher.check)
        if isinstance(job.data, dict):  # the tokenizer was trained with the teacher, and lies beside it
            update["data"] = {key: value for key, value in job.data.items() if key != "vocabulary"}
    if job.cache is not None:
        update["cache"] = job.cache.model_copy(update={"folder": folder_of(job)})
    return job.model_copy(update=update)


def _check_whole(trained: Path) -> None:
    try:
        read_config(trained)
    except DataError as error:
        again = "Remove it, and the same command trains the teacher again."
        raise DataError(f"The search's teacher in {trained.parent} is damaged: {error} {again}") from error


def job_files(job: Job, best: Job, out: Path) -> dict[str, str]:
    """The job as YAML values, without keys at their defaults: seeds, arms."""
    defaults = [key for key in ("seeds", "arms", "out") if key == "out" or key not in job.model_fields_set]
    return search_job_texts(best, out, omit=defaults)


def result_of(
    job: Job, material: ComparisonData, spaces: Mapping[str, Space], trials_by_arm: Mapping[str, list[Trial]],
    teacher: Mapping[str, Any], out: Path,
) -> dict[str, Any]:  # fmt: skip
    """The result of a search, as JSON values."""
    count = material.task.check(material.development, "development")
    score = material.task.primary
    arms = {arm: _row(spaces[arm], trials, score) for arm, trials in trials_by_arm.items()}
    top = max(row["best"]["accuracy"] for row in arms.values())
    return {
        "arms": arms,
        "trials": len(next(iter(trials_by_arm.values()))),
        "best": str(RunLayout(out).best),
        "run": str(out),
        "teacher": dict(teacher),
        "development": {
            "examples": count,
            "luck": _luck(top, count) if score.name == "accuracy" else 0.0,
        },
        "task": material.task.to_dict(),
        "data": {"name": plain_name(material.data.name), "train": len(material.train), "classes": material.classes},
    }


def _row(space: Space, trials: list[Trial], score: Score) -> dict[str, Any]:
    accuracies = [trial.accuracy for trial in trials]
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    return {
        "searched": {name: [search_range.low, search_range.high] for name, search_range in space.items()},
        "own": trials[0]._asdict(),
        "best": best_of(trials, score)._asdict(),
        "accuracies": accuracies,
        "best_so_far": list(accumulate(accuracies, max if score.higher_is_better else min)),
        "diverged": sum(trial.nll is None and trial.accuracy == score.diverged for trial in trials),
        "epochs": sum(trial.epochs for trial in trials),
        "seconds": round(sum(seconds), 3),
        "trials": [trial._asdict() for trial in trials],
    }


def _luck(accuracy: float, count: int) -> float:
    """Two standard errors of an accuracy near the best. Smaller differences can be chance."""
    share = min(max(accuracy, 1 / count), 1 - 1 / count)
    return 2 * (share * (1 - share) / count) ** 0.5
