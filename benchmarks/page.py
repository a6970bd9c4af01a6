"""docs/benchmarks.md, made of the results in benchmarks/results: `python -m benchmarks.page`."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.catalog import BENCHMARKS, Benchmark
from benchmarks.results import Claim, Result

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"

HEAD = """\
<!-- Made by `make benchmarks-page` from benchmarks/results: change those, not this page. -->

# Benchmarks

Every claim of speed or accuracy with the command that measures it, the machine and the date, beside
what people use today. `make benchmarks` runs all that do not take long and writes this page anew;
`python -m benchmarks --list` names them, `python -m benchmarks NAME` runs one, and
`make benchmarks-page` makes the page from the results that are there.

*Times as good* is the ratio to the alternative, measured in the same run: above 1 ours is better,
below 1 the alternative is. Figures move with the machine and its load, so compare ratios, and of a
busy machine (a load average above the number of its cores) those of CPU time: a target in seconds
that is missed there may be met on a quiet one. *Not measured again* means that the figures were not
measured by the command again: they were copied from the page that is named, with the date and the
machine that it stated then, if any.
"""


def rendered(folder: Path) -> str:
    """Return the page that the results in a folder make.

    Raises:
        ResultError: a file holds no result, or is that of no benchmark.
    """
    found = {path.stem: results.read(path) for path in sorted(folder.glob("*.json"))}
    if unknown := sorted(set(found) - {one.name for one in BENCHMARKS}):
        raise results.ResultError(
            f"{folder / unknown[0]}.json belongs to no benchmark of benchmarks/catalog.py"
        )
    measured = [one for one in BENCHMARKS if one.name in found]
    missing = [one for one in BENCHMARKS if one.name not in found]
    parts = [HEAD, *(_section(one, found[one.name]) for one in measured)]
    return "\n".join([*parts, _missing(missing)] if missing else parts)


def write(folder: Path = results.FOLDER, target: Path = PAGE) -> None:
    """Write the page that the results in a folder make."""
    target.write_text(rendered(folder))


def _section(benchmark: Benchmark, result: Result) -> str:
    page, _, anchor = benchmark.page.partition("#")
    link = f"[{page}]({page}{'#' if anchor else ''}{anchor})"
    carried = f"**Not measured again**; [{result.carried_from}]({result.carried_from}) stated it"
    how = carried if result.carried_from else "Measured"
    return "".join(
        [
            f"## {benchmark.title}\n\n",
            f"`{result.command}`\n\n",
            f"{how}, {result.date}: {result.machine}. Explained in {link}.\n",
            *(f"\n{part}" for part in _figures(result)),
        ]
    )


def _figures(result: Result) -> Iterator[str]:
    targets = any(one.target for one in result.claims)
    head = ["claim", "ours", "alternative", "times as good", *(["target"] if targets else [])]
    yield _table(head, (_row(one, targets=targets) for one in result.claims))
    for table in result.tables:
        yield f"{table.title}:\n\n{_table(table.columns, table.rows)}"


def _row(claim: Claim, *, targets: bool) -> list[str]:
    other = (
        "none"
        if claim.alternative is None
        else f"{_with_unit(claim.alternative, claim)}: {claim.alternative_name}"
    )
    ratio = "" if claim.ratio is None else f"{claim.ratio:.3g}"
    met = {True: ": met", False: ": **missed**", None: ""}[claim.met]
    row = [claim.claim, _with_unit(claim.ours, claim), other, ratio]
    return [*row, f"{claim.target}{met}"] if targets else row


def _with_unit(value: float, claim: Claim) -> str:
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{number} {claim.unit}".strip()


def _missing(missing: Iterable[Benchmark]) -> str:
    rows = [(one.title, f"`{one.command}`", _why(one)) for one in missing]
    return f"## Not measured here\n\n{_table(('benchmark', 'command', 'why'), rows)}"


def _why(benchmark: Benchmark) -> str:
    if benchmark.need:
        return f"needs {benchmark.need.words}"
    return f"takes about {benchmark.minutes:g} minutes on two cores"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def main() -> None:
    """Write docs/benchmarks.md."""
    try:
        write()
    except results.ResultError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
