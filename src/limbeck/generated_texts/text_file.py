"""`generate_texts`: writes texts of a teacher to a file with their source, filters them, and continues after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from limbeck.atomic_io import append_text, atomic_write, folder_lock, make_folder, truncate
from limbeck.checksums import json_line, read_json, read_lines, write_json
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.generated_texts.filtering import filter_texts, hash_filters, open_filters
from limbeck.generated_texts.filters import GeneratedText, TextFilter
from limbeck.generated_texts.prompts import MESSAGES, TextPrompt, hash_prompts, read_prompts

ALL_TEXTS = "texts.jsonl"
"""The file of all texts, kept and refused, in the folder beside the output."""
_SOURCE = "source.json"
Key = tuple[str | int, int]
"""The id of a prompt, and the number of a sample."""


class Writing(NamedTuple):
    """What a teacher wrote for one prompt.

    Attributes:
        completion: The text.
        stop_reason: ``stop`` at an end token, ``length`` if it was cut off.
        token_ids: The new tokens, with the end token; None if they are not known.
        logprob: The sum of the log-probabilities of the new tokens, in nats; None if it is not known.
        tokens: The number of new tokens; None if it is not known.
    """

    completion: str
    stop_reason: str
    token_ids: tuple[int, ...] | None = None
    logprob: float | None = None
    tokens: int | None = None


@runtime_checkable
class TextWriter(Protocol):
    """A teacher that continues prompts.

    Attributes:
        batch_size: The number of texts that it is given at a time, unless the caller says another.
    """

    batch_size: int

    @property
    def source(self) -> Mapping[str, Any]:
        """Teacher, tokenizer, settings of decoding and seed. Texts of different sources are not mixed."""

    def write(self, prompts: Sequence[TextPrompt], samples: Sequence[int]) -> Iterable[tuple[int, Writing]]:
        """Write sample ``samples[i]`` of ``prompts[i]``, and yield i with the text, in any order, once it is there."""


class TextsWritten(NamedTuple):
    """Progress of `generate_texts`.

    Attributes:
        texts: The number of texts so far, with those of earlier calls.
        total: The number of all texts.
        tokens_per_second: New tokens a second of this call.
    """

    texts: int
    total: int
    tokens_per_second: float


@dataclass(frozen=True)
class TextSummary:
    """What `generate_texts` wrote.

    Attributes:
        out: The file of the texts that were kept.
        all_texts: The file of all texts.
        prompts: The number of prompts.
        prompts_kept: The number of prompts of which a text was kept.
        texts: The number of texts.
        earlier: How many of them were there before this call.
        kept: The number of texts that were kept.
        refused: The number of refused texts by filter and reason.
        cut_off: The number of texts that reached ``max_new_tokens``, kept or not.
        tokens: The new tokens of all texts; None if a server does not count them.
        tokens_per_second: New tokens a second of this call; None if it wrote nothing.
        seconds: The seconds of this call in which the teacher wrote.
    """

    out: Path
    all_texts: Path
    prompts: int
    prompts_kept: int
    texts: int
    earlier: int
    kept: int
    refused: Mapping[str, int]
    cut_off: int
    tokens: int | None
    tokens_per_second: float | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The summary in the format of ``--json``."""
        return {**vars(self), "out": str(self.out), "all_texts": str(self.all_texts), "refused": dict(self.refused)}


def generate_texts(
    teacher: TextWriter,
    prompts: str | Path | Iterable[Any],
    out: str | Path,
    *,
    samples: int = 4,
    filters: Iterable[str | TextFilter | Callable[[GeneratedText], Any]] = (),
    batch_size: int | None = None,
    callback: Callable[[TextsWritten], None] = lambda _: None,
) -> TextSummary:
    """Let a teacher write texts, filter them, and write the kept ones to a file that `load_data` reads.

    A student that learns them with cross-entropy learns by sequence-level distillation. All texts, kept and refused,
    are in a folder beside the output, so another filter, more samples or further prompts cost only what is new. After a
    kill the same call continues: at most one batch is lost. The output appears as a whole at the end.

    Each line of the output has ``prompt`` (or ``messages``), ``completion``, ``id``, ``sample``, ``reference``,
    ``token_ids``, ``logprob`` (nats), ``stop_reason``, and ``source``: teacher, tokenizer, decoding, seed, and
    SHA-256 of the weights, tokenizer, prompts and filters.

    Args:
        teacher: The teacher: `ModelWriter`, `ServedWriter`, or an object with ``source`` and ``write``.
        prompts: What `read_prompts` takes.
        out: The file, such as ``texts.jsonl``.
        samples: The number of texts for each prompt.
        filters: What `open_filters` takes, in order: each sees the texts of a prompt that the ones before have kept.
        batch_size: The number of texts that are written at a time; by default the teacher's.
        callback: Gets the progress after each batch.

    Raises:
        ArgumentError: If a number is below 1.
        DataError: If prompts are missing or damaged, a filter needs right answers that they lack, or `out` has texts of
            another teacher, other settings or other prompts.
        LimbeckError: If a filter fails. All texts are kept, and the next call continues.

    Source: Kim and Rush, Sequence-Level Knowledge Distillation, 2016, arXiv:1606.07947.
    """
    batch_size = teacher.batch_size if batch_size is None else batch_size
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} is a whole number, at least 1; got {value!r}.", argument=name)
    rows = read_prompts(prompts) if isinstance(prompts, (str, Path)) else read_prompts(list(prompts))
    chosen = open_filters(filters)
    _check_references(rows, chosen)
    path = Path(out)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file, such as {path / 'texts.jsonl'}.")
    make_folder(path.parent)
    folder = path.parent / f"{path.name.removesuffix('.jsonl')}.all"
    make_folder(folder)
    with folder_lock(folder, doing="written"):
        store = _TextStore(folder, teacher.source, {row.id: row for row in rows})
        earlier = sum((row.id, number) in store.texts for row in rows for number in range(samples))
        counter = _Counter(store, len(rows) * samples, callback)
        groups = _generate_groups(teacher, rows, samples, batch_size, store, counter)
        judgments = _judge_groups(groups, chosen, folder / ALL_TEXTS)
        kept, refused, prompts_kept = _write_kept(path, judgments, _complete_source(teacher.source, rows, chosen))
    texts = [store.texts[row.id, number] for row in rows for number in range(samples)]
    sizes = [writing.tokens for writing in texts]
    return TextSummary(
        path, folder / ALL_TEXTS, len(rows), prompts_kept, len(texts), earlier, kept, refused,
        sum(writing.stop_reason == "length" for writing in texts),
        None if None in sizes else sum(size or 0 for size in sizes),
        counter.tokens / counter.seconds if counter.seconds and counter.tokens else None, round(counter.seconds, 2),
    )  # fmt: skip


def _check_references(rows: Sequence[TextPrompt], filters: Sequence[TextFilter]) -> None:
    lacking = next((row for row in rows if row.reference is None), None)
    needing = next((one for one in filters if one.needs_reference), None)
    if lacking is not None and needing is not None:
        raise DataError(
            f"The filter {needing.name} compares with the right answer, and the prompt {lacking.id!r} has none. Name "
            "its column with --answer COLUMN (read_prompts(..., answer=)), or take majority, which needs none."
        )


def _complete_source(
    source: Mapping[str, Any], rows: Sequence[TextPrompt], filters: Sequence[TextFilter]
) -> dict[str, Any]:
    own = {"prompts_sha256": hash_prompts(rows), "filters": [one.name for one in filters]}
    return {**source, **own, "filters_sha256": hash_filters(filters)}


class _TextStore:
    """All texts that a teacher wrote, in a folder. Each is appended as soon as it is there."""

    def __init__(self, folder: Path, source: Mapping[str, Any], prompts: Mapping[str | int, TextPrompt]) -> None:
        self.path = folder / ALL_TEXTS
        self.texts: dict[Key, Writing] = {}
        self._check_source(folder, source)
        for line in self._read():
            self._add(line, prompts)

    def _check_source(self, folder: Path, source: Mapping[str, Any]) -> None:
        """Refuse to mix texts of two teachers or two ways of decoding."""
        own = json.loads(json.dumps(dict(source), default=str))
        if not (folder / _SOURCE).is_file():
            if self.path.is_file() and self.path.stat().st_size:
                raise DataError(f"{folder} has texts but no {_SOURCE}, so what wrote them is not known. Remove it.")
            write_json(own, folder / _SOURCE)
        before = read_json(folder / _SOURCE)
        changed = [name for name in sorted({*own, *before}) if own.get(name) != before.get(name)]
        if changed:
            name = changed[0]
            raise DataError(
                f"{self.path} has texts with {name} = {before.get(name)!r}, not {own.get(name)!r}: texts of two "
                "sources are not mixed. Choose another --out, or remove the folder."
            )

    def _read(self) -> list[dict[str, Any]]:
        """The whole lines. What a kill cut off is removed, and written again."""
        data = self.path.read_bytes() if self.path.is_file() else b""
        if data and not data.endswith(b"\n"):
            truncate(self.path, data.rfind(b"\n") + 1)
        lines = read_lines(self.path)
        if lines.damaged:
            raise DataError(
                f"{self.path} was edited or is damaged: {lines.damaged:,} of its lines do not match their checksum. "
                "Remove these lines, and the same command writes their texts again."
            )
        return lines.values

    def _add(self, line: Mapping[str, Any], prompts: Mapping[str | int, TextPrompt]) -> None:
        prompt = prompts.get(line["id"])
        if prompt is not None and line["prompt_sha256"] != _hash_prompt(prompt):
            raise DataError(
                f"{self.path} has texts for another prompt with the id {line['id']!r}. Give new prompts new ids, or "
                "choose another --out."
            )
        ids = line["token_ids"]
        self.texts[line["id"], line["sample"]] = Writing(
            line["completion"], line["stop_reason"], None if ids is None else tuple(ids), line["logprob"],
            line["tokens"],
        )  # fmt: skip

    def append(self, prompt: TextPrompt, sample: int, writing: Writing) -> None:
        """Append a text."""
        line = {"id": prompt.id, "sample": sample, "prompt_sha256": _hash_prompt(prompt), **writing._asdict()}
        append_text(json_line(line), self.path)
        self.texts[prompt.id, sample] = writing


def _hash_prompt(prompt: TextPrompt) -> str:
    return hashlib.sha256(json.dumps(prompt.prompt).encode()).hexdigest()[:16]


class _Counter:
    """Counts texts, tokens and seconds, and reports them."""

    def __init__(self, store: _TextStore, total: int, callback: Callable[[TextsWritten], None]) -> None:
        self._store, self._total, self._callback = store, total, callback
        self.tokens, self.seconds = 0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count a batch."""
        self.tokens += tokens
        self.seconds += seconds
        rate = self.tokens / self.seconds if self.seconds else 0.0
        self._callback(TextsWritten(len(self._store.texts), self._total, rate))


def _generate_groups(
    teacher: TextWriter,
    rows: Sequence[TextPrompt],
    samples: int,
    batch_size: int,
    store: _TextStore,
    counter: _Counter,
) -> Iterator[list[GeneratedText]]:
    """Yield all texts of each prompt, and write those that are missing, a batch at a time."""
    pairs = [(row, number) for row in rows for number in range(samples)]
    missing = [(row, number) for row, number in pairs if (row.id, number) not in store.texts]
    start = 0
    for row in rows:
        while any((row.id, number) not in store.texts for number in range(samples)):
            batch = missing[start : start + batch_size]
            _write_batch(teacher, batch, store, counter)
            left_out = next((one for one, number in batch if (one.id, number) not in store.texts), None)
            if left_out is not None:
                raise LimbeckError(f"{type(teacher).__name__}.write left out a text of the prompt {left_out.id!r}.")
            start += batch_size
        yield [_join(row, number, store.texts[row.id, number]) for number in range(samples)]


def _write_batch(
    teacher: TextWriter, batch: Sequence[tuple[TextPrompt, int]], store: _TextStore, counter: _Counter
) -> None:
    """Write the texts of a batch, and store each as soon as it is there."""
    begin, tokens = time.perf_counter(), 0
    for place, writing in teacher.write([row for row, _ in batch], [number for _, number in batch]):
        store.append(*batch[place], writing)
        tokens += writing.tokens or 0
    counter.add(tokens, time.perf_counter() - begin)


def _join(row: TextPrompt, number: int, writing: Writing) -> GeneratedText:
    return GeneratedText(
        row.id, number, row.prompt, writing.completion, row.reference, writing.stop_reason, writing.token_ids,
        writing.logprob,
    )  # fmt: skip


class _Judged(NamedTuple):
    """The texts of one prompt that were kept, and the reasons why others were not."""

    kept: list[GeneratedText]
    reasons: list[str]


def _judge_groups(
    groups: Iterator[list[GeneratedText]], filters: Sequence[TextFilter], file: Path
) -> Iterator[_Judged]:
    for group in groups:
        try:
            judgment = _Judged(*filter_texts(group, filters))
        except LimbeckError as error:
            raise LimbeckError(f"{error} All texts so far are in {file}, and the same command continues.") from error
        yield judgment


def _write_kept(path: Path, judgments: Iterable[_Judged], source: Mapping[str, Any]) -> tuple[int, dict[str, int], int]:
    """Write the kept texts; the file appears as a whole. Returns their number, the refused ones, and the prompts."""
    kept, prompts, refused = 0, 0, Counter[str]()
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8") as file:
        for one in judgments:
            file.writelines(json.dumps(_row(text, source)) + "\n" for text in one.kept)
            kept, prompts = kept + len(one.kept), prompts + bool(one.kept)
            refused.update(one.reasons)
    return kept, dict(refused.most_common()), prompts


def _row(text: GeneratedText, source: Mapping[str, Any]) -> dict[str, Any]:
    values = text._asdict()
    prompt, reference = values.pop("prompt"), values.pop("reference")
    if isinstance(prompt, list):
        start: dict[str, Any] = {MESSAGES: [*prompt, {"role": "assistant", "content": text.completion}]}
        del values["completion"]
    else:
        start = {"prompt": prompt}
    return {**start, **values, **({} if reference is None else {"reference": reference}), "source": source}
