"""The Python blocks of the pages on integrations and Hugging Face run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "docs"

pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("page", ["integrations", "huggingface"])
def test_the_pages_python_runs(page):
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.S)
    assert found
    exec("\n".join(found), {})
