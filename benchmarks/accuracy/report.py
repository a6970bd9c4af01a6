"""The table: a row a training, then mean, spread and all answers together; then the targets."""

import statistics
from collections.abc import Sequence

from benchmarks.accuracy.data import KAGGLE, REAL, TEST
from benchmarks.accuracy.measure import Trial, pooled
from benchmarks.results import Recording
from captcha_assets.evaluation.metrics import CALIBRATION_BINS

#: Most that the calibration error on the test split may be.
ECE_TARGET = 0.02

LEGEND = f"""\
right: share of the images read right, with Wilson's 95 % interval. ECE: expected calibration error over
{CALIBRATION_BINS} bins of equal width; in brackets without the temperature, and by chance: that of answers as
sure as these and perfectly calibrated. std: standard deviation between the seeds. pooled: the answers of
all seeds; they are about the same images, so the interval is narrower than it should be."""


def headings(sets: dict[str, int]) -> list[str]:
    """Of the columns; `sets` says how many images each set has."""
    names = {"test": "test split", REAL: "real images"}
    pairs = [(f"{names[one]}, {sets[one]}: right", "ECE") for one in names if one in sets]
    return ["seed", *(cell for pair in pairs for cell in pair), *_kaggle(sets), "temperature", "CPU s"]


def _kaggle(sets: dict[str, int]) -> list[str]:
    return ["Kaggle"] if KAGGLE in sets else []


def cells(one: Trial) -> list[str]:
    """The row of a training."""
    row = [str(one.seed)]
    for answers in (one.answers[name] for name in (TEST, REAL) if name in one.answers):
        found, before = answers.metrics, answers.without(one.temperature).metrics
        row.append(f"{found.accuracy:.4f} ({found.accuracy_low:.4f} to {found.accuracy_high:.4f})")
        row.append(f"{found.ece:.4f} ({before.ece:.4f}, {answers.ece_by_chance():.4f})")
    if KAGGLE in one.answers:
        row.append(f"{one.answers[KAGGLE].right} of {len(one.answers[KAGGLE].labels)}")
    return [*row, f"{one.temperature:.3f}", f"{one.seconds:.0f}"]


def _summary(trials: Sequence[Trial]) -> list[list[str]]:
    rows = [["mean"], ["std"], ["pooled"]]
    for name in (TEST, REAL):
        if name in trials[0].answers:
            found = [one.answers[name].metrics for one in trials]
            for values in ([one.accuracy for one in found], [one.ece for one in found]):
                rows[0].append(f"{statistics.mean(values):.4f}")
                rows[1].append(f"{statistics.stdev(values):.4f}" if len(values) > 1 else "")
            together = pooled([one.answers[name] for one in trials]).metrics
            interval = f"({together.accuracy_low:.4f} to {together.accuracy_high:.4f})"
            rows[2] += [f"{together.accuracy:.4f} {interval}", f"{together.ece:.4f}"]
    return rows


def lined_up(rows: list[list[str]]) -> str:
    """Rows of cells, the shorter ones filled up, as lines of text."""
    whole = [row + [""] * (len(rows[0]) - len(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in whole]
    return "\n".join(line.rstrip() for line in lines)


def _verdicts(trials: Sequence[Trial], target: float) -> list[str]:
    ece = statistics.mean(one.answers[TEST].metrics.ece for one in trials)
    found = [(ece <= ECE_TARGET, f"mean ECE on the test split {ece:.4f}, at most {ECE_TARGET}")]
    if REAL in trials[0].answers:
        real = statistics.mean(one.answers[REAL].metrics.accuracy for one in trials)
        found.append((real >= target, f"mean accuracy on real images {real:.4f}, at least {target}"))
    if KAGGLE in trials[0].answers:
        all_right = all(one.answers[KAGGLE].right == len(one.answers[KAGGLE].labels) for one in trials)
        found.append((all_right, "every Kaggle sample right by every seed"))
    return [f"{'met' if met else 'MISSED':8}{words}" for met, words in found]


def recorded(recording: Recording, trials: Sequence[Trial], target: float) -> None:
    """Record the mean accuracy on real images and on the test split, and the mean calibration error."""
    seeds = f"mean of {len(trials)} seeds"
    for name, what in ((REAL, "real images"), (TEST, "images of the test split")):
        if name in trials[0].answers:
            share = statistics.mean(one.answers[name].metrics.accuracy for one in trials)
            count = len(trials[0].answers[name].labels)
            aim = {"target": f"{target:g}", "met": share >= target} if name == REAL else {}
            recording.claim(
                name, f"share of {count:,} {what} read right, {seeds}", share, "", better="more", **aim
            )
    calibrated, raw = (
        statistics.mean(answers.metrics.ece for answers in each)
        for each in (
            [one.answers[TEST] for one in trials],
            [one.answers[TEST].without(one.temperature) for one in trials],
        )
    )
    recording.claim(
        "ece", f"calibration error on the test split, {seeds}", calibrated, "", alternative=raw,
        alternative_name="without the temperature", target=f"{ECE_TARGET:g}", met=calibrated <= ECE_TARGET,
    )  # fmt: skip


def report(title: str, trials: Sequence[Trial], target: float) -> str:
    """Everything that was found, as text; `target` is the least accuracy on real images."""
    sets = {name: len(answers.labels) for name, answers in trials[0].answers.items()}
    rows = [headings(sets), *map(cells, trials), *_summary(trials)]
    mistakes = (
        f"mistakes on {name}, all seeds (is>said): {pooled([one.answers[name] for one in trials]).mistakes()}"
        for name in (TEST, REAL)
        if name in sets
    )
    return "\n".join([title, "", lined_up(rows), "", LEGEND, "", *mistakes, *_verdicts(trials, target)])
