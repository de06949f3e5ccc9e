"""Skeleton of a new method: its file, its test and its page."""

from __future__ import annotations

import keyword
from pathlib import Path

from limbeck.atomic_io import make_folder
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error

_METHOD = '''"""{title}: say in one line what the student learns."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.functional import {imports}
from limbeck.losses import Loss
from limbeck.methods import MethodCard, SearchRange
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage


@kernel(per="{per}")
{kernel_signature}
    """Write the formula of the paper here, one value per {per}.

    Source: authors, year, arXiv id, equation.
    """
{check}    return {body}


CARD = MethodCard(
    name="{name}",
    title="Title of the paper",
    authors="First, Second and Third",
    year=2026,
    arxiv=None,
    venue="Conference or journal",
    claim="What the method does, in one sentence.",
    when="When to use it, and when not.",
    bibtex="""@article{{key2026title,
  title = {{Title of the paper}},
  author = {{Last, First}},
  year = {{2026}}
}}""",
    reads=({reads},),
    labels="required",
{example}    ranges={{
{ranges}        "label_weight": SearchRange(0.1, 1.0),
        "weight": SearchRange(0.1, 10.0, log=True),
    }},
    kernels=(
        KernelClaim(
            {name}_loss,
{claim}        ),
    ),
)


@validates_arguments
{signature}
    r"""Train on labels and the teacher: :math:`-v \\log q_y + w L`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
{help}        label_weight: v, the weight of the cross-entropy of the labels, at least 0.
        weight: w, the weight of the loss, at least 0.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If {refused}.

    Source: authors, year, arXiv id.
    """
{check}    check_weight(label_weight=label_weight, weight=weight)
    term = Loss({name}_loss{places})
    objective = label_weight * Loss(cross_entropy) + weight * term
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="{name}"))
'''


def _claim(*arguments: str) -> str:
    return "".join(f"            {argument},\n" for argument in arguments)


_LOGITS = {
    "imports": "KernelClaim, check_hyper, cross_entropy, kernel, kl_divergence", "reads": '"logits"', "example": "",
    "ranges": '        "temperature": SearchRange(1.0, 20.0, log=True),\n', "per": "position",
    "shape": "*batch classes", "result": "*batch", "hyper": ", *, temperature: float = 1.0",
    "check": "    check_hyper(temperature=temperature)\n",
    "body": "kl_divergence(student, teacher, temperature=temperature)  # times T^2 already",
    "settings": "temperature: float = 4.0, ", "help": "        temperature: T, above 0.\n",
    "refused": "`temperature` is not above 0, or a weight is negative", "places": ", temperature=temperature",
    "claim": _claim('hyper={"temperature": 4.0}', "zero_at_equality=True", 'invariances=("student_shift",)'),
    "test_imports": "\nimport math\n", "loop_arguments": "student, teacher, temperature",
    "loop": """    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = ([math.exp(x / temperature) for x in row] for row in (z, v))
        pairs = [(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True)]
        values.append(temperature**2 * sum(a * math.log(a / b) for a, b in pairs))
""",
}  # fmt: skip
_FEATURES = {
    "imports": "KernelClaim, Projector, cross_entropy, kernel, squared_error", "reads": '"features"',
    "example": '    example={"at": "layer1", "student_at": "layer1"},\n', "ranges": "", "per": "example",
    "shape": "batch ...", "result": " batch", "hyper": "", "check": "", "body": "squared_error(student, teacher)",
    "settings": "at: str, student_at: str, ",
    "help": "        at: Name of the teacher's layer.\n        student_at: Name of the student's layer.\n",
    "refused": "a weight is negative", "places": ", student=student_at, teacher=at, head=Projector()",
    "claim": _claim("logits=False", "largest=1e15", "zero_at_equality=True"),
    "test_imports": "", "loop_arguments": "student, teacher",
    "loop": """    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        values.append(sum((a - b) ** 2 for a, b in zip(z, v, strict=True)) / len(z))
""",
}  # fmt: skip

_TEST = '''"""{title}: the kernel as loops, and the claim of the paper."""

from __future__ import annotations
{test_imports}

def brute_force_{name}_loss({loop_arguments}):
    """The formula of the paper with plain loops: tests/methods/test_conformance.py compares the kernel with it."""
    values = []
{loop}    return values


# Add a test of the claim of the paper on a small problem, against the student alone: see methods/planted.py.
'''

_PAGE = """<!-- from the card: `make docs` writes what follows -->
<!-- end of the card -->

## The mathematics

Write the loss here, with the symbols of the paper and its unit.

## Limitations

- Say when the method fails, and what is an error.

<!-- from the card: `make docs` writes what follows -->
<!-- end of the card -->
"""

FAMILIES = ("controls", "logits", "features", "relations", "online", "teachers", "data", "language", "embeddings")
"""The families of methods, in the order of `limbeck methods`."""


def write_skeleton(name: str, *, family: str = "logits", folder: str | Path = ".") -> list[Path]:
    """Write the files of a new method, which passes `limbeck.testing.check_method` as it is.

    In a checkout of limbeck these are its file, its test and its page. Elsewhere it is one file, for
    ``--method NAME.py:NAME``.

    Args:
        name: The name of the method.
        family: One of `FAMILIES`.
        folder: The checkout, or any other folder.

    Returns:
        The new files.

    Raises:
        ArgumentError: If the name is no Python name in lower case, or that of a family.
        UnknownNameError: If there is no such family.
        LimbeckError: If a file exists, or `folder` is a file.
    """
    if not name.isidentifier() or name != name.lower() or keyword.iskeyword(name):
        raise ArgumentError(
            f"The name of a method is a Python name in lower case, such as relational; got {name!r}.", argument="name"
        )
    if name in FAMILIES:
        raise ArgumentError(
            f"{name!r} is a family of methods. Choose another name, such as {name}_kd.", argument="name"
        )
    if family not in FAMILIES:
        raise unknown_name_error("family", family, FAMILIES, argument="family")
    root, title = Path(folder), name.replace("_", " ").capitalize()
    parts = _FEATURES if family in ("features", "relations") else _LOGITS
    tensor = f'Float[Tensor, "{parts["shape"]}"]'
    inputs = f"student: {tensor}, teacher: {tensor}{parts['hyper']}"
    settings = f"{parts['settings']}label_weight: float = 1.0, weight: float = 1.0, "
    method = _METHOD.format(
        name=name, title=title, **parts,
        kernel_signature=_signature(f"{name}_loss", inputs, f'Float[Tensor, "{parts["result"]}"]'),
        signature=_signature(name, f"teacher: Any, *, {settings}epochs: int | None = None", "Recipe"),
    )  # fmt: skip
    methods = root / "src" / "limbeck" / "methods"
    files = {root / f"{name}.py": method}
    if methods.is_dir():
        files = {
            methods / family / f"{name}.py": method,
            root / "tests" / "methods" / f"test_{name}.py": _TEST.format(name=name, title=title, **parts),
            root / "docs" / "methods" / f"{name}.md": _PAGE,
        }
        if not (methods / family).exists():
            files[methods / family / "__init__.py"] = f'"""Methods of the family {family}."""\n'
    for path in files:
        if path.exists():
            raise LimbeckError(f"{path} exists already. Choose another name, or remove the file.")
    for path, text in files.items():
        make_folder(path.parent)
        path.write_text(text, encoding="utf-8")
    return list(files)


def _signature(name: str, arguments: str, result: str) -> str:
    """Format the first line of a function, in three lines if it is too long for one."""
    line = f"def {name}({arguments}) -> {result}:"
    return line if len(line) <= 120 else f"def {name}(\n    {arguments}\n) -> {result}:"
