"""What somebody decided about single images: a small CSV file, committed beside the code.

    image_id,decision,label,reason
    0c0f3c3b2f0f5d7a9e1f4d0b6a7c8e21,keep,m,the second delivery mistook it for n
    5b1e...,relabel,w,both deliveries are wrong
    77aa...,drop,,not a character

`keep` takes one of the labels that the image came with, `relabel` gives it another one, `drop` takes it
out. `reason` is for people. A decision about an image that no delivery holds does nothing, and so does a
line without a decision and a label, such as those of the file of conflicts (`write_conflicts`).
"""

import csv
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import polars as pl
import xxhash

from captcha_assets.dataset import CLASSES
from captcha_assets.storage import AnyPath, replacing

KEEP, RELABEL, DROP = "keep", "relabel", "drop"
DECISIONS = (KEEP, RELABEL, DROP)

_COLUMNS = ["image_id", "decision", "label", "reason"]
_SCHEMA = {"image_id": pl.String, "decision": pl.String, "decided": pl.String}
_ID = re.compile(r"[0-9a-f]{32}")


class DecisionError(ValueError):
    """A file of decisions that cannot be followed; the message names the line and says what to do."""


class _Decision(NamedTuple):
    image_id: str
    decision: str
    label: str | None


def version_of(path: AnyPath) -> str | None:
    """Return the data version of a file of decisions: a hash of its bytes, None where there is no file."""
    return xxhash.xxh3_128_hexdigest(path.read_bytes()) if path.exists() else None


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
    with replacing(target) as part, part.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(_COLUMNS)
        lines.writerows((name, "", "", claims(sources)) for name, sources in conflicts.iter_rows())


def read_decisions(path: AnyPath | None) -> pl.DataFrame:
    """Return `image_id`, `decision` and `decided` (the label, null for `drop`), a row per decision.

    Without a path, or without a file there, nothing is decided.

    Raises:
        DecisionError: a line cannot be understood, or decides about an image a second time.
    """
    decided: dict[str, _Decision] = {}
    if path is not None and path.exists():
        lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if lines.fieldnames != _COLUMNS:
            raise DecisionError(f"{path}: the first line must read {','.join(_COLUMNS)}")
        for line in lines:
            place = f"{path}, line {lines.line_num}"
            decision = _decision(line, place)
            if decision is None:
                continue
            if decided.setdefault(decision.image_id, decision) is not decision:
                raise DecisionError(f"{place}: decides about {decision.image_id} again; keep one line")
    return pl.DataFrame(list(decided.values()), schema=_SCHEMA, orient="row")


def _decision(line: dict[str, str], place: str) -> _Decision | None:
    image_id, decision, label = (line[name] for name in _COLUMNS[:3])
    if None in line or None in line.values():
        raise DecisionError(f"{place}: needs {len(_COLUMNS)} fields; quote a reason that holds a comma")
    if not _ID.fullmatch(image_id):
        raise DecisionError(f"{place}: {image_id!r} is no image_id, which has 32 digits of 0-9 and a-f")
    if not decision and not label:
        return None
    if decision not in DECISIONS:
        raise DecisionError(f"{place}: decision {decision!r} is not one of {', '.join(DECISIONS)}")
    if decision == DROP and label:
        raise DecisionError(f"{place}: {DROP} takes no label")
    if decision != DROP and label not in CLASSES:
        raise DecisionError(f"{place}: label {label!r} is not one of {''.join(CLASSES)}")
    return _Decision(image_id, decision, label or None)


def with_decisions(images: pl.LazyFrame, decisions: pl.DataFrame) -> pl.LazyFrame:
    """Return images with a column `decided`, the label decided on or null; dropped images are left out.

    Args:
        images: `image_id` and `sources` (a list of structs with `label`), a row per image.
        decisions: see `read_decisions`. `keep` of a label that none of the sources states does nothing.
    """
    stated = pl.col("sources").list.eval(pl.element().struct.field("label"))
    holds = (pl.col("decision") != KEEP) | stated.list.contains(pl.col("decided"))
    return (
        images.join(decisions.lazy(), on="image_id", how="left", maintain_order="left")
        .filter(pl.col("decision").ne_missing(DROP))
        .with_columns(decided=pl.when(holds).then("decided"))
        .drop("decision")
    )
