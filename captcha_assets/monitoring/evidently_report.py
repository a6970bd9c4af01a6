"""Evidently's page of the same comparison: for people who know it. It decides nothing.

Needs `pip install "captcha_assets[evidently]"`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.monitoring.sample import Reference, Sample
from captcha_assets.quality.drift import STATISTICS, DriftError

if TYPE_CHECKING:
    import pandas as pd

_PREDICTED = "predicted class"


@dataclass(frozen=True)
class EvidentlyResult:
    """What Evidently's preset for data drift says.

    Attributes:
        drifted: names of the columns that drifted by its rules.
        columns: number of columns.
    """

    drifted: tuple[str, ...]
    columns: int

    @property
    def dataset_drift(self) -> bool:
        """Whether half of the columns drifted: what Evidently calls drift of a data set."""
        return 2 * len(self.drifted) >= self.columns


def evidently_report(reference: Reference, sample: Sample, target: AnyPath) -> EvidentlyResult:
    """Write Evidently's page, complete or not at all, and return what it says.

    Args:
        reference: what the model was trained and validated on.
        sample: predictions of a window.
        target: the page, an `.html` file.

    Raises:
        DriftError: the sample is empty, or Evidently is not installed.
    """
    if len(sample) == 0:
        raise DriftError("there are no predictions to compare")
    try:
        from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
        from evidently.presets import DataDriftPreset  # noqa: PLC0415
    except ModuleNotFoundError as error:
        wanted = 'pip install "captcha_assets[evidently]"'
        raise DriftError(f"Evidently is not installed ({error}): {wanted}") from error
    before, now = _reference_frame(reference), _frame(sample, reference.classes)
    kept = [name for name in before.columns if now[name].notna().any()]  # what was not stored is not compared
    definition = DataDefinition(
        numerical_columns=[name for name in kept if name != _PREDICTED], categorical_columns=[_PREDICTED]
    )
    current, known = (Dataset.from_pandas(frame[kept], definition) for frame in (now, before))
    run = Report([DataDriftPreset()], include_tests=True).run(current, known)
    with replacing(target) as part:
        run.save_html(str(part))
    return EvidentlyResult(_failed(run.dict()["tests"]), len(kept))


def _failed(tests: list[dict[str, object]]) -> tuple[str, ...]:
    """Return the columns whose test failed."""
    failed = []
    for test in tests:
        config = test["metric_config"]
        column = config["params"].get("column") if isinstance(config, dict) else None
        if column and str(test["status"]).endswith("FAIL"):
            failed.append(str(column))
    return tuple(failed)


def _frame(sample: Sample, classes: tuple[str, ...]) -> "pd.DataFrame":
    return _columns(sample.statistics, sample.probabilities, sample.predicted, classes)


def _reference_frame(reference: Reference) -> "pd.DataFrame":
    """Return the validation predictions beside as many evenly spaced quantiles of the training images."""
    levels = np.linspace(0, 1, reference.quantiles.shape[1])
    positions = np.linspace(0, 1, len(reference.labels))
    statistics = np.column_stack([np.interp(positions, levels, row) for row in reference.quantiles])
    return _columns(statistics, reference.probabilities, reference.predicted, reference.classes)


def _columns(
    statistics: NDArray[np.float64],
    probabilities: NDArray[np.float32],
    predicted: NDArray[np.int64],
    classes: tuple[str, ...],
) -> "pd.DataFrame":
    import pandas as pd  # noqa: PLC0415

    named = {name.replace("_", " "): column for name, column in zip(STATISTICS, statistics.T, strict=True)}
    for label, column in zip(classes, probabilities.T, strict=True):
        named[f"probability of {label}"] = column.astype(np.float64)
    return pd.DataFrame({**named, _PREDICTED: np.array(classes, object)[predicted]})
