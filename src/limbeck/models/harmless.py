"""The names that may stand beside weights in a pickle, and the placeholders that are read in their place."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Placeholder:
    """What is read in place of an object beside the weights: it takes anything and keeps nothing.

    PyTorch's weights-only reader looks a name up in its list of allowed ones. For the names below it finds this class,
    so neither the module that the file names is imported nor anything of it called.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""


_OBJECTS = (
    # Options as training scripts keep them (RepDistiller, timm, DeiT).
    "argparse.Namespace", "types.SimpleNamespace",
    # A number, a dtype or an array of NumPy, as in {"best_acc": accuracy}; before and since NumPy 2.
    "numpy.dtype", "numpy.ndarray", "_codecs.encode",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.dtypes.{kind}DType" for kind in (
        "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32",
        "Float64", "LongLong", "ULongLong", "Str", "Bytes", "Object")),
    *(f"numpy.{kind}" for kind in (
        "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")),
    # Paths and dates.
    *(f"{module}.{pure}{kind}" for module in ("pathlib", "pathlib._local") for pure in ("", "Pure")
      for kind in ("Path", "PosixPath", "WindowsPath")),
    "datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "uuid.UUID", "decimal.Decimal",
    # What Hydra's configurations are made of, as Lightning keeps them under hyper_parameters.
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf._utils.ValueKind", "collections.defaultdict", "typing.Any",
    *(f"omegaconf.nodes.{kind}Node" for kind in (
        "Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String", "Union")),
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in (
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice", "str",
        "tuple", "type")),
)  # fmt: skip
_MAPPINGS = (
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode", "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode", "easydict.EasyDict",
    "addict.addict.Dict", "mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict",
)  # fmt: skip
HARMLESS: tuple[tuple[Any, str], ...] = (
    *((Placeholder, name) for name in _OBJECTS),
    *((OrderedDict, name) for name in _MAPPINGS),
)
"""For `torch.serialization.safe_globals`: what is read, and the name in the file that it stands for."""
