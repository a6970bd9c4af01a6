"""The pages as tests look at them: their code blocks, and the words that stand as code in their text."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from captcha_assets.paths import REPOSITORY

_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")


def pages() -> list[Path]:
    """The README and its neighbours, and all pages of the site."""
    return [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """Yield the code blocks of a page that are in one of these languages, not indented."""
    for found in _BLOCK.finditer(page.read_text()):
        if found[2] in languages:
            yield dedent(found[3])


def spans(page: Path) -> Iterator[str]:
    """Yield what stands as code in the text of a page, outside of its blocks."""
    yield from _CODE.findall(_BLOCK.sub("", page.read_text()))
