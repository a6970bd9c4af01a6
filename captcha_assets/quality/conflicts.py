"""Images whose labels contradict each other, as a person sees them who is to decide."""

from collections.abc import Mapping

import polars as pl

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.index import list_conflicts
from captcha_assets.images.label_decisions import claims, write_conflicts
from captcha_assets.paths import Paths
from captcha_assets.quality import example_images, report

#: So many are shown; all of them stand in a file.
SHOWN = 20


def publish(paths: Paths, tables: Mapping[str, AnyPath], spec: DatasetSpec) -> str | None:
    """Write the file of all label conflicts, and return the first of them as Markdown; None without any.

    Args:
        paths: where the index lies, and the file.
        tables: image tables by batch.
        spec: the size of an image.
    """
    found = list_conflicts(paths.image_index)
    write_conflicts(found, paths.label_conflicts)
    return None if found.is_empty() else markdown(found, tables, paths.label_decisions, spec)


def markdown(
    conflicts: pl.DataFrame, tables: Mapping[str, AnyPath], decisions: AnyPath, spec: DatasetSpec
) -> str:
    """Show the first conflicts with their images, and say how to resolve them.

    Args:
        conflicts: `image_id` and `sources` of the images in conflict.
        tables: image tables by batch; the images are taken from them.
        decisions: the file that decisions are written into.
        spec: the size of an image.
    """
    shown = conflicts.head(SHOWN).to_dicts()
    located = [row | {"batch": row["sources"][0]["batch"]} for row in shown]
    seen = example_images.of_rows(located, tables, spec)
    rows = [
        {
            "image_id": row["image_id"],
            "labels": ", ".join(sorted({source["label"] for source in row["sources"]})),
            "sources": claims(row["sources"]),
        }
        for row in shown
    ]
    number = f"{len(shown)} of {len(conflicts)}" if len(shown) < len(conflicts) else str(len(shown))
    return (
        f"**{number} images with contradicting labels.** Decide in `{decisions}`, one line per image: "
        "`image_id,decision,label,reason`, where `decision` is `keep` (one of these labels), `relabel` "
        "(another label) or `drop` (no label). The file behind *all conflicts* has every line but the "
        f"decisions.\n\n{report.markdown_table(rows, seen)}"
    )
