"""`captcha-assets batch`: deliveries."""

import click

from captcha_assets.cli.making import update
from captcha_assets.cli.printing import print_rows
from captcha_assets.settings import Settings

_THROUGH_SPLITS = "+key:splits or key:rejected_images or key:data_snapshot"


@click.group()
def batch() -> None:
    """Deliveries: add, list, remove."""


@batch.command()
@click.argument("name")
@click.argument("source")
@click.option("--materialize", is_flag=True, help="Also run it through to the splits.")
@click.pass_context
def add(ctx: click.Context, name: str, source: str, materialize: bool) -> None:
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
def list_(settings: Settings, as_json: bool) -> None:
    """List the deliveries: delivered, usable, rejected, duplicates, checks."""
    from captcha_assets.quality.overview import describe_batches
    from captcha_assets.sources.deliveries import known_batches

    rows = [row.to_dict() for row in describe_batches(settings, known_batches(settings))]
    columns = ["batch", "delivered", "usable", "rejected", "duplicates", "checks"]
    print_rows(columns, rows, as_json=as_json)


@batch.command()
@click.argument("name")
@click.pass_obj
def remove(settings: Settings, name: str) -> None:
    """Remove the delivery NAME: its archive, its tables, its partition."""
    from captcha_assets.defs import truth
    from captcha_assets.defs.automation_history import forget_unreadable
    from captcha_assets.defs.instance import open_instance
    from captcha_assets.sources import deliveries

    if name not in deliveries.known_batches(settings):
        raise click.ClickException(f"there is no delivery {name!r}; see: captcha-assets batch list")
    deliveries.remove(settings, name)
    with open_instance(settings) as instance:
        truth.report_removed(instance, name)
        forget_unreadable(instance)
    click.echo(f"delivery {name}: removed\nnext: captcha-assets update")
