"""People's decisions about single images: a small CSV file, committed beside the code.

    image_id,decision,label,reason
    0c0f3c3b2f0f5d7a9e1f4d0b6a7c8e21,keep,m,the second batch mistook it for n
    5b1e...,relabel,w,both batches are wrong
    77aa...,drop,,shows nothing

`keep` takes one of the labels that the image came with, `relabel` gives it another one, `drop` takes it
out. `reason` is for people. A line without a decision and a label does nothing, such as those of the file
of conflicts (`write_conflicts`).

Spreadsheets may write the file: a byte order mark, semicolons instead of commas, and lines of empty fields
are accepted.

A file that cannot be read is an error with the number of the line. A decision that has no effect is a
warning, since a batch that is not there, or not there any more, must not stop the others: one about an
image that no batch holds, and `keep` of a label that no source states, where the sources agree.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl
import xxhash

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.dataset import DatasetSpec

KEEP, RELABEL, DROP = "keep", "relabel", "drop"
DECISIONS = (KEEP, RELABEL, DROP)

_COLUMNS = ["image_id", "decision", "label", "reason"]
_SCHEMA = {"image_id": pl.String, "decision": pl.String, "decided": pl.String, "line": pl.Int64}
#: So many sources of an image are named in a message.
_SHOWN = 5
_ID = re.compile(r"[0-9a-f]{32}")


#: The version of what cannot be read as a file: a folder, a pipe, a link that leads nowhere.
_NO_FILE = "no regular file"


class DecisionError(ValueError):
    """A file of decisions with an error in it; the message names the line and says what to do."""


class _Decision(NamedTuple):
    image_id: str
    decision: str
    label: str | None
    line: int


def version_of(path: AnyPath) -> str | None:
    """Return the data version of a file of decisions: a hash of its bytes, None where there is no file.

    What is no regular file has a version of its own: reading it then says what is wrong.
    """
    if path.is_file():
        return xxhash.xxh3_128_hexdigest(path.read_bytes())
    return _NO_FILE if _is_there(path) else None


def _is_there(path: AnyPath) -> bool:
    """Whether anything bears this name: a link that leads nowhere does."""
    return path.exists() or path.is_symlink()


def problem(path: AnyPath, spec: DatasetSpec) -> str | None:
    """Return why a file of decisions cannot be used, in one line; None where it can be, or is not there."""
    try:
        read_decisions(path, spec)
    except DecisionError as error:
        return str(error)
    return None


def claims(sources: Iterable[Mapping[str, str]]) -> str:
    """Return in one line which file (`batch`, `member`) says which `label`."""
    words = "; ".join(f"{one['batch']}/{one['member']} says {one['label']}" for one in sources)
    return " ".join(words.encode(errors="backslashreplace").decode().split())


def write_conflicts(conflicts: pl.DataFrame, target: AnyPath) -> None:
    """Write conflicts as a file of decisions that lacks only the decisions; complete or absent.

    Args:
        conflicts: `image_id` and `sources` of the images in conflict.
        target: where the file goes.
    """
    with replacing(target) as part:
        part.write_bytes(conflicts_file(conflicts))


def conflicts_file(conflicts: pl.DataFrame) -> bytes:
    """Return the content of the file that `write_conflicts` writes."""
    file = io.StringIO(newline="")
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(_COLUMNS)
    lines.writerows((name, "", "", claims(sources)) for name, sources in conflicts.iter_rows())
    return file.getvalue().encode()


def read_decisions(path: AnyPath | None, spec: DatasetSpec) -> pl.DataFrame:
    """Return `image_id`, `decision`, `decided` (the label, null for `drop`) and `line`, a row per decision.

    Without a path, or without a file there, nothing is decided.

    Raises:
        DecisionError: a line cannot be understood, or decides about an image a second time.
    """
    decided: dict[str, _Decision] = {}
    if path is not None and _is_there(path):
        if not path.is_file():
            raise DecisionError(f"{path} is no regular file, or a link that leads nowhere: replace it")
        for number, row in _rows(path):
            decision = _decision(row, f"{path}, line {number}", number, spec)
            if decision is None:
                continue
            first = decided.setdefault(decision.image_id, decision)
            if first is not decision:
                raise DecisionError(
                    f"{path}, line {number}: decides about {decision.image_id} again, as line {first.line}"
                    " does; keep one of them"
                )
    return pl.DataFrame(list(decided.values()), schema=_SCHEMA, orient="row")


def _rows(path: AnyPath) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows after the first, without those that are empty, with the line on which each begins."""
    text = _text(path)
    head = text.split("\n", 1)[0]
    separator = ";" if ";" in head and "," not in head else ","
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 1
    try:
        if [name.strip() for name in next(rows, [])] != _COLUMNS:
            raise DecisionError(f"{path}: the first line must read {','.join(_COLUMNS)}")
        number = rows.line_num + 1
        for row in rows:
            if any(field.strip() for field in row):
                yield number, row
            number = rows.line_num + 1
    except csv.Error as error:
        raise DecisionError(
            f"{path}, line {number}: cannot be read as CSV ({error}): is a quote open?"
        ) from error


def _text(path: AnyPath) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise DecisionError(
            f"{path}, line {number}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
            ' (Excel: "CSV UTF-8")'
        ) from error


def _decision(row: list[str], location: str, number: int, spec: DatasetSpec) -> _Decision | None:
    if len(row) != len(_COLUMNS):
        raise DecisionError(
            f"{location}: needs {len(_COLUMNS)} fields and has {len(row)}; quote a reason that holds a comma"
        )
    image_id, decision, label = (field.strip() for field in row[:3])
    if not _ID.fullmatch(image_id):
        raise DecisionError(f"{location}: {image_id!r} is no image_id, which has 32 digits of 0-9 and a-f")
    if not decision and not label:
        return None
    if decision not in DECISIONS:
        raise DecisionError(f"{location}: decision {decision!r} is not one of {', '.join(DECISIONS)}")
    if decision == DROP and label:
        raise DecisionError(f"{location}: {DROP} takes no label")
    if decision != DROP and label not in spec.classes:
        raise DecisionError(f"{location}: label {label!r} is not one of {spec.classes_in_words}")
    return _Decision(image_id, decision, label or None, number)


def check_decisions(images: pl.DataFrame, decisions: pl.DataFrame, path: AnyPath) -> tuple[str, ...]:
    """Return a warning for each decision that has no effect on the images that there are.

    Args:
        images: `image_id` and `sources` (a list of structs with `batch`, `member` and `label`).
        decisions: see `read_decisions`.
        path: the file they were read from.

    Raises:
        DecisionError: `keep` of a label that no source states, of an image whose sources contradict each
            other.
    """
    warnings = []
    known = decisions.join(images.select("image_id", "sources"), on="image_id", how="left").sort("line")
    for image_id, decision, label, line, sources in known.iter_rows():
        at = f"{path.name}, line {line}"
        if sources is None:
            warnings.append(f"{at}: no batch here holds the image {image_id}; the line does nothing")
            continue
        stated = sorted({one["label"] for one in sources})
        if decision != KEEP or label in stated:
            continue
        if len(stated) > 1:
            raise DecisionError(
                f"{path}, line {line}: keep {label}, but the sources of {image_id} state {', '.join(stated)}"
                f" ({claims(sources[:_SHOWN])}): keep one of these, or relabel"
            )
        warnings.append(
            f"{at}: keep {label}, but all sources of {image_id} state {stated[0]}; the line does nothing"
            " (relabel would)"
        )
    return tuple(warnings)


def with_decisions(images: pl.LazyFrame, decisions: pl.DataFrame) -> pl.LazyFrame:
    """Return images with a column `decided`, the label decided on or null; dropped images are left out.

    Args:
        images: `image_id` and `sources` (a list of structs with `label`), a row per image.
        decisions: see `read_decisions`. `keep` of a label that none of the sources states does nothing
            (see `check_decisions`).
    """
    stated = pl.col("sources").list.eval(pl.element().struct.field("label"))
    holds = (pl.col("decision") != KEEP) | stated.list.contains(pl.col("decided"))
    return (
        images.join(decisions.lazy(), on="image_id", how="left", maintain_order="left")
        .filter(pl.col("decision").ne_missing(DROP))
        .with_columns(decided=pl.when(holds).then("decided"))
        .drop("decision", "line")
    )


def describe_idle(lines: Sequence[str]) -> str:
    """Say in one line which decisions have no effect: the first five, and how many more."""
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more if lines else "every line has an effect"
