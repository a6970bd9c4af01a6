"""How often the promotion rule is right: `python -m benchmarks.promotion`.

Simulates a champion and candidates that are truly worse, equal or better by so many points, on test splits of
several sizes, and asks the very functions that the platform asks
(`captcha_assets.evaluation.candidate_comparison`) what they decide: once, and over 50 candidates in a row on
one test split, where whoever is promoted is the next champion. Prints the tables of
docs/promotion.md. Takes a few minutes on one core.

A model reads an image correctly if the image is easy enough for it: a normal score of the image, shared by
all models, plus one of the model on that image lies below a threshold. `--shared` is the image's part of the
variance: with 0.8, two models of 95 % differ on every 20th image. There are twenty classes of equal size.
Calibration, export and latency are taken as met.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from benchmarks import results
from benchmarks.results import Recording
from captcha_assets.evaluation.candidate_comparison import (
    PairedCounts,
    PromotionLimits,
    accuracy_criteria,
    count_pairs,
)

CLASSES = tuple(f"class {number:02}" for number in range(20))
#: Points by which the candidate is truly better than the champion.
DIFFERENCES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
IN_A_ROW = 50
NEWER = "trained on newer images"

Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """A test split, and models that read it."""

    labels: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    shared: float
    rng: np.random.Generator

    @classmethod
    def drawn(cls, images: int, shared: float, rng: np.random.Generator) -> "World":
        """Draw a test split."""
        labels = np.arange(images) % len(CLASSES)
        return cls(labels, rng.standard_normal(images, dtype=np.float32), shared, rng)

    def answers(self, accuracy: float) -> Right:
        """Draw which images a model of this true accuracy reads correctly."""
        threshold = NormalDist().inv_cdf(accuracy)
        spread = (threshold - self.shared**0.5 * self.score) / (1 - self.shared) ** 0.5
        return self.rng.random(len(self.labels), dtype=np.float32) < ndtr(spread)

    def count(self, champion: Right, candidate: Right) -> PairedCounts:
        """Count how two models differ."""
        return count_pairs(CLASSES, self.labels, champion, candidate)


@dataclass(frozen=True)
class Model:
    """A model: its true accuracy, and which images it reads correctly."""

    accuracy: float
    right: Right


def capped(accuracy: float) -> float:
    """Return an accuracy that a model can have."""
    return min(max(accuracy, 0.01), 0.999)


@dataclass(frozen=True)
class Once:
    """Shares of candidates: promoted with newer data, without, vetoed by a class, and measured as better."""

    newer: float
    same: float
    vetoed: float
    higher: float


def once(images: int, difference: float, rounds: int, options: argparse.Namespace) -> Once:
    """Judge one candidate, on a new test split each time."""
    rng, outcomes = np.random.default_rng(options.seed), []
    for _ in range(rounds):
        world = World.drawn(images, options.shared, rng)
        champion = world.answers(options.accuracy)
        candidate = world.answers(capped(options.accuracy + difference / 100))
        counts = world.count(champion, candidate)
        no_worse, newer, recall = accuracy_criteria(counts, options.limits, newer_data=NEWER)
        fit = no_worse.passed and recall.passed
        higher = bool(candidate.sum() > champion.sum())
        outcomes.append((fit, fit and bool(newer.figures["superior"]), not recall.passed, higher))
    return Once(*(fmean(column) for column in zip(*outcomes, strict=True)))


@dataclass(frozen=True)
class Row:
    """Candidates in a row: was any promoted, how many, and how far did the champion's true accuracy go."""

    any: float
    promoted: float
    points: float
    flattered: float


def row(images: int, difference: float, rounds: int, newer: bool, options: argparse.Namespace) -> Row:
    """Judge candidates in a row on one test split, again and again.

    A worse or equal candidate is so much worse than the champion that it meets; a better one is so much
    better than the first champion.
    """
    rng, outcomes = np.random.default_rng(options.seed + 1), []
    for _ in range(rounds):
        world = World.drawn(images, options.shared, rng)
        outcomes.append(_walk(world, difference / 100, newer, options))
    return Row(*(fmean(column) for column in zip(*outcomes, strict=True)))


def _walk(
    world: World, difference: float, newer: bool, options: argparse.Namespace
) -> tuple[bool, int, float, float]:
    first = champion = reference = Model(options.accuracy, world.answers(options.accuracy))
    promotions = 0
    for _ in range(IN_A_ROW):
        base = first.accuracy if difference > 0 else champion.accuracy
        accuracy = capped(base + difference)
        candidate = Model(accuracy, world.answers(accuracy))
        criteria = accuracy_criteria(
            world.count(champion.right, candidate.right),
            options.limits,
            newer_data=NEWER if newer else None,
            reference=world.count(reference.right, candidate.right)
            if options.reference and reference is not champion
            else None,
        )
        if all(criterion.passed for criterion in criteria):
            promotions += 1
            champion = candidate
            reference = candidate if criteria[1].figures["superior"] else reference
    flattered = float(champion.right.mean()) - champion.accuracy
    return promotions > 0, promotions, 100 * (champion.accuracy - first.accuracy), 100 * flattered


def table(headings: tuple[str, ...], lines: Iterator[tuple[str, ...]]) -> None:
    """Print a table in Markdown, line by line."""
    print("|", " | ".join(headings), "|")
    print("|", " | ".join("---" if not place else "---:" for place in range(len(headings))), "|")
    for cells in lines:
        print("|", " | ".join(cells), "|", flush=True)
    print(flush=True)


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.1f} %"


@lru_cache
def discordant(shared: float, accuracy: float) -> float:
    """Return on which share of the images two models of one accuracy differ."""
    world = World.drawn(200_000, shared, np.random.default_rng(0))
    return float((world.answers(accuracy) != world.answers(accuracy)).mean())


def lines_once(options: argparse.Namespace, recording: Recording) -> Iterator[tuple[str, ...]]:
    """Judge one candidate for each size and difference."""
    for images in options.images:
        for difference in DIFFERENCES:
            rounds = max(200, options.rounds // max(1, images // 3000))
            found = once(images, difference, rounds, options)
            if -1 <= difference <= 0:
                recorded(recording, images, difference, found)
            newer, same = (
                f"promoted {percent(share)}" if difference <= 0 else f"not promoted {percent(1 - share)}"
                for share in (found.newer, found.same)
            )
            yield f"{images:,}", f"{difference:+g}", newer, same, percent(found.vetoed)


def recorded(recording: Recording, images: int, difference: float, found: Once) -> None:
    """Record how often a candidate that is no better is promoted without newer data."""
    points = "1 point" if difference == -1 else f"{-difference:g} points"
    truly = f"truly {points} worse" if difference else "truly as good"
    recording.claim(
        f"promoted-{images}{difference:+g}",
        f"promoted although {truly}, on {images:,} test images",
        100 * found.same,
        "%",
        alternative=100 * found.higher,
        alternative_name="the higher of two accuracies wins",
    )


def lines_in_a_row(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Judge 50 in a row for each size and difference, with newer data and without."""
    for images in options.images:
        for difference in (-2.0, -1.0, -0.5, -0.25, 0.0, 0.5, 1.0, 2.0):
            for newer in (True, False):
                rounds = max(20, options.walks // max(1, images // 3000))
                found = row(images, difference, rounds, newer, options)
                some = percent(found.any) if difference <= 0 else percent(1 - found.any)
                yield (
                    f"{images:,}",
                    f"{difference:+g}",
                    "yes" if newer else "no",
                    f"{'some promoted' if difference <= 0 else 'none promoted'} {some}",
                    f"{found.promoted:.2f}",
                    f"{found.points:+.2f}",
                    f"{found.flattered:+.2f}",
                )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promotion")
    parser.add_argument("--images", type=int, nargs="+", default=[300, 3000, 30_000])
    parser.add_argument(
        "--rounds", type=int, default=1000, help="candidates compared once; fewer on many images"
    )
    parser.add_argument("--walks", type=int, default=60, help="rows of 50; fewer on many images")
    parser.add_argument("--accuracy", type=float, default=0.95, help="true accuracy of the first champion")
    parser.add_argument("--shared", type=float, default=0.8, help="what images share of the difficulty")
    parser.add_argument("--margin", type=float, default=PromotionLimits().margin)
    parser.add_argument("--level", type=float, default=PromotionLimits().level)
    parser.add_argument(
        "--no-reference",
        dest="reference",
        action="store_false",
        help="do without the criterion that small losses must not add up",
    )
    parser.add_argument("--seed", type=int, default=1)
    results.add_option(parser)
    options, recording = parser.parse_args(), Recording("benchmarks.promotion", ("numpy", "scipy"))
    options.limits = PromotionLimits(margin=options.margin, level=options.level)
    differ = percent(discordant(options.shared, options.accuracy))
    print(
        f"First champion: {percent(options.accuracy)}; margin {100 * options.margin:g} points; "
        f"level {options.level:g}. "
        f"Two models of that accuracy differ on {differ} of the images.\n"
    )
    headings = ("test images", "candidate, points", "newer data", "same data", "vetoed by a class")
    table(headings, lines_once(options, recording))
    headings = (
        "test images",
        "candidate, points",
        "newer data",
        f"of {IN_A_ROW} in a row",
        "promoted, mean",
        "champion's true accuracy in the end, points",
        "its measured accuracy is too high by, points",
    )
    table(headings, lines_in_a_row(options))
    recording.write(options.result)


if __name__ == "__main__":
    main()
