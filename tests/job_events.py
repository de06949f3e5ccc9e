"""Helpers for events of jobs."""

from __future__ import annotations

from limbeck.events import Callback, Message


def collect_messages(messages: list[str]) -> Callback:
    """A callback that appends the text of each message to a list."""

    def callback(event, /):
        if isinstance(event, Message):
            messages.append(event.text)

    return callback
