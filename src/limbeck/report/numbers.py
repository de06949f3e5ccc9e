"""Numbers formatted for people."""

from __future__ import annotations

from collections.abc import Sequence


def sized(value: float) -> str:
    """Format a positive number with three significant digits.

    Example:
        >>> sized(0.012345), sized(3.14159), sized(1234.5)
        ('0.0123', '3.14', '1,234')
    """
    if value >= 999.5:
        return f"{value:,.0f}"
    text = f"{value:#.3g}"
    return text.rstrip(".") if "e" not in text else f"{value:.2g}"


def duration(milliseconds: float) -> str:
    """Format a time with its unit.

    Example:
        >>> duration(0.00123), duration(2.5)
        ('1.23 µs', '2.50 ms')
    """
    return f"{sized(1000 * milliseconds)} \N{MICRO SIGN}s" if milliseconds < 0.01 else f"{sized(milliseconds)} ms"


def times(ratio: float) -> str:
    """Format a ratio.

    Example:
        >>> times(37.2), times(1.25)
        ('37 times', '1.2 times')
    """
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def share_of(part: float, whole: float) -> str:
    """Format a part as a fraction of the whole.

    Example:
        >>> share_of(1.0, 37.0), share_of(3.0, 4.0)
        ('1/37', '75 %')
    """
    return f"1/{whole / part:.0f}" if whole >= 1.5 * part else f"{100 * part / whole:.0f} %"


def listed(names: Sequence[str]) -> str:
    """Join names with commas and "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
