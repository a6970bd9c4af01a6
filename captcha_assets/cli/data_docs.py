"""`captcha-assets data-docs`: Great Expectations' own pages."""

import click

from captcha_assets.settings import Settings


@click.command()
@click.pass_obj
def data_docs(settings: Settings) -> None:
    """Build Great Expectations' Data Docs, and print their path.

    They show all stored validation results.
    """
    from captcha_assets.dataset import load_dataset
    from captcha_assets.quality.data_docs import build

    built = build(settings.paths, load_dataset(settings.dataset))
    for line in built.left_out:
        click.echo(f"left out: {line}", err=True)
    click.echo(built.first_page)
