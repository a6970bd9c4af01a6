"""Validation results as one page of HTML that needs nothing beside it: styles and images are inside."""

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Template

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.html_templates import environment
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.quality.expectation_problems import IMAGE_COLUMNS
from captcha_assets.quality.validation_result import ValidationResult, ValidationResultError

#: At most so many batches are on the page of the history: each costs a file to open.
_LATEST = 200


@cache
def template(name: str) -> Template:
    """Return a template of this folder."""
    of_folder = environment(Path(__file__).parent)
    of_folder.filters["shown"] = _shown
    of_folder.filters["title"] = _title
    return of_folder.get_template(name)


def page(validation: ValidationResult, figures: Mapping[str, bytes] | None = None) -> str:
    """Return the report: failed blocking checks first, then warnings, then the expectations that were met.

    Args:
        validation: the validation results of a table.
        figures: PNGs by title, shown above the results.
    """
    return template("report.html.jinja").render(
        validation=validation,
        figures={title: base64.b64encode(png).decode() for title, png in (figures or {}).items()},
        sections=[*validation.failures, *validation.warnings],
        passed=[result for result in validation.results if result.success],
        columns=_columns,
        image_columns=list(IMAGE_COLUMNS),
    )


def history(validations: Mapping[str, ValidationResult], of: int | None = None) -> str:
    """Return a page that shows how each check went from batch to batch.

    Args:
        validations: validation results by batch, oldest first. The page links to `<batch>/report.html`, so it
            belongs into the folder above theirs.
        of: number of all batches, where these are not all.
    """
    checks = {result.name: result for one in validations.values() for result in one.results}
    return template("history.html.jinja").render(
        validations=dict(reversed(list(validations.items()))), checks=checks, of=of or len(validations)
    )


def publish(
    validation: ValidationResult, folder: AnyPath, figures: Mapping[str, bytes] | None = None
) -> AnyPath:
    """Store validation results in a folder with their report, and return the report's path.

    Args:
        validation: the validation results of a table.
        folder: theirs.
        figures: PNGs by title.
    """
    validation_result.save(validation, page(validation, figures), folder)
    return folder / validation_result.REPORT_FILE


def publish_history(paths: Paths, batches: Sequence[str]) -> AnyPath:
    """Write the page that shows every check of the latest batches, drift among them, and return its path.

    Args:
        paths: where validation results lie.
        batches: all batches, in the order in which they came.
    """
    shown = {name: found for name in batches[-_LATEST:] if (found := _validation(paths, name))}
    path = paths.validation_results("image_table") / "index.html"
    with replacing(path) as part:
        part.write_text(history(shown, of=len(batches)), "utf-8", "backslashreplace")
    return path


def _validation(paths: Paths, batch: str) -> ValidationResult | None:
    """Return the validation results of a batch, its drift among them; None where there are none yet."""
    try:
        return validation_result.load_batch(paths, batch)
    except ValidationResultError:
        return None


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
    return template("start.html.jinja").render(sections=sections, ui_url=ui_url)


def markdown_table(rows: Sequence[Mapping[str, Any]], images: Mapping[str, str]) -> str:
    """Return rows as a Markdown table, with their images.

    Args:
        rows: values by name; `IMAGE_COLUMNS` name images.
        images: image id to base64 PNG.
    """
    columns = _columns(rows)
    lines = [["", *(name.replace("_", " ") for name in columns)], ["---"] * (len(columns) + 1)]
    for row in rows:
        shown = [images[row[name]] for name in IMAGE_COLUMNS if row.get(name) in images]
        first = " ".join(f"![image](data:image/png;base64,{png})" for png in shown)
        lines.append([first, *(_plain_markdown(_shown(row.get(name))) for name in columns)])
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
