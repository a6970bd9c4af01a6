"""The `captcha-assets` command: what dagster's own commands cannot do.

Exit status 0 is success; 2 a usage error; 1 anything else, with one line that says why.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captcha_assets.settings import Settings, load_settings

if TYPE_CHECKING:
    import dagster as dg

    from captcha_assets.defs.runs import Step
    from captcha_assets.models.reading import Reading

_THROUGH_SPLITS = "+key:splits or key:rejected_images or key:data_snapshot"


class _Group(click.Group):
    """Turns the library's errors into one line and exit status 1; a defect keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError, OSError) as error:
            if os.environ.get("CAPTCHA_DEBUG"):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="captcha-assets")
@click.pass_context
def main(ctx: click.Context) -> None:
    """From a delivery of labelled character images to a promoted model.

    Set CAPTCHA_DEBUG=1 for a traceback with every error.
    """
    ctx.obj = load_settings()


# --- deliveries ---------------------------------------------------------------------------------------


@main.group()
def batch() -> None:
    """Deliveries: add, list, remove."""


@batch.command("add")
@click.argument("name")
@click.argument("source")
@click.option("--materialize", is_flag=True, help="Also run it through to the splits.")
@click.pass_context
def batch_add(ctx: click.Context, name: str, source: str, materialize: bool) -> None:
    """Register the delivery NAME from SOURCE.

    SOURCE is a zip, a folder, kaggle[:VERSION] or synthetic:COUNT[:SEED].
    """
    from captcha_assets.sources import deliveries

    registered = deliveries.register(ctx.obj, name, deliveries.parse_source(source))
    click.echo(f"delivery {name}: registered from {registered.source}")
    if materialize:
        ctx.invoke(update, select=_THROUGH_SPLITS)
    else:
        click.echo("next: captcha-assets update")


@batch.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def batch_list(settings: Settings, as_json: bool) -> None:
    """List the deliveries: delivered, usable, rejected, duplicates, checks."""
    from captcha_assets.quality.overview import describe_batches
    from captcha_assets.sources.deliveries import known_batches

    rows = [row.to_dict() for row in describe_batches(settings, known_batches(settings))]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        _print_table(["batch", "delivered", "usable", "rejected", "duplicates", "checks"], rows)


@batch.command("remove")
@click.argument("name")
@click.pass_obj
def batch_remove(settings: Settings, name: str) -> None:
    """Remove the delivery NAME: its archive, its tables, its partition."""
    from captcha_assets.defs.instance import open_instance
    from captcha_assets.defs.partitions import BATCH
    from captcha_assets.sources import deliveries

    if name not in deliveries.known_batches(settings):
        raise click.ClickException(f"there is no delivery {name!r}; see: captcha-assets batch list")
    deliveries.remove(settings, name)
    with open_instance(settings) as instance:
        instance.delete_dynamic_partition(BATCH, name)
    click.echo(f"delivery {name}: removed\nnext: captcha-assets update")


# --- making assets ------------------------------------------------------------------------------------


@main.command()
@click.option("--dry-run", is_flag=True, help="Say what would be made and why, and make nothing.")
@click.option("--select", default="*", show_default=True, help="Which assets, in Dagster's selection syntax.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run config, a YAML file."
)
@click.pass_obj
def update(settings: Settings, dry_run: bool = False, select: str = "*", config: Path | None = None) -> None:
    """Make what is missing or out of date, inputs first, and nothing else."""
    import dagster as dg

    from captcha_assets.defs.instance import open_instance

    selection = dg.AssetSelection.all() if select == "*" else dg.AssetSelection.from_string(select)
    with open_instance(settings) as instance:
        if dry_run:
            _dry_run(_definitions(), instance, selection)
        else:
            _update(_definitions(), instance, selection, _run_config(config))


def _dry_run(
    definitions: "dg.Definitions", instance: "dg.DagsterInstance", selection: "dg.AssetSelection"
) -> None:
    from captcha_assets.defs import runs

    planned = runs.plan(definitions, instance, selection)
    for step, reasons in planned:
        click.echo(f"would make {step}: {'; '.join(reasons)}")
    click.echo(f"{len(planned)} to make" if planned else "everything is up to date")


def _update(
    definitions: "dg.Definitions",
    instance: "dg.DagsterInstance",
    selection: "dg.AssetSelection",
    run_config: dict[str, Any],
) -> None:
    from captcha_assets.defs import runs

    outcomes = []
    for event in runs.update(definitions, instance, selection, run_config):
        if isinstance(event, runs.Outcome):
            outcomes.append(event)
            if event.error:
                click.echo(
                    f"  failed: {event.error}" if event.run_id else f"skipped {event.step}: {event.error}"
                )
        else:
            step, reasons = event
            click.echo(f"making {step}: {'; '.join(reasons)}")
    failed = [outcome for outcome in outcomes if outcome.error]
    if not outcomes:
        click.echo("everything is up to date")
    elif failed:
        names = ", ".join(str(outcome.step) for outcome in failed)
        raise click.ClickException(f"{len(failed)} of {len(outcomes)} not made: {names}")
    else:
        click.echo(f"{len(outcomes)} made")


@main.command()
@click.argument("assets", nargs=-1, required=True, metavar="ASSET...")
@click.option("--batches", "names", default="all", show_default=True, metavar="NAME,NAME|all")
@click.pass_obj
def backfill(settings: Settings, assets: Sequence[str], names: str) -> None:
    """Make ASSETs anew for the chosen deliveries, stale or not, and run to completion."""
    import dagster as dg

    from captcha_assets.defs import runs
    from captcha_assets.defs.instance import open_instance

    definitions = _definitions()
    with open_instance(settings) as instance:
        steps = runs.backfill_steps(definitions, instance, dg.AssetSelection.assets(*assets), _chosen(names))
        failed = _run_all(definitions, instance, steps)
    click.echo(f"{len(steps) - len(failed)} made, {len(failed)} failed")
    if failed:
        retry = ",".join(sorted({step.partition for step in failed if step.partition}))
        raise click.ClickException(f"try again: captcha-assets backfill {' '.join(assets)} --batches {retry}")


def _chosen(names: str) -> list[str] | None:
    return None if names == "all" else [name.strip() for name in names.split(",") if name.strip()]


def _run_all(
    definitions: "dg.Definitions", instance: "dg.DagsterInstance", steps: Sequence[Any]
) -> list[Any]:
    from captcha_assets.defs import runs

    failed: list[Step] = []
    for number, step in enumerate(steps, 1):
        click.echo(f"[{number}/{len(steps)}] {step}")
        _run_id, error = runs.make(definitions, instance, step)
        if error:
            click.echo(f"  failed: {error}")
            failed.append(step)
    return failed


# --- models -------------------------------------------------------------------------------------------


@main.command()
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


@main.group()
def model() -> None:
    """Models: list, show, promote."""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def model_list(settings: Settings, as_json: bool) -> None:
    """List the models, newest last."""
    from captcha_assets.models import overview

    rows = overview.list_models(settings)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        _print_table(["model", "role", "test accuracy", "trained on"], rows)


@model.command("show")
@click.argument("name", default="champion")
@click.option("--json", "as_json", is_flag=True)
@click.pass_obj
def model_show(settings: Settings, name: str, as_json: bool) -> None:
    """Show a model: its id, or `champion`, or `candidate`."""
    from captcha_assets.models import overview

    shown = overview.show_model(settings, name)
    if as_json:
        click.echo(json.dumps(shown))
        return
    width = max(map(len, shown))
    for key, value in shown.items():
        click.echo(f"{key:<{width}}  {value}")


@model.command("promote")
@click.argument("name")
@click.option("--reason", required=True, help="Why, for the history.")
@click.pass_obj
def model_promote(settings: Settings, name: str, reason: str) -> None:
    """Make the model NAME (an id, or `candidate`) the champion."""
    from captcha_assets.models import overview

    champion = overview.promote_by_hand(settings, name, reason)
    click.echo(f"champion: {champion.model_id} (instead of {champion.instead_of or 'none'})")


# --- the web UI ---------------------------------------------------------------------------------------


@main.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.pass_obj
def ui(settings: Settings, port: int) -> None:
    """Start the Dagster UI (`dg dev`) for this home, with the report server beside it."""
    from captcha_assets.defs.instance import open_instance
    from captcha_assets.reports import serving

    with open_instance(settings):
        pass
    environment = os.environ | {"CAPTCHA_HOME": str(settings.home), "DAGSTER_HOME": _dagster_home(settings)}
    command = [str(Path(sys.executable).with_name("dg")), "dev", "--port", str(port)]
    project = Path(__file__).parent.parent
    with serving(settings):
        process = subprocess.Popen(command, env=environment, cwd=project, start_new_session=True)
        for stop in (signal.SIGINT, signal.SIGTERM):
            # The whole group, since `dg dev` starts processes of its own.
            signal.signal(stop, lambda *_: os.killpg(process.pid, signal.SIGINT))
        sys.exit(max(process.wait(), 0))


@main.command()
@click.pass_obj
def reports(settings: Settings) -> None:
    """Serve the reports that the UI links to, until interrupted."""
    from captcha_assets.reports import serving

    with serving(settings) as server:
        click.echo(f"reports of {settings.artifact_root} at {settings.reports_url} (Ctrl-C stops)")
        server.join()


# --- helpers ------------------------------------------------------------------------------------------


def _definitions() -> "dg.Definitions":
    from captcha_assets.definitions import defs
    from captcha_assets.defs.console import with_quiet_console

    return with_quiet_console(defs())


def _dagster_home(settings: Settings) -> str:
    from captcha_assets.defs.instance import dagster_home

    return str(dagster_home(settings))


def _run_config(path: Path | None) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text()) or {} if path else {}


def _print_table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(str(row[name]) if row[name] is not None else "-" for name in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
