"""The parts of pages that are made from the code: what stands between two markers of a page.

    <!-- generated: settings -->
    <!-- end -->

The hook of mkdocs fills them when the site is built. Where a page is read in the repository too, its blocks
are kept in the file, `python -m docs_pages` writes them, and a test compares them with the code.
"""

import re
from collections.abc import Callable

from docs_pages import assets, metrics, settings_tables

#: What fills a block, by its name.
BLOCKS: dict[str, Callable[[], str]] = {
    "asset-graph": assets.graph,
    "assets": assets.assets,
    "sensors": assets.sensors,
    "jobs": assets.jobs,
    "metrics": metrics.metrics,
    "settings": settings_tables.platform,
    "serving-settings": settings_tables.service,
    "training-settings": settings_tables.training,
}

_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(markdown: str) -> str:
    """Return the page with each of its blocks made from the code as it is now."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n{found[4]}", markdown)


def kept(markdown: str) -> bool:
    """Say whether the page holds its blocks, and not their markers alone."""
    return any(found[3].strip() for found in _BLOCK.finditer(markdown))
