"""`load_data`: loads a dataset by name, file, folder or user function."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from limbeck.data.arrays import ArrayDataset, as_dataset
from limbeck.data.arrow import is_table
from limbeck.data.builtin_datasets import DRAWN_DIGITS, IMAGE_DATASETS, load_digits, load_image_dataset
from limbeck.data.dataset import Dataset
from limbeck.data.files import PART_NAMES, check_readable
from limbeck.data.image_folder import load_image_folder
from limbeck.data.language_files import (
    LANGUAGE_DATASETS,
    LANGUAGE_MODELING,
    LANGUAGE_OPTIONS,
    holds_language_rows,
    holds_prompts_alone,
    is_text_file,
    load_corpus,
)
from limbeck.data.mask_folder import is_mask_folder, load_mask_folder
from limbeck.data.npz import load_npz
from limbeck.data.options import DataOptions, parse_data_name, parse_data_options
from limbeck.data.part_warnings import check_shapes, class_warnings, find_overlap, label_warnings, scale_warnings
from limbeck.data.preprocess import NormalizeImages, fit_normalization
from limbeck.data.splits import DataSplits, DataSummary, hold_out, summarize
from limbeck.data.table import load_table_splits
from limbeck.data.targets import VECTORS, InferredTask, as_vectors, infer_from_array, infer_from_dataset, note_floats
from limbeck.data.text_files import TEXT_DATASETS, load_texts
from limbeck.data.torch_loader import describe
from limbeck.errors import DataError, LimbeckError, LimbeckWarning, unknown_name_error
from limbeck.models import UserFile
from limbeck.models.arguments import check_arguments

_BUILTIN = ("digits", DRAWN_DIGITS, *IMAGE_DATASETS, *TEXT_DATASETS, *LANGUAGE_DATASETS)
"""Well-known datasets, whose parts are not checked against each other."""
_SHARE = 0.01  # of a part's examples: a note is added if at least this share is also in the training part
_TEXT_OPTIONS = ("tokenizer", "vocabulary", "max_length")
_TABLE_OPTIONS = ("target", "targets", "delimiter", "test", "val", "class_names", "missing", "separator", "charset")
_MANY_CLASSES = 10_000
"""Labels are checked for gaps only above this number of classes: a small sample may lack some classes."""
_USER_PARTS = ("train", "test", "development", "class_names", "preprocess")
_EXPECTED_PARTS = (
    "It must return a pair (train, test), or a mapping with train, test, development, class_names and preprocess. Each "
    "part is (inputs, labels), a torch Dataset of such pairs, or lb.ArrayDataset. A limbeck.data.DataSplits works too."
)
_Reader = Callable[[str, DataOptions], DataSplits]
_TASKS_OF: dict[_Reader, tuple[str, ...]] = {
    load_npz: ("classification", "multi_label", "regression", "segmentation"),
    load_table_splits: ("classification", "multi_label", "regression"),
    load_image_folder: ("classification",),
    load_mask_folder: ("segmentation",),
    load_corpus: (LANGUAGE_MODELING,),
}
"""The tasks for which a kind of data can have targets; classification for all others."""


def load_data(name_or_spec: str | Path | Mapping[str, Any], *, task: str | None = None, **options: Any) -> DataSplits:
    """Load a dataset by name, path, or a mapping of ``name`` and options.

    * ``digits``: scikit-learn's 1797 handwritten digits of 8x8 pixels, 797 for training and 1000 for testing;
    * ``drawn_digits``: as many images of the same kind, drawn by `limbeck.data.draw_digits`, without scikit-learn;
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
    * ``tinyshakespeare``, for language models: searched in the same folders as ``tinyshakespeare/input.txt.gz``;
    * ``my.py:load``, your own function that returns (train, test), each ``(inputs, labels)``, a torch ``Dataset``
      or `ArrayDataset`; or a mapping of these with ``development``, ``class_names`` and ``preprocess``; or a
      `DataSplits`. Other options are its arguments;
    * ``FILE.jsonl``, ``FILE.jsonl.gz``: one JSON object per line, with a text and a label;
    * for language models, ``FILE.txt`` (texts between blank lines, or one per line), ``FILE.jsonl`` with ``text``
      alone, ``prompt`` and ``completion``, or ``messages``; or a folder with ``train``, ``valid`` and ``test`` files.

    If there is no test part, 20 % of the examples (or texts) are held out, stratified, with a fixed seed.

    `DataSplits.summary` describes what was read, and `DataSplits.note` is the same as text:

    * Tables: the type of a column is inferred from all of its values. If nearly all values are numbers, the others
      (``?``, ``NA``, ``-``) are missing values. Row numbers, identifiers and columns with a different text in each row
      are left out. Spaces around values and names are removed. Values of a test table are matched to those of the
      training table (male and Male, 1 and 01 or true) if the match is unique; an error if a column has none of them.
    * Classes that are numbers are sorted by value, others by name; ``class_names`` sets another order. A string such as
      ``NA`` is a class if the others are names, and no label if they are numbers.
    * Texts are truncated to ``max_length`` tokens, and the number of truncated texts is noted. In a job with a teacher
      that has class names (``hf:``, a student's folder), the data use the teacher's order.

    Args:
        name_or_spec: A name, a path, or a mapping such as ``{"name": "rows.csv", "target": "class"}``.
        task: ``classification``, ``multi_label``, ``regression``, ``segmentation`` or ``language_modeling``; by default
            it is inferred from the targets, and the summary says why.
        **options: For tables: ``target``, ``test`` and ``val`` (files), ``ignore`` (columns), ``missing`` (values that
            mean missing: "?", -999), ``separator`` and ``charset`` (``cp1252``). For tables and ``.npz`` files:
            ``groups``, the column with the group of each example (in ``.npz`` files NAME, if there is ``NAME_test``).
            For image folders: ``test`` and ``val`` (folders), ``size`` (height, width), ``channels``, ``bit_depth`` and
            ``num_workers`` (see `ImageFolder`). For ``.npz`` files: ``channels_last`` for images ``[n, h, w, c]``, if
            the shape is ambiguous. For texts: ``tokenizer`` (a folder) or ``vocabulary`` (size of a trained tokenizer,
            8000), ``max_length`` (64 tokens), and the columns ``text`` and ``target`` of files. For built-in datasets:
            ``folder``, the folder to search. For language models: ``tokenizer`` (a folder, or ``hf:NAME``) or
            ``vocabulary``, ``max_length`` (256 tokens that a model reads at a time), and the options of
            `limbeck.data.options.DataOptions` from ``prompt`` to ``cache_dir``. For tables, texts, arrays and images:
            ``class_names``, the class order.

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
        return _add_summary(_load_user_data(name, own, spec, task))
    settings = replace(parse_data_options(spec), task=task)
    if (inside := _find_split_files(Path(name), settings)) is not None:
        return replace(_add_summary(_load(*inside)), name=name)
    return _add_summary(_load(name, settings))


def reads_language(spec: Mapping[str, Any], *, task: str | None = None) -> bool:
    """Whether `load_data` reads data as texts for a language model.

    Args:
        spec: The mapping of ``name`` and options; the data are not in a user's file.
        task: As for `load_data`.

    Raises:
        LimbeckError: As `load_data` does, if there are no such data, or an option is unknown.
    """
    options = replace(parse_data_options({key: one for key, one in spec.items() if key != "name"}), task=task)
    name, settings = _find_split_files(Path(spec["name"]), options) or (str(spec["name"]), options)
    return _find_reader(name, Path(name), settings)[0] is load_corpus


def find_prompt_files(spec: Mapping[str, Any], *, task: str | None = None) -> dict[str, str] | None:
    """The files of prompts without answers by option (``name``, ``val``, ``test``); None for other data.

    Raises:
        DataError: If the training file has prompts alone and another file has answers.
    """
    if task not in (None, LANGUAGE_MODELING):
        return None
    options = parse_data_options({key: one for key, one in spec.items() if key != "name"})
    name, options = _find_split_files(Path(spec["name"]), options) or (str(spec["name"]), options)
    files = {key: file for key, file in (("name", name), ("val", options.val), ("test", options.test)) if file}
    alone = {option: holds_prompts_alone(Path(file), options) for option, file in files.items()}
    if alone["name"] and not all(alone.values()):
        other = next(file for option, file in files.items() if not alone[option])
        raise DataError(
            f"{name} has prompts without answers, and {other} has answers: let the teacher write the training texts "
            f"first, limbeck generate --data {name}, and the answers judge the student."
        )
    return files if alone["name"] else None


def _find_split_files(folder: Path, options: DataOptions) -> tuple[str, DataOptions] | None:
    """Find the training file of a folder with ``train.csv`` or similar; other parts become options."""

    def find(suffix: str, part: str) -> str | None:
        files = (folder / f"{name}{suffix}" for name in PART_NAMES[part])
        return next((str(file) for file in files if file.is_file()), None)

    for suffix in (".csv", ".tsv", ".parquet", ".jsonl", ".jsonl.gz", ".txt", ".txt.gz"):
        if (folder / f"train{suffix}").is_file():
            test, val = options.test or find(suffix, "test"), options.val or find(suffix, "development")
            return str(folder / f"train{suffix}"), replace(options, test=test, val=val)
    return None


def _load(name: str, options: DataOptions) -> DataSplits:
    load, uses = _find_reader(name, Path(name), options)
    _check_task(name, load, options.task)
    for option in options.option_names:
        if option not in uses:
            raise LimbeckError(f"{option}= does not apply to {name!r}; its options are {', '.join(uses) or 'none'}.")
    return load(name, options)


def _find_reader(name: str, path: Path, options: DataOptions) -> tuple[_Reader, tuple[str, ...]]:
    """The function that reads the data, and the options that apply."""
    if name in ("digits", DRAWN_DIGITS):
        return load_digits, ()
    if name in IMAGE_DATASETS:
        return load_image_dataset, ("folder",)
    if name in TEXT_DATASETS:
        return load_texts, ("folder", *_TEXT_OPTIONS)
    if name in LANGUAGE_DATASETS:
        return load_corpus, ("folder", *LANGUAGE_OPTIONS)
    is_json = path.name.lower().endswith((".jsonl", ".jsonl.gz"))
    is_language = options.task == LANGUAGE_MODELING or (options.task is None and holds_language_rows(path, options))
    if is_text_file(path) or (is_json and is_language):
        return load_corpus, LANGUAGE_OPTIONS
    if is_json:
        return load_texts, ("text", "target", "test", "val", "charset", "class_names", *_TEXT_OPTIONS)
    if path.suffix.lower() == ".npz":
        return load_npz, ("groups", "channels_last", "class_names")
    if is_table(path):
        if options.text is not None:
            return load_texts, ("text", *_TABLE_OPTIONS, *_TEXT_OPTIONS)
        return load_table_splits, (*_TABLE_OPTIONS, "ignore", "groups", "text")
    if name and path.is_dir() and (options.masks is not None or is_mask_folder(path)):
        return load_mask_folder, ("size", "channels", "num_workers", "class_names", "masks")
    if name and path.is_dir():
        return load_image_folder, ("size", "channels", "bit_depth", "num_workers", "class_names", "test", "val")
    check_readable(name, path)
    then = "Or use a .npz, .csv, .parquet, .jsonl or .txt file, or a folder."
    raise unknown_name_error("dataset", name, _BUILTIN, then=then)


def _check_task(name: str, load: _Reader, task: str | None) -> None:
    """Refuse a task for which data of this kind have no targets."""
    possible = _TASKS_OF.get(load, ("classification",))
    if task is not None and task not in possible:
        raise DataError(
            f"The data {name!r} do not fit the task {task}: they have targets for {' or '.join(possible)}. Leave out "
            "--task to infer it."
        )


def _other_task(data: DataSplits) -> str:
    """Another task that the targets fit too; empty if there is none."""
    targets = None if data.encoding is None else data.encoding.targets
    if targets is not None and len(targets.columns) == 1:
        return "classification"
    return "regression" if data.task == "multi_label" else ""


def _add_summary(data: DataSplits) -> DataSplits:
    """Add the summary and the note to a dataset, and issue its warnings."""
    parts = {"train": data.train, "development": data.development, "test": data.test}
    for examples in parts.values():
        if examples is not None and data.class_names is None:
            _check_numbers(data.name, examples.labels)
    summary = data.summary or summarize(_data_kind(data), parts)
    if data.task != "classification":
        inferred = InferredTask(data.task, data.task_reason, _other_task(data))
        summary = replace(summary, facts={"task": inferred.text, **summary.facts})
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
    warned += label_warnings(there)
    if data.encoding is None:
        warned += scale_warnings(there)
    for name, count, total in find_overlap(there):
        message = f"{count:,} of {total:,} {name} examples are training examples too"
        if count >= _SHARE * total:
            notes.append(f"{message}: results on them do not measure the quality on new data.")
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
    if data.tokenizer is not None:
        return "texts"
    return "images" if isinstance(data.preprocess, NormalizeImages) else "arrays"


def _load_user_data(name: str, own: UserFile, options: Mapping[str, Any], task: str | None) -> DataSplits:
    """Load data with a user's function; `options` are its arguments.

    Raises:
        LimbeckError: If an option is not an argument of the function, it fails, or its result is not supported.
    """
    who = f"{own.file}:{own.function}"
    result = _call_function(who, own.load(), options)
    if isinstance(result, DataSplits):
        return replace(result, name=name, task=task or infer_from_dataset(result.train).name)
    if isinstance(result, tuple) and len(result) == 2:
        result = {"train": result[0], "test": result[1]}
    if not isinstance(result, Mapping):
        raise DataError(f"{who} returned a {type(result).__name__}. {_EXPECTED_PARTS}")
    for key in result:
        if key not in _USER_PARTS:
            raise unknown_name_error(f"part of {who}", str(key), _USER_PARTS)
    train_part = _read_user_part(who, "train", result.get("train"), task)
    if train_part is None:
        raise DataError(f"{who} returned no training part. {_EXPECTED_PARTS}")
    chosen = InferredTask(task) if task is not None else infer_from_dataset(train_part)
    test_part, development = (
        _read_user_part(who, part, result.get(part), chosen.name) for part in ("test", "development")
    )
    names = result.get("class_names")
    class_names = train_part.class_names if names is None else tuple(str(one) for one in names)
    train, test, note = hold_out(train_part, test_part)
    pair = result.get("train")
    if task is None and chosen.name == "classification" and isinstance(pair, tuple) and len(pair) == 2:
        note = ". ".join(filter(None, (note, *(one.rstrip(".") for one in note_floats(pair[1])))))
    preprocess = result.get("preprocess") or fit_normalization(train, scale=1 / 255)
    vectors = chosen.name in VECTORS
    return DataSplits(
        name, train, test, preprocess, None if vectors else class_names, note=note, development=development,
        held_out=test_part is None, task=chosen.name, task_reason=chosen.why,
        target_names=tuple(class_names or ()) if vectors else (),
    )  # fmt: skip


def _call_function(who: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    options = check_arguments(who, function, options)
    try:
        return function(**options)
    except LimbeckError:
        raise
    except Exception as error:  # any exception of the user's function
        raise LimbeckError(f"The data function {who} failed: {type(error).__name__}: {error}") from error


def _read_user_part(who: str, part: str, data: Any, task: str | None) -> Dataset | None:
    if data is None:
        return None
    if isinstance(data, TorchDataset) and not isinstance(data, IterableDataset):
        return _stack_items(who, part, data, task)
    if (vectors := _read_vectors(data, task)) is not None:
        return vectors
    examples = as_dataset(data)
    if examples is None:
        raise DataError(
            f"The {part} part of {who} is {describe(data)}; inputs and labels must be tensors or numpy arrays, and "
            f"labels class indices from 0. {_EXPECTED_PARTS}"
        )
    return examples


def _read_vectors(data: Any, task: str | None) -> ArrayDataset | None:
    """A pair (inputs, targets) of regression or several labels; None for other data."""
    if not (isinstance(data, tuple) and len(data) == 2) or data[1] is None or isinstance(data[1], (tuple, list)):
        return None
    targets = np.asarray(data[1])
    if targets.dtype.kind not in "biuf" or not targets.size:
        return None
    name = task or infer_from_array(targets, data[0]).name
    return ArrayDataset(data[0], extra={"targets": as_vectors(targets, name)}) if name in VECTORS else None


def _stack_items(who: str, part: str, dataset: Any, task: str | None) -> ArrayDataset:
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
    return _read_vectors((inputs, labels), task) or ArrayDataset(inputs, labels)
