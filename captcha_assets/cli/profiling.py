"""`captcha-assets profile`: a trace of training steps."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captcha_assets.cli.training_settings import chosen_settings
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.dataset import DatasetSpec
    from captcha_assets.training.config import TrainingSettings


@click.command()
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1, 1000), help="Steps to trace.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run config, a YAML file; the production settings if not given.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("trace.json"),
    show_default=True,
    help="Where the trace is written.",
)
@click.pass_obj
def profile(settings: Settings, steps: int, config: Path | None, output: Path) -> None:
    """Trace some training steps on this home's images.

    Where there are none, images of noise are taken. Open the trace at https://ui.perfetto.dev or
    chrome://tracing; docs/training.md says what to look for.
    """
    chosen = chosen_settings(settings.paths, config)
    pixels, labels = _images(settings, chosen, steps)
    # The profiler's own lines, above all that there is no GPU, are for those who develop it.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    from captcha_assets.training.profile import profile as trace

    click.echo(f"{steps} steps of {chosen.batch_size} images; {len(pixels)} images")
    click.echo(trace(pixels, labels, chosen, steps, output))
    click.echo(f"trace: {output}")


def _images(settings: Settings, chosen: "TrainingSettings", steps: int) -> tuple[Any, Any]:
    """Return images (N, H, W) and their classes (N,), not many more than are needed."""
    from captcha_assets.dataset import load_dataset
    from captcha_assets.images import table_parts
    from captcha_assets.images.local_tables import local_tables
    from captcha_assets.images.reader import read_split

    spec, size = load_dataset(settings.dataset), chosen.sample_size
    if not table_parts.exists(settings.paths.splits):
        return _noise(spec, min(steps * chosen.batch_size, 2_000))
    with local_tables(settings.paths) as data:
        images = read_split(data.tables, data.splits, "train", size, classes=spec.classes, shape=spec.shape)
    return images.pixels, images.labels


def _noise(spec: "DatasetSpec", count: int) -> tuple[Any, Any]:
    """Return noise in the size of the data set: what a step costs does not depend on what the images show."""
    import numpy as np

    click.echo("this home has no splits yet: tracing on images of noise")
    count = max(count, len(spec.classes))
    pixels = np.random.default_rng(0).integers(0, 256, (count, *spec.shape), np.uint8)
    return pixels, np.arange(count) % len(spec.classes)
