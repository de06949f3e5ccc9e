"""`load_data`: the data set that a name, a file or a folder stands for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.batch import Batch, Inputs
from limbeck.data.arrays import ArrayDataset
from limbeck.data.arrow import is_table
from limbeck.data.builtin_datasets import IMAGE_DATASETS, load_image_dataset
from limbeck.data.column_checks import hash_columns
from limbeck.data.damage import raise_damaged
from limbeck.data.dataset import Dataset, split, subsample
from limbeck.data.npz import as_images, read_arrays, split_arrays, unread_arrays
from limbeck.data.npz_labels import number_labels, standardize_names
from limbeck.data.options import DataOptions, parse_data_name, parse_data_options
from limbeck.data.part_warnings import check_shapes, class_warnings, find_overlap, scale_warnings
from limbeck.data.preprocess import Identity, NormalizeImages, measure_pixels
from limbeck.data.summary import DataSummary, summarize
from limbeck.data.table import TableForm, read_tables, split_table
from limbeck.data.table_encoding import TableEncoding
from limbeck.data.text_files import TEXT_DATASETS as TEXTS
from limbeck.data.unsupported_files import check_readable
from limbeck.data.user_data import UserDataParts, call_user_loader
from limbeck.errors import DataError, LimbeckError, LimbeckWarning, unknown_name_error
from limbeck.models import UserFile

HELD_OUT = 0.2
"""The fraction of the examples that becomes the test part where the data have none; seed 0, stratified."""


_PART_FILES = {"val": ("val", "valid", "validation", "dev"), "test": ("test",)}
"""How the files of the other parts are called that lie beside a training file."""
_BUILTIN = ("digits", *IMAGE_DATASETS, *TEXTS)
"""Sets whose parts everybody knows: nothing is said of them beside each other."""
_SHARE = 0.01  # of a part's examples: from so many on that are training examples too, they are told
_TEXT_OPTIONS = ("tokenizer", "vocabulary", "max_length")
_TABLE_OPTIONS = ("target", "test", "val", "class_names", "missing", "separator", "charset")

_MANY_CLASSES = 10_000
"""Up to so many classes nobody asks whether all of them occur: a sample of a large set need not hold them all."""


@dataclass(frozen=True)
class DataSplits:
    """A training part, a test part, and how a model reads them.

    Attributes:
        name: What it was loaded as.
        train: The training part.
        test: The test part.
        preprocess: Batch -> what a model is called with.
        class_names: The classes, by number; None where nobody has said them.
        encoding: How a table was turned into numbers; None for anything else.
        tokenizer: How texts were turned into numbers; None for anything else.
        groups: The column of the test part's ``extra`` that says which group an example belongs to, where there is one.
        note: Where the data come from, and what a reader of a report must know of them.
        development: A development part that the data bring with them; None has one carved from `train`.
        summary: What was read, part by part and column by column; `load_data` always fills it.
        held_out: Whether the test part was taken out of the training part, as the data have none.
    """

    name: str
    train: Dataset
    test: Dataset
    preprocess: Callable[[Batch], Inputs]
    class_names: tuple[str, ...] | None
    encoding: TableEncoding | None = None
    note: str = ""
    tokenizer: Any = None
    groups: str | None = None
    development: Dataset | None = None
    summary: DataSummary | None = None
    held_out: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints of all parts."""
        more = [] if self.development is None else [("development", self.development.fingerprint)]
        return hash_columns(("train", self.train.fingerprint), ("test", self.test.fingerprint), *more)


def load_data(name_or_spec: str | Path | Mapping[str, Any], **options: Any) -> DataSplits:
    """The data set that a name, a path, or a mapping of ``name`` and options stands for.

    * ``digits``: 1797 handwritten digits of 8x8 pixels that come with scikit-learn, 797 to train and 1000 to test;
    * ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100``: looked for as ``NAME.npz`` in the folder that the
      environment variable ``LIMBECK_DATA`` names, then in ``./data``, then on the Hugging Face hub;
    * ``FILE.npz`` with ``x_train, y_train, x_test, y_test``, or ``x, y``; ``x_val, y_val`` are the development part.
      Labels are class numbers or texts; ``X_train``, ``train_images`` and the like are understood;
    * a folder of pictures (`ImageFolder`): ``CLASS/*.png``, or ``train/CLASS/*.png`` with ``val/`` and ``test/`` beside
      ``train/``. Other names of these are understood (``Training``, ``valid``, ``validation``, ``dev``, ``testing``).
      ``val/`` is the development part where there is a ``test/``, and the test part where there is none;
    * ``FILE.csv``, ``FILE.tsv``, ``FILE.parquet``: columns of numbers and names, or, with ``text=COLUMN``, of texts;
    * a folder with ``train.csv`` (``.tsv``, ``.parquet``, ``.jsonl``), and perhaps ``val.csv`` and ``test.csv``;
    * ``sst2`` (GLUE's phrases) and ``sst2_sentences``: the Stanford Sentiment Treebank in two classes, looked for in
      the same folders as ``sst2/glue_train.jsonl.gz`` and so on;
    * ``my.py:load``, a function of your own that returns (train, test), each ``(inputs, labels)``, a torch ``Dataset``
      or `ArrayDataset`; or a mapping of these with ``development``, ``class_names`` and ``preprocess``; or a
      `DataSplits`. All other options are its arguments;
    * ``FILE.jsonl``, ``FILE.jsonl.gz``: lines of JSON with a text and a label each.

    Where there is no test part, 20 % of the examples are held out, stratified, with a fixed seed.

    What was read stands in `DataSplits.summary` and, in sentences, in `DataSplits.note`:

    * Tables: what a column holds is decided by all of its values. Numbers with a few words among them (``?``, ``NA``,
      ``-``) are numbers, the words missing values. A column with another whole number in each row that has no name, or
      is called as an identifier is, and one with another text in each row, are left out. Spaces around values and names
      are removed. In a test table male is Male, 1 is 01 or true, where nothing else can be meant; a column without any
      value that the training part has is refused.
    * Classes that are numbers are in the order of the numbers, others in that of their sorted names; ``class_names``
      gives another order. ``NA`` and its like are a class in a target of names, and no label in one of numbers.
    * Texts are cut after ``max_length`` tokens, and how many were is said. In a job with a teacher that names its
      classes (``hf:``, a student's folder), the data take its order.

    Args:
        name_or_spec: A name, a path, or a mapping such as ``{"name": "rows.csv", "target": "class"}``.
        **options: ``target``, ``test`` and ``val`` (files; of pictures, folders), ``ignore`` (columns), ``missing``
            (what stands for a missing value: "?", -999), ``separator`` and ``charset`` (``cp1252``) for tables; for
            these and for ``.npz`` files ``groups``, the column (of ``.npz`` files NAME, where they hold ``NAME_test``)
            that says which group an example belongs to; ``size`` (height, width), ``channels``, ``bit_depth`` and
            ``num_workers`` for folders of pictures (`ImageFolder`); ``channels_last`` for ``.npz`` files of images
            ``[n, h, w, c]``, where their shape does not tell; ``class_names``, the classes in the order of their
            numbers, for tables, texts and pictures; ``folder``, in which a named set is looked for; for texts
            ``tokenizer`` (a folder) or ``vocabulary`` (of one trained from them, 8000), ``max_length`` (64 tokens), and
            for files the columns ``text`` and ``target``.

    Raises:
        UnknownNameError: If it is no known name and no file, or an option is unknown.
        DataError: If the data are missing or damaged.
        LimbeckError: If an option does not apply, or its value makes no sense.

    Warns:
        LimbeckWarning: Of what is likely to be a mistake.

    Example:
        >>> digits = load_data("digits")
        >>> len(digits.train), len(digits.test), len(digits.class_names)
        (797, 1000, 10)
    """
    spec = dict(name_or_spec) if isinstance(name_or_spec, Mapping) else {"name": name_or_spec}
    spec |= options
    name = parse_data_name(spec.pop("name", None))
    if (own := UserFile.parse(name)) is not None:
        return _add_summary(_load_user_data(name, own, spec))
    settings = parse_data_options(spec)
    if (inside := _find_split_files(Path(name), settings)) is not None:
        return replace(_add_summary(_load(*inside)), name=name)
    return _add_summary(_load(name, settings))


def _find_split_files(folder: Path, options: DataOptions) -> tuple[str, DataOptions] | None:
    """The training file of a folder that holds ``train.csv`` and the like, the other parts as options."""
    for suffix in (".csv", ".tsv", ".parquet", ".jsonl", ".jsonl.gz"):
        if (folder / f"train{suffix}").is_file():
            test, val = (
                options.test or _find_part_file(folder, suffix, "test"),
                options.val or _find_part_file(folder, suffix, "val"),
            )
            return str(folder / f"train{suffix}"), replace(options, test=test, val=val)
    return None


def _find_part_file(folder: Path, suffix: str, part: str) -> str | None:
    """The file of another part, by one of the names that it goes by; None where there is none."""
    files = (folder / f"{name}{suffix}" for name in _PART_FILES[part])
    return next((str(file) for file in files if file.is_file()), None)


def _load(name: str, options: DataOptions) -> DataSplits:
    load, uses = _find_reader(name, Path(name), options)
    for option in options.option_names:
        if option not in uses:
            raise LimbeckError(f"{option}= does not apply to {name!r}; it takes {', '.join(uses) or 'no options'}.")
    return load(name, options)


def _add_summary(data: DataSplits) -> DataSplits:
    """The data set with a summary and a note that hold all there is to say; what is likely wrong is warned of."""
    parts = {"train": data.train, "development": data.development, "test": data.test}
    for examples in parts.values():
        if examples is not None and data.class_names is None:
            _check_numbers(data.name, examples.labels)
    summary = data.summary or summarize(
        _data_kind(data), {part: examples for part, examples in parts.items() if examples is not None}
    )
    names = data.class_names
    if names and summary.class_names is None and all(len(part.classes) in (0, len(names)) for part in summary.parts):
        summary = replace(summary, class_names=names)
    if data.name not in _BUILTIN:
        summary = _compare_parts(data, summary)
    for sentence in summary.warnings:
        warnings.warn(sentence, LimbeckWarning, stacklevel=3)
    sentences = [data.note, *(sentence.rstrip(".") for sentence in (*summary.warnings, *summary.notes))]
    if data.note and not any(part.source for part in summary.parts):
        summary = replace(summary, notes=(f"{data.note.rstrip('.')}.", *summary.notes))
    return replace(data, note=". ".join(filter(None, sentences)), summary=summary)


def _compare_parts(data: DataSplits, summary: DataSummary) -> DataSummary:
    """The summary with what is to be said of its parts beside each other."""
    parts = {"train": data.train, "development": data.development, "test": data.test}
    there = {name: part for name, part in parts.items() if part is not None}
    notes, warned = list(summary.notes), [*summary.warnings, *class_warnings(summary), *check_shapes(there)]
    if data.encoding is None:
        warned += scale_warnings(there)
    for name, count, total in find_overlap(there):
        message = f"{count:,} of {total:,} {name} examples are training examples too"
        if count >= _SHARE * total:
            notes.append(f"{message}: what is measured on them says nothing of new ones.")
    return replace(summary, notes=tuple(dict.fromkeys(notes)), warnings=tuple(dict.fromkeys(warned)))


def _check_numbers(name: str, labels: torch.Tensor | None) -> None:
    """Refuse labels that are numbers of something else, such as row or customer numbers: each would be a class."""
    classes = 0 if labels is None or labels.numel() == 0 else int(labels.max()) + 1
    if labels is None or classes <= _MANY_CLASSES:
        return
    present = labels.unique().numel()
    if classes > 10 * present:
        raise DataError(
            f"The labels of {name} go up to {classes - 1:,} and only {present:,} of these numbers occur. Labels are "
            "class numbers from 0 without gaps: type labels = numpy.unique(labels, return_inverse=True)[1]."
        )


def _data_kind(data: DataSplits) -> str:
    if data.encoding is not None:
        return "table"
    return (
        "texts"
        if data.tokenizer is not None
        else "pictures"
        if isinstance(data.preprocess, NormalizeImages)
        else "arrays"
    )


def _find_reader(
    name: str, path: Path, options: DataOptions
) -> tuple[Callable[[str, DataOptions], DataSplits], tuple[str, ...]]:
    if name == "digits":
        return _load_digits, ()
    if name in IMAGE_DATASETS:
        return _load_image_dataset, ("folder",)
    if name in TEXTS:
        return _load_texts, ("folder", *_TEXT_OPTIONS)
    if path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return _load_texts, ("text", "target", "test", "val", "charset", "class_names", *_TEXT_OPTIONS)
    if path.suffix.lower() == ".npz":
        return _load_npz, ("groups", "channels_last", "class_names")
    if is_table(path):
        if options.text is not None:
            return _load_texts, ("text", *_TABLE_OPTIONS, *_TEXT_OPTIONS)
        return _load_table, (*_TABLE_OPTIONS, "ignore", "groups", "text")
    if name and path.is_dir():
        return _load_folder, ("size", "channels", "bit_depth", "num_workers", "class_names", "test", "val")
    check_readable(name, path)
    then = "Or give a .npz, .csv, .parquet or .jsonl file, or a folder."
    raise unknown_name_error("data set", name, _BUILTIN, then=then)


def _load_user_data(name: str, own: UserFile, options: Mapping[str, Any]) -> DataSplits:
    data = call_user_loader(own, options)
    if not isinstance(data, UserDataParts):
        if isinstance(data, DataSplits):
            return replace(data, name=name)
        raise DataError(
            f"{name} returned a {type(data).__name__} with parts; return a limbeck.data.DataSplits or (train, test)."
        )
    train, test, note = _add_test_part(data.train, data.test)
    preprocess = data.preprocess or _fit_normalization(train, scale=1 / 255)
    return DataSplits(
        name, train, test, preprocess, data.class_names, note=note, development=data.development,
        held_out=data.test is None
    )  # fmt: skip


def _load_texts(name: str, options: DataOptions) -> DataSplits:
    from limbeck.data.text_files import load_texts

    texts = load_texts(name, options, held_out=HELD_OUT)
    return DataSplits(
        name, texts.train, texts.test, Identity(), texts.train.class_names,
        note=texts.note or _holdout_note(len(texts.test)), tokenizer=texts.tokenizer, development=texts.development,
        summary=texts.summary, held_out=not texts.note,
    )  # fmt: skip


def _load_digits(name: str, options: DataOptions) -> DataSplits:
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = tuple(str(digit) for digit in digits.target_names)
    whole = ArrayDataset(digits.images.astype(np.uint8), digits.target, class_names=names)
    train, test = (_copy_arrays(part) for part in split(whole, fraction=1000 / 1797, seed=0))
    note = "scikit-learn's digits (UCI, optical recognition of handwritten digits, the test part)"
    return DataSplits(name, train, test, _fit_normalization(train, scale=1 / 16), names, note=note)


def _copy_arrays(part: Dataset) -> ArrayDataset:
    rows = part.take(torch.arange(len(part)))
    return ArrayDataset(rows.inputs, rows.labels, class_names=part.class_names)


def _load_image_dataset(name: str, options: DataOptions) -> DataSplits:
    train, test, note = load_image_dataset(name, options.folder)
    return DataSplits(name, train, test, IMAGE_DATASETS[name].preprocess, train.class_names, note=note)


def _load_npz(name: str, options: DataOptions) -> DataSplits:
    path = Path(name)
    arrays, renamed = standardize_names(read_arrays(path))
    arrays, matched = number_labels(str(path), arrays, options.class_names)
    inputs: dict[str, np.ndarray] = {key: arrays[key] for key in ("x", "x_train", "x_val", "x_test") if key in arrays}
    images, notes = as_images(inputs, channels_last=options.channels_last)
    whole = {**arrays, **images}
    train_part, test_part = split_arrays(path, whole)
    train, test, note = _add_test_part(train_part, test_part)
    development = split_arrays(path, whole, inputs="x_val", labels="y_val")[0] if "x_val" in whole else None
    notes = (*renamed, *matched, *notes, *unread_arrays(path, arrays))
    note = ". ".join(filter(None, (note, *(sentence.rstrip(".") for sentence in notes))))
    _check_groups(name, test, options.groups)
    preprocess = _fit_normalization(train, scale=1 / 255)
    return DataSplits(
        name, train, test, preprocess, train.class_names, note=note, groups=options.groups, development=development,
        held_out=test_part is None,
    )  # fmt: skip


def _check_groups(name: str, test: Dataset, groups: str | None) -> None:
    """Refuse groups that an ``.npz`` file does not hold, or that are not one value for each test example."""
    if groups is None:
        return
    extra = test.take(torch.tensor([0])).extra
    if groups not in extra:
        raise unknown_name_error(
            f"groups in {name}", groups, extra, then="Groups NAME are one value a row in the array NAME_test."
        )
    if isinstance(extra[groups], torch.Tensor) and extra[groups].ndim != 1:
        raise DataError(f"groups={groups}: {groups}_test of {name} holds {list(extra[groups].shape[1:])} for each row.")


def _load_folder(name: str, options: DataOptions) -> DataSplits:
    from limbeck.data.image_splits import load_image_splits

    chosen = {option: getattr(options, option) for option in ("size", "channels", "bit_depth", "num_workers")}
    folders = {part: Path(folder) for part, folder in (("development", options.val), ("test", options.test)) if folder}
    images = load_image_splits(Path(name), folders, class_names=options.class_names or None, **chosen)
    train, test, note = _add_test_part(images.train, images.test)
    parts = {"train": train, "development": images.development, "test": test}
    sources = images.sources if images.test is not None else {**images.sources, "test": f"held out ({HELD_OUT:.0%})"}
    height, width = images.train.size
    facts = {"size": f"{height}x{width} pixels, {'gray' if images.train.channels == 1 else 'RGB'}"}
    summary = summarize(
        "pictures", {part: examples for part, examples in parts.items() if examples is not None}, sources=sources,
        facts=facts, notes=images.notes,
    )  # fmt: skip
    preprocess = _fit_normalization(train, scale=1 / 255)
    return DataSplits(
        name, train, test, preprocess, train.class_names, note=note, development=images.development, summary=summary,
        held_out=images.test is None,
    )  # fmt: skip


def _load_table(name: str, options: DataOptions) -> DataSplits:
    if options.target is None:
        raise LimbeckError(
            f"target= is missing: which column of {name} holds the classes? "
            "On the command line: --set data.target=COLUMN. Of a table of texts, --set data.text=COLUMN holds them."
        )
    form = TableForm(
        options.target.strip(), tuple(column.strip() for column in options.ignore), options.missing, options.separator,
        options.charset, options.class_names,
    )  # fmt: skip
    groups = None if options.groups is None else options.groups.strip()
    others = {part: file for part, file in (("development", options.val), ("test", options.test)) if file is not None}
    sources = {"train": Path(name).name, **{part: Path(file).name for part, file in others.items()}}
    if options.test is None:
        tables = split_table(name, form, fraction=HELD_OUT, seed=0, groups=groups, others=others)
        note = _holdout_note(len(tables.parts["test"]))
        sources["test"] = f"held out of {sources['train']}: {HELD_OUT:.0%}, stratified, with seed 0"
    else:
        tables, note = read_tables(name, others, form, groups=groups), ""
    report = tables.report
    summary = summarize(
        "table", tables.parts, sources=sources, columns=report.columns, notes=report.notes, warnings=report.warnings
    )
    return DataSplits(
        name, tables.parts["train"], tables.parts["test"], Identity(), tables.encoding.class_names, tables.encoding,
        note, groups=None if groups is None else "groups", development=tables.parts.get("development"), summary=summary,
        held_out=options.test is None,
    )  # fmt: skip


def _add_test_part(train: Dataset, test: Dataset | None) -> tuple[Dataset, Dataset, str]:
    if test is not None:
        return train, test, ""
    rest, holdout = split(train, fraction=HELD_OUT, seed=0)
    return rest, holdout, _holdout_note(len(holdout))


def _holdout_note(count: int) -> str:
    return f"no test part was given: {count} examples ({HELD_OUT:.0%}) were held out, stratified, with seed 0"


def _fit_normalization(train: Dataset, *, scale: float) -> NormalizeImages | Identity:
    """How images are standardized: by the mean and the standard deviation of at most 2,000 of them, drawn evenly."""
    some = subsample(train, 2000, seed=0)
    try:
        moments = measure_pixels(some)
    except DataError:
        raise_damaged(train.find_damaged(torch.arange(len(train))), len(train))  # all of them, not the first
        raise
    if moments is None:
        return Identity()
    mean, std = ((moment * scale).tolist() for moment in moments)
    return NormalizeImages(tuple(round(m, 4) for m in mean), tuple(round(s, 4) or 1.0 for s in std), scale=scale)
