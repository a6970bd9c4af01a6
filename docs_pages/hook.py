"""The hook of mkdocs that fills the generated parts of pages."""

from typing import Any

from docs_pages.blocks import filled


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page as it is rendered, with all that is made from the code."""
    return filled(markdown)
