"""Jinja templates of the pages that people read."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@cache
def environment(*folders: Path) -> Environment:
    """Return the environment of the templates in some folders, the first of them first.

    Names in a batch or a request may be hostile: nothing is shown unescaped. A value that is not given is an
    error.
    """
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
