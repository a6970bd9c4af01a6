"""`captcha-assets predict` and `model`: using models, and choosing the one that serves."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from captcha_assets.cli.printing import print_fields, print_rows
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.models.reading import Reading
    from captcha_assets.models.registry import Champion


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


_reason = click.option("--reason", required=True, help="Why, for the history.")


@click.group()
def model() -> None:
    """Models: list, show, promote, roll back, refuse, history."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the models: role, test accuracy, what each was trained on."""
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
@_reason
@click.pass_obj
def promote(settings: Settings, name: str, reason: str) -> None:
    """Make the model NAME (an id, or `candidate`) the champion."""
    from captcha_assets.models import overview

    _announce(settings, overview.promote_by_hand(settings, name, reason))


@model.command()
@_reason
@click.option("--to", metavar="MODEL", help="Back to this one; by default the one that served before.")
@click.pass_obj
def rollback(settings: Settings, reason: str, to: str | None) -> None:
    """Make the champion of before serve again; what it replaces is not promoted by itself any more."""
    from captcha_assets.models import registry

    _announce(settings, registry.rollback(settings.models, reason, to))


@model.command()
@click.argument("name", default="candidate")
@_reason
@click.pass_obj
def refuse(settings: Settings, name: str, reason: str) -> None:
    """Keep the model NAME (an id, or `candidate`) from being promoted by itself."""
    from captcha_assets.models import registry
    from captcha_assets.models.reading import resolve

    refusal = registry.refuse(settings.models, resolve(settings, name), reason)
    click.echo(f"refused: {refusal.model_id}")


@model.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def history(settings: Settings, as_json: bool) -> None:
    """List every change of the champion, the first one first."""
    from captcha_assets.models import registry

    rows = [asdict(entry) for entry in registry.history(settings.models)]
    columns = ["number", "since", "action", "by", "model_id", "instead_of", "reason"]
    print_rows(columns, rows, as_json=as_json)


def _announce(settings: Settings, champion: "Champion") -> None:
    """Say who serves now, here and in Dagster."""
    from captcha_assets.defs.instance import open_instance
    from captcha_assets.defs.model.promotion import report_champion

    click.echo(f"champion: {champion.model_id} (instead of {champion.instead_of or 'none'})")
    with open_instance(settings) as instance:
        report_champion(instance, champion)
