"""The command line."""

from limbeck.cli.app import main

__all__ = ["main"]
