"""`run_program`: runs short programs that a model wrote, without giving them anything but arithmetic."""

from __future__ import annotations

import ast
import math
import operator
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.errors import ArgumentError, LimbeckError

Number = int | float
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _round(value: Number, digits: int = 0) -> Number:
    # round(5, -10**9) would compute a power of ten with a billion digits.
    if not abs(digits) <= 100:
        raise ValueError("round takes at most 100 digits")
    return round(value, digits) if digits else round(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "int": int,
    "float": float,
    "sqrt": math.sqrt,
    "floor": math.floor,
    "ceil": math.ceil,
    "gcd": math.gcd,
}
_ONE_OR_MORE = {"min", "max", "gcd"}
_DEEPEST = 100  # nested expressions


class ProgramError(LimbeckError):
    """A program that a model wrote was refused, or failed.

    Attributes:
        reason: Why, in a few words: ``not allowed``, ``syntax``, ``too long``, ``too large``, ``time``, ``failed``,
            ``no result``.
    """

    def __init__(self, sentence: str, *, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def run_program(
    program: str,
    *,
    inputs: Mapping[str, Number] | None = None,
    result: str = "answer",
    seconds: float = 1.0,
    max_characters: int = 2000,
    max_bits: int = 1024,
) -> Number:
    r"""Run a program of assignments and arithmetic, and return its result.

    The text is parsed as Python, and each part is computed here: nothing is compiled or given to Python to execute. So
    there are no built-in functions, attributes, imports, loops, functions or texts in it, only numbers, names,
    ``+ - * / // % **``, assignments such as ``a += 1``, comparisons, ``a if b else c`` and the functions abs, round,
    min, max, int, float, sqrt, floor, ceil and gcd. All else is refused before anything runs. Powers are checked before
    they are computed.

    Args:
        program: The program, such as ``eggs = 16 - 3``.
        inputs: Numbers that it can read.
        result: The name of the result. If the program sets no such name, its last line is the result.
        seconds: The longest time.
        max_characters: The longest program.
        max_bits: The largest whole number, in bits.

    Raises:
        ProgramError: If the program is refused, fails, takes too long, or has no result.
        ArgumentError: If a limit is not positive.

    Example:
        >>> run_program("left = 16 - 3 - 4\nanswer = left * 2")
        18
        >>> run_program("().__class__")
        Traceback (most recent call last):
        limbeck.generated_texts.program.ProgramError: Line 1 has an attribute (Attribute), which is not allowed.
    """
    limits = {"seconds": seconds, "max_characters": max_characters, "max_bits": max_bits}
    for name, limit in limits.items():
        if not limit > 0:
            raise ArgumentError(f"{name} is a limit above 0; got {limit!r}.", argument=name)
    tree = _parse(program, max_characters)
    state = _Program(dict(inputs or {}), max_bits, time.monotonic() + seconds)
    value: Number | None = None
    for statement in tree.body:
        value = state.run(statement)
    if any(result in map(_target, _targets(statement)) for statement in tree.body):
        value = state.names[result]
    if value is None:
        raise ProgramError("The program is empty, so it has no result.", reason="no result")
    return value


def _parse(program: str, max_characters: int) -> ast.Module:
    """Parse a program, and refuse all parts that are not arithmetic before anything is computed."""
    if len(program) > max_characters:
        raise ProgramError(
            f"The program has {len(program):,} characters; the most is {max_characters:,}.", reason="too long"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the style of the program
            tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise ProgramError(f"The program is not valid Python: {why}.", reason="syntax") from error
    waiting: list[tuple[ast.AST, int]] = [(statement, 0) for statement in tree.body]
    while waiting:
        node, depth = waiting.pop()
        if not _is_allowed(node) or depth > _DEEPEST:
            what = "an attribute" if isinstance(node, ast.Attribute) else "a part"
            if depth > _DEEPEST:
                raise ProgramError(f"An expression is nested in more than {_DEEPEST} others.", reason="too large")
            raise ProgramError(
                f"Line {_line(node)} has {what} ({type(node).__name__}), which is not allowed.",
                reason="not allowed",
            )
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return tree


def _is_allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    if isinstance(node, ast.AugAssign):
        return isinstance(node.target, ast.Name)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))  # not complex numbers, texts and bytes
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1
    kinds = (ast.Expr, ast.Name, ast.Load, ast.Store, ast.BinOp, ast.UnaryOp, ast.IfExp)
    return isinstance(node, kinds) or type(node) in {**_BINARY, **_UNARY, **_COMPARE}


def _targets(statement: ast.stmt) -> list[ast.expr]:
    """What a line sets; nothing, if it is an expression."""
    if isinstance(statement, ast.AugAssign):
        return [statement.target]
    return statement.targets if isinstance(statement, ast.Assign) else []


def _target(node: ast.AST) -> str:
    """The name that an assignment sets; _is_allowed takes names alone."""
    return node.id if isinstance(node, ast.Name) else ""


def _line(node: ast.AST) -> int | str:
    """The number of its line; operators have none."""
    return node.lineno if isinstance(node, (ast.expr, ast.stmt)) else "?"


@dataclass
class _Program:
    """The names of a running program, and its limits."""

    names: dict[str, Number]
    max_bits: int
    deadline: float

    def run(self, statement: ast.AST) -> Number:
        """Compute one line, and set its name if it is an assignment."""
        value = self.compute(statement.value)  # type: ignore[attr-defined] # _parse takes assignments and expressions
        if isinstance(statement, ast.AugAssign):
            old = self.compute(ast.copy_location(ast.Name(_target(statement.target)), statement))
            value = self._guard(statement, lambda: self._operate(statement.op, old, value))
            self.names[_target(statement.target)] = value
        if isinstance(statement, ast.Assign):
            self.names[_target(statement.targets[0])] = value
        return value

    def compute(self, node: ast.AST) -> Number:
        """Compute an expression. Each number is checked, so that the next operation on it is quick."""
        if time.monotonic() > self.deadline:
            raise ProgramError("The program takes too long.", reason="time")
        return self._guard(node, lambda: self._compute(node))

    def _guard(self, node: ast.AST, operation: Callable[[], Any]) -> Number:
        """Compute a value, and refuse one that is too large or no number."""
        try:
            value = operation()
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ProgramError(f"Line {_line(node)} failed: {error}.", reason="failed") from error
        return self._check(value)

    def _compute(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                if node.id not in self.names:
                    raise ProgramError(f"Line {node.lineno} reads {node.id}, which has no value.", reason="failed")
                return self.names[node.id]
            case ast.BinOp():
                return self._operate(node.op, self.compute(node.left), self.compute(node.right))
            case ast.UnaryOp():
                return _UNARY[type(node.op)](self.compute(node.operand))
            case ast.Compare():
                return _COMPARE[type(node.ops[0])](self.compute(node.left), self.compute(node.comparators[0]))
            case ast.IfExp():
                return self.compute(node.body if self.compute(node.test) else node.orelse)
            case ast.Call():
                name = node.func.id  # type: ignore[attr-defined] # _is_allowed takes names alone
                values = [self.compute(argument) for argument in node.args]
                if name in _ONE_OR_MORE and len(values) == 1:
                    return values[0]
                return _FUNCTIONS[name](*values)
        raise ProgramError(f"A part of the kind {type(node).__name__} is not allowed.", reason="not allowed")

    def _operate(self, kind: ast.operator, left: Number, right: Number) -> Any:
        whole = isinstance(kind, ast.Pow) and isinstance(left, int) and isinstance(right, int)
        # Computed only if the result is small: 9 ** 9 ** 9 would fill the memory.
        if whole and abs(left) > 1 and abs(right) * int(abs(left)).bit_length() > 2 * self.max_bits:
            raise ProgramError(f"A power has more than {self.max_bits:,} bits.", reason="too large")
        return _BINARY[type(kind)](left, right)

    def _check(self, value: Any) -> Number:
        if isinstance(value, bool):
            return value
        if isinstance(value, int):
            if value.bit_length() > self.max_bits:
                raise ProgramError(f"A number has more than {self.max_bits:,} bits.", reason="too large")
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise ProgramError(f"A value is {value!r}, which is no finite number.", reason="failed")
