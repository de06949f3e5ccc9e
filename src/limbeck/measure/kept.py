"""How do predictions lie on disk, so that they can be judged again without the models?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from limbeck.errors import DataError
from limbeck.files import replacing


def keep_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors by name (logits, labels) to a safetensors file that appears whole or not at all.

    Args:
        tensors: Name -> tensor, of any device.
        path: The file; its folder is made.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)


def kept_tensors(path: str | Path) -> dict[str, Tensor]:
    """What `keep_tensors` wrote.

    Raises:
        DataError: If the file is missing or damaged.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "predictions.safetensors"
        >>> keep_tensors({"test": torch.eye(2)}, path)
        >>> kept_tensors(path)["test"]
        tensor([[1., 0.],
                [0., 1.]])
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}. Run the job again to write its predictions.") from error
