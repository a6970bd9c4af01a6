"""How often drift of served predictions is reported, with and without drift: `python -m benchmarks.drift`.

A model is trained as `make demo` does, on generated images. It predicts a pool of others once, undisturbed
and disturbed; days are drawn from the pool and compared with a reference that is drawn anew for each day. The
characters of an image are served together, so that the images of a day depend on each other as those of
real captchas do. Prints the tables of docs/drift.md.
"""

import argparse
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

# Each process takes one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks import results
from benchmarks.drift.model import ROOT, exported_model
from benchmarks.drift.pool import CHANGES, INVERSE, NEW_FONT, Pool, pools
from benchmarks.drift.replay import FREQUENT, TRAINING, VALIDATION, Day, Outcome, outcome
from benchmarks.results import Recording
from captcha_assets.confidence_intervals import wilson
from captcha_assets.monitoring.drift_detection import FALSE_ALARMS
from captcha_assets.monitoring.error_rate import p_value

SIZES = (50, 500, 5000)
#: Disturbances of a part of a day: name, and keyword arguments of `Day`.
PARTS: Mapping[str, Mapping[str, object]] = {
    **{f"new font, {100 * share:g} %": {"disturbed": NEW_FONT, "share": share} for share in (0.05, 0.2, 1)},
    **{f"inverse, {100 * share:g} %": {"disturbed": INVERSE, "share": share} for share in (0.01, 0.1, 1)},
    **{
        f"class {FREQUENT} {factor:g} times as frequent": {"frequency": factor, "together": False}
        for factor in (1.5, 2, 3, 5)
    },
}
_POOLS: dict[str, Pool] = {}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--days", type=int, default=1000, help="undisturbed days of each size (1,000)")
    parser.add_argument("--disturbed-days", type=int, default=30, help="days of each disturbance (30)")
    parser.add_argument("--looks", type=int, default=200, help="days that error rates are looked at (200)")
    parser.add_argument("--images", type=int, default=3000, help="generated images to train on (3,000)")
    parser.add_argument("--pool", type=int, default=20_000, help="undisturbed images (20,000)")
    parser.add_argument("--disturbed-pool", type=int, default=4000, help="of each disturbance (4,000)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--scratch", type=Path, default=ROOT / ".scratch" / "benchmarks" / "drift")
    results.add_option(parser)
    return parser.parse_args()


def _outcome(day: Day) -> Outcome:
    return outcome(_POOLS, day)


def _replayed(days: Sequence[Day], jobs: int) -> list[Outcome]:
    with multiprocessing.get_context("fork").Pool(jobs) as workers:
        return workers.map(_outcome, days, chunksize=10)


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)])


def _families(found: Sequence[Outcome]) -> str:
    count = Counter(family for one in found for family in one.alarms)
    return ", ".join(f"{family} {number}" for family, number in count.most_common()) or "none"


def false_alarms(options: argparse.Namespace, recording: Recording) -> str:
    rows = []
    for size in SIZES:
        found = _replayed([Day(size, seed) for seed in range(options.days)], options.jobs)
        alarms = sum(one.severity != "none" for one in found)
        interval = wilson(alarms, len(found))
        rate = f"{100 * alarms / len(found):.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
        alone = sum(one.by_p_value_alone for one in found)
        rows.append(
            [f"{size:,}", f"{len(found):,}", rate, f"{100 * alone / len(found):.1f} %", _families(found)]
        )
        recording.claim(
            f"false-alarms-{size}",
            f"false alarms on {len(found):,} undisturbed days of {size:,} predictions",
            100 * alarms / len(found), "%", alternative=100 * alone / len(found),
            alternative_name="the p-values alone", target=f"{FALSE_ALARMS:.0%}",
            met=alarms / len(found) <= FALSE_ALARMS,
        )  # fmt: skip
    head = ["predictions a day", "days", "false alarms (95 %)", "by the p-value alone", "alarms by family"]
    return _table(head, rows)


def power(options: argparse.Namespace, recording: Recording) -> str:
    whole = {
        f"{name} {how}": {"disturbed": f"{name} {how}"} for name, each in CHANGES.items() for how in each
    }
    kinds = {**whole, **PARTS}
    days = [
        Day(size, 10_000 + seed, **kind)
        for kind in kinds.values()
        for size in SIZES
        for seed in range(options.disturbed_days)
    ]
    found, rows = iter(_replayed(days, options.jobs)), []
    for name in kinds:
        cells: list[object] = [name]
        for _ in SIZES:
            each = [next(found) for _ in range(options.disturbed_days)]
            alarms = sum(one.severity != "none" for one in each)
            critical = sum(one.severity == "critical" for one in each)
            cells.append(f"{100 * alarms / len(each):.0f} % ({100 * critical / len(each):.0f} %)")
        rows.append([*cells, _families(each)])
    sizes = [f"{size:,} a day" for size in SIZES]
    head = ["disturbance", *sizes, f"alarms of {options.disturbed_days} days of {SIZES[-1]:,}"]
    recording.table("Days with an alarm (with a critical one), by disturbance", head, rows)
    return _table(head, rows)


def _first_alarm(
    rng: np.random.Generator, looks: int, true: float, tolerated: float, size: int
) -> int | None:
    """Return the day on which an error rate that is looked at every day raises an alarm."""
    wrong = np.cumsum(rng.binomial(size, true, looks))
    for day, count in enumerate(wrong, 1):
        if p_value(int(count), day * size, tolerated) <= FALSE_ALARMS:
            return day
    return None


def error_rates(options: argparse.Namespace, recording: Recording, models: int = 500) -> str:
    rng, tolerated, size, rows = np.random.default_rng(1), 0.03, 100, []
    for true in (tolerated, 0.04, 0.05, 0.08):
        found = [_first_alarm(rng, options.looks, true, tolerated, size) for _ in range(models)]
        days = sorted(day for day in found if day is not None)
        share = f"{100 * len(days) / models:.1f} %"
        rows.append([f"{100 * true:g} %", share, days[len(days) // 2] if days else "none"])
    head = ["true error rate", f"alarm within {options.looks} days", "median day of the alarm"]
    recording.table("Error rates that are looked at every day, 3 % tolerated", head, rows)
    return _table(head, rows)


def main() -> None:
    options, start = _options(), time.monotonic()
    recording = Recording("benchmarks.drift", ("numpy", "onnxruntime", "scipy"))
    model = exported_model(options.scratch, options.images)
    _POOLS.update(pools(options.scratch, model, options.pool, options.disturbed_pool))
    said = partial(print, flush=True)
    said(f"model and pools: {time.monotonic() - start:.0f} s")
    said(
        f"reference of {TRAINING:,} training and {VALIDATION:,} validation images; nominal {FALSE_ALARMS:.0%}"
    )
    for title, table in (
        ("Undisturbed days", false_alarms),
        ("Disturbed days: alarms (of them critical)", power),
        ("Error rate, 100 predictions a day, all of them looked at, 3 % tolerated", error_rates),
    ):
        said(f"\n{title}\n\n{table(options, recording)}\n\n{time.monotonic() - start:.0f} s so far")
    recording.write(options.result)


if __name__ == "__main__":
    main()
