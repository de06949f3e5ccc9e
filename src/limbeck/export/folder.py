"""A student as a folder for limbeck or for transformers."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.atomic_io import new_partial_folder
from limbeck.errors import LimbeckError
from limbeck.export.onnx_session import silence_logging
from limbeck.models import fingerprint, get_description, read_config, save
from limbeck.models.adapters import merge_adapters
from limbeck.models.size_and_hash import unwrap_compiled


def to_folder(model: nn.Module, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a module as a folder that `limbeck.load` opens: safetensors and a description, no code.

    Args:
        model: The plain module: what it is, not what it was trained in.
        path: A folder that is new or empty.
        metadata: JSON values to keep with it, such as the class names; by default as for `limbeck.save`.

    Returns:
        The folder.

    Raises:
        LimbeckError: If the folder holds something, or what was written is not what the module holds.

    Example:
        >>> import tempfile
        >>> to_folder(nn.Linear(2, 2), Path(tempfile.mkdtemp()) / "student").name
        'student'
    """
    path = check_free_path(path)
    plain = merge_adapters(unwrap_compiled(model))
    save(model, path, metadata=metadata)
    if read_config(path)["sha256"] != fingerprint(plain):
        raise LimbeckError(f"{path} does not hold the weights that were written to it: is the disk sound?")
    return path


def to_hf(
    model: nn.Module, path: str | Path, *, class_names: Sequence[str] | None = None, tokenizer: Any = None
) -> Path:
    """Write a Hugging Face model as the folder that its own ``from_pretrained`` opens.

    Args:
        model: A model of transformers, such as a ``BertForSequenceClassification``; it is left as it was. An adapter
            of peft is merged into the weights that are written.
        path: A folder that is new or empty.
        class_names: What its outputs are called, for ``config.id2label``.
        tokenizer: Anything with ``save_pretrained``, to be put beside it: a tokenizer, an image processor.

    Returns:
        The folder.

    Raises:
        LimbeckError: If the model is none of transformers (the sentence says what to use), or the folder holds
            something.

    Example:
        >>> # to_hf(student, "student-hf"); AutoModelForSequenceClassification.from_pretrained("student-hf")
    """
    class_names = class_names or get_description(unwrap_compiled(model)).get("class_names")
    options = unwrap_compiled(model)
    merged = merge_adapters(options)
    check_hf(merged)
    plain: Any = (copy.deepcopy(merged) if merged is options else merged).cpu().eval()
    if class_names:
        plain.config.id2label = dict(enumerate(class_names))
        plain.config.label2id = {name: number for number, name in enumerate(class_names)}
    path = check_free_path(path)
    target = new_partial_folder(path)
    try:
        with silence_logging():  # its progress bars
            plain.save_pretrained(target, safe_serialization=True)
            if tokenizer is not None:
                tokenizer.save_pretrained(target)
        os.replace(target, path)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return path


def check_hf(model: nn.Module) -> None:
    """Refuse what stock ``from_pretrained`` could not open.

    Raises:
        LimbeckError: Saying why, and what to use instead.
    """
    kind = type(unwrap_compiled(model))
    instead = "Type --to onnx, which opens anywhere, or --to folder, for limbeck.load."
    if not any(base.__module__ == "transformers.modeling_utils" for base in kind.__mro__):
        raise LimbeckError(
            f"{kind.__name__} is no Hugging Face model, so transformers has no class to open it with and "
            f"from_pretrained would fail. {instead}"
        )
    if not kind.__module__.startswith("transformers."):
        raise LimbeckError(
            f"{kind.__name__} is a class of your own that derives from a Hugging Face model; stock from_pretrained has "
            f"no code for it. {instead}"
        )


def reopen_hf(path: Path) -> nn.Module:
    """The model in a folder that `to_hf` wrote, opened as a stranger would, by the class that its config names.

    Raises:
        LimbeckError: If stock ``from_pretrained`` does not open it, or leaves weights out.
    """
    import transformers

    named = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or [None]
    kind = getattr(transformers, str(named[0]), None)
    if kind is None:
        raise LimbeckError(f"{path / 'config.json'} names {named[0]!r}, which transformers does not have.")
    with silence_logging():  # its progress bars
        model, info = kind.from_pretrained(path, output_loading_info=True)
    lacking = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if lacking:
        raise LimbeckError(f"{path} was opened by from_pretrained with other weights: {', '.join(lacking[:5])}.")
    reopened: nn.Module = model.eval()
    return reopened


def check_free_path(path: str | Path) -> Path:
    """A path that nothing is at, or an empty folder.

    Raises:
        LimbeckError: If there is something, which is left alone.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise LimbeckError(f"{path} is a file, and an export is a folder; choose another with --out (path=...).")
    if path.exists() and any(path.iterdir()):
        raise LimbeckError(
            f"{path} already holds something, which is left alone; choose another with --out (path=...)."
        )
    return path
