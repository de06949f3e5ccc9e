"""Figures of the source code with their bars: size, names, docstrings, imports.

Run `make house`, or `python tools/house.py [--json] [--check] [--packages] [ROOT]`. Everything is counted from the text
of the files below ROOT/src/limbeck; nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "limbeck"

PARTICIPLES = frozenset({
    "found", "told", "asked", "said", "shown", "kept", "given", "held", "made", "judged", "wanted", "meant", "known",
    "taken", "built", "begun", "learnt", "left", "set_going", "fed", "parted", "thinned",
})  # fmt: skip
"""Words that may not be a whole name: they do not describe the thing."""

BARS: Mapping[str, tuple[str, float]] = {
    "files": ("at most", 230),
    "lines": ("at most", 36_000),
    "median_file": ("at least", 110),
    "longest": ("at most", 400),
    "question_docstrings": ("at most", 0),
    "participles_share": ("at most", 0.5),
    "getattr_default": ("at most", 15),
    "getattr_without_reason": ("at most", 0),
    "classes_defined_twice": ("at most", 0),
    "import_cycles": ("at most", 0),
}

MEANINGS: Mapping[str, str] = {
    "files": "Python files in the wheel",
    "lines": "their lines",
    "median_file": "lines of the median file",
    "longest": "lines of the longest file",
    "question_docstrings": "module docstrings that are questions",
    "participles_share": "bare participles among bound names, %",
    "getattr_default": "getattr with a default",
    "getattr_without_reason": "of these, without a comment beside it",
    "classes_defined_twice": "public class names defined twice",
    "import_cycles": "import cycles",
    "comment_share": "comment lines, %",
}


def count_house(root: Path) -> dict[str, float]:
    """Count the figures of a source tree.

    Args:
        root: The folder that holds ``src/limbeck``.

    Raises:
        FileNotFoundError: If there are no Python files.
    """
    package = root / "src" / PACKAGE
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    if not texts:
        raise FileNotFoundError(f"no Python files below {package}")
    trees = {path: ast.parse(text) for path, text in texts.items()}
    sizes = sorted(len(text.splitlines()) for text in texts.values())
    names = [name for tree in trees.values() for name in find_bound_names(tree)]
    bare = sum(name.lstrip("_") in PARTICIPLES for name in names)
    comments = {path: find_comments(text) for path, text in texts.items()}
    getattrs = [(path, line) for path, tree in trees.items() for line in find_getattr_defaults(tree)]
    classes = Counter(
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    return {
        "files": len(texts),
        "lines": sum(sizes),
        "median_file": statistics.median_high(sizes),
        "longest": sizes[-1],
        "question_docstrings": sum(has_question(tree) for tree in trees.values()),
        "participles_share": round(100 * bare / max(len(names), 1), 2),
        "getattr_default": len(getattrs),
        "getattr_without_reason": sum(not {line, line - 1} & comments[path] for path, line in getattrs),
        "classes_defined_twice": sum(count > 1 for count in classes.values()),
        "import_cycles": count_cycles(make_import_graph(package, trees)),
        "comment_share": round(100 * sum(map(len, comments.values())) / max(sum(sizes), 1), 2),
    }


KINDS = ("code", "docstrings", "comments", "blank")
"""What a line can be. A comment behind code is code, and a blank line inside a docstring is a docstring."""


def count_kinds(text: str) -> Counter[str]:
    """The number of lines of each of `KINDS` in a file."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kinds: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        rest = "blank" if not stripped else "comments" if stripped.startswith("#") else "code"
        kinds["docstrings" if number in docstrings else rest] += 1
    return kinds


def count_packages(root: Path) -> dict[str, Counter[str]]:
    """Package -> its files, and its lines of each kind; single modules are ``(modules)``."""
    base = root / "src" / PACKAGE
    packages: dict[str, Counter[str]] = {}
    for path in sorted(base.rglob("*.py")):
        first = path.relative_to(base).parts[0]
        counts = packages.setdefault(first if (base / first).is_dir() else "(modules)", Counter())
        counts += count_kinds(path.read_text(encoding="utf-8"))
        counts["files"] += 1
    return dict(sorted(packages.items(), key=lambda item: -sum(item[1][kind] for kind in KINDS)))


def format_packages(packages: Mapping[str, Counter[str]]) -> str:
    """Files and lines of each package, and their sums, as a table."""
    columns = ("files", "lines", *KINDS)
    total: Counter[str] = sum(packages.values(), Counter())
    rows: list[tuple[str, ...]] = [("package", *columns)]
    for name, counts in {**packages, "all": total}.items():
        lines = sum(counts[kind] for kind in KINDS)
        rows.append((name, *(f"{value:,}" for value in (counts["files"], lines, *(counts[kind] for kind in KINDS)))))
    return "\n".join(f"{row[0]:<14}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows)


def has_question(tree: ast.Module) -> bool:
    """Whether the first line of the module's docstring ends in a question mark."""
    docstring = ast.get_docstring(tree) or ""
    return docstring.partition("\n")[0].rstrip().endswith("?")


def find_bound_names(tree: ast.Module) -> Iterator[str]:
    """The names of functions and of their parameters, and the variables that are assigned to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
            yield from (argument.arg for argument in node.args.args + node.args.kwonlyargs)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def find_getattr_defaults(tree: ast.Module) -> Iterator[int]:
    """The lines of calls of ``getattr`` with a default."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id == "getattr" and len(node.args) == 3:
            yield node.lineno


def find_comments(text: str) -> set[int]:
    """The lines with a comment for people; those for tools do not count."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:|fmt:)", token.string)
    }


def make_import_graph(package: Path, trees: Mapping[Path, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, also inside functions.

    ``__init__.py`` files are left out: they re-export the names of their package, and a cycle through one shows up
    between the modules themselves.
    """
    parts = {path: (PACKAGE, *path.relative_to(package).with_suffix("").parts) for path in trees}
    modules = {path: ".".join(part) for path, part in parts.items() if path.name != "__init__.py"}
    module_names = set(modules.values())
    graph: dict[str, set[str]] = {}
    for path, module in modules.items():
        imports = set()
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                imports |= names & module_names or {node.module} & module_names
        graph[module] = imports - {module}
    return graph


def count_cycles(graph: Mapping[str, set[str]]) -> int:
    """The number of groups of modules that import one another (strongly connected components)."""
    reachable = {module: _reach(module, graph) for module in graph}
    groups = {
        frozenset(other for other in reachable[module] if module in reachable[other])
        for module in graph
        if module in reachable[module]
    }
    return len(groups)


def _reach(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    stack = list(graph[start])
    while stack:
        module = stack.pop()
        if module not in reached:
            reached.add(module)
            stack += graph[module]
    return reached


def meets_bar(name: str, value: float) -> bool:
    """Whether a figure meets its bar; a figure without a bar does."""
    if name not in BARS:
        return True
    side, bar = BARS[name]
    return value <= bar if side == "at most" else value >= bar


def format_table(figures: Mapping[str, float]) -> str:
    """The figures with their bars, one per line."""
    lines = []
    for name, value in figures.items():
        side, bar = BARS.get(name, ("", None))
        limit = "no bar" if bar is None else f"{side} {bar:,}"
        result = "" if bar is None else "met" if meets_bar(name, value) else "missed"
        lines.append(f"{MEANINGS[name]:<40} {value:>9,}   {limit:<16} {result}".rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; with ``--check``, return 1 if one misses its bar."""
    parser = argparse.ArgumentParser(description="Figures of the source code beside their bars.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    parser.add_argument("--check", action="store_true", help="Exit with 1 if a bar is missed.")
    parser.add_argument("--packages", action="store_true", help="Print what the lines of each package are.")
    options = parser.parse_args(arguments)
    if options.packages:
        print(format_packages(count_packages(options.root)))
        return 0
    figures = count_house(options.root)
    print(json.dumps(figures) if options.json else format_table(figures))
    return int(options.check and not all(meets_bar(name, value) for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
