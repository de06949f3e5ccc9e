"""Parts of ``read.py`` that run a student, and its command line.

These functions are copied into ``read.py``, so they import nothing of limbeck, and each imports what only it needs.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# An opened student: its metadata, the shape of its first input if it is known, and a function from inputs to logits.
Student = tuple[dict[str, Any], list[Any] | None, Callable[[Any], np.ndarray]]


def main(
    open_student: Callable[[Path], Student],
    read_inputs: Callable[[list[Path], Any, Any], Any],
    *,
    text_files: bool = False,
) -> None:
    """Read the files named on the command line, and print a line of CSV for each example."""
    parser = argparse.ArgumentParser(description="Predict raw examples with the student in this folder.")
    parser.add_argument("files", nargs="+", type=Path, help="the files to read")
    parser.add_argument("--all", action="store_true", help="print the probabilities of all classes")
    parser.add_argument("--logits", action="store_true", help="print the logits of all classes")
    if text_files:
        parser.add_argument("--charset", help="the character encoding of the files, such as cp1252")
        parser.add_argument("--separator", help="the column separator of .csv and .tsv files; tab for a tab")
    else:
        parser.add_argument("--masks", type=Path, help="segmentation: the .npy file for the class of each pixel")
    options = parser.parse_args()
    metadata, shape, predict = open_student(Path(__file__).parent)
    if text_files:
        separator = "\t" if options.separator == "tab" else options.separator
        metadata = {**metadata, "charset": options.charset, "separator": separator}
    inputs = read_inputs(options.files, metadata, shape)
    count = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    parts = [
        predict({n: v[i : i + 250] for n, v in inputs.items()} if isinstance(inputs, dict) else inputs[i : i + 250])
        for i in range(0, count, 250)
    ]
    logits = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 0))
    rows = csv.writer(sys.stdout, lineterminator="\n")
    task = metadata.get("task") or {}
    names = metadata.get("class_names") or [str(number) for number in range(logits.shape[1])]
    if task.get("name") == "regression":
        rows.writerow(task.get("names") or names)
        values = logits * np.array(task["std"]) + np.array(task["mean"])
        rows.writerows([f"{x:.9g}" for x in row] for row in (logits if options.logits else values))
        return
    if task.get("name") == "multi_label":
        write_labels(rows, logits, task.get("names") or names, every=options.all, raw=options.logits)
        return
    if task.get("name") == "segmentation":
        write_masks(rows, logits.argmax(axis=1), names, options.masks)
        return
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    columns = logits if options.logits else exponentials / exponentials.sum(axis=1, keepdims=True)
    every = options.all or options.logits
    rows.writerow(["answer", *names] if every else ["answer", "probability"])
    for row, best in zip(columns, logits.argmax(axis=1) if count else [], strict=True):
        rows.writerow([names[best], *(f"{x:.9g}" for x in (row if every else [row[best]]))])


def write_masks(rows: Any, masks: np.ndarray, names: list[str], file: Path | None) -> None:
    """The share of each class among the pixels of each image; the class of each pixel goes to a file."""
    rows.writerow(names)
    rows.writerows([f"{(mask == number).mean():.9g}" for number in range(len(names))] for mask in masks)
    if file is not None:
        np.save(file, masks.astype(np.uint8 if len(names) <= 256 else np.int32))


def write_labels(rows: Any, logits: np.ndarray, names: list[str], *, every: bool, raw: bool) -> None:
    """The labels of each example, joined by "|", and the probability that all labels are right, if independent."""
    probabilities = 1 / (1 + np.exp(-logits))
    rows.writerow(["answer", *names] if every or raw else ["answer", "probability"])
    for row, logit in zip(probabilities, logits, strict=True):
        answer = "|".join(name for name, value in zip(names, row, strict=True) if value > 0.5)
        together = [np.prod(np.maximum(row, 1 - row))]
        rows.writerow([answer, *(f"{x:.9g}" for x in (logit if raw else row if every else together))])


KINDS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(string)": object}


def open_onnx(folder: Path) -> Student:
    """Open an ONNX file."""
    import onnxruntime

    file = next(iter(sorted(folder.glob("*.onnx"))))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    expected = session.get_inputs()

    def predict(inputs: Any) -> np.ndarray:
        tensors = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
        named = inputs if isinstance(inputs, dict) and expected[0].name in inputs else {}
        feed = {one.name: named.get(one.name, value) for one, value in zip(expected, tensors, strict=False)}
        feed = {one.name: feed[one.name].astype(KINDS.get(one.type, feed[one.name].dtype)) for one in expected}
        feed = {one.name: feed[one.name].reshape(-1, 1) if one.shape[1:] == [1] else feed[one.name] for one in expected}
        return session.run(None, feed)[0]

    return json.loads(session.get_modelmeta().custom_metadata_map["limbeck"]), expected[0].shape, predict


METADATA: dict[str, Any] = {}


def open_huggingface(folder: Path) -> Student:
    """Open a folder of transformers."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(str(folder)).eval()
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]

    def predict(inputs: Any) -> np.ndarray:
        tensors = inputs if isinstance(inputs, dict) else {"pixel_values": inputs}
        tensors = {name: torch.from_numpy(value) for name, value in tensors.items() if name != "token_type_ids"}
        with torch.no_grad():
            logits: np.ndarray = model(**tensors).logits.float().numpy()
            return logits

    return {**METADATA, "class_names": names}, None, predict


def open_reference(folder: Path) -> Student:
    """Open one of limbeck's own networks, from its weights, in plain PyTorch."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights, model = load_file(str(folder / "model.safetensors")), config["model"]
    network: Any = {"mlp": mlp, "cnn": cnn, "fcn": fcn}.get(model["name"], resnet)

    def predict(inputs: Any) -> np.ndarray:
        with torch.no_grad():
            features = network(torch.from_numpy(inputs), weights, model["arguments"])
            last = torch.nn.functional.conv2d if features.ndim == 4 else torch.nn.functional.linear
            logits: np.ndarray = last(features, *pair(weights, "classifier")).numpy()
            return logits

    return config["metadata"], None, predict


def pair(weights: dict[str, Any], name: str) -> tuple[Any, Any]:
    """The weight and the bias of a layer."""
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def mlp(x: Any, weights: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Linear layers with ReLU between them."""
    from torch.nn import functional as F

    x = x.flatten(1)
    for number in range(1, len(arguments["hidden"]) + 1):
        x = F.relu(F.linear(x, *pair(weights, f"layer{number}.1")))
    return x


def cnn(x: Any, weights: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Convolutions with ReLU, and pooling while a side of at least 2 is left."""
    from torch.nn import functional as F

    side = arguments["size"]
    for number in range(1, len(arguments["widths"]) + 1):
        x = F.relu(F.conv2d(x, *pair(weights, f"layer{number}.0"), padding=1))
        if side >= 4:
            x, side = F.max_pool2d(x, 2), side // 2
    return x.flatten(1)


def fcn(x: Any, weights: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Convolutions that keep the size, with dilation, batch norm and ReLU."""
    from torch.nn import functional as F

    for number in range(len(arguments["widths"])):
        step, norm = min(2**number, 8), f"layer{number + 1}.1"
        x = F.conv2d(x, weights[f"layer{number + 1}.0.weight"], padding=step, dilation=step)
        moments = (weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"])
        x = F.relu(F.batch_norm(x, *moments, *pair(weights, norm)))
    return x


def resnet(x: Any, weights: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Residual blocks in three stages (He et al., 2015, section 4.2) with shortcuts that have no parameters."""
    from torch.nn import functional as F

    def norm(x: Any, name: str) -> Any:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, *pair(weights, name))

    x = F.relu(norm(F.conv2d(x, weights["stem.0.weight"], padding=1), "stem.1"))
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.norm1"))
            y = norm(F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1), f"{name}.norm2")
            more = y.shape[1] - x.shape[1]
            x = F.relu(y + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2)))
            block += 1
    return x.mean((2, 3))


Writer = Callable[[str, int], str]  # a function from a prompt and the largest number of new tokens to the answer


def write_answers(open_writer: Callable[[Path], Writer], read_prompts: Callable[[Path, Any], list[str]]) -> None:
    """Read prompts from the files named on the command line, and print a line of CSV with the answer to each."""
    parser = argparse.ArgumentParser(description="Write on from prompts with the student in this folder.")
    parser.add_argument("files", nargs="+", type=Path, help="text files, a prompt in each line, or in .csv or .jsonl")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="the largest number of tokens of an answer")
    parser.add_argument("--charset", help="the character encoding of the files, such as cp1252")
    parser.add_argument("--separator", help="the column separator of .csv and .tsv files; tab for a tab")
    options = parser.parse_args()
    separator = "\t" if options.separator == "tab" else options.separator
    layout = {"charset": options.charset, "separator": separator}
    write = open_writer(Path(__file__).parent)
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["prompt", "answer"])
    for path in options.files:
        for number, prompt in enumerate(read_prompts(path, layout), 1):
            if not prompt.strip():
                print(f"Prompt {number} of {path} is empty; the student begins a text of its own.", file=sys.stderr)
            rows.writerow([prompt, write(prompt, options.max_new_tokens)])


def open_huggingface_writer(folder: Path) -> Writer:
    """Open a language model of transformers."""
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(str(folder)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    decodes = bool(model.config.is_encoder_decoder)
    window = model.config.to_dict().get("max_position_embeddings") or model.config.to_dict().get("n_positions")
    ends = () if decodes else (tokenizer.eos_token_id, tokenizer.sep_token_id)

    def write(prompt: str, count: int) -> str:
        ids = without_end(tokenizer(prompt, verbose=False)["input_ids"], ends, tokenizer.eos_token_id)
        if window and not decodes:
            count = min(count, window - 1)
            note_cut(len(ids), window - count)
            ids = ids[-(window - count) :]
        inputs = torch.tensor([ids])
        written = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, do_sample=False
        )  # fmt: skip
        new = written[0] if decodes else written[0, len(ids) :]
        return str(tokenizer.decode(new, skip_special_tokens=True))

    return write


def open_onnx_writer(folder: Path) -> Writer:
    """Open a language model in an ONNX file, which computes all logits for each new token."""
    import onnxruntime
    from tokenizers import Tokenizer

    file = next(iter(sorted(folder.glob("*.onnx"))))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = [settings.get(name) for name in ("eos_token", "sep_token")]
    end, *more = [tokenizer.token_to_id(n["content"] if isinstance(n, dict) else n) if n else None for n in names]
    window = int(settings["model_max_length"])

    def write(prompt: str, count: int) -> str:
        ids = without_end(tokenizer.encode(prompt).ids, (end, *more), end)
        start = len(ids)
        note_cut(start, window)
        while len(ids) - start < count and (len(ids) == start or ids[-1] != end):
            seen = np.array([ids[-window:]])
            feed = {
                "input_ids": seen,
                "attention_mask": np.ones_like(seen),
                "position_ids": np.arange(seen.shape[1])[None],
            }
            logits = session.run(None, {one.name: feed[one.name] for one in session.get_inputs()})[0]
            ids.append(int(logits[0, -1].argmax()))
        return str(tokenizer.decode(ids[start:]))

    return write


def note_cut(tokens: int, room: int) -> None:
    """Say that a prompt does not fit."""
    if tokens > room:
        print(
            f"A prompt has {tokens} tokens, and the student reads {room} beside the answer: the beginning is left out. "
            "Shorten it, or lower --max-new-tokens.",
            file=sys.stderr,
        )


def without_end(ids: list[int], ends: tuple[int | None, ...], first: int | None) -> list[int]:
    """The tokens of a prompt without those that end a text; `first` if there is none."""
    while len(ids) > 1 and ids[-1] in ends:
        ids = ids[:-1]
    return list(ids) or [first or 0]
