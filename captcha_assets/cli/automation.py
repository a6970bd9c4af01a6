"""`captcha-assets automation`: whether the platform runs by itself."""

import click

from captcha_assets.settings import Settings


@click.group()
def automation() -> None:
    """Run by itself, or not: on, off, show."""


@automation.command()
@click.pass_obj
def on(settings: Settings) -> None:
    """Take batches from the inbox, make what has new input, retrain when there is a reason.

    A champion is rolled back by itself only where CAPTCHA_ROLLBACK is set as well.
    """
    from captcha_assets.cli.orchestration import staleness
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.update import quiet_definitions

    _switch(settings, on=True)
    with open_instance(settings) as instance:
        stale = staleness.plan(quiet_definitions(), instance, staleness.selected("*"))
    if stale:
        click.echo(
            f"{len(stale)} are not up to date now; what became stale before is brought up to date by: "
            "captcha-assets update"
        )
    click.echo("the daemon does it: keep `captcha-assets ui` (or `dg dev`) running")


@automation.command()
@click.pass_obj
def off(settings: Settings) -> None:
    """Start nothing any more; what runs already goes on."""
    _switch(settings, on=False)


@automation.command()
@click.pass_obj
def show(settings: Settings) -> None:
    """Say what is on."""
    _show(settings)


def _switch(settings: Settings, *, on: bool) -> None:
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.orchestration.sensor_switches import switch

    with open_instance(settings) as instance:
        switch(instance, on=on)
    _show(settings)


def _show(settings: Settings) -> None:
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.defs.sensor_states import switched_on

    with open_instance(settings) as instance:
        for name, is_on in switched_on(instance).items():
            click.echo(f"{name}: {'on' if is_on else 'off'}")
