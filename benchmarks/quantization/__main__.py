"""int8 beside fp32: size, accuracy and speed of the champion: `python -m benchmarks.quantization [--help]`.

The champion's export of the home (`CAPTCHA_HOME`) is quantized in both formats of onnxruntime, calibrated as
the asset `quantized_model` does it. All three answer the test split, and characters that are generated anew,
which are more: the test split of a small home has too few images to tell a loss of 0.2 percentage points.
They are timed in turns, in one process, so that the machine's load meets all of them alike: the ratio is that
of fp32's median time to the export's. `CPU` is the same ratio of the processor's times, which depend less on
what else runs. A resnet18 of full size, never trained, is timed in the same way. Takes a minute or two.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.results import Recording, processor
from benchmarks.serving.model import make_home
from captcha_assets.atomic_files import fetched
from captcha_assets.dataset import CAPTCHA
from captcha_assets.evaluation.quantization_loss import calibration_images
from captcha_assets.images.local_tables import local_tables
from captcha_assets.images.reader import SplitImages, read_split
from captcha_assets.models.predict_files import resolve
from captcha_assets.models.predictor import open_session, run_session
from captcha_assets.models.quantization import Format, write_quantized
from captcha_assets.settings import load_settings
from captcha_assets.sources.synthetic_batches import generate

SEED = 77
COLUMNS = (
    "export", "size", "accuracy (test)", "accuracy (generated)", "images/s, batch 1", "ratio", "CPU",
    "images/s, batch 32", "ratio", "CPU",
)  # fmt: skip
FORMATS: tuple[Format, ...] = ("QDQ", "QOperator")


def for_int8() -> str:
    """Return what the processor has for int8."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    known = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8")
    return ", ".join(flag for flag in known if flag in flags)


def splits() -> tuple[SplitImages, SplitImages]:
    """Return the images of the home's training split and of its test split."""
    with local_tables(load_settings().paths) as data:
        train, test = (
            read_split(data.tables, data.splits, split, classes=CAPTCHA.classes, shape=CAPTCHA.shape)
            for split in ("train", "test")
        )
    return train, test


def generated(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return characters that no training saw, and their classes as positions."""
    drawn = list(generate(count, seed=SEED))
    return np.stack([image for _, image in drawn]), np.array([CAPTCHA.classes.index(x) for x, _ in drawn])


def main() -> None:
    """Print the tables of docs/serving.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--generated", type=int, default=6000, help="images that are generated anew")
    parser.add_argument("--rounds", type=int, default=100, help="calls of each export and batch size")
    results.add_option(parser)
    told = parser.parse_args()
    recording = Recording("benchmarks.quantization", ("numpy", "onnxruntime"))
    paths = load_settings().paths
    train, test = splits()
    calibration = calibration_images(train)
    known = [(test.pixels, test.labels), generated(told.generated)]
    print(
        f"{processor()} ({for_int8()}), {len(os.sched_getaffinity(0))} cores, "
        f"load of the machine {os.getloadavg()[0]:.1f}"
    )
    print(f"\nThe champion, {len(test):,} test images, {told.generated:,} generated:\n")
    model_id = resolve(paths, "champion")
    with fetched(paths.onnx_model(model_id)) as export:
        recorded(recording, "the champion", *compare(export / "model.onnx", calibration, known, told.rounds))
    print("\nA resnet18 of full size, never trained:\n")
    with tempfile.TemporaryDirectory() as home:
        export = make_home(Path(home)) / "model.onnx"
        recorded(recording, "a resnet18 of full size", *compare(export, calibration, [], told.rounds))
    recording.write(told.result)


Known = list[tuple[np.ndarray, np.ndarray]]


def compare(
    fp32: Path, calibration: np.ndarray, known: Known, rounds: int
) -> tuple[list[list[str]], list[np.ndarray]]:
    """Print a row for fp32, and one for each format of int8.

    Returns:
        The rows, and the median times at mini-batches of 1 and of 32.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"fp32": fp32, **{f"int8, {form}": Path(folder, form) for form in FORMATS}}
        for form in FORMATS:
            write_quantized(fp32, files[f"int8, {form}"], calibration, form)
        sessions = [open_session(file) for file in files.values()]
        times = [median_times(sessions, calibration[:size], rounds) for size in (1, 32)]
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for number, (name, file) in enumerate(files.items()):
            cells = [name, f"{file.stat().st_size / 1e6:.2f} MB"]
            right = [run_session(sessions[number], x, 256).argmax(1) == y for x, y in known]
            cells += [f"{one.mean():.4f} ({one.sum():,})" for one in right] or ["", ""]
            for size, medians in zip((1, 32), times, strict=True):
                ratios = medians[0] / medians[number]
                cells += [f"{size / medians[number][0]:,.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(cells)
    return rows, times


def recorded(recording: Recording, model: str, rows: list[list[str]], times: list[np.ndarray]) -> None:
    """Record what `compare` returned."""
    recording.table(f"fp32 and int8, {model}", COLUMNS, rows)
    for size, medians in zip((1, 32), times, strict=True):
        claim, alternative = f"int8 of {model}, a mini-batch of {size}", medians[0][1] * 1000
        recording.claim(
            f"{model}, {size}", claim, medians[-1][1] * 1000, "CPU ms", alternative=alternative,
            alternative_name="fp32, in turns",
        )  # fmt: skip


def median_times(sessions: list, batch: np.ndarray, rounds: int) -> np.ndarray:
    """Return the median wall and CPU time of one call of each session, (sessions, 2), called in turns."""
    times = np.zeros((rounds, len(sessions), 2))
    for turn in range(rounds):
        for number, session in enumerate(sessions):
            began = time.perf_counter(), time.process_time()
            run_session(session, batch, len(batch))
            times[turn, number] = time.perf_counter() - began[0], time.process_time() - began[1]
    return np.median(times, axis=0)


if __name__ == "__main__":
    main()
