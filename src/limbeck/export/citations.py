"""Citations: BibTeX entries of the methods, data and software that a run used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.checksums import read_json
from limbeck.consent import read_consent
from limbeck.errors import DataError, LimbeckError, printable
from limbeck.export.finished_run import FinishedRun, open_finished
from limbeck.job import RunLayout, plain_name
from limbeck.methods import method, names
from limbeck.models import is_student_folder, read_config

_KEY = re.compile(r"@\w+\{\s*([^,\s]+)")
_LOSSES = {
    "kl_divergence, temperature": "hinton", "logit_squared_error": "logit_matching", "squared_error": "fitnets",
    "smoothed_cross_entropy": "label_smoothing", "alpha_beta_divergence": "abkd", "jensen_shannon": "gkd",
    "gkd_jensen_shannon": "gkd", "skew_kl": "distillm", "skew_reverse_kl": "distillm",
}  # fmt: skip
"""The text of a loss -> the method whose paper is its source, for stages without the name of a method."""
_BETWEEN = re.compile(r"\n+(?=@\w+\{)")

# Keys of papers.bib, by limbeck's names.
_DATA = {
    "mnist": "lecun1998gradient", "fashion_mnist": "xiao2017fashion", "cifar10": "krizhevsky2009learning",
    "cifar100": "krizhevsky2009learning", "digits": "alpaydin1998optical",
}  # fmt: skip
_TRANSFORMS = {
    "mixup": "zhang2018mixup", "cut_mix": "yun2019cutmix", "cut_out": "devries2017improved",
    "rand_augment": "cubuk2020randaugment", "resized_crop": "szegedy2015going",
}  # fmt: skip
_METRICS = {
    "brier": "brier1950verification", "ece": "guo2017calibration", "mce": "guo2017calibration",
    "worst_class_accuracy": "lukasik2022teachers", "agreement": "stanton2021does",
    "agreement_where_teacher_wrong": "stanton2021does lukasik2022teachers", "kl_to_teacher": "stanton2021does",
    "confidence_slope": "nagarajan2023student", "confidence_deviation": "nagarajan2023student",
    "relative_calibration": "lamb2023faithful", "gradient_weight": "tang2020understanding",
}  # fmt: skip
_EXTRA_METRICS = {
    "cka": "kornblith2019similarity nguyen2021wide", "corruptions": "hendrycks2019benchmarking",
    "groups": "lukasik2022teachers", "sharpness": "pham2022revisiting", "attacks": "madry2018towards",
    "faithfulness": "lamb2023faithful gowal2018effectiveness",
}  # fmt: skip
_ENCODINGS = {"sampled": "anshumann2025sparse"}
_INT8 = "jacob2018quantization"


@cache
def _papers() -> dict[str, str]:
    text = files("limbeck.export").joinpath("papers.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in _BETWEEN.split(text) if entry.startswith("@")]
    return {_KEY.findall(entry)[0]: entry for entry in entries}


def read_entries(keys: str) -> str:
    """The entries of ``papers.bib`` with these keys, which are separated by spaces."""
    return "\n".join(_papers()[key] for key in keys.split())


def _entry_of(name: str, table: Mapping[str, str]) -> str | None:
    return read_entries(table[name]) if name in table else None


def _network(name: str) -> str | None:
    """The paper of a network, by its name in a job."""
    if name == "shallow" or name.startswith("shrink by layers"):  # a student that starts as layers of its teacher
        return read_entries("sanh2019distilbert")
    if name == "shrink by channels":
        return read_entries("li2017pruning fang2023depgraph")
    is_resnet = name.startswith("resnet") and name.removeprefix("resnet").isdecimal()
    return read_entries("he2016deep") if is_resnet else None


class Citation(NamedTuple):
    """Something that a run used, and its BibTeX entry.

    Attributes:
        used: What was used: ``method hinton``, ``data mnist``.
        bibtex: The entry; None if limbeck has none.
    """

    used: str
    bibtex: str | None

    @property
    def key(self) -> str | None:
        """The key of the entry.

        Example:
            >>> Citation("data mnist", read_entries("lecun1998gradient")).key
            'lecun1998gradient'
        """
        match = _KEY.match(self.bibtex or "")
        return match[1] if match else None


def cite(run: str | Path, *, trust: bool = False) -> list[Citation]:
    """List what a finished run used (methods, controls, data, networks, transforms, metrics, limbeck), with BibTeX.

    An entry for several things appears once. Things without a known paper have no entry.

    Args:
        run: The folder of the run. For a run of `limbeck.distill`, methods and losses are known; data and models are
            known only to your script, and one citation without an entry stands for them.
        trust: Whether Python files that the run's job names may be run, to read the card of a method in them.

    Raises:
        LimbeckError: If there is no finished run.

    Example:
        >>> # print(bibtex(cite("runs/hinton")))
    """
    folder = Path(run)
    if (
        (folder / "run.json").is_file()
        and not RunLayout(folder).job.is_file()
        and is_student_folder(RunLayout(folder).student)
    ):
        return _merge(_used_in_python(folder))
    with read_consent("cite", trust=trust):
        return citations(open_finished(run))


def citations(done: FinishedRun, *, to: str | None = None) -> list[Citation]:
    """`cite` for an open run, and for its export in the format `to`."""
    extra = [Citation("static 8-bit quantization", read_entries(_INT8))] if to == "int8" else []
    return _merge((*_used(done), *extra))


def _merge(used: Iterable[Citation]) -> list[Citation]:
    """Join citations with the same entry."""
    merged: dict[str, Citation] = {}
    for one in (part for citation in used for part in _split(citation)):
        place = one.bibtex or one.used
        before = merged.get(place)
        if before is None:
            merged[place] = one
        elif one.used not in before.used.split(", "):
            merged[place] = before._replace(used=f"{before.used}, {one.used}")
    return list(merged.values())


def bibtex(entries: list[Citation]) -> str:
    """Return the entries as a BibTeX file, each with a comment about its use."""
    blocks = [f"{_comment(one.used)}\n{one.bibtex}" for one in entries if one.bibtex]
    unknown = [_comment(f"{one.used}: limbeck has no entry; cite its authors") for one in entries if not one.bibtex]
    return printable("\n\n".join([*blocks, *(["\n".join(unknown)] if unknown else [])]) + "\n")


def _comment(text: str) -> str:
    # The name of a data file may have line breaks, after which the text would not be a comment.
    return f"% {' '.join(text.split())}"


def _used(done: FinishedRun) -> Iterator[Citation]:
    job = done.job
    for trainer in job.method_arms.values():
        yield _of_method(trainer.name)
    if "label smoothing" in job.arms:
        yield Citation("the arm 'label smoothing'", method("label_smoothing").card.bibtex)
    name = job.data if isinstance(job.data, str) else str(job.data.get("name"))
    yield Citation(f"data {plain_name(name)}", _entry_of(name, _DATA))
    teachers = dict.fromkeys(part.model for part in job.teacher.parts.values())
    made = done.result.get("student")
    way = str(made.get("by")) if isinstance(made, Mapping) else ""
    for who, model in (("student", job.student.model), *(("teacher", model) for model in teachers)):
        paper = _network(f"{model} by {way}" if who == "student" and way else model)
        if paper is not None or model not in ("mlp", "cnn"):
            yield Citation(f"{who} {plain_name(model)}", paper)
    if any(part.adversarial is not None for part in job.teacher.parts.values()):
        yield Citation("adversarial training of the teacher", read_entries("madry2018towards"))
    for name in _transforms(done):
        if name in _TRANSFORMS:
            yield Citation(f"augmentation {name}", _entry_of(name, _TRANSFORMS))
    if job.cache is not None:
        encoding = job.cache.encoding or ("listed" if job.teacher.url is not None else "float16")
        kind = encoding if isinstance(encoding, str) else str(encoding.get("name"))
        if kind in _ENCODINGS:
            yield Citation(f"cache encoding {kind}", _entry_of(kind, _ENCODINGS))
    measured = {name for arm in done.result.get("arms", {}).values() for name in _names(arm.get("measures"))}
    for table, present in ((_METRICS, measured), (_EXTRA_METRICS, done.result.keys())):
        for name in sorted(table.keys() & present):
            yield Citation(f"metric {name}", _entry_of(name, table))
    yield Citation("limbeck", _limbeck(done.student))


def _used_in_python(folder: Path) -> Iterator[Citation]:
    """What a run of `limbeck.distill` used, from its ``run.json``: methods, by the names of stages and losses."""
    try:
        metadata = read_json(folder / "run.json")
        stages = [dict(stage) for stage in metadata["recipe"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'run.json'} is damaged: {type(error).__name__}, {error}.") from error
    for stage in stages:
        objective = str(stage.get("objective"))
        losses = [one for loss, one in _LOSSES.items() if f"Loss({loss}" in objective]
        for name in [str(stage["stage"])] if stage.get("stage") in names() else losses:
            yield _of_method(name)
    yield Citation("data, student and teacher of your script", None)
    yield Citation("limbeck", _limbeck(RunLayout(folder).student))


def _split(one: Citation) -> list[Citation]:
    """One citation per entry: the card of a method may cite several papers."""
    return [one._replace(bibtex=entry) for entry in _BETWEEN.split(one.bibtex)] if one.bibtex else [one]


def _of_method(name: str) -> Citation:
    try:
        card = method(name).card
    except LimbeckError:  # the user's file is missing
        return Citation(f"method {plain_name(name)}", None)
    return Citation(f"method {plain_name(name)}", card.bibtex or None)


def _transforms(done: FinishedRun) -> Iterator[str]:
    """The names of all transforms of the arms and the teacher."""
    members = (member.train for member in done.job.teacher.ensemble.values())
    for budget in (done.job.budget, done.job.teacher.train, *members):
        if budget is not None:
            yield from _names(budget.augment)
            yield from _names(budget.mix)


def _names(augment: Any) -> Iterator[str]:
    """The names in ``crop``, ``{crop: options}``, or a list of these."""
    if isinstance(augment, str):
        yield augment
    elif isinstance(augment, dict):
        yield from map(str, augment)
    elif isinstance(augment, (list, tuple)):
        for one in augment:
            yield from _names(one)


def _limbeck(student: Path) -> str:
    version = read_config(student).get("limbeck", "unknown")
    return (
        "@software{limbeck,\n"
        "  title = {limbeck: knowledge distillation that is right, paid once, and judged},\n"
        "  author = {{The limbeck authors}},\n"
        f"  version = {{{version}}}\n"
        "}"
    )
