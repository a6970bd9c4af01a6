"""A verdict as one page of HTML that needs nothing beside it: styles and pictures are inside."""

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from captcha_assets.quality.verdict import IMAGE_COLUMNS, Finding, Verdict


@cache
def _template(name: str) -> Template:
    # Everything from a delivery, names above all, may be hostile: nothing is shown unescaped.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = _shown
    environment.filters["title"] = _title
    return environment.get_template(name)


def page(verdict: Verdict, figures: Mapping[str, bytes] | None = None) -> str:
    """Return the report: what stops the flow first, then the warnings, then what is as it should be.

    Args:
        verdict: what was found.
        figures: PNGs by title, shown above the findings.
    """
    return _template("report.html.jinja").render(
        verdict=verdict,
        figures={title: base64.b64encode(png).decode() for title, png in (figures or {}).items()},
        sections=[*verdict.failures, *verdict.warnings],
        passed=[finding for finding in verdict.findings if finding.passed],
        columns=_columns,
        image_columns=list(IMAGE_COLUMNS),
    )


def history(verdicts: Mapping[str, Verdict], of: int | None = None) -> str:
    """Return a page that shows how each check went from delivery to delivery.

    Args:
        verdicts: verdicts by delivery, oldest first. The page links to `<delivery>/report.html`, so it
            belongs into the folder above theirs.
        of: number of all deliveries, where these are not all.
    """
    checks = {finding.name: finding for verdict in verdicts.values() for finding in verdict.findings}
    return _template("history.html.jinja").render(
        verdicts=dict(reversed(list(verdicts.items()))), checks=checks, of=of or len(verdicts)
    )


class Cell(NamedTuple):
    """Words on the start page: a link where there is an address, a coloured badge where there is a level."""

    words: str
    address: str = ""
    level: str = ""


class Section(NamedTuple):
    """A table of the start page, and the links beside its title."""

    title: str
    words: str
    links: Sequence[Cell] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Sequence[Cell]]] = ()


def start(sections: Sequence[Section], ui_url: str) -> str:
    """Return the page that leads to all reports.

    Args:
        sections: its tables.
        ui_url: address of the Dagster UI.
    """
    return _template("start.html.jinja").render(sections=sections, ui_url=ui_url)


def markdown(finding: Finding, pictures: Mapping[str, str]) -> str:
    """Return the examples of one finding as a Markdown table, with their pictures (`Verdict.pictures`)."""
    return markdown_table(finding.examples, pictures)


def markdown_table(rows: Sequence[Mapping[str, Any]], pictures: Mapping[str, str]) -> str:
    """Return rows as a Markdown table, with their pictures.

    Args:
        rows: values by name; `IMAGE_COLUMNS` name images.
        pictures: image id to base64 PNG.
    """
    columns = _columns(rows)
    lines = [["", *(name.replace("_", " ") for name in columns)], ["---"] * (len(columns) + 1)]
    for row in rows:
        shown = [pictures[row[name]] for name in IMAGE_COLUMNS if row.get(name) in pictures]
        images = " ".join(f"![image](data:image/png;base64,{png})" for png in shown)
        lines.append([images, *(_plain_markdown(_shown(row.get(name))) for name in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain_markdown(text: str) -> str:
    """Return text that no reader of Markdown or HTML takes for markup."""
    return re.sub(r"[^\w\s.,;:/()'=+%-]|_", lambda found: f"&#{ord(found[0])};", text)


def _title(subject: str) -> str:
    """Return what was validated in words: `image table of batch october` for `image_table/october`."""
    found = re.fullmatch(r"([a-z_]+)(?:/([a-z0-9-]+))?", subject)
    if found is None:
        return _shown(subject)
    table, batch = found[1].replace("_", " "), found[2]
    return f"{table} of batch {batch}" if batch else table


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the rows' values, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _shown(value: Any) -> str:
    """Return a value as a reader wants it: what cannot be printed made visible, nothing endless."""
    if value is None:
        return "\N{EM DASH}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(value))
    return text if len(text) <= 200 else f"{text[:199]}\N{HORIZONTAL ELLIPSIS}"
