"""Write the generated parts of the pages of methods, of other pages, and of the job files in examples/tables.

`python tools/method_pages.py` writes them; with `--check` it only lists the pages that are out of date.
"""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

from limbeck.cli.methods import FAMILY_TITLES
from limbeck.methods import MethodCall, method, names
from limbeck.papers import paper, paper_names

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script it finds only its own folder
from tools import compare_tables
from tools.result_pages import RESULTS, count_claims, read_results, render_index, render_page
from tools.table_jobs import updated_jobs

DOCS = Path(__file__).resolve().parents[1] / "docs"
LINE_LENGTH = 120
"""As in pyproject.toml: the formatter reads the code of pages as well."""
FIRST, LAST = "<!-- from the card: `make docs` writes what follows -->", "<!-- end of the card -->"
BAR = "\\|"
"""A bar inside of a cell of a table."""
LABELS = {"required": "needed", "few": "a few are enough", "optional": "optional", "unused": "not used"}


def family_of(call: MethodCall) -> str:
    """Return the family of a method: the folder of its file."""
    return str(call.make.__module__).split(".")[-2]


def render_first(call: MethodCall) -> str:
    """Render the start of a page: claim, reference, needs, when to use it, and how."""
    card = call.card
    link = f" [arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})." if card.arxiv else ""
    required = {key: card.example[key] for key in call.required if key != "teacher"}
    arguments = ["teacher"] * call.has_teacher + [f"{key}={_python(value)}" for key, value in required.items()]
    flags = "".join(f" --set {shlex.quote(f'method.{key}={_yaml(value)}')}" for key, value in required.items())
    return f"""# {card.name}

{card.claim}

{card.authors}, *{card.title}*, {card.year}. {card.venue}.{link}

| teacher | labels | also needed | family |
|---|---|---|---|
| {_teacher(call)} | {LABELS[card.labels]} | {card.needs or "-"} | {family_of(call)} |

## When to use it

{card.when}

## How

```python
from limbeck.engine import distill
from {call.make.__module__} import {card.name}

{_training_lines(card.name, arguments)}
run.student  # the final model
```

```console
$ limbeck distill {_models(call)} --method {card.name}{flags}
```
"""


def _training_lines(name: str, arguments: list[str]) -> str:
    """The line that trains; with a line of its own for the recipe where both are too long for one."""
    recipe = f"{name}({', '.join(arguments)})"
    whole = f"run = distill(student, {recipe}, data, epochs=10).finish()"
    if len(whole) <= LINE_LENGTH:
        return whole
    return f"recipe = {recipe}\nrun = distill(student, recipe, data, epochs=10).finish()"


def render_last(call: MethodCall) -> str:
    """Render the end of a page: settings and citation."""
    rows = []
    for key, parameter in call.parameters.items():
        if key in ("teacher", "epochs"):
            continue
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        limits = call.card.ranges.get(key)
        tuned = "-" if limits is None else f"{limits.low:g} to {limits.high:g}"
        rows.append(f"| `{key}` | {default} | {tuned} | {_markdown(call.argument_help.get(key, ''))} |")
    table = "\n".join(["| argument | default | `limbeck tune` | meaning |", "|---|---|---|---|", *rows])
    settings = table if rows else "It has no hyper-parameters."
    return f"""## Settings

{settings}

The default of `epochs` is the budget of the run.

## Citation

```bibtex
{call.card.bibtex}
```
"""


_QUESTIONS: Mapping[str, Callable[[MethodCall], bool]] = {
    "a teacher that gives logits only": lambda call: call.has_teacher and call.card.reads == ("logits",),
    "access to the layers of a teacher": lambda call: call.has_teacher and "features" in call.card.reads,
    "no teacher": lambda call: not call.has_teacher,
    "no labels": lambda call: call.card.labels in ("optional", "unused"),
    "few labels": lambda call: call.card.labels == "few",
    "a teacher with another tokenizer": lambda call: call.card.across_tokenizers,
    "several labels for each example": lambda call: "multi_label" in call.card.tasks,
    "numbers to predict (regression)": lambda call: "regression" in call.card.tasks,
    "a label for each pixel (segmentation)": lambda call: "segmentation" in call.card.tasks,
    "texts to write (language modeling)": lambda call: "language_modeling" in call.card.tasks,
}
"""What somebody has -> whether a method is for that, from its card."""


def render_table() -> str:
    """Render the methods for the page on choosing one: by what somebody has, then by family."""
    calls = {name: method(name) for name in names()}
    lines = ["| you have | methods |", "|---|---|"]
    for have, fits in _QUESTIONS.items():
        lines.append(f"| {have} | {', '.join(_link(name) for name, call in calls.items() if fits(call))} |")
    for family, members in groupby(calls, key=lambda name: family_of(calls[name])):
        title = FAMILY_TITLES.get(family, "")
        lines += ["", f"### {family.capitalize()}{f': {title}' if title else ''}", ""]
        lines += ["| method | when | teacher | labels | also needed |", "|---|---|---|---|---|"]
        for name in members:
            card = calls[name].card
            cells = [_first_sentence(card.when), _teacher(calls[name]), LABELS[card.labels], card.needs or "-"]
            lines.append(f"| {_link(name)} | {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _link(name: str) -> str:
    return f"[{name}](methods/{name}.md)"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z0-9)][.])\s+(?=[A-Z])", text, maxsplit=1)[0]


def render_papers() -> str:
    """Render the table of the papers whose experiments run, with the questions that they answer."""
    lines = ["| paper | command | questions | what came out |", "|---|---|---|---|"]
    for name in paper_names():
        one = paper(name)
        questions = "<br>".join(experiment.title for experiment in one.experiments.values())
        counts, page = count_claims(name), "`table.md` of a run"
        if (RESULTS / f"{name}.md").is_file():
            page = f"{counts}, [results](results/{name}.md)" if counts else f"[results](results/{name}.md)"
        lines.append(f"| {one.title} | `limbeck papers {name}` | {questions} | {page} |")
    return "\n".join(lines) + "\n"


def render_claims() -> str:
    """Render the table of the claims of all methods."""
    lines = ["| method | paper | claim |", "|---|---|---|"]
    for name in names():
        card = method(name).card
        reference = f"[arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else card.venue
        first = card.authors.replace(" and ", ", ").split(",")[0]
        claim = card.claim.replace("|", "\\|")
        lines.append(f"| [{name}](methods/{name}.md) | {first} et al., {card.year}, {reference} | {claim} |")
    return "\n".join(lines) + "\n"


def update(text: str, *parts: str) -> str:
    """Put generated parts between the markers of a page, in order; a page without markers is an error."""
    pieces = re.split(f"{re.escape(FIRST)}\n.*?{re.escape(LAST)}", text, flags=re.DOTALL)
    if len(pieces) != len(parts) + 1:
        raise ValueError(f"the page needs {len(parts)} generated parts between {FIRST!r} and {LAST!r}")
    inner = [f"{FIRST}\n\n{part}\n{LAST}" for part in parts]
    return "".join(piece + part for piece, part in zip(pieces, [*inner, ""], strict=True))


def updated_pages() -> dict[Path, str]:
    """Return the current text of every page with generated parts."""
    pages = {
        DOCS / "choose.md": [render_table()],
        DOCS / "claims.md": [render_papers(), render_claims()],
        RESULTS / "index.md": [render_index()],
    }
    results = {RESULTS / f"{name}.md": name for name in read_results()}
    pages |= {
        path: [render_page(name)] for path, name in results.items()
        if path.is_file() and FIRST in path.read_text(encoding="utf-8")
    }  # fmt: skip
    pages |= {
        DOCS / "methods" / f"{name}.md": [render_first(method(name)), render_last(method(name))] for name in names()
    }
    updated = {path: update(path.read_text(encoding="utf-8"), *parts) for path, parts in pages.items()}
    return updated | updated_jobs() | compare_tables.updated_pages()


def main() -> int:
    """Write the pages, or check them."""
    stale = [(path, text) for path, text in updated_pages().items() if path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        print(path.relative_to(DOCS.parent), "is out of date" if "--check" in sys.argv else "written")
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return len(stale) if "--check" in sys.argv else 0


def _teacher(call: MethodCall) -> str:
    reads = " and ".join(call.card.reads)
    if call.has_teacher:
        return f"its {reads}"
    return f"none; {reads} of a peer or an average" if reads else "none"


def _models(call: MethodCall) -> str:
    """Models and data of the kind that the method is for, from its family, its tasks and the networks of its tests."""
    card = call.card
    if card.models_and_data:
        return card.models_and_data
    if card.across_tokenizers:
        return "--teacher hf:gpt2-medium --student hf:OTHER_TOKENIZER --data corpus.jsonl"
    if family_of(call) == "language" or "language_modeling" in card.tasks[:1]:
        return "--teacher hf:gpt2-medium --student hf:gpt2 --data corpus.jsonl"
    if (call.has_teacher and "teachers or more" in call.card.needs) or "robust teacher" in call.card.needs:
        names = ("first", "second") if "robust teacher" in call.card.needs else ("first", "second", "third")
        several = " ".join(f"--set teachers.{name}=resnet20" for name in names)
        return f"{several} --student resnet8 --data cifar10"
    if "transformer" in card.trials:
        return "--teacher hf:bert-base-uncased --student hf:google/bert_uncased_L-4_H-256_A-4 --data reviews.csv"
    if card.tasks[:1] == ("regression",):
        members = " --set teacher.members=5" if "ensemble" in call.card.needs else ""
        teacher = f"--teacher mlp --set teacher.hidden=[64]{members}"
        return f"{teacher} --student mlp --set student.hidden=[16] --data rent.csv --set data.target=rent"
    return "--teacher resnet20 --student resnet8 --data cifar10"


def _yaml(value: object) -> str:
    """A value as it is typed in YAML, where names need no quotes."""
    return f"[{', '.join(map(_yaml, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _python(value: object) -> str:
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')


def _markdown(text: str) -> str:
    text = re.sub(r":math:`(.*?)`", r"`\1`", text).replace("``", "`")
    return inspect.cleandoc(text).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
