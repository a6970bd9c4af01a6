"""`captcha-assets update`: materializes what is missing or stale, without a daemon."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captcha_assets import interrupts
from captcha_assets.cli import errors
from captcha_assets.cli.process import Interrupted
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from captcha_assets.cli.orchestration import execution
    from captcha_assets.cli.orchestration.staleness import Step


HOW_TO_BEGIN = "there is no batch yet: captcha-assets batch add NAME SOURCE"


@click.command()
@click.option(
    "--dry-run", is_flag=True, help="Print what would be materialized and why; materialize nothing."
)
@click.option(
    "--verify", is_flag=True, help="Read every file first, even where its size and times did not change."
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
    """Materialize what is missing, damaged or stale.

    Nothing else is materialized, and inputs come first. A training without --config takes the production
    settings; with it, a model that was trained with other settings than those is trained again.
    """
    outcomes: list[execution.Outcome] = []
    with nullcontext() if dry_run else _resumable(outcomes):
        _plan_or_update(settings, outcomes, dry_run=dry_run, verify=verify, select=select, config=config)


def _plan_or_update(
    settings: Settings,
    outcomes: "list[execution.Outcome]",
    *,
    dry_run: bool,
    verify: bool,
    select: str,
    config: Path | None,
) -> None:
    """Do what `update` is asked for; append to `outcomes` what became of each step."""
    from captcha_assets.cli.orchestration import execution, run_config, staleness
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.defs import lost_outputs
    from captcha_assets.sweeps.production_settings import production_settings

    definitions = quiet_definitions()
    selection = _selection(definitions, select)
    if staleness.includes(definitions, selection, "resnet18"):
        production_settings(settings.paths)  # an error in them is reported before anything runs
    given = run_config.load(config, settings.paths, definitions, selection) if config else {}
    if is_empty(settings.paths) and not dry_run:
        raise click.ClickException(HOW_TO_BEGIN)
    with open_instance(settings) as instance:
        if verify:
            lost_outputs.report(settings.paths, instance, verify=True)
        if dry_run:
            _dry_run(definitions, instance, selection, given)
            if is_empty(settings.paths):
                click.echo(HOW_TO_BEGIN)
        else:
            events = execution.update(definitions, instance, selection, given)
            _update(settings.paths, events, given, outcomes)
            _name_quarantined(settings.paths)
            _name_conflicts(instance)
        if staleness.includes(definitions, selection, "prediction_log"):
            _name_unreadable_predictions(settings.paths)


@contextmanager
def _resumable(outcomes: "list[execution.Outcome]") -> Iterator[None]:
    """Say how to go on after an interrupt, whatever a library made of it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _interrupted(outcomes) from stop
    except errors.known() as error:
        if interrupts.received():
            raise _interrupted(outcomes) from error
        raise


def _interrupted(outcomes: "Iterable[execution.Outcome]") -> Interrupted:
    count = sum(not outcome.error for outcome in outcomes)
    return Interrupted(f"interrupted after {count} were materialized; the same command continues from there")


def _selection(definitions: "dg.Definitions", text: str) -> "dg.AssetSelection":
    from captcha_assets.cli.orchestration import staleness

    try:
        return staleness.checked_selection(definitions, text)
    except staleness.SelectionError as error:
        raise click.BadParameter(str(error), param_hint="--select") from error


def _dry_run(
    definitions: "dg.Definitions",
    instance: "dg.DagsterInstance",
    selection: "dg.AssetSelection",
    run_config: dict[str, Any],
) -> None:
    from captcha_assets.cli.orchestration import staleness

    planned = staleness.plan(definitions, instance, selection, run_config)
    for step, reasons in planned:
        click.echo(f"would materialize {step}: {'; '.join(reasons)}")
    _say_what_is_not_used(run_config, [step for step, _ in planned], "would not be")
    click.echo(f"{len(planned)} to materialize" if planned else "everything is up to date")


def _say_what_is_not_used(run_config: dict[str, Any], steps: "Iterable[Step]", how: str) -> None:
    """Print which assets were given run config that has no effect."""
    ran = {asset for step in steps for asset in step.assets}
    for name in run_config.get("ops") or {}:
        if name not in ran:
            click.echo(f"the run config of {name} {how} used: {name} is up to date")


def _update(
    paths: Paths,
    events: "Iterable[tuple[Step, tuple[str, ...]] | execution.Outcome]",
    run_config: dict[str, Any],
    outcomes: "list[execution.Outcome]",
) -> None:
    from captcha_assets.cli.orchestration import command_lock, execution

    with command_lock.alone(paths, click.echo):
        for event in events:
            outcomes += [event] if isinstance(event, execution.Outcome) else []
            _show(event)
    failed = [outcome for outcome in outcomes if outcome.error]
    _say_what_is_not_used(run_config, [outcome.step for outcome in outcomes], "was not")
    if not outcomes:
        click.echo("everything is up to date")
    elif failed:
        names = ", ".join(str(outcome.step) for outcome in failed)
        raise click.ClickException(f"{len(failed)} of {len(outcomes)} not materialized: {names}")
    else:
        click.echo(f"{len(outcomes)} materialized")


def is_empty(paths: Paths) -> bool:
    """Whether there is no batch and never was one."""
    from captcha_assets.images import table_parts
    from captcha_assets.sources.batch_registration import known_batches

    return not known_batches(paths) and not table_parts.exists(paths.image_index)


def _name_quarantined(paths: Paths) -> None:
    """Name the quarantined batches: "up to date" does not mean that their images are used."""
    from captcha_assets.quality.validation_result import quarantined
    from captcha_assets.sources.batch_registration import known_batches

    folders = {name: paths.validation_results("image_table", name) for name in known_batches(paths)}
    for batch, checks in quarantined(folders).items():
        click.echo(f"batch {batch} is quarantined: {', '.join(checks)} failed")


def _name_conflicts(instance: "dg.DagsterInstance") -> None:
    """Say how many images have no split because their labels contradict each other."""
    from captcha_assets.cli.orchestration.instance_status import label_conflicts

    if count := label_conflicts(instance):
        click.echo(conflicts_in_words(count))


def conflicts_in_words(count: int) -> str:
    """Return that so many images wait for a decision, and where it is taken."""
    images = "1 image has" if count == 1 else f"{count:,} images have"
    return f"{images} labels that contradict each other: decide in label_decisions.csv (docs/quality.md)"


def _name_unreadable_predictions(paths: Paths) -> None:
    """Say why the prediction log cannot be read: nothing is known of its days then."""
    from captcha_assets.served_predictions import log_access

    if problem := log_access.problem(paths):
        click.echo(problem)


def _show(event: "tuple[Step, tuple[str, ...]] | execution.Outcome") -> None:
    if isinstance(event, tuple):
        step, reasons = event
        click.echo(f"materializing {step}: {'; '.join(reasons)}")
        return
    for line in event.findings:
        click.echo(f"  {line}")
    if event.error:
        click.echo(f"  failed: {event.error}" if event.run_id else f"skipped {event.step}: {event.error}")


def quiet_definitions() -> "dg.Definitions":
    """The code location, with a console that a person can read."""
    from captcha_assets.cli.orchestration.code_location import definitions
    from captcha_assets.cli.orchestration.console_logger import with_quiet_console

    return with_quiet_console(definitions())
