"""`captcha-assets backfill`: materializes chosen partitions again."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from captcha_assets.cli.process import Interrupted
from captcha_assets.cli.update import quiet_definitions
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from captcha_assets.cli.orchestration.backfills import Backfill
    from captcha_assets.cli.orchestration.execution import Outcome
    from captcha_assets.cli.orchestration.staleness import Step


@click.command()
@click.argument("assets", nargs=-1, metavar="ASSET...")
@click.option("--batches", "batch", metavar="NAME,...|all", help="Batches; all if not given.")
@click.option("--trials", "trial", metavar="NAME,...|all", help="Trials of sweeps; all if not given.")
@click.option("--days", "day", metavar="DAY,DAY..DAY|all", help="Days or ranges of days; all if not given.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[NAME]",
    help="Resume a backfill that was interrupted or had failures; the latest one if not named.",
)
@click.pass_obj
def backfill(settings: Settings, assets: Sequence[str], resume: str | None, **partitions: str | None) -> None:
    """Materialize the chosen partitions of ASSETs, stale or not, one after the other, to completion."""
    from captcha_assets.cli.orchestration import backfills
    from captcha_assets.cli.orchestration.instance import open_instance

    if bool(assets) == (resume is not None):
        raise click.UsageError("name the assets to materialize, or --resume")
    definitions = quiet_definitions()
    with open_instance(settings) as instance:
        if resume is not None:
            chosen = backfills.find(settings.paths, resume)
        else:
            wanted = {name: _keys(keys) for name, keys in partitions.items() if keys is not None}
            try:
                steps = backfills.plan(definitions, instance, assets, wanted)
            except backfills.BackfillError as error:
                raise click.UsageError(str(error)) from error
            chosen = backfills.begin(settings.paths, steps)
        _run(settings.paths, definitions, instance, chosen)


def _keys(keys: str) -> list[str] | None:
    return None if keys == "all" else [key.strip() for key in keys.split(",") if key.strip()]


def _run(
    paths: Paths, definitions: "dg.Definitions", instance: "dg.DagsterInstance", chosen: "Backfill"
) -> None:
    from captcha_assets.cli.orchestration import backfills, command_lock

    again = f"captcha-assets backfill --resume {chosen.name}"
    outcomes: list[Outcome] = []
    try:
        steps = backfills.remaining(instance, chosen)
        if len(steps) < len(chosen.steps):
            click.echo(f"{len(chosen.steps) - len(steps)} of {len(chosen.steps)} were materialized before")
        with command_lock.alone(paths, click.echo):
            outcomes.extend(_shown(backfills.run(paths, definitions, instance, chosen), len(steps)))
    except KeyboardInterrupt as stop:
        left = len(backfills.remaining(instance, chosen))
        words = f"interrupted after {len(chosen.steps) - left} of {len(chosen.steps)}"
        if not left:
            backfills.delete_record(paths, chosen)
            raise Interrupted(words) from stop
        raise Interrupted(f"{words}; resume with: {again}") from stop
    failed = [outcome for outcome in outcomes if outcome.error]
    if not outcomes:
        click.echo("there is no partition of these assets yet (see batch add, sweep run)")
    click.echo(f"{len(outcomes) - len(failed)} materialized, {len(failed)} failed")
    for outcome in failed:
        click.echo(f"  {outcome.step}: {outcome.error}")
    if failed:
        raise click.ClickException(f"{len(failed)} failed; try them again with: {again}")


def _shown(events: "Iterable[Step | Outcome]", total: int) -> "Iterator[Outcome]":
    """Pass on the outcomes and show progress: a bar on a terminal, otherwise one line per step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from captcha_assets.cli.orchestration.execution import Outcome

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        for event in events:
            if not isinstance(event, Outcome):
                progress.update(bar, description=str(event))
                if not console.is_terminal:
                    click.echo(f"[{int(progress.tasks[0].completed) + 1}/{total}] {event}")
                continue
            progress.advance(bar)
            for line in event.findings:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            if event.error:
                console.print(f"  failed: {event.error}", markup=False, highlight=False, soft_wrap=True)
            yield event
