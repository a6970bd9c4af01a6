"""What commands print: tables for people, one JSON object a line for programs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


def print_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows as a table of the named columns, or whole, as JSON, one a line."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        print_table(columns, rows)


#: On a terminal of fewer columns a table is not readable.
_NARROWEST_TABLE = 60


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print a table, or on a narrow terminal a line a field; what is None shows as a dash."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if console.is_terminal and console.width < _NARROWEST_TABLE:
        for row in rows:
            print_fields({name: row[name] for name in columns}, as_json=False)
            click.echo()
        return
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(Text("-" if row[name] is None else printable(str(row[name]))) for name in columns))
    if not console.is_terminal:
        console.width = 160  # what is piped is not wrapped to the width of a screen
    console.print(table)


def printable(text: str) -> str:
    """Return a text on one line: a line break or another control character shows as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def print_fields(shown: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing: a line a field, or one JSON object."""
    if as_json:
        click.echo(json.dumps(shown))
        return
    width = max(map(len, shown))
    for key, value in shown.items():
        click.echo(f"{key:<{width}}  {'-' if value is None else printable(str(value))}")
