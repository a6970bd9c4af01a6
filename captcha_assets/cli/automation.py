"""`captcha-assets automation`: whether the platform runs by itself."""

import click

from captcha_assets.settings import Settings


@click.group()
def automation() -> None:
    """Run by itself, or not: on, off, show."""


@automation.command()
@click.pass_obj
def on(settings: Settings) -> None:
    """Take deliveries from the inbox, make what has new input, retrain when there is a reason."""
    _switch(settings, on=True)
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
    from captcha_assets.defs.instance import open_instance
    from captcha_assets.defs.switches import switch

    with open_instance(settings) as instance:
        switch(instance, on=on)
    _show(settings)


def _show(settings: Settings) -> None:
    from captcha_assets.defs.instance import open_instance
    from captcha_assets.defs.switches import switched_on

    with open_instance(settings) as instance:
        for name, is_on in switched_on(instance).items():
            click.echo(f"{name}: {'on' if is_on else 'off'}")
