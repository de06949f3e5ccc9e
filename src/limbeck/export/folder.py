"""A student as a folder for `limbeck.load` or for transformers."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.atomic_io import new_partial_folder, publish_folder
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.export.onnx_session import silence_logging
from limbeck.models import fingerprint, get_description, read_config, save, set_token_ids, transforms_of
from limbeck.models.adapters import merge_adapters
from limbeck.models.hf_widths import fill_channels, find_widths
from limbeck.models.size_and_hash import unwrap_compiled


def to_folder(model: nn.Module, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a module as a folder that `limbeck.load` opens: safetensors and a description, no code.

    Args:
        model: The plain module, without wrappers of a training loop.
        path: A folder that is new or empty.
        metadata: JSON values that are saved with it, such as the class names; by default as for `limbeck.save`.

    Returns:
        The folder.

    Raises:
        LimbeckError: If the folder is not empty, or the written weights differ from the module's.

    Example:
        >>> import tempfile
        >>> to_folder(nn.Linear(2, 2), Path(tempfile.mkdtemp()) / "student").name
        'student'
    """
    path = check_free_path(path)
    plain = merge_adapters(unwrap_compiled(model))
    save(model, path, metadata=metadata)
    if read_config(path)["sha256"] != fingerprint(plain):
        raise LimbeckError(f"The weights in {path} differ from those that were written. The disk may be damaged.")
    return path


def to_hf(
    model: nn.Module, path: str | Path, *, class_names: Sequence[str] | None = None, tokenizer: Any = None
) -> Path:
    """Write a Hugging Face model as a folder that its own ``from_pretrained`` opens.

    Args:
        model: A model of transformers, such as a ``BertForSequenceClassification``; it is not changed. The adapter of
            a peft model is merged into the written weights.
        path: A folder that is new or empty.
        class_names: The names of its outputs, for ``config.id2label``.
        tokenizer: An object with ``save_pretrained`` that is saved too: a tokenizer, an image processor.

    Returns:
        The folder.

    Raises:
        LimbeckError: If it is not a model of transformers (the message says what to use), or the folder is not empty.

    Example:
        >>> # to_hf(student, "student-hf"); AutoModelForSequenceClassification.from_pretrained("student-hf")
    """
    class_names = class_names or get_description(unwrap_compiled(model)).get("class_names")
    options = unwrap_compiled(model)
    merged = merge_adapters(options)
    widths = check_hf(merged)
    copied = fill_channels(merged, widths) if widths is not None else merged
    plain: Any = (copy.deepcopy(copied) if copied is options else copied).cpu().eval()
    set_token_ids(plain, tokenizer)
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
        publish_folder(target, path)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return path


def check_hf(model: nn.Module) -> dict[str, int] | None:
    """Check that ``from_pretrained`` of transformers can open the model.

    Returns:
        For a model with fewer channels, the settings of its configuration for `fill_channels`; None for others.

    Raises:
        LimbeckError: With the reason, and what to use instead.
    """
    kind = type(unwrap_compiled(model))
    instead = "Use --to onnx, which runs anywhere, or --to folder, for limbeck.load."
    if not any(base.__module__ == "transformers.modeling_utils" for base in kind.__mro__):
        raise LimbeckError(
            f"{kind.__name__} is not a Hugging Face model, so from_pretrained has no class to open it with. {instead}"
        )
    if not kind.__module__.startswith("transformers."):
        raise LimbeckError(
            f"{kind.__name__} is your own subclass of a Hugging Face model, whose code from_pretrained does not have. "
            f"{instead}"
        )
    changed = [record["function"] for record in (transforms_of(model) or ({}, []))[1]]
    if not {"prune_channels", "factorize_layers"} & set(changed):
        return None
    widths = None if "factorize_layers" in changed else find_widths(unwrap_compiled(model))
    if widths is None:
        raise LimbeckError(
            f"This {kind.__name__} has layers that no configuration of its kind has ({', '.join(changed)}), so "
            f"from_pretrained cannot build it. {instead} Students by layers or channels, and narrower copies, can be "
            "exported to hf."
        )
    return widths


def reopen_hf(path: Path) -> nn.Module:
    """Open a folder that `to_hf` wrote, with the class that its ``config.json`` names.

    Raises:
        LimbeckError: If ``from_pretrained`` cannot open it, or leaves weights out.
    """
    import transformers

    (name, *_) = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or [None]
    if not hasattr(transformers, str(name)):
        raise LimbeckError(f"{path / 'config.json'} names {name!r}, which transformers does not have.")
    kind = getattr(transformers, str(name))
    with silence_logging():  # its progress bars
        model, info = kind.from_pretrained(path, output_loading_info=True)
    lacking = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if lacking:
        raise LimbeckError(f"from_pretrained opened {path} with other weights: {', '.join(lacking[:5])}.")
    reopened: nn.Module = model.eval()
    return reopened


def check_free_path(path: str | Path, *, argument: str = "path") -> Path:
    """Return the path if nothing is there, or an empty folder.

    Args:
        path: The path of a folder to write.
        argument: The name of the caller's argument, for the message.

    Raises:
        ArgumentError: If there is something, which is not changed.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ArgumentError(f"{path} is a file, but an export is a folder. Choose another folder.", argument=argument)
    if path.exists() and any(path.iterdir()):
        raise ArgumentError(
            f"{path} is not empty, and nothing in it is changed. Choose another folder, or delete it.",
            argument=argument,
        )
    return path
