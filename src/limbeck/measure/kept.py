"""How do predictions lie on disk, so that they can be judged again without the models?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from limbeck.errors import DataError
from limbeck.models.safefile import read_weights, write_weights


def keep_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name (logits, labels) to a safetensors file that appears whole or not at all.

    Args:
        tensors: Name -> tensor, of any device.
        path: The file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_weights(tensors, path, header={})


def kept_tensors(path: str | Path) -> dict[str, Tensor]:
    """What `keep_tensors` wrote.

    Raises:
        DataError: If the file is missing or damaged: it is checked against the SHA-256 in it, where there is one.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "predictions.safetensors"
        >>> keep_tensors({"test": torch.eye(2)}, path)
        >>> kept_tensors(path)["test"]
        tensor([[1., 0.],
                [0., 1.]])
    """
    try:
        return read_weights(Path(path)).state
    except DataError as error:
        raise DataError(f"{error} Run the job again to write its predictions.") from error
