"""The result of a benchmark as JSON: claims beside what people use today, the command, the date, the machine.

A benchmark starts a `Recording`, adds claims and tables to it, and writes it where `--result FILE` says.
`benchmarks.page` makes docs/benchmarks.md of the files in `benchmarks/results`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, Literal

import click

#: The results that are kept.
FOLDER = Path(__file__).resolve().parent / "results"


class ResultError(ValueError):
    """A file that holds no result; the message says which."""


@dataclass(frozen=True)
class Claim:
    """One figure, beside the same figure of what people use today.

    Attributes:
        name: unique within the benchmark.
        claim: what is claimed, in words.
        ours: the figure, in `unit`.
        alternative: the figure of the alternative in the same unit; None where there is none.
        alternative_name: what people use today.
        better: whether less or more of the unit is better.
        target: what was aimed at, in words.
        met: whether the target is met; None where there is none.
    """

    name: str
    claim: str
    ours: float
    unit: str
    alternative: float | None = None
    alternative_name: str = ""
    better: Literal["less", "more"] = "less"
    target: str = ""
    met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as good as the alternative ours is: above 1, ours is better."""
        if self.alternative is None:
            return None
        over, under = (
            (self.alternative, self.ours) if self.better == "less" else (self.ours, self.alternative)
        )
        return over / under if under > 0 and over >= 0 else None


@dataclass(frozen=True)
class Table:
    """Figures behind the claims."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Machine:
    """Where a result was measured.

    Attributes:
        processor: its name.
        cores: those that the process may use.
        memory_gb: main memory.
        load: load averages over one minute, when the benchmark began and when it ended.
        versions: of Python and of the libraries that matter.
        stated: what a page says of the machine, of figures that were taken over from it.
    """

    processor: str = ""
    cores: int = 0
    memory_gb: int = 0
    load: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    stated: str = ""

    def __str__(self) -> str:
        if self.stated:
            return self.stated
        load = " to ".join(f"{one:.1f}" for one in self.load)
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.processor}, {self.cores} cores, {self.memory_gb} GB, load average {load}; {versions}"


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        command: what measured it, to be run in the repository.
        date: ISO 8601, or the month that a page states.
        carried_from: the page of docs/ that the figures are taken from, where they were not measured again.
    """

    command: str
    date: str
    machine: Machine
    claims: list[Claim]
    tables: list[Table] = field(default_factory=list)
    carried_from: str = ""

    def to_json(self) -> str:
        """Return the result as JSON, each claim with its ratio."""
        claims = [{**asdict(one), "ratio": one.ratio} for one in self.claims]
        return json.dumps({**asdict(self), "claims": claims}, indent=1, ensure_ascii=False) + "\n"


def read(path: Path) -> Result:
    """Read a result.

    Raises:
        ResultError: the file holds none.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        claims = [Claim(**{k: v for k, v in one.items() if k != "ratio"}) for one in found.pop("claims")]
        tables = [Table(**one) for one in found.pop("tables", [])]
        return Result(machine=Machine(**found.pop("machine")), claims=claims, tables=tables, **found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ResultError(f"{path} holds no result of a benchmark: {error}") from error


class Recording:
    """The result of the run of a benchmark, as it comes about."""

    def __init__(self, module: str, packages: Iterable[str] = ()) -> None:
        """Note the command, the date and the machine's load.

        Args:
            module: the benchmark's own, as in `python -m MODULE`.
            packages: distributions whose versions matter.
        """
        self._command = " ".join(["python -m", module, *_arguments(sys.argv[1:])])
        self._packages, self._load = tuple(packages), os.getloadavg()[0]
        self._date = datetime.now(UTC).date().isoformat()
        self.claims: list[Claim] = []
        self.tables: list[Table] = []

    def claim(self, name: str, claim: str, ours: float, unit: str, **others: Any) -> None:
        """Add a claim; see `Claim`."""
        self.claims.append(Claim(name, claim, _rounded(ours), unit, **_all_rounded(others)))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Add a table; its cells are shown as they are."""
        self.tables.append(Table(title, list(columns), [[str(cell) for cell in row] for row in rows]))

    def write(self, path: Path | None) -> None:
        """Write the result; nothing where there is no path."""
        if path is None:
            return
        machine = machine_now(self._packages, self._load)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Result(self._command, self._date, machine, self.claims, self.tables).to_json())


def _arguments(given: Sequence[str]) -> list[str]:
    """Return the arguments without `--result FILE`."""
    kept, words = [], iter(given)
    for word in words:
        if word == "--result":
            next(words, None)
        elif not word.startswith("--result="):
            kept.append(word)
    return kept


def _rounded(value: float) -> float:
    """Return four significant digits: what is behind them is noise."""
    return float(f"{value:.4g}")


def _all_rounded(others: dict[str, Any]) -> dict[str, Any]:
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in others.items()}


def machine_now(packages: Iterable[str], load_before: float) -> Machine:
    """Describe this machine."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = {"Python": python_version()} | {name: metadata.version(name) for name in sorted(packages)}
    load = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    return Machine(processor(), len(os.sched_getaffinity(0)), round(gigabytes), load, versions)


def processor() -> str:
    """Return the processor's name, with family and model: clouds give many the same name."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name", "an unknown processor")
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add `--result FILE`."""
    parser.add_argument("--result", type=Path, metavar="FILE", help="where the result is written, as JSON")


#: `--result FILE` of a command of click.
option = click.option(
    "--result", type=click.Path(path_type=Path), metavar="FILE", help="Where the result is written, as JSON."
)
