"""How well the platform's models read: `python -m benchmarks.accuracy [--help]`.

Generated images and the shared real characters go through the platform (image tables, checks, index,
splits); for each seed the training process is run and its model tested on the test split, on the split's
real images, and on the Kaggle samples. `--generated-only` trains on generated images alone, so that all
real characters test it. A table comes last. Real images are looked for in `../shared/data`.
"""

import argparse
import sys
from pathlib import Path

import yaml

from benchmarks import results
from benchmarks.accuracy.data import GENERATED, KAGGLE, REAL, TEST, all_of, deliver, new_home, of_batch, split
from benchmarks.accuracy.measure import Trial, trial
from benchmarks.accuracy.report import cells, headings, lined_up, recorded, report
from benchmarks.results import Recording
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.local_tables import LocalTables
from captcha_assets.images.reader import SplitImages, read_split
from captcha_assets.settings import load_settings
from captcha_assets.sweeps.production_settings import production_settings
from captcha_assets.training.config import TrainingSettings

ROOT = Path(__file__).resolve().parents[2]

#: Least accuracy on real images: trained on their training split too, and on generated ones alone.
MIXED_TARGET, GENERATED_TARGET = 0.985, 0.97


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000, help="generated images (20,000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings (0 1 2)")
    parser.add_argument("--config", type=Path, help="run config, as for `update`; default: production values")
    parser.add_argument(
        "--sample-size",
        type=int,
        help="images of the sample to train on, over all splits; default: all, whatever the settings say",
    )
    parser.add_argument("--generated-only", action="store_true", help="train on generated images alone")
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--scratch", type=Path, default=ROOT / ".scratch" / "benchmarks" / "accuracy")
    results.add_option(parser)
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> TrainingSettings:
    production, named = production_settings(load_settings().paths), {}
    if options.config:
        named = yaml.safe_load(options.config.read_text())["ops"]["resnet18"]["config"]
    return production.replaced(**{**named, "sample_size": options.sample_size})


def _data(options: argparse.Namespace) -> tuple[LocalTables, dict[str, SplitImages]]:
    """What to train on, and the sets of images to test on, by name."""
    archive, samples = options.real / "kaptcha_characters.zip", options.real / "kaggle_samples"
    home = new_home(options.scratch / "home")
    deliver(home, GENERATED, options.images)
    mixed = archive.exists() and not options.generated_only
    if mixed:
        deliver(home, REAL, archive)
    data = split(home, [GENERATED, REAL] if mixed else [GENERATED])
    sets = {TEST: read_split(data.tables, data.splits, "test", classes=CAPTCHA.classes, shape=CAPTCHA.shape)}
    if mixed:
        sets[REAL] = of_batch(sets[TEST], REAL)
    elif archive.exists():
        sets[REAL] = all_of(options.scratch / "home-real", REAL, archive)
    if samples.exists():
        sets[KAGGLE] = all_of(options.scratch / "home-kaggle", "kaggle", samples)
    return data, sets


def _title(options: argparse.Namespace, data: LocalTables, settings: TrainingSettings, learnt: int) -> str:
    images = f"{options.images:,} generated images {'and the real ones' if REAL in data.batches else 'alone'}"
    rates = f"learning rate {settings.learning_rate}, label smoothing {settings.label_smoothing}"
    lines = [
        f"python -m benchmarks.accuracy {' '.join(sys.argv[1:])}".rstrip(),
        f"{images}, {learnt:,} of them to learn from",
        f"resnet18 {settings.channels}, {settings.epochs} epochs, batch {settings.batch_size}, {rates}",
    ]
    return "\n".join(lines)


def main() -> None:
    options, recording = _options(), Recording("benchmarks.accuracy", ("pytorch-lightning", "timm", "torch"))
    settings = _settings(options)
    data, sets = _data(options)
    if REAL not in sets:
        print(f"no real characters in {options.real}: trained and tested on generated images alone")
    top, trials = headings({name: len(images) for name, images in sets.items()}), list[Trial]()
    for seed in options.seeds:
        trials.append(trial(data, settings.replaced(seed=seed), sets, options.scratch / f"seed-{seed}"))
        print(lined_up([top, cells(trials[-1])]), flush=True)
    title = _title(options, data, settings, trials[0].learnt_from)
    target = MIXED_TARGET if REAL in data.batches else GENERATED_TARGET
    print("", report(title, trials, target), sep="\n")
    recorded(recording, trials, target)
    recording.write(options.result)


if __name__ == "__main__":
    main()
