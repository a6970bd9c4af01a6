"""All benchmarks: the command of each, how long it takes, what it needs, and the page that explains it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Minutes on two cores above which a benchmark is run only when it is named, or with `--long`.
LONG = 12


@dataclass(frozen=True)
class Need:
    """What a machine must have for a benchmark.

    Attributes:
        words: what it is.
        met: says whether it is there.
    """

    words: str
    met: Callable[[], bool]


def _champion() -> bool:
    home = os.environ.get("CAPTCHA_HOME")
    return home is not None and any(Path(home, "artifacts", "models", "history").glob("*.json"))


GPU = Need("a GPU", lambda: shutil.which("nvidia-smi") is not None)
CHAMPION = Need("a home with a champion, named by CAPTCHA_HOME (`make demo` makes one)", _champion)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: of the file of its result, without `.json`.
        title: of its section on the page.
        module: as in `python -m MODULE`.
        page: of docs/, which explains the figures.
        minutes: that it takes on two cores.
        arguments: of the command, without `--result`.
        need: what the machine must have, where it is not every machine.
    """

    name: str
    title: str
    module: str
    page: str
    minutes: float
    arguments: tuple[str, ...] = ()
    need: Need | None = None

    @property
    def command(self) -> str:
        """The command, as it is typed."""
        return " ".join(["python -m", self.module, *self.arguments])

    @property
    def obstacle(self) -> str | None:
        """Why this machine cannot run it; None where it can."""
        return f"needs {self.need.words}" if self.need and not self.need.met() else None


BENCHMARKS = (
    Benchmark("ingest", "From an archive to splits", "benchmarks.ingest", "performance.md", 8, ("--tools",)),
    Benchmark(
        "ingest-growth", "1,000 images more", "benchmarks.ingest.growth", "scale.md#tables-in-parts", 4
    ),
    Benchmark(
        "ingest-scaling",
        "A million images",
        "benchmarks.ingest.scaling",
        "performance.md#growing-to-millions",
        8,
    ),
    Benchmark(
        "ingest-ten-million",
        "Ten million images",
        "benchmarks.ingest.scaling",
        "scale.md#index-and-splits-as-a-whole",
        60,
        ("1000000", "10000000", "--clean"),
    ),
    Benchmark("near-duplicates", "Near-duplicates", "benchmarks.ingest.duplicates", "near-duplicates.md", 3),
    Benchmark("validation", "Validation by Great Expectations", "benchmarks.validation", "performance.md", 2),
    Benchmark("batches", "Many batches", "benchmarks.batches", "scale.md#many-batches", 40),
    Benchmark("dagster", "What Dagster adds", "benchmarks.dagster", "performance.md#what-dagster-adds", 3),
    Benchmark(
        "train-overhead",
        "What Lightning adds",
        "benchmarks.train",
        "performance.md#training",
        3,
        ("--only", "overhead"),
    ),
    Benchmark(
        "train-usual",
        "Training beside the usual way",
        "benchmarks.train",
        "performance.md#training",
        10,
        ("--only", "usual", "--rounds", "3"),
    ),
    Benchmark(
        "train-gpu",
        "Training on a GPU",
        "benchmarks.train",
        "performance.md#training",
        20,
        ("--only", "device"),
        GPU,
    ),
    Benchmark("accuracy", "Accuracy", "benchmarks.accuracy", "accuracy.md", 20, ("--sample-size", "10000")),
    Benchmark(
        "accuracy-generated",
        "Accuracy, trained on generated images alone",
        "benchmarks.accuracy",
        "accuracy.md",
        8,
        ("--config", "configs/narrow.yaml", "--generated-only"),
    ),
    Benchmark("generator", "The generator", "benchmarks.generator", "accuracy.md#what-the-generator-does", 1),
    Benchmark(
        "promotion",
        "The promotion rule",
        "benchmarks.promotion",
        "promotion.md#the-tables",
        4,
        ("--images", "300", "3000"),
    ),
    Benchmark(
        "serving", "The service beside other servers", "benchmarks.serving", "decisions.md#the-server", 8
    ),
    Benchmark(
        "serving-load-test", "The service under users", "benchmarks.serving.load_test", "serving.md#load", 2
    ),
    Benchmark(
        "serving-overload",
        "The service under overload",
        "benchmarks.serving.overload",
        "serving.md#attacks",
        15,
    ),
    Benchmark("quantization", "int8", "benchmarks.quantization", "serving.md#int8", 3, need=CHAMPION),
    Benchmark(
        "prediction-log",
        "The prediction log",
        "benchmarks.prediction_log",
        "prediction-log.md#what-it-costs",
        2,
    ),
    Benchmark(
        "drift", "Drift of served predictions", "benchmarks.drift", "drift.md#how-often-it-is-wrong", 50
    ),
    Benchmark("loop", "The loop", "benchmarks.loop", "loop.md", 15),
)
