"""Teachers behind a server: scores of given texts, and texts."""

from limbeck.teachers.served.client import API_KEY_ENV, ServerClient
from limbeck.teachers.served.handshake import Handshake, shake_hands
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.served.texts import ServedTextWriter, WrittenText

__all__ = [
    "API_KEY_ENV",
    "Handshake",
    "ServedTeacher",
    "ServedTextWriter",
    "ServerClient",
    "WrittenText",
    "shake_hands",
]
