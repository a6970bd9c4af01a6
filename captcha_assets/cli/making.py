"""`captcha-assets update`: making what is missing or out of date, without a daemon."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captcha_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from captcha_assets.defs import runs


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be made and why, and make nothing.")
@click.option(
    "--verify", is_flag=True, help="Read every file first, even where size and times are as they were."
)
@click.option("--select", default="*", show_default=True, help="Which assets, in Dagster's selection syntax.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Run config, a YAML file."
)
@click.pass_obj
def update(
    settings: Settings,
    dry_run: bool = False,
    verify: bool = False,
    select: str = "*",
    config: Path | None = None,
) -> None:
    """Materialize what is missing, damaged or stale, inputs first, and nothing else."""
    from captcha_assets.defs import runs, truth
    from captcha_assets.defs.instance import open_instance

    selection, definitions = runs.selected(select), quiet_definitions()
    with open_instance(settings) as instance:
        if verify:
            truth.report(settings, instance, verify=True)
        if dry_run:
            _dry_run(definitions, instance, selection)
        else:
            _update(definitions, instance, selection, _run_config(config))


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

    outcomes: list[runs.Outcome] = []
    try:
        for event in runs.update(definitions, instance, selection, run_config):
            outcomes += [event] if isinstance(event, runs.Outcome) else []
            _show(event)
    except KeyboardInterrupt as stop:
        made = sum(not outcome.error for outcome in outcomes)
        words = f"interrupted after {made} were made; the same command goes on from there"
        raise click.ClickException(words) from stop
    failed = [outcome for outcome in outcomes if outcome.error]
    if not outcomes:
        click.echo("everything is up to date")
    elif failed:
        names = ", ".join(str(outcome.step) for outcome in failed)
        raise click.ClickException(f"{len(failed)} of {len(outcomes)} not made: {names}")
    else:
        click.echo(f"{len(outcomes)} made")


def _show(event: "tuple[runs.Step, tuple[str, ...]] | runs.Outcome") -> None:
    if isinstance(event, tuple):
        step, reasons = event
        click.echo(f"making {step}: {'; '.join(reasons)}")
    elif event.error:
        click.echo(f"  failed: {event.error}" if event.run_id else f"skipped {event.step}: {event.error}")


def quiet_definitions() -> "dg.Definitions":
    """The code location, with a console that a person can read."""
    from captcha_assets.definitions import defs
    from captcha_assets.defs.console import with_quiet_console

    return with_quiet_console(defs())


def _run_config(path: Path | None) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text()) or {} if path else {}
