"""`captcha-assets backfill`: materializes chosen partitions again."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import click

from captcha_assets.cli.process import Interrupted
from captcha_assets.cli.update import quiet_definitions
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
    """Materialize chosen partitions of ASSETs, stale or not.

    All are materialized, one after the other on this machine. With CAPTCHA_PROFILE=shared and a Ray cluster
    (CAPTCHA_COMPUTE=http://head:8265), batches are spread over its nodes (docs/shared.md).
    """
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
        _run(settings, definitions, instance, chosen)


def _keys(keys: str) -> list[str] | None:
    return None if keys == "all" else [key.strip() for key in keys.split(",") if key.strip()]


def _run(
    settings: Settings, definitions: "dg.Definitions", instance: "dg.DagsterInstance", chosen: "Backfill"
) -> None:
    from captcha_assets.cli.orchestration import backfills, command_lock
    from captcha_assets.training.failures import RayClusterError

    again = f"captcha-assets backfill --resume {chosen.name}"
    outcomes: list[Outcome] = []
    try:
        steps = backfills.remaining(instance, chosen)
        if why := backfills.why_not_on_the_cluster(settings, definitions, steps):
            click.echo(why)
        if len(steps) < len(chosen.steps):
            click.echo(f"{len(chosen.steps) - len(steps)} of {len(chosen.steps)} were materialized before")
        with (
            command_lock.alone(settings.paths, click.echo),
            # Closed, so that what runs on a cluster has ended before anything is said of it.
            closing(backfills.run(settings, definitions, instance, chosen)) as events,
        ):
            outcomes.extend(_shown(events, len(steps)))
    except RayClusterError as error:
        raise click.ClickException(f"{error}; then: {again}") from error
    except KeyboardInterrupt as stop:
        left = len(backfills.remaining(instance, chosen))
        words = f"interrupted after {len(chosen.steps) - left} of {len(chosen.steps)}"
        if not left:
            backfills.delete_record(settings.paths, chosen)
            raise Interrupted(words) from stop
        raise Interrupted(f"{words}; resume with: {again}") from stop
    failed = [outcome for outcome in outcomes if outcome.error]
    tried = {outcome.step for outcome in outcomes}
    for step in backfills.remaining(instance, chosen):
        if step not in tried:
            click.echo(f"{step} is not there any more: it was removed meanwhile")
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

    step = TextColumn("{task.description}", markup=False)  # the brackets of a partition are no markup
    columns = (step, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console()
    seen: set[Step] = set()
    latest: Step | None = None
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        for event in events:
            if not isinstance(event, Outcome):
                latest = event
                seen.add(event)
                progress.update(bar, description=str(event))
                if not console.is_terminal:
                    click.echo(f"[{len(seen)}/{total}] {event}")
                continue
            seen.add(event.step)  # one that was not tried had not begun
            progress.advance(bar)
            for line in event.findings:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            if event.error:  # on a cluster, other steps may have begun since
                which = "" if event.step == latest else f"{event.step} "
                console.print(
                    f"  {which}failed: {event.error}", markup=False, highlight=False, soft_wrap=True
                )
            yield event
