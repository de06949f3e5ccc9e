"""mkdocs hook: adds the pages of the methods, by family, to the navigation."""

from __future__ import annotations

from typing import Any

from limbeck.methods import method, names

try:
    from tools.method_pages import family_of
except ImportError:  # mkdocs puts this folder, not its parent, on the path
    from method_pages import family_of  # type: ignore[no-redef]


def on_config(config: Any) -> Any:
    """Fill the entry "Methods" of the navigation."""
    families: dict[str, list[dict[str, str]]] = {}
    for name in names():
        families.setdefault(family_of(method(name)), []).append({name: f"methods/{name}.md"})
    for entry in config["nav"]:
        if "Methods" in entry:
            entry["Methods"] = [{family: pages} for family, pages in families.items()]
    return config
