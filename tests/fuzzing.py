"""Seeded changes to files and values, and a way to count what leaves a reader other than a LimbeckError."""

from __future__ import annotations

import json
import random
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**15, 10**30, 1.5, -0.0, float("nan"), float("inf"), "", "\x1b[2J",
    "\ud800", "\0", "../up", "/", "a" * 5000, [], [[]], [1], [0], [-1], [10**9], [None], ["a"], {}, {"": None}, "x",
    [[[[]]]], [[1, 2], 3], {"name": {}}, "my.py:f", "1e400",
)  # fmt: skip
"""Values that no reader expects."""


def changed_value(value: Any, draw: random.Random) -> Any:
    """A JSON value in which one place, some levels down, was replaced, removed, renamed or repeated."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        found = dict(value)
        kind = draw.random()
        if kind < 0.1:
            del found[key]
        elif kind < 0.2:
            found[draw.choice(["x", "", "\ud800", key + "s", "__class__"])] = found.pop(key)
        else:
            found[key] = changed_value(found[key], draw)
        return found
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        if draw.random() < 0.2:
            return value[:at] + value[at:] * 2
        return [*value[:at], changed_value(value[at], draw), *value[at + 1 :]]
    return draw.choice(ODD)


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes of which a few were replaced, removed, doubled or cut off."""
    found = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        at, kind = draw.randrange(len(found) or 1), draw.random()
        if kind < 0.6 and found:
            found[at] = draw.choice([draw.randrange(256), found[at] ^ (1 << draw.randrange(8)), *b'0"{}[]:,-9'])
        elif kind < 0.75:
            del found[at : at + draw.choice([1, 1, 4, 40])]
        elif kind < 0.9:
            found[at:at] = found[at : at + draw.choice([1, 4, 40])]
        else:
            del found[at:]
    return bytes(found)


def changed_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON file changed as values or as bytes."""
    if draw.random() < 0.3:
        return changed_bytes(data, draw)
    return json.dumps(changed_value(json.loads(data), draw), indent=1).encode()


class _Late(BaseException):
    """No Exception: readers turn whatever a library raises into a sentence."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Late

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def untyped(read: Callable[[random.Random], Any], count: int, *, seed: int = 0, seconds: float = 10.0) -> Counter[str]:
    """What else than a LimbeckError left `read` in so many calls, each with a generator of its own.

    A call that takes more than so many seconds of the processor's counts as one that hangs.
    """
    found = Counter[str]()
    for number in range(count):
        try:
            with _limited(seconds):
                read(random.Random(f"{seed} {number}"))
        except _Late:
            found[f"hangs at {number}"] += 1
        except LimbeckError as error:
            str(error).encode()  # a sentence that can be printed
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            found[f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}: {str(error)[:80]}"] += 1
    print(f"{count} calls, {sum(found.values())} that hang or end in another error than limbeck's own")
    return found


def harm(file: Path, draw: random.Random) -> str:
    """Damage a file at a random place, as a disk, a copy that broke off or a hand does; what was done to it."""
    data, kind = file.read_bytes(), draw.choice(["bit", "bit", "bit", "byte", "bytes", "line", "cut", "gone"])
    if kind == "gone" or not data:
        file.unlink()
        return "gone"
    at = draw.randrange(len(data))
    found = bytearray(data)
    if kind == "bit":
        found[at] ^= 1 << draw.randrange(8)
    elif kind == "byte":
        found[at] = draw.randrange(256)
    elif kind == "bytes":
        found[at : at + 40] = draw.randbytes(len(found[at : at + 40]))
    elif kind == "line":
        lines = data.splitlines(keepends=True)
        del lines[draw.randrange(len(lines))]
        found = bytearray(b"".join(lines))
    else:
        del found[at:]
    file.write_bytes(found)
    return f"{kind} at {at}"


def read_as_good(
    folder: Path, names: str, look: Callable[[], tuple[Any, Any]], count: int, *, seed: int = 0
) -> list[str]:
    """Which of so many harmed files were read as good, though another thing is shown; prints the counts.

    Args:
        folder: Where the files lie. It is as it was afterwards.
        names: Which of them are harmed, one at a time, as a pattern.
        look: What a person is shown, and what is said to be wrong; a LimbeckError refuses the whole.
        count: How many times.
        seed: Of the damage.
    """
    whole, sound = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}, look()
    files = sorted(file for file in folder.glob(names) if file.is_file())
    assert files
    found, ends = [], Counter[str]()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        file = draw.choice(files)
        harmed = f"{file.relative_to(folder)}: {harm(file, draw)}"
        try:
            shown, said = look()
            end = "as before" if shown == sound[0] else "said" if said != sound[1] else "read as good"
        except LimbeckError:
            end = "refused"
        ends[end] += 1
        found += [harmed] if end == "read as good" else []
        _put_back(folder, whole)
    print(f"{names}: {count} harmed, {dict(ends)}")
    return found


def _put_back(folder: Path, whole: Mapping[Path, bytes]) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file not in whole:
            file.unlink()
    for file, data in whole.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
