"""Routes of a job: which of several teachers teaches which examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import LimbeckError

DEFAULT = "default"
"""The route of the teacher of all examples that no other route has."""


class Routes(NamedTuple):
    """Which of several teachers teaches which examples.

    Attributes:
        column: The column of the data.
        values: The value, or the values, of each teacher that has some.
        default: The teacher of all other examples; None if there is none.
    """

    column: str
    values: dict[str, Any]
    default: str | None


def find_route_column(routes: Routes, data: str | Mapping[str, Any]) -> str:
    """The column of a batch that routes read: ``groups`` for the column of a table that is named by `data.groups`."""
    options = {"name": data} if isinstance(data, str) else data
    is_table = Path(str(options.get("name"))).suffix.lower() in (".csv", ".tsv", ".parquet")
    return "groups" if is_table and options.get("groups") == routes.column else routes.column


def read_routes(routes: Mapping[str, Any], weights: Mapping[str, float], place: str) -> Routes | None:
    """Read the routes of several teachers; None if no teacher has one.

    Args:
        routes: The route of each teacher by name, or None.
        weights: Its weight.
        place: Their key in the job, for messages.

    Raises:
        LimbeckError: If a teacher has none, a route is not one column and its values, two are the default, or a teacher
            with a route has a weight.
    """
    given = {name: route for name, route in routes.items() if route is not None}
    if not given:
        return None
    for name, route in routes.items():
        if route is None:
            raise LimbeckError(
                f"{place}.{name} has no route, and {place}.{next(iter(given))} has one. Type --set "
                f"{place}.{name}.route.COLUMN=VALUE, or {place}.{name}.route=default for all other examples."
            )
        if weights[name] != 1:
            raise LimbeckError(
                f"{place}.{name} has the weight {weights[name]:g} and a route: an example has one teacher. Leave "
                "weight out."
            )
        if route != DEFAULT and not (isinstance(route, dict) and len(route) == 1):
            raise LimbeckError(
                f"{place}.{name}.route is one column and its value, such as {{domain: law}} or {{domain: [law, tax]}}, "
                f"or default; got {route!r}."
            )
    columns = sorted({column for route in given.values() if isinstance(route, dict) for column in route})
    if len(columns) != 1:
        raise LimbeckError(f"The routes of {place} read one column; got {columns or 'default alone'}.")
    others = [name for name, route in given.items() if route == DEFAULT]
    if len(others) > 1:
        raise LimbeckError(f"{place}.{others[0]} and {place}.{others[1]} are both the default route; one can be.")
    values = {name: route[columns[0]] for name, route in given.items() if isinstance(route, dict)}
    return Routes(columns[0], values, others[0] if others else None)
