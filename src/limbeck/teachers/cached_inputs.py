"""What a cache keeps of a token data set: its inputs, and the name and hash of its tokenizer."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from limbeck.cache import Location, Manifest
from limbeck.errors import LimbeckError
from limbeck.teachers.teacher import Stream, TokenExamples


def describe_tokenizer(loader: Stream) -> dict[str, str] | None:
    """The tokenizer of a loader's examples for a manifest: its name and hash; None where there is none."""
    examples = _token_examples(loader)
    if examples is None:
        return None
    return {"name": _tokenizer_name(examples.tokenizer), "sha256": str(examples.tokenizer_fingerprint)}


def check_tokenizer_fits(location: Location, manifest: Manifest | None, loader: Stream) -> None:
    """Refuse a cache of the outputs for another tokenizer's tokens.

    Raises:
        LimbeckError: With the names of both tokenizers.
    """
    stored, own = None if manifest is None else manifest.about.get("tokenizer"), describe_tokenizer(loader)
    if stored is None or own is None or stored["sha256"] == own["sha256"]:
        return
    names = [f"{one['name']} ({one['sha256'][:8]})" for one in (stored, own)]
    raise LimbeckError(
        f"The cache at {location.name} has outputs for tokens of the tokenizer {names[0]}, and this run has "
        f"{names[1]}: the same number means another token. Use that tokenizer, or another folder."
    )


def check_has_inputs(loader: Stream) -> None:
    """Refuse a loader whose inputs cannot be stored.

    Raises:
        LimbeckError: If its examples are no tokens.
    """
    if _token_examples(loader) is None:
        kind = "no dataset" if loader.examples is None else f"a {type(loader.examples).__name__}"
        raise LimbeckError(
            f"inputs=True keeps the tokens of a TokenDataset, and the examples of this loader are {kind}. Leave it out."
        )


def input_files(loader: Stream | None) -> dict[str, bytes]:
    """The inputs of a loader's examples as files by name; none where they are no tokens."""
    examples = None if loader is None else _token_examples(loader)
    return {} if examples is None else examples.to_files()


def find_examples_tokenizer(loader: Stream) -> Any:
    """The tokenizer of a loader's examples; None where they are no tokens."""
    examples = _token_examples(loader)
    return None if examples is None else examples.tokenizer


def _token_examples(loader: Stream) -> TokenExamples | None:
    examples = loader.examples
    return examples if isinstance(examples, TokenExamples) and examples.tokenizer_fingerprint is not None else None


def _tokenizer_name(tokenizer: Any) -> str:
    """The name under which it was opened, without its folder; the name of its class if it was made here."""
    name = str(tokenizer.name_or_path or "")
    return PurePath(name).name if PurePath(name).is_absolute() else name or type(tokenizer).__name__
