"""``read.py``: a file beside an export that answers raw rows, pictures or texts without limbeck."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import write_text
from limbeck.errors import LimbeckError
from limbeck.export.onnx_session import open_session
from limbeck.models import read_config

READER = "read.py"
_BACKENDS = {"onnx": "numpy and onnxruntime", "reference": "torch and safetensors", "huggingface": "transformers"}
_KINDS = {"table": "rows.csv", "pictures": "picture.png", "texts": "texts.csv"}


class ReaderScript(NamedTuple):
    """Which parts a ``read.py`` is made of.

    Attributes:
        kind: What it reads: ``table``, ``pictures`` (also arrays) or ``texts``.
        backend: What answers: ``onnx``, ``reference`` (limbeck's own networks in plain PyTorch) or ``huggingface``.
    """

    kind: str
    backend: str

    @property
    def requires(self) -> str:
        """The packages that it needs, in words."""
        more = {"pictures": ", and Pillow for files of pictures", "texts": ", and tokenizers"}
        return _BACKENDS[self.backend] + more.get(self.kind, "")

    @property
    def command(self) -> str:
        """What is typed to use it."""
        return f"python {READER} {_KINDS[self.kind]}"


def choose_reader(
    to: str, model: Mapping[str, Any], metadata: Mapping[str, Any], *, texts: bool
) -> ReaderScript | None:
    """The reader for an export; None for a class of the person's own in a folder, whose code the folder lacks.

    Args:
        to: The format.
        model: What the student's folder says that it is.
        metadata: What it says besides: encoding, reads, shape.
        texts: Whether it reads texts.
    """
    kind = (
        "texts"
        if texts
        else "table"
        if metadata.get("encoding")
        else "pictures"
        if metadata.get("input_shape")
        else None
    )
    if to in ("onnx", "int8"):
        backend = "onnx"
    elif str(model.get("class")).startswith("transformers."):
        backend = "huggingface"
    else:
        backend = "reference" if "name" in model else ""
    return ReaderScript(kind, backend) if kind and backend else None


def write_reader(path: str | Path) -> Path:
    """Write ``read.py`` beside an ONNX file that `to_onnx` wrote, or into a student's folder.

    It answers raw rows of a table, pictures or texts from the command line, without limbeck.

    Args:
        path: The file, or the folder. A file of texts needs ``tokenizer.json`` beside it.

    Returns:
        Where ``read.py`` is.

    Raises:
        LimbeckError: If the student is of a class of your own in a folder, or nobody said what it reads.

    Example:
        >>> # to_onnx(run.student, rows, "adult/model.onnx")
        >>> # write_reader("adult/model.onnx")  # python adult/read.py new.csv
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        config = read_config(path)
        to, model, metadata = "folder", config["model"], config.get("metadata") or {}
    else:
        told_in_file = open_session(path).get_modelmeta().custom_metadata_map.get("limbeck", "{}")
        to, model, metadata = "onnx", {}, json.loads(told_in_file)
    script = choose_reader(to, model, metadata, texts=(folder / "tokenizer.json").is_file())
    if script is None:
        raise LimbeckError(
            f"{path} does not say what it reads, or holds a class of your own, whose code is not in it: write it from "
            "run.student or limbeck.load(...), whose class names, encoding and reads are known, as ONNX."
        )
    write_reader_script(script, folder, metadata)
    return folder / READER


def write_reader_script(reader: ReaderScript, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``read.py`` into the folder of an export.

    Args:
        reader: Its parts.
        folder: Where the weights are.
        metadata: What is not in files that it can read: for a folder of transformers, how pixels are read.
    """
    sources = [_source(name) for name in (reader.kind, reader.backend, "command")]
    imports = sorted({line for source in sources for line in source.imports}, key=lambda line: (line[0] == "f", line))
    docstring = (
        f'"""Answers raw examples with the student in this folder; needs {reader.requires}, and not limbeck.\n\n'
        f'    {reader.command}\n\nprints the answer to each and its probability; --all those of all classes.\n"""'
    )
    body = "\n\n\n".join(source.body for source in sources)
    if reader.backend == "huggingface":
        values = {name: metadata[name] for name in ("preprocess", "input_shape") if metadata.get(name)}
        body = body.replace("METADATA: dict[str, Any] = {}", f"METADATA: dict[str, Any] = {values!r}")
    layout = "" if reader.kind == "pictures" else ", layout=True"
    last = f'if __name__ == "__main__":\n    main(open_student, read_inputs{layout})\n'
    head = "from __future__ import annotations\n\n" + "\n".join(imports)
    write_text(f"{docstring}\n\n{head}\n\n{body}\n\n\n{last}", folder / READER)


class _Source(NamedTuple):
    imports: list[str]
    body: str


def _source(name: str) -> _Source:
    """A part's imports, and what follows them."""
    text = files("limbeck.export.readers").joinpath(f"{name}.py").read_text(encoding="utf-8")
    nodes = ast.parse(text).body[2:]  # its docstring, and annotations from the future
    imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    lines = text.splitlines()
    return _Source([ast.unparse(node) for node in imports], "\n".join(lines[imports[-1].end_lineno :]).strip())
