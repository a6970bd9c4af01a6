"""`captcha-assets automation`: switches the sensors of unattended operation."""

import click

from captcha_assets.settings import Settings

#: What is said of the sensor that rolls back while no setting lets it.
IDLE = ", and rolls nothing back: CAPTCHA_ROLLBACK is off"


@click.group()
def automation() -> None:
    """Unattended operation: on, off, show."""


@automation.command()
@click.pass_obj
def on(settings: Settings) -> None:
    """Materialize what has new input, and train when a trigger fires.

    Batches are taken from the inbox. A champion is rolled back automatically only where CAPTCHA_ROLLBACK
    is set as well.
    """
    from captcha_assets.cli.orchestration import staleness
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.update import quiet_definitions
    from captcha_assets.sources.batch_registration import known_batches

    _switch(settings, on=True)
    with open_instance(settings) as instance:
        stale = staleness.plan(quiet_definitions(), instance, staleness.selected("*"))
    click.echo(
        "from now on the sensors materialize what changes, and train as soon as there is a trigger "
        "(captcha-assets status: next)"
    )
    if not known_batches(settings.paths):
        click.echo(
            "there is no batch yet: drop an archive into the inbox, or captcha-assets batch add NAME SOURCE"
        )
    elif stale:
        click.echo(
            f"{len(stale)} are stale already; what no trigger starts waits for you: captcha-assets update"
        )
    click.echo("the daemon runs the sensors: keep `captcha-assets ui` (or `dg dev`) running")


@automation.command()
@click.pass_obj
def off(settings: Settings) -> None:
    """Start no further runs; those under way continue.

    One of them that fails is tried again as it was to be.
    """
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.defs.killed_runs import unfinished_runs_of_daemon

    _switch(settings, on=False)
    with open_instance(settings) as instance:
        for run in unfinished_runs_of_daemon(instance):
            words = "is under way and goes on, and is tried again if it breaks down"
            click.echo(f"run {run.run_id[:8]} {words}: the UI can end it for good")


@automation.command()
@click.pass_obj
def show(settings: Settings) -> None:
    """Show which sensors are on."""
    _show(settings)


def _switch(settings: Settings, *, on: bool) -> None:
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.orchestration.sensor_switches import switch

    with open_instance(settings) as instance:
        switch(instance, on=on, waits_for=lambda words: click.echo(words, err=True))
    _show(settings)


def _show(settings: Settings) -> None:
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.defs.sensor_states import switched_on

    with open_instance(settings) as instance:
        for name, is_on in switched_on(instance).items():
            idle = is_on and name == "automatic_rollback" and settings.rollback == "off"
            click.echo(f"{name}: {'on' if is_on else 'off'}{IDLE if idle else ''}")
