"""`load_data`: loads a dataset by name, file, folder or user function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from limbeck.data.arrays import ArrayDataset, as_dataset
from limbeck.data.arrow import is_table
from limbeck.data.builtin_datasets import IMAGE_DATASETS, load_image_dataset
from limbeck.data.dataset import Dataset, split, subsample
from limbeck.data.image_file import raise_damaged
from limbeck.data.image_folder_files import SUFFIXES
from limbeck.data.npz import as_images, read_arrays, split_arrays, unread_arrays
from limbeck.data.npz_labels import number_labels, standardize_names
from limbeck.data.options import DataOptions, parse_data_name, parse_data_options
from limbeck.data.part_warnings import check_shapes, class_warnings, find_overlap, scale_warnings
from limbeck.data.preprocess import Identity, NormalizeImages, measure_pixels
from limbeck.data.splits import DataSplits, DataSummary, summarize
from limbeck.data.table import TableForm, read_tables, split_table
from limbeck.data.text_files import TEXT_DATASETS as TEXTS
from limbeck.data.torch_loader import describe
from limbeck.errors import DataError, LimbeckError, LimbeckWarning, nearest, unknown_name_error
from limbeck.models import UserFile
from limbeck.models.arguments import check_arguments

HELD_OUT = 0.2
"""The share of examples used as the test part if the data have none; stratified, with seed 0."""


_PART_FILES = {"val": ("val", "valid", "validation", "dev"), "test": ("test",)}
"""File names of the other parts, next to a training file."""
_BUILTIN = ("digits", *IMAGE_DATASETS, *TEXTS)
"""Well-known datasets, whose parts are not checked against each other."""
_SHARE = 0.01  # of a part's examples: a note is added if at least this share is also in the training part
_TEXT_OPTIONS = ("tokenizer", "vocabulary", "max_length")
_TABLE_OPTIONS = ("target", "test", "val", "class_names", "missing", "separator", "charset")

_MANY_CLASSES = 10_000
"""Labels are checked for gaps only above this number of classes: a small sample may lack some classes."""


def load_data(name_or_spec: str | Path | Mapping[str, Any], **options: Any) -> DataSplits:
    """Load a dataset by name, path, or a mapping of ``name`` and options.

    * ``digits``: scikit-learn's 1797 handwritten digits of 8x8 pixels, 797 for training and 1000 for testing;
    * ``mnist``, ``fashion_mnist``, ``cifar10``, ``cifar100``: searched as ``NAME.npz`` in the folder of the environment
      variable ``LIMBECK_DATA``, then in ``./data``, then on the Hugging Face hub;
    * ``FILE.npz`` with ``x_train, y_train, x_test, y_test``, or ``x, y``; ``x_val, y_val`` are the development part.
      Labels are class indices or strings. Names such as ``X_train`` and ``train_images`` work too;
    * a folder of images (`ImageFolder`): ``CLASS/*.png``, or ``train/CLASS/*.png`` with ``val/`` and ``test/`` next to
      ``train/``. Names such as ``Training``, ``valid``, ``validation``, ``dev`` and ``testing`` work too. ``val/`` is
      the development part if there is a ``test/``, else the test part;
    * ``FILE.csv``, ``FILE.tsv``, ``FILE.parquet``: columns of numbers and categories, or texts with ``text=COLUMN``;
    * a folder with ``train.csv`` (``.tsv``, ``.parquet``, ``.jsonl``), and optionally ``val.csv`` and ``test.csv``;
    * ``sst2`` (GLUE's phrases) and ``sst2_sentences``: the Stanford Sentiment Treebank with two classes, searched
      in the same folders as ``sst2/glue_train.jsonl.gz`` and so on;
    * ``my.py:load``, your own function that returns (train, test), each ``(inputs, labels)``, a torch ``Dataset``
      or `ArrayDataset`; or a mapping of these with ``development``, ``class_names`` and ``preprocess``; or a
      `DataSplits`. Other options are its arguments;
    * ``FILE.jsonl``, ``FILE.jsonl.gz``: one JSON object per line, with a text and a label.

    If there is no test part, 20 % of the examples are held out, stratified, with a fixed seed.

    `DataSplits.summary` describes what was read, and `DataSplits.note` is the same as text:

    * Tables: the type of a column is inferred from all of its values. If nearly all values are numbers, the others
      (``?``, ``NA``, ``-``) are missing values. Row numbers, identifiers and columns with a different text in each row
      are left out. Spaces around values and names are removed. Values of a test table are matched to those of the
      training table (male and Male, 1 and 01 or true) if the match is unique. It is an error if a column of the test
      table has no value of the training part.
    * Classes that are numbers are sorted by value, other classes by name; ``class_names`` sets another order. Strings
      such as ``NA`` are a class if the other classes are names, and no label if they are numbers.
    * Texts are truncated to ``max_length`` tokens, and the number of truncated texts is noted. In a job with a teacher
      that has class names (``hf:``, a student's folder), the data use the teacher's order.

    Args:
        name_or_spec: A name, a path, or a mapping such as ``{"name": "rows.csv", "target": "class"}``.
        **options: For tables: ``target``, ``test`` and ``val`` (files), ``ignore`` (columns), ``missing`` (values that
            mean missing: "?", -999), ``separator`` and ``charset`` (``cp1252``). For tables and ``.npz`` files:
            ``groups``, the column with the group of each example (in ``.npz`` files NAME, if there is ``NAME_test``).
            For image folders: ``test`` and ``val`` (folders), ``size`` (height, width), ``channels``, ``bit_depth`` and
            ``num_workers`` (see `ImageFolder`). For ``.npz`` files: ``channels_last`` for images ``[n, h, w, c]``, if
            the shape is ambiguous. For texts: ``tokenizer`` (a folder) or ``vocabulary`` (size of a trained tokenizer,
            8000), ``max_length`` (64 tokens), and the columns ``text`` and ``target`` of files. For built-in datasets:
            ``folder``, the folder to search. For tables, texts, arrays and images: ``class_names``, the class order.

    Raises:
        UnknownNameError: If the name is neither known nor a file, or an option is unknown.
        DataError: If the data are missing or damaged.
        LimbeckError: If an option does not apply, or its value is not valid.

    Warns:
        LimbeckWarning: If something is likely to be a mistake.

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
    """Find the training file of a folder with ``train.csv`` or similar; other parts become options."""
    for suffix in (".csv", ".tsv", ".parquet", ".jsonl", ".jsonl.gz"):
        if (folder / f"train{suffix}").is_file():
            test, val = (
                options.test or _find_part_file(folder, suffix, "test"),
                options.val or _find_part_file(folder, suffix, "val"),
            )
            return str(folder / f"train{suffix}"), replace(options, test=test, val=val)
    return None


def _find_part_file(folder: Path, suffix: str, part: str) -> str | None:
    """Find the file of another part; None if there is none."""
    files = (folder / f"{name}{suffix}" for name in _PART_FILES[part])
    return next((str(file) for file in files if file.is_file()), None)


def _load(name: str, options: DataOptions) -> DataSplits:
    load, uses = _find_reader(name, Path(name), options)
    for option in options.option_names:
        if option not in uses:
            raise LimbeckError(f"{option}= does not apply to {name!r}; its options are {', '.join(uses) or 'none'}.")
    return load(name, options)


def _add_summary(data: DataSplits) -> DataSplits:
    """Add the summary and the note to a dataset, and issue its warnings."""
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
    """Add warnings and notes about parts that do not fit together."""
    parts = {"train": data.train, "development": data.development, "test": data.test}
    there = {name: part for name, part in parts.items() if part is not None}
    notes, warned = list(summary.notes), [*summary.warnings, *class_warnings(summary), *check_shapes(there)]
    if data.encoding is None:
        warned += scale_warnings(there)
    for name, count, total in find_overlap(there):
        message = f"{count:,} of {total:,} {name} examples are training examples too"
        if count >= _SHARE * total:
            notes.append(f"{message}: results on them do not show how the model does on new data.")
    return replace(summary, notes=tuple(dict.fromkeys(notes)), warnings=tuple(dict.fromkeys(warned)))


def _check_numbers(name: str, labels: torch.Tensor | None) -> None:
    """Raise for labels that look like identifiers, such as row or customer numbers."""
    classes = 0 if labels is None or labels.numel() == 0 else int(labels.max()) + 1
    if labels is None or classes <= _MANY_CLASSES:
        return
    present = labels.unique().numel()
    if classes > 10 * present:
        raise DataError(
            f"The labels of {name} go up to {classes - 1:,}, but only {present:,} different values occur. Labels must "
            "be class indices from 0 without gaps: use labels = numpy.unique(labels, return_inverse=True)[1]."
        )


def _data_kind(data: DataSplits) -> str:
    if data.encoding is not None:
        return "table"
    return (
        "texts"
        if data.tokenizer is not None
        else "images"
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
    then = "Or use a .npz, .csv, .parquet or .jsonl file, or a folder."
    raise unknown_name_error("dataset", name, _BUILTIN, then=then)


def _load_user_data(name: str, own: UserFile, options: Mapping[str, Any]) -> DataSplits:
    data = call_user_loader(own, options)
    if not isinstance(data, UserDataParts):
        if isinstance(data, DataSplits):
            return replace(data, name=name)
        raise DataError(
            f"{name} returned a {type(data).__name__} with parts. Return a limbeck.data.DataSplits or (train, test)."
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
    """Check that the groups of an ``.npz`` file exist and have one value per test example."""
    if groups is None:
        return
    extra = test.take(torch.tensor([0])).extra
    if groups not in extra:
        raise unknown_name_error(
            f"groups in {name}", groups, extra, then="groups=NAME requires an array NAME_test with one value per row."
        )
    if isinstance(extra[groups], torch.Tensor) and extra[groups].ndim != 1:
        raise DataError(
            f"groups={groups}: {groups}_test of {name} has {list(extra[groups].shape[1:])} per row, not one value."
        )


def _load_folder(name: str, options: DataOptions) -> DataSplits:
    from limbeck.data.image_folder import load_image_splits

    chosen = {option: getattr(options, option) for option in ("size", "channels", "bit_depth", "num_workers")}
    folders = {part: Path(folder) for part, folder in (("development", options.val), ("test", options.test)) if folder}
    images = load_image_splits(Path(name), folders, class_names=options.class_names or None, **chosen)
    train, test, note = _add_test_part(images.train, images.test)
    parts = {"train": train, "development": images.development, "test": test}
    sources = images.sources if images.test is not None else {**images.sources, "test": f"held out ({HELD_OUT:.0%})"}
    height, width = images.train.size
    facts = {"size": f"{height}x{width} pixels, {'gray' if images.train.channels == 1 else 'RGB'}"}
    summary = summarize(
        "images", {part: examples for part, examples in parts.items() if examples is not None}, sources=sources,
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
            f"target= is missing: which column of {name} has the classes? "
            "On the command line: --set data.target=COLUMN. For a table of texts also --set data.text=COLUMN."
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
    return f"no test part: {count} examples ({HELD_OUT:.0%}) were held out, stratified, with seed 0"


def _fit_normalization(train: Dataset, *, scale: float) -> NormalizeImages | Identity:
    """Normalization by the mean and standard deviation of at most 2,000 training images; identity for other data."""
    some = subsample(train, 2000, seed=0)
    try:
        moments = measure_pixels(some)
    except DataError:
        raise_damaged(
            train.find_damaged(torch.arange(len(train))), len(train)
        )  # report all damaged files, not only the first
        raise
    if moments is None:
        return Identity()
    mean, std = ((moment * scale).tolist() for moment in moments)
    return NormalizeImages(tuple(round(m, 4) for m in mean), tuple(round(s, 4) or 1.0 for s in std), scale=scale)


_PART_KEYS = ("train", "test", "development", "class_names", "preprocess")
_EXPECTED_PARTS = (
    "It must return a pair (train, test), or a mapping with train, test, development, class_names and preprocess. Each "
    "part is (inputs, labels), a torch Dataset of such pairs, or lb.ArrayDataset. A limbeck.data.DataSplits works too."
)


class UserDataParts(NamedTuple):
    """The parts that a user's function returned.

    Attributes:
        train: The training part.
        test: The test part; None takes it from `train`.
        development: The development part; None takes it from `train`.
        class_names: The class names.
        preprocess: Function batch -> model inputs; None uses the default.
    """

    train: Dataset
    test: Dataset | None
    development: Dataset | None
    class_names: tuple[str, ...] | None
    preprocess: Callable[..., Any] | None


def call_user_loader(own: UserFile, options: Mapping[str, Any]) -> Any:
    """Call the function; returns its `DataSplits` unchanged, or its parts as `UserDataParts`.

    Args:
        own: The file and its function.
        options: The other keys under ``data:``, which are passed as arguments.

    Raises:
        LimbeckError: If an option is not an argument of the function, it fails, or its result is not supported.
    """
    who = f"{own.file}:{own.function}"
    function = own.load()
    check_arguments(who, function, options)
    try:
        result = function(**options)
    except LimbeckError:
        raise
    except Exception as error:  # any exception of the user's function
        raise LimbeckError(f"The data function {who} failed: {type(error).__name__}: {error}") from error
    if isinstance(result, tuple) and len(result) == 2:
        result = {"train": result[0], "test": result[1]}
    if not isinstance(result, Mapping):
        if isinstance(result, DataSplits):
            return result
        raise DataError(f"{who} returned a {type(result).__name__}. {_EXPECTED_PARTS}")
    return _check_parts(who, result)


def _check_parts(who: str, parts: Mapping[str, Any]) -> UserDataParts:
    for key in parts:
        if key not in _PART_KEYS:
            raise unknown_name_error(f"part of {who}", str(key), _PART_KEYS)
    if parts.get("train") is None:
        raise DataError(f"{who} returned no training part. {_EXPECTED_PARTS}")
    names = parts.get("class_names")
    names = None if names is None else tuple(str(name) for name in names)
    train, test, development = (_to_dataset(who, key, parts.get(key)) for key in ("train", "test", "development"))
    own_names = None if train is None else train.class_names
    return UserDataParts(train, test, development, names or own_names, parts.get("preprocess"))  # type: ignore[arg-type]


def _to_dataset(who: str, part: str, data: Any) -> Dataset | None:
    if data is None:
        return None
    if isinstance(data, TorchDataset) and not isinstance(data, IterableDataset):
        return _stack_items(who, part, data)
    examples = as_dataset(data)
    if examples is None:
        raise DataError(
            f"The {part} part of {who} is {describe(data)}; inputs and labels must be tensors or numpy arrays, and "
            f"labels class indices from 0. {_EXPECTED_PARTS}"
        )
    return examples


def _stack_items(who: str, part: str, dataset: Any) -> ArrayDataset:
    """Read a map-style dataset once, so that all runs see the same examples with the same ids."""
    rows = [dataset[i] for i in range(len(dataset))]
    if not rows or not all(isinstance(row, (tuple, list)) and len(row) == 2 for row in rows):
        raise DataError(f"The items of the {part} part of {who} are not pairs (input, label). {_EXPECTED_PARTS}")
    try:
        inputs = torch.stack([torch.as_tensor(row[0]) for row in rows])
        labels = torch.stack([torch.as_tensor(row[1]) for row in rows])  # ArrayDataset checks the values
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The items of the {part} part of {who} are not tensors of one shape with a class index: {error}"
        ) from error
    return ArrayDataset(inputs, labels)


_LINES = "write one JSON object per line and name the file .jsonl"
_PACKED = "unpack it first"
_ARRAYS = "save its arrays with numpy.savez('data.npz', x=..., y=...)"
_SHEET = "save it as CSV in UTF-8"
_ARROW = "save it as Parquet"
_CONVERSIONS = {
    ".json": _LINES, ".ndjson": _LINES, ".yaml": "to run a job: limbeck distill JOB.yaml",
    ".gz": _PACKED, ".zip": _PACKED, ".tar": _PACKED, ".tgz": _PACKED, ".bz2": _PACKED, ".xz": _PACKED, ".7z": _PACKED,
    ".npy": _ARRAYS, ".pt": _ARRAYS, ".pth": _ARRAYS, ".mat": _ARRAYS, ".h5": _ARRAYS, ".hdf5": _ARRAYS,
    ".pkl": _ARRAYS, ".safetensors": _ARRAYS, ".xlsx": _SHEET, ".xls": _SHEET, ".ods": _SHEET,
    ".arrow": _ARROW, ".feather": _ARROW, ".orc": _ARROW, ".avro": _ARROW, ".pq": "rename it to .parquet",
    ".txt": "rename a table to .csv, with --set data.separator=tab or another character; labeled texts: .jsonl",
    ".data": "rename a table to .csv, with --set data.separator=tab or another character, and add a header row",
    ".py": "add the name of the function that returns the data: my.py:load",
}  # fmt: skip


def check_readable(name: str, path: Path) -> None:
    """Raise for an unsupported file and for a path that does not exist; other names pass.

    Args:
        name: The name that the user typed.
        path: The same name as a path.

    Raises:
        DataError: With a way to convert the file, or the nearest existing name.
    """
    suffix = path.suffix.lower()
    if path.is_file():
        way = _CONVERSIONS.get(suffix, "use a .npz, .csv, .tsv, .parquet or .jsonl file, or a folder")
        if suffix in SUFFIXES:
            way = "use the folder that contains one folder of images per class"
        raise DataError(f"{name} is a {suffix or 'nameless'} file, which is not supported as data: {way}.")
    looks_like_path = "/" in name or "\\" in name or name.startswith("~") or suffix in {*_CONVERSIONS, *SUFFIXES}
    if not looks_like_path or name.startswith("hf:"):
        return
    beside = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    suggestion = f" Did you mean {str(path.parent / near)!r}?" if near else ""
    missing = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    where = f" There is no folder {missing}." if missing is not None else ""
    raise DataError(f"There is no file or folder {name}.{where}{suggestion}")
