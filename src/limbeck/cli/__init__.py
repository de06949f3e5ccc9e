"""What a person types."""

from limbeck.cli.app import main

__all__ = ["main"]
