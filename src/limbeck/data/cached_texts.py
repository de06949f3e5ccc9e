"""`open_cached_texts`: the token data set that a teacher cache keeps beside its outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from limbeck.cache import Location, find_manifest, read_file
from limbeck.data.dataset import POSITIONS_FILE, ROWS_FILE, Dataset
from limbeck.data.position_selection import PositionSubset
from limbeck.data.token_dataset import TOKENS_FILE, TokenDataset
from limbeck.data.tokenizer import TOKENIZER_FOLDER, open_tokenizer
from limbeck.errors import DataError


def open_cached_texts(where: str | os.PathLike[str]) -> Dataset:
    """Open the token data set of a teacher cache that was filled with ``inputs=True``.

    The cache is then a training set by itself: neither the texts nor the teacher are needed.

    Args:
        where: The folder of the cache, or an address that fsspec opens.

    Returns:
        The data set, with the ids under which the outputs are stored, and its tokenizer.

    Raises:
        DataError: If there is no cache, it has no inputs, or they are damaged.

    Example:
        >>> import tempfile
        >>> from limbeck.data import ShuffledLoader, train_tokenizer
        >>> from limbeck.teachers import CachedTeacher, fill_cache
        >>> class Bigram(torch.nn.Embedding):
        ...     def forward(self, input_ids, **_):
        ...         return super().forward(input_ids)
        >>> tokenizer = train_tokenizer(["a b c"], vocabulary=30)
        >>> data = TokenDataset(["a b c", "c b"], tokenizer=tokenizer, add_eos_token=False)
        >>> teacher = CachedTeacher(Bigram(len(tokenizer), len(tokenizer)), tempfile.mkdtemp(), inputs=True)
        >>> for _ in fill_cache(teacher, ShuffledLoader(data, batch_size=2)):
        ...     pass
        >>> open_cached_texts(teacher.where).fingerprint == data.fingerprint
        True
    """
    location = Location(where)
    manifest = find_manifest(location)
    if manifest is None:
        raise DataError(f"There is no cache at {location.name}.")
    files = [name for name in manifest.files if name.startswith(f"{TOKENIZER_FOLDER}/")]
    if TOKENS_FILE not in manifest.files:
        raise DataError(
            f"The cache at {location.name} has outputs alone, without their inputs. Add these with "
            "fill_cache(CachedTeacher(..., inputs=True), loader)."
        )
    with TemporaryDirectory() as folder:
        for name in files:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(read_file(location, manifest, name))
        tokenizer = open_tokenizer(Path(folder) / TOKENIZER_FOLDER)
    data: Dataset = _read_tokens(read_file(location, manifest, TOKENS_FILE), tokenizer)
    if ROWS_FILE in manifest.files:
        rows = np.frombuffer(read_file(location, manifest, ROWS_FILE), "<i8")
        data = data.select(torch.from_numpy(rows.astype(np.int64)))
    if POSITIONS_FILE in manifest.files:
        chosen = np.frombuffer(read_file(location, manifest, POSITIONS_FILE), np.bool_)
        data = PositionSubset(data, torch.from_numpy(chosen.copy()))
    if data.fingerprint != manifest.origin.data:
        raise DataError(f"The inputs in the cache at {location.name} are not those of its outputs. Fill another cache.")
    return data


def _read_tokens(content: bytes, tokenizer: object) -> TokenDataset:
    from safetensors.torch import load

    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    how = {name: json.loads(value) for name, value in header["__metadata__"].items()}
    return TokenDataset.from_tensors(load(content), how, tokenizer)
