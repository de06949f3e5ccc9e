"""How an export is used: the code in its card, and ``read.py``, which predicts raw examples without limbeck."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import write_text
from limbeck.errors import LimbeckError
from limbeck.export.finished_run import FinishedRun
from limbeck.export.onnx_session import open_session
from limbeck.job import model_to_build, opening_code
from limbeck.models import UserFile, read_config
from limbeck.tasks import LanguageModeling, MultiLabel, Regression, Segmentation

_TABLE = (
    "# columns: name -> values as in the table, without spaces around them; NaN or '' if missing",
    "types = {'tensor(float)': np.float32, 'tensor(double)': np.float64, 'tensor(string)': object}",
    "inputs = {",
    "    i.name: np.array(columns[i.name], dtype=types[i.type]).reshape(-1, 1) for i in session.get_inputs()",
    "}",
    "(logits,) = session.run(None, inputs)",
)
_LOAD_PREPROCESS = "preprocess = limbeck.load_preprocess('.')"
_PREDICT = "logits = student(preprocess(limbeck.Batch(examples)))"


def usage_snippet(done: FinishedRun, *, to: str, raw: bool, file: str, tokenizer: Any = None) -> str:
    """Return a few lines of Python that open an export and compute logits. They run in the folder of the export.

    A language model continues a prompt, with the `tokenizer` of its data.
    """
    if isinstance(done.task, LanguageModeling):
        return _language(done, tokenizer, to=to, file=file)
    if to == "joblib":
        return _joblib(done, file)
    if to == "folder":
        return _limbeck(done)
    kind = str(done.model_config.get("class", "AutoModel")).rpartition(".")[2]
    return _transformers(kind) if to == "hf" else _onnx(done, raw=raw, file=file)


def _channels_first(done: FinishedRun) -> list[str]:
    """The line that puts the channels of images first, as the reader of the data did."""
    preprocess = done.metadata.get("preprocess") or {}
    channels = len(preprocess.get("mean") or ())
    if preprocess.get("preprocess") != "pixels" or channels < 2 or preprocess.get("channels_last"):
        return []
    return [f"examples = examples if examples.shape[1] == {channels} else examples.movedim(-1, 1)"]


def _limbeck_opening(done: FinishedRun) -> list[str]:
    """Lines that open a student with limbeck: imports, an empty line, and the model."""
    model, file = model_to_build(done.job.model_dump(mode="json")), None
    own = UserFile.parse(str(model.get("model")))
    if own is not None:
        model["model"], file = f"{own.file.name}:{own.function}", own.file
    opening = opening_code(done.student, model, path=".", place=done.folder, file=file)
    return [*opening[:-1], *([""] if len(opening) < 3 else []), opening[-1]]


def _limbeck(done: FinishedRun) -> str:
    lines = _limbeck_opening(done)
    kind = (done.metadata.get("preprocess") or {}).get("preprocess")
    class_name = str(done.model_config.get("class"))
    if done.metadata.get("encoding"):
        # Rows of a new table are encoded as those of the training table were.
        lines += [
            "encoding = limbeck.load_encoding('.')",
            "rows, _ = limbeck.read_table('new.csv', encoding=encoding)  # the target may be missing",
            "logits = student(rows.inputs)",
            *_scaled(done),
        ]
    elif class_name.startswith("transformers.") and "ForSequenceClassification" in class_name:
        call = "logits = student(**preprocess(limbeck.Batch(texts))).logits  # texts: a list"
        lines += [_LOAD_PREPROCESS, call]
    elif class_name.startswith("transformers.") and kind != "pixels":
        lines += ["logits = student(**inputs).logits"]
    elif class_name.startswith("transformers."):
        lines += [_LOAD_PREPROCESS, f"{_PREDICT}.logits"]
    else:
        lines += [_LOAD_PREPROCESS, *_channels_first(done), _PREDICT] if kind else ["logits = student(inputs)"]
    return "\n".join(lines)


def _joblib(done: FinishedRun, file: str) -> str:
    """Lines that open an estimator."""
    lines, rows = ["import joblib", "", f"estimator = joblib.load({file!r})"], "inputs"
    if done.metadata.get("encoding"):
        lines[1:1] = ["import limbeck"]
        lines += ["encoding = limbeck.load_encoding('../../student')  # in the folder of the run"]
        lines += ["rows, _ = limbeck.read_table('new.csv', encoding=encoding)  # the target may be missing"]
        rows = "rows.inputs"
    call = "predict" if isinstance(done.task, Regression) else "predict_proba"
    return "\n".join([*lines, f"outputs = estimator.{call}({rows})"])


def _transformers(kind: str) -> str:
    names, lines, inputs = kind, [f"student = {kind}.from_pretrained('.')"], "inputs"
    if "ForSequenceClassification" in kind:
        names = f"AutoTokenizer, {kind}"
        lines = ["tokenizer = AutoTokenizer.from_pretrained('.')", *lines, "# texts: a list"]
        inputs = "tokenizer(texts, padding=True, truncation=True, return_tensors='pt')"
    return "\n".join([f"from transformers import {names}", "", *lines, f"logits = student(**{inputs}).logits"])


def _onnx(done: FinishedRun, *, raw: bool, file: str) -> str:
    preprocess = done.metadata.get("preprocess") or {}
    lines = ["import numpy as np", "import onnxruntime", "", f"session = onnxruntime.InferenceSession({file!r})"]
    if raw and done.metadata.get("encoding"):
        return "\n".join([*lines, *_TABLE, *_class_names(done)])
    if raw:
        lines.append("inputs = examples  # raw examples: the file normalizes them")
    elif preprocess.get("preprocess") == "pixels":
        lines += _pixels(preprocess)
    else:
        lines.append("inputs = examples.astype(np.float32)  # preprocessed as in training")
    lines.append("(logits,) = session.run(None, {session.get_inputs()[0].name: inputs})")
    return "\n".join([*lines, *_class_names(done)])


_ANSWER_LENGTH = 50
_PROMPT = "Once upon a time"  # no text of the data, which a card would make public


def _language(done: FinishedRun, tokenizer: Any, *, to: str, file: str) -> str:
    """Lines that let a language model continue a prompt."""
    kind = str(done.model_config.get("class"))
    window = min(int(tokenizer.model_max_length), 2**20)
    length = max(min(_ANSWER_LENGTH, window // 2), 1)
    if to in ("onnx", "int8"):
        return "\n".join(_language_onnx(tokenizer, window, length, file))
    opening = _limbeck_opening(done) if to == "folder" else []
    prompt = f"prompt = {_short_prompt(tokenizer, window - length)!r}"
    if not kind.startswith("transformers."):
        lines = [*opening, prompt, "ids = tokenizer(prompt, return_tensors='pt')['input_ids']"]
        return "\n".join(["from transformers import AutoTokenizer", *_after(lines), "logits = student(ids)"])
    auto = "AutoModelForSeq2SeqLM" if "ForConditionalGeneration" in kind else "AutoModelForCausalLM"
    names = "AutoTokenizer" if to == "folder" else f"{auto}, AutoTokenizer"
    lines = opening or ["", f"student = {auto}.from_pretrained('.')"]
    lines += [prompt, "inputs = tokenizer(prompt, return_tensors='pt', return_token_type_ids=False)"]
    if "Seq2Seq" not in auto and _ends_texts(tokenizer):
        lines.append("inputs = {name: part[:, :-1] for name, part in inputs.items()}  # without the end of a text")
    return "\n".join([
        f"from transformers import {names}", *_after(lines),
        f"written = student.generate(**inputs, max_new_tokens={length})",
        "text = tokenizer.decode(written[0], skip_special_tokens=True)",
    ])  # fmt: skip


def _short_prompt(tokenizer: Any, room: int) -> str:
    """A prompt whose tokens leave room for an answer in a window."""
    fitting = (end for end in range(len(_PROMPT), 1, -1) if len(tokenizer(_PROMPT[:end])["input_ids"]) <= room)
    return _PROMPT[: next(fitting, 1)]


def _after(lines: list[str]) -> list[str]:
    """The lines with the tokenizer, which is opened after the imports."""
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    rest = [line for line in lines if line and line not in imports]
    return [*imports, "", "tokenizer = AutoTokenizer.from_pretrained('.')", *rest]


def _ends_texts(tokenizer: Any) -> bool:
    """Whether a tokenizer ends each text with a special token, behind which a model does not go on."""
    return tokenizer("a")["input_ids"][-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id)


def _language_onnx(tokenizer: Any, window: int, length: int, file: str) -> list[str]:
    ids = "ids = tokenizer.encode(prompt).ids"
    if _ends_texts(tokenizer):
        ids += "[:-1]  # without the end of a text"
    return [
        "import numpy as np",
        "import onnxruntime",
        "from tokenizers import Tokenizer",
        "",
        "tokenizer = Tokenizer.from_file('tokenizer.json')",
        f"session = onnxruntime.InferenceSession({file!r})",
        "names = [one.name for one in session.get_inputs()]",
        f"prompt = {_short_prompt(tokenizer, window - length)!r}",
        ids,
        f"for _ in range({length}):",
        f"    seen = np.array([ids[-{window}:]])",
        "    columns = {'input_ids': seen, 'attention_mask': seen * 0 + 1, 'position_ids': np.arange(seen.size)[None]}",
        "    (logits,) = session.run(None, {name: columns[name] for name in names})",
        "    ids.append(int(logits[0, -1].argmax()))",
        f"    if ids[-1] == {tokenizer.eos_token_id!r}:",
        "        break",
        "text = tokenizer.decode(ids)",
    ]


def _scaled(done: FinishedRun) -> list[str]:
    """The line that turns the outputs of a regression into the unit of the targets."""
    task = done.task
    if not isinstance(task, Regression) or not task.standardize:
        return []
    return [f"estimates = logits * logits.new_tensor({list(task.std)}) + logits.new_tensor({list(task.mean)})"]


def _class_names(done: FinishedRun) -> list[str]:
    if isinstance(done.task, MultiLabel):
        labels = json.dumps(list(done.task.output_names), ensure_ascii=False)
        return [f"answers = logits > 0  # for each of {labels}"]
    if isinstance(done.task, Segmentation):
        return ["answers = logits.argmax(1)  # the class of each pixel"]
    names = done.metadata.get("class_names")
    if not names or len(names) > 20:
        return []
    return [f"answers = np.array({json.dumps(names, ensure_ascii=False)})[logits.argmax(-1)]"]


def _pixels(preprocess: dict[str, Any]) -> list[str]:
    """The normalization in NumPy, without limbeck."""
    lines = ["pixels = images.astype(np.float32)  # [n, h, w], or with channels"]
    if preprocess.get("channels_last"):
        lines.append("pixels = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels")
    if preprocess.get("channel", True):
        lines.append("pixels = pixels[:, None] if pixels.ndim == 3 else pixels")
    many = len(preprocess["mean"]) > 1
    if many and not preprocess.get("channels_last"):
        channels = len(preprocess["mean"])
        lines.append(f"pixels = pixels if pixels.shape[1] == {channels} else np.moveaxis(pixels, -1, 1)")
    mean, std = ((_column(preprocess[name]) if many else repr(preprocess[name][0])) for name in ("mean", "std"))
    return [*lines, f"inputs = ((pixels * {preprocess['scale']!r} - {mean}) / {std}).astype(np.float32)"]


def _column(values: list[float]) -> str:
    return f"np.array({values!r})[:, None, None]"


READER = "read.py"
# The modules whose functions are copied into read.py.
_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Endings of the classes of transformers that write text.
_TEMPLATES = ("read_script_inputs", "read_script_models")
_BACKENDS = {"onnx": "numpy and onnxruntime", "reference": "torch and safetensors", "huggingface": "transformers"}
_EXAMPLES = {"table": "rows.csv", "images": "picture.png", "texts": "texts.csv", "prompts": "prompts.txt"}


class ReadScript(NamedTuple):
    """The parts of a ``read.py``.

    Attributes:
        kind: What it reads: ``table``, ``images`` (also arrays), ``texts``, or ``prompts`` of a language model.
        backend: What runs the student: ``onnx``, ``reference`` (limbeck's own networks in plain PyTorch) or
            ``huggingface``.
    """

    kind: str
    backend: str

    @property
    def requires(self) -> str:
        """The packages that it needs, in words."""
        more = {"images": ", and Pillow for image files", "texts": ", and tokenizers", "prompts": ", and tokenizers"}
        return _BACKENDS[self.backend] + more.get(self.kind, "")

    @property
    def command(self) -> str:
        """An example of its use."""
        return f"python {READER} {_EXAMPLES[self.kind]}"


def choose_reader(to: str, model: Mapping[str, Any], metadata: Mapping[str, Any], *, texts: bool) -> ReadScript | None:
    """The script for an export; None for a user's own class in a folder, because the folder does not have its code.

    `model` and `metadata` are the entries in the student's folder.
    """
    kind = backend = ""
    if texts:
        is_language = (metadata.get("task") or {}).get("name") == LanguageModeling.name
        kind = "prompts" if is_language or str(model.get("class")).endswith(_WRITERS) else "texts"
    elif metadata.get("encoding"):
        kind = "table"
    elif metadata.get("input_shape"):
        kind = "images"
    if to in ("onnx", "int8"):
        backend = "onnx"
    elif str(model.get("class")).startswith("transformers."):
        backend = "huggingface"
    elif "name" in model and not model.get("transforms"):  # the script builds the plain network
        backend = "reference"
    return ReadScript(kind, backend) if kind and backend else None


def write_reader(path: str | Path) -> Path:
    """Write ``read.py`` beside an ONNX file that `to_onnx` wrote, or into the folder of a student.

    The script predicts raw rows of a table, images or texts from the command line, without limbeck.

    Args:
        path: The file or folder. For a student of texts, ``tokenizer.json`` must be beside the file.

    Returns:
        The path of ``read.py``.

    Raises:
        LimbeckError: If the student in the folder is of your own class, or it is not known what it reads.

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
        properties = open_session(path).get_modelmeta().custom_metadata_map
        to, model, metadata = "onnx", {}, json.loads(properties.get("limbeck", "{}"))
    script = choose_reader(to, model, metadata, texts=(folder / "tokenizer.json").is_file())
    if script is None:
        raise LimbeckError(
            f"{path} does not say what its student reads, or the student is of your own class, whose code is not in "
            "the folder. Export it as ONNX from run.student or limbeck.load(...), which know class names, encoding and "
            "preprocessing."
        )
    write_script(script, folder, metadata)
    return folder / READER


def write_script(script: ReadScript, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``read.py`` into the folder of an export.

    A folder of transformers has no file for `metadata` such as the normalization of images, so they are in the script.
    """
    is_map = (metadata.get("task") or {}).get("name") == Segmentation.name
    what, prints = _PURPOSES["masks" if is_map else "prompts" if script.kind == "prompts" else "classes"]
    docstring = (
        f'"""{what} with the student in this folder. Needs {script.requires}, but not limbeck.\n\n'
        f'    {script.command}\n\n{prints}\n"""'
    )
    head = "from __future__ import annotations\n\n"
    if script.kind == "prompts":
        imports, body = _collect(["write_answers", f"open_{script.backend}_writer", "file_texts"])
        last = f'if __name__ == "__main__":\n    write_answers(open_{script.backend}_writer, file_texts)\n'
        write_text(f"{docstring}\n\n{head}" + "\n".join(imports) + f"\n\n{body}\n\n\n{last}", folder / READER)
        return
    imports, body = _collect(["main", f"read_{script.kind}", f"open_{script.backend}"])
    if script.backend == "huggingface":
        values = {name: metadata[name] for name in ("preprocess", "input_shape") if metadata.get(name)}
        body = body.replace("METADATA: dict[str, Any] = {}", f"METADATA: dict[str, Any] = {values!r}")
    layout = "" if script.kind == "images" else ", text_files=True"
    last = f'if __name__ == "__main__":\n    main(open_{script.backend}, read_{script.kind}{layout})\n'
    write_text(f"{docstring}\n\n{head}" + "\n".join(imports) + f"\n\n{body}\n\n\n{last}", folder / READER)


_PURPOSES = {
    "classes": (
        "Predicts raw examples",
        "prints the class of each example and its probability; --all prints all classes.",
    ),
    "prompts": ("Writes on from prompts", "prints an answer to each line, with the most likely token at each place."),
    "masks": (
        "Predicts the class of each pixel",
        "prints the share of each class in each image; --masks FILE.npy writes the class of each pixel.",
    ),
}


def _collect(functions: Sequence[str]) -> tuple[list[str], str]:
    """The source of some functions of the templates with all that they use, and the imports that this needs."""
    imports: dict[str, str] = {}
    definitions: dict[str, tuple[ast.stmt, str]] = {}
    for name in _TEMPLATES:
        text = files("limbeck.export").joinpath(f"{name}.py").read_text(encoding="utf-8")
        for node in ast.parse(text).body[2:]:  # after the docstring and the import of annotations
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    module = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
                    imports[alias.asname or alias.name] = f"{module}import {ast.unparse(alias)}"
            else:
                source = ast.get_source_segment(text, node) or ""
                definitions.update(dict.fromkeys(_defined_names(node), (node, source)))
    needed, todo = set[str](), list(functions)
    while todo:
        if (name := todo.pop()) not in needed:
            needed.add(name)
            if name in definitions:
                todo += [one.id for one in ast.walk(definitions[name][0]) if isinstance(one, ast.Name)]
    lines = sorted({imports[name] for name in needed & imports.keys()}, key=lambda line: (line[0] == "f", line))
    sources = dict.fromkeys(source for name, (_, source) in definitions.items() if name in needed)
    return lines, "\n\n\n".join(sources)


def _defined_names(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
