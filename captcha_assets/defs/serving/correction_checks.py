"""The checks of `corrections`: corrected images that do not reach the splits, named, with what to do."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.defs.partitions import days
from captcha_assets.defs.presentation import table
from captcha_assets.paths import Paths

if TYPE_CHECKING:
    from captcha_assets.sources.correction_outcomes import CorrectedImages, LabelConflict, RejectedImage

#: So many images are shown.
_SHOWN = 100

_LABELS_AGREE = dg.AssetCheckSpec(
    "labels_agree",
    asset="corrections",
    description="No corrected image has another label elsewhere. One that has is in no split until a person "
    "decides in `label_decisions.csv`.",
    partitions_def=days,
)
_IMAGES_USABLE = dg.AssetCheckSpec(
    "images_usable",
    asset="corrections",
    description="`image_table` rejects no corrected image.",
    partitions_def=days,
)
CORRECTION_CHECKS = [_LABELS_AGREE, _IMAGES_USABLE]


def correction_results(paths: Paths, found: "CorrectedImages") -> list[dg.AssetCheckResult]:
    """Return the results of `CORRECTION_CHECKS`: warnings, since the other images of the day are usable."""
    decide = (
        f"{_number(found.conflicts)} another label elsewhere: no training uses an image that is in conflict "
        f"until a line in {paths.label_decisions} decides (image_id,decision,label,reason)"
    )
    reasons = ", ".join(sorted({one.reason for one in found.rejected}))
    unused = f"{_number(found.rejected)} been rejected ({reasons}): no training uses these corrections"
    return [
        _result(_LABELS_AGREE, found.conflicts, decide, "no label contradicts another"),
        _result(_IMAGES_USABLE, found.rejected, unused, "every corrected image is usable"),
    ]


def _number(images: Sequence[object]) -> str:
    return "1 corrected image has" if len(images) == 1 else f"{len(images):,} corrected images have"


def _result(
    spec: dg.AssetCheckSpec,
    images: "Sequence[LabelConflict] | Sequence[RejectedImage]",
    problem: str,
    sound: str,
) -> dg.AssetCheckResult:
    rows = [asdict(one) for one in images]
    return dg.AssetCheckResult(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=not images,
        severity=dg.AssetCheckSeverity.WARN,
        description=problem if images else sound,
        metadata={"images": table(rows[:_SHOWN], list(rows[0]))} if rows else {},
    )
