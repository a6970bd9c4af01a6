"""`captcha-assets predict` and `model`: using models, and choosing the one that serves."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from captcha_assets.cli.printing import print_fields, print_rows
from captcha_assets.dataset import DatasetSpec, load_dataset
from captcha_assets.settings import Settings
from captcha_assets.text_formats import shown_time

if TYPE_CHECKING:
    from captcha_assets.evaluation.staged_model import StagedModel
    from captcha_assets.models.predict_files import Reading
    from captcha_assets.models.registry import Champion


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PATH..."
)
@click.option(
    "--model",
    default="champion",
    show_default=True,
    metavar="champion|candidate|FOLDER",
    help="The model that predicts.",
)
@click.option(
    "--url", metavar="URL", help="Address of a service (captcha-assets serve) that predicts instead."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: path, label, probability.")
@click.pass_context
def predict(ctx: click.Context, paths: Sequence[Path], model: str, url: str | None, as_json: bool) -> None:
    """Classify image files, or all image files of a folder.

    A file that cannot be used gets a line on standard error, and the exit status is 1. A model of the
    registry answers in fp32, also where CAPTCHA_SERVING_PRECISION is int8; --url asks the service, which may
    answer with int8. With --url, the variable CAPTCHA_API_KEY may hold the API key of the service.
    """
    settings: Settings = ctx.obj
    if url and ctx.get_parameter_source("model") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--url uses the model of the service: leave --model out")
    spec = load_dataset(settings.dataset)
    files, unusable = _image_files(paths, spec), list["Reading"]()
    readings = _served_readings(url, files) if url else _own_readings(settings, model, files, spec)
    for reading in readings:
        unusable += [reading] if reading.error else []
        _print_reading(reading, as_json)
    if unusable:
        first = f"{unusable[0].path.name}: {unusable[0].error}"
        raise click.ClickException(
            f"{len(unusable)} of {len(files)} files could not be used; the first: {first}"
        )


def _own_readings(
    settings: Settings, model: str, files: Iterable[Path], spec: DatasetSpec
) -> Iterator["Reading"]:
    from captcha_assets.models.predict_files import opened_predictor, read_files

    with opened_predictor(settings.paths, model) as predictor:
        yield from read_files(predictor, files, spec)


def _served_readings(url: str, files: Iterable[Path]) -> Iterator["Reading"]:
    """Ask the service about each file.

    Raises:
        PredictionClientError: it does not answer, for a reason that is not the file's.
    """
    from captcha_assets.models.predict_files import Reading, UnreadableFileError, read_image_file
    from captcha_assets.serving.client import PredictionClient, PredictionClientError

    with PredictionClient(url, api_key=os.environ.get("CAPTCHA_API_KEY")) as client:
        for path in files:
            try:
                (found,) = client.predict([read_image_file(path)]).predictions
            except UnreadableFileError as error:
                yield Reading(path, error=str(error))
            except PredictionClientError as error:
                if error.status not in {413, 415, 422}:
                    raise
                yield Reading(path, error=str(error))
            else:
                yield Reading(path, found.label, round(found.score, 4))


def _print_reading(reading: "Reading", as_json: bool) -> None:
    if reading.error:
        click.echo(f"{reading.path}: {reading.error}", err=True)
    elif as_json:
        row = {"path": str(reading.path), "label": reading.label, "probability": reading.probability}
        click.echo(json.dumps(row))
    else:
        click.echo(f"{reading.path}  {reading.label}  {reading.probability:.3f}")


def _image_files(paths: Iterable[Path], spec: DatasetSpec) -> list[Path]:
    """Return the files that are named, and the image files of the folders that are.

    Raises:
        ClickException: a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        files = sorted(_images_in(path, spec)) if path.is_dir() else [path]
        if not files:
            kinds = " or ".join(name.upper() for name in spec.formats)
            raise click.ClickException(
                f"{path} holds no {kinds} files: name a folder that does, or image files"
            )
        found += files
        _name_skipped(path, spec)
    return found


def _name_skipped(folder: Path, spec: DatasetSpec) -> None:
    """Count the files of a folder that are left out because of their names; a file holds none."""
    count = sum(not file.name.endswith(spec.suffixes) and file.is_file() for file in folder.rglob("*"))
    if count:
        names = " or ".join(f"*{suffix}" for suffix in spec.suffixes)
        files = "1 file" if count == 1 else f"{count:,} files"
        click.echo(f"{folder}: {files} skipped, not named {names}", err=True)


def _images_in(folder: Path, spec: DatasetSpec) -> Iterator[Path]:
    return (file for suffix in spec.suffixes for file in folder.rglob(f"*{suffix}"))


def _not_blank(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("say why in a few words")
    return value


_reason = click.option("--reason", required=True, callback=_not_blank, help="The reason, for the history.")


@click.group()
def model() -> None:
    """Models: list, show, test, promote, roll back, refuse, history."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the models: role, test accuracy, what each was trained on."""
    from captcha_assets.models import overview

    rows = overview.list_models(settings.paths)
    if not rows and not as_json:
        click.echo("there is no model yet; train one with: captcha-assets update")
        return
    print_rows(["model", "role", "test accuracy", "trained on"], rows, as_json=as_json)
    if not as_json and (note := overview.unlike_test_splits(settings.paths)):
        click.echo(note)


@model.command()
@click.argument("name", default="champion")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(settings: Settings, name: str, as_json: bool) -> None:
    """Show the model NAME and its figures.

    NAME is an id, `champion` (the default) or `candidate`.
    """
    from captcha_assets.models import overview

    shown = overview.show_model(settings, name)
    print_fields(shown if as_json else _with_shown_time(shown, "champion since"), as_json=as_json)


@model.command()
@click.argument("name")
@_reason
@click.option("--force", is_flag=True, help="Even if it was never evaluated or exported, or was refused.")
@click.pass_obj
def promote(settings: Settings, name: str, reason: str, force: bool) -> None:
    """Make the model NAME (an id, or `candidate`) the champion."""
    from captcha_assets.models import manual_promotion_and_rollback

    _announce(
        settings, manual_promotion_and_rollback.promote_by_hand(settings.paths, name, reason, force=force)
    )


@model.command()
@_reason
@click.option("--to", metavar="MODEL", help="Go back to this model; by default the one that served before.")
@click.option("--force", is_flag=True, help="With --to: even if it was refused or is not exported.")
@click.pass_obj
def rollback(settings: Settings, reason: str, to: str | None, force: bool) -> None:
    """Make the previous champion serve again.

    The model that it replaces is not promoted automatically again. Rollbacks go back through what served,
    one step each: after A, B, A, C they lead to A, to B, to A.
    """
    from captcha_assets.models import manual_promotion_and_rollback

    if force and not to:
        raise click.UsageError("--force needs --to MODEL: name the model to go back to")
    _announce(settings, manual_promotion_and_rollback.roll_back(settings.paths, reason, to, force=force))


@model.command()
@click.argument("name", default="champion")
@click.pass_obj
def evaluate(settings: Settings, name: str) -> None:
    """Measure the model NAME on today's test split again.

    NAME is an id, `champion` (the default) or `candidate`.
    """
    from captcha_assets.evaluation.evaluate import evaluate_named

    metrics = evaluate_named(settings.paths, name).metrics
    low, high = metrics.accuracy_low, metrics.accuracy_high
    click.echo(f"accuracy {metrics.accuracy:.4f} ({low:.4f} to {high:.4f}, n = {metrics.n:,})")


@model.command()
@click.argument("name", default="candidate")
@click.pass_obj
def export(settings: Settings, name: str) -> None:
    """Export the model NAME as ONNX again.

    The export is compared with the model on the test split. NAME is an id, `champion` or `candidate` (the
    default).
    """
    from captcha_assets.evaluation.onnx_parity import export_stored

    parity = export_stored(settings.paths, name)
    click.echo(f"exported: the same class on {parity.agreement:.2%} of {parity.images:,} images")
    if not parity.passed:
        raise click.ClickException(
            "the export and the model give different predictions: do not serve the export"
        )


@model.command("test")
@click.argument("name", default="candidate")
@click.option(
    "--latency",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="Longest median CPU time for one image, whatever the champion takes; default: as for a promotion.",
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Compare on the labelled images of this folder; default: the test split.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def test_staged(
    settings: Settings, name: str, latency: float | None, images: Path | None, as_json: bool
) -> None:
    """Test a model before it is promoted.

    NAME is an id, or `candidate` (the default). Nothing is changed or recorded. The exported model is
    compared with the champion's: no less accurate by more than CAPTCHA_PROMOTION_MARGIN, no class that
    falls, calibrated, the same answers as before the export, and within the time for one image. The exit
    status is 1 where a criterion is not met.
    """
    if latency is not None and not math.isfinite(latency):
        raise click.BadParameter("it is no number of milliseconds", param_hint="--latency")
    from captcha_assets.evaluation.staged_model import check_staged

    source = (images, load_dataset(settings.dataset)) if images else None
    found = check_staged(settings, name, latency=latency, images=source)
    if as_json:
        click.echo(json.dumps({**asdict(found), "passed": not found.failed}))
    else:
        _print_staged(found)
    if found.failed:
        words = "; ".join(one.words for one in found.failed)
        raise click.ClickException(f"{found.model_id} is not ready to serve: {words}")


def _print_staged(found: "StagedModel") -> None:
    low, high = found.interval
    click.echo(f"model     {found.model_id}")
    click.echo(f"champion  {found.champion or 'none: there is nothing to compare with'}")
    against = f", champion {found.champion_accuracy:.4f}" if found.champion_accuracy is not None else ""
    click.echo(f"accuracy  {found.accuracy:.4f} ({low:.4f} to {high:.4f}, n = {found.images:,}){against}")
    for one in found.criteria:
        click.echo(f"{'met' if one.passed else 'NOT MET':8}  {one.name}: {one.words}")


@model.command()
@click.argument("name", default="candidate")
@_reason
@click.pass_obj
def refuse(settings: Settings, name: str, reason: str) -> None:
    """Keep the model NAME from being promoted automatically.

    NAME is an id or `candidate` (the default).
    """
    from captcha_assets.models import registry
    from captcha_assets.models.predict_files import resolve

    refusal = registry.refuse(settings.paths.models, resolve(settings.paths, name), reason)
    click.echo(f"refused: {refusal.model_id}")


@model.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def history(settings: Settings, as_json: bool) -> None:
    """List every change of the champion, the first one first."""
    from captcha_assets.models import registry

    rows = [asdict(entry) for entry in registry.history(settings.paths.models)]
    if not rows and not as_json:
        click.echo(
            "no record of a model that served: captcha-assets update promotes the first; where a record is "
            "lost, captcha-assets status names it"
        )
        return
    columns = ["number", "since", "action", "by", "model_id", "instead_of", "reason"]
    print_rows(
        columns, rows if as_json else [_with_shown_time(row, "since") for row in rows], as_json=as_json
    )


def _with_shown_time(shown: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the same with a time as people read it, where it has one of this name."""
    return shown | {name: shown_time(shown[name])} if name in shown else shown


def _announce(settings: Settings, champion: "Champion") -> None:
    """Print which model serves now and which criteria it failed, and report it to Dagster."""
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.defs.model.champion_events import report_champion
    from captcha_assets.evaluation.recorded_criteria import criteria_of_change

    click.echo(f"champion: {champion.model_id} (instead of {champion.instead_of or 'none'})")
    for criterion in criteria_of_change(settings.paths, champion).criteria:
        if not criterion.passed:
            click.echo(f"promoted although {criterion.name} is not met: {criterion.words}")
    with open_instance(settings) as instance:
        report_champion(settings.paths, instance, champion)
