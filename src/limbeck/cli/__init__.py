"""The command line."""

from limbeck.cli.entry_point import main

__all__ = ["main"]
