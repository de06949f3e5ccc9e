"""Opens a model by its name on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.models.folder import is_student_folder, load, loads_without_code, read_config
from limbeck.models.hf_folder import holds_tokenizer, is_hf_folder
from limbeck.models.hf_heads import LANGUAGE_MODELING
from limbeck.models.hub import LibraryModel, open_library
from limbeck.models.model_transforms import explain_build
from limbeck.models.reference import build, fit_arguments, reference_names, seeded
from limbeck.models.user_file import UserFile
from limbeck.optional_imports import import_optional


def open_model(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    head: str | None = None,
    tokenizer: Any = None,
    seed: int | None = None,
    **arguments: Any,
) -> nn.Module:
    """Open a model by name.

    * a reference network (`reference_names`), built from `arguments` and the shape of the data (`fit_arguments`);
    * ``my.py:build``: the function ``build`` in that file, called with `arguments`; ``input_shape``, ``classes``,
      ``tokenizer`` and ``vocab_size`` (the number of its tokens) are passed on where it has arguments of these names.
      Only this file is run, as a module of its own;
    * ``my.py:build@weights.safetensors`` (or ``@folder``): the same, with weights;
    * a student folder that `save` wrote;
    * ``timm:NAME`` and ``hf:NAME``, with the library's trained weights unless ``pretrained=False``: see `open_timm` and
      `open_hf`;
    * ``timm:NAME@weights.safetensors`` and ``hf:NAME@weights.safetensors`` (or ``@folder``): the same, with weights of
      your own.

    Args:
        name: As above.
        input_shape: The shape of one example of the data, without the batch.
        classes: The number of classes of the labels.
        head: ``language_modeling`` opens ``hf:`` models as causal language models, or as encoder-decoders if that is
            what they are, and refuses models of other libraries. See `open_hf` for the other heads.
        tokenizer: The tokenizer of the texts of a language model, see `open_hf`.
        seed: The seed of new weights; the global generator is not changed. None uses the global generator.
        **arguments: Arguments for the network, function or library.

    Returns:
        The model, on the CPU.

    Raises:
        UnknownNameError: If the name is unknown; the nearest is given.
        LimbeckError: If the model cannot be opened, with the reason and what to type.

    Example:
        >>> open_model("mlp", input_shape=(1, 8, 8), classes=10, hidden=[32]).classifier
        Linear(in_features=32, out_features=10, bias=True)
    """
    library = LibraryModel.parse(name)
    if head == LANGUAGE_MODELING and (name in reference_names() or (library and library.prefix == "timm")):
        raise LimbeckError(
            f"{name} reads no tokens, so it is no language model. Take hf:NAME, such as hf:gpt2, or a function of your "
            "own that builds a module from token ids to logits: my.py:build."
        )
    with seeded(seed):
        if name in reference_names():
            return build(name, **{**_fitting(name, input_shape, classes), **arguments})
        if own := UserFile.parse(name):
            tokens = {} if tokenizer is None else {"tokenizer": tokenizer, "vocab_size": len(tokenizer)}
            given: dict[str, Any] = {
                "input_shape": input_shape,
                "classes": classes,
                "arguments": arguments,
                "tokens": tokens,
            }
            if own.weights is not None and _is_transformed(own.weights):
                return load(own.weights, build=lambda: own._replace(weights=None).open(**given))
            return own.open(**given)
        if library:
            options = arguments if head is None else {"head": head, **arguments}
            return open_library(
                library, input_shape=input_shape, classes=classes, tokenizer=tokenizer, arguments=options
            )
        return _open_folder(name, arguments)


def find_tokenizer(name: str, *, pretrained: bool = True) -> str | None:
    """Find the tokenizer that belongs to a model: the one beside its weights, or that of its name on the hub.

    Args:
        name: The name of a model, as for `open_model`.
        pretrained: Whether its weights are loaded; a kind of model such as ``hf:gpt2`` with new weights has none.

    Returns:
        The folder, or ``hf:NAME``; None if there is none.
    """
    library, own = LibraryModel.parse(name), UserFile.parse(name)
    weights = library.weights if library is not None else own.weights if own is not None else Path(name)
    if weights is not None and holds_tokenizer(weights):
        return str(weights)
    if library is None or library.prefix != "hf":
        return None
    if Path(library.name).exists():
        return library.name if holds_tokenizer(library.name) else None
    hf = import_optional("transformers", extra="hf", purpose=str(library))
    is_kind = not pretrained and library.name in hf.CONFIG_MAPPING
    return None if is_kind else f"hf:{library.name}"


def _is_transformed(path: Path) -> bool:
    """Whether a student folder holds a model with changes that are made again after it is built."""
    return path.is_dir() and is_student_folder(path) and bool(read_config(path)["model"].get("transforms"))


def _fitting(name: str, input_shape: tuple[int, ...] | None, classes: int | None) -> dict[str, int]:
    if input_shape is not None and classes is not None:
        return fit_arguments(name, input_shape, classes)
    return {} if classes is None else {"classes": classes}


def _open_folder(name: str, arguments: dict[str, Any]) -> nn.Module:
    path = Path(name)
    if path.is_dir():
        if is_hf_folder(path):
            raise LimbeckError(f"{name} is a folder of transformers; type hf:{name}")
        if is_student_folder(path) and not loads_without_code(config := read_config(path)):
            why = explain_build(name, config["model"])
            raise LimbeckError(f"{why} In a job or command, name the function that builds it: my.py:build@{name}")
        if arguments:
            raise LimbeckError(f"{name} is a student folder, which takes no arguments; got {', '.join(arguments)}.")
        return load(path)
    if path.is_file():
        raise LimbeckError(f"{name} is a file of weights; name the function that builds the model: my.py:build@{name}")
    then = "Or type my.py:build, my.py:build@weights.safetensors, a student folder, timm:NAME or hf:NAME."
    raise unknown_name_error("model", name, reference_names(), then=then)
