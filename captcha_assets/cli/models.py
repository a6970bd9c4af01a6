"""`captcha-assets predict` and `model`: using models, and choosing the one that serves."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from captcha_assets.cli.printing import print_fields, print_rows
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.models.reading import Reading


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH..."
)
@click.option("--model", default="champion", show_default=True, metavar="champion|candidate|FOLDER")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: path, label, probability.")
@click.pass_obj
def predict(settings: Settings, paths: Sequence[Path], model: str, as_json: bool) -> None:
    """Read the characters in image files (or in all PNG files of a folder)."""
    from captcha_assets.models.reading import opened_predictor, read_files

    unreadable = 0
    with opened_predictor(settings, model) as predictor:
        for reading in read_files(predictor, _png_files(paths)):
            unreadable += reading.error is not None
            _print_reading(reading, as_json)
    if unreadable:
        raise click.ClickException(f"{unreadable} of the files could not be read")


def _print_reading(reading: "Reading", as_json: bool) -> None:
    if reading.error:
        click.echo(f"{reading.path}: {reading.error}", err=True)
    elif as_json:
        row = {"path": str(reading.path), "label": reading.label, "probability": reading.probability}
        click.echo(json.dumps(row))
    else:
        click.echo(f"{reading.path}  {reading.label}  {reading.probability:.3f}")


def _png_files(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.rglob("*.png")) if path.is_dir() else [path])]


@click.group()
def model() -> None:
    """Models: list, show, promote."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the models, newest last."""
    from captcha_assets.models import overview

    rows = overview.list_models(settings)
    print_rows(["model", "role", "test accuracy", "trained on"], rows, as_json=as_json)


@model.command()
@click.argument("name", default="champion")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def show(settings: Settings, name: str, as_json: bool) -> None:
    """Show a model: its id, or `champion`, or `candidate`."""
    from captcha_assets.models import overview

    print_fields(overview.show_model(settings, name), as_json=as_json)


@model.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why, for the history.")
@click.pass_obj
def promote(settings: Settings, name: str, reason: str) -> None:
    """Make the model NAME (an id, or `candidate`) the champion."""
    from captcha_assets.models import overview

    champion = overview.promote_by_hand(settings, name, reason)
    click.echo(f"champion: {champion.model_id} (instead of {champion.instead_of or 'none'})")
