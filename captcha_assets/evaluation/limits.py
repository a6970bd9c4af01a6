"""What a model cannot do, in sentences that its figures give: the limits that its report states."""

from collections.abc import Iterator, Sequence

from captcha_assets.evaluation.formatting import percent
from captcha_assets.evaluation.metrics import BatchMetrics, ClassMetrics, Metrics

#: A class of fewer test images than these has an interval of more than 10 points.
FEW_IMAGES = 50
#: Classes and batches that are named at most.
NAMED = 5
#: From this expected calibration error on, the probabilities are said to be off.
CALIBRATION_ERROR = 0.05

_GENERAL = (
    (
        "It answers with one of its classes whatever an image shows. A low probability is a hint that it "
        "shows none of them; the drift report of the service compares what comes in with the training images."
    ),
    (
        "The test images come from the batches that it was trained on. How it reads images of another "
        "source is known when a batch of them has been evaluated."
    ),
)


def limits(metrics: Metrics, batches: Sequence[BatchMetrics]) -> list[str]:
    """Return what a model cannot do, or is not known to do, the general first."""
    return [
        *_GENERAL,
        *_of_accuracy(metrics),
        *_of_classes(metrics),
        *_of_batches(metrics, batches),
        *_of_calibration(metrics),
    ]


def _of_accuracy(metrics: Metrics) -> Iterator[str]:
    common = max(metrics.per_class, key=lambda one: one.support)
    if metrics.accuracy_low <= common.support / metrics.n:
        share = percent(common.support / metrics.n)
        yield f"It is no better than guessing: always saying {common.name} reads {share} of the images right."


def _of_classes(metrics: Metrics) -> Iterator[str]:
    worse = [one for one in metrics.per_class if _is_worse(one, metrics)]
    for one in sorted(worse, key=lambda one: one.recall or 0)[:NAMED]:
        yield (
            f"It reads {one.name} worse than the others: {percent(one.recall or 0)} of {one.support:,} "
            f"images ({percent(one.recall_low or 0)} to {percent(one.recall_high or 0)})."
        )
    few = [one.name for one in metrics.per_class if 0 < one.support < FEW_IMAGES]
    if few:
        words = ", ".join(few[:NAMED]) + (f" and {len(few) - NAMED} more classes" if len(few) > NAMED else "")
        words = "any class" if len(few) == len(metrics.per_class) else words
        yield f"Fewer than {FEW_IMAGES} test images show {words}: their recall is known roughly."
    if metrics.missing:
        yield f"No test image shows {', '.join(metrics.missing)}: nothing is known of their recall."


def _is_worse(one: ClassMetrics, metrics: Metrics) -> bool:
    """Whether the whole interval of a class lies below the accuracy."""
    return one.recall_high is not None and one.recall_high < metrics.accuracy


def _of_batches(metrics: Metrics, batches: Sequence[BatchMetrics]) -> Iterator[str]:
    worse = [one for one in batches if one.interval.high < metrics.accuracy]
    for one in sorted(worse, key=lambda one: one.accuracy)[:NAMED]:
        yield (
            f"It reads batch {one.batch} worse than the others: {percent(one.accuracy)} "
            f"({percent(one.interval.low)} to {percent(one.interval.high)})."
        )


def _of_calibration(metrics: Metrics) -> Iterator[str]:
    if metrics.ece > CALIBRATION_ERROR:
        yield f"Its probabilities are off by {percent(metrics.ece)} on average: decide nothing by them alone."
