"""`captcha-assets graph`: the picture of the asset graph, made from the definitions."""

from pathlib import Path

import click

from captcha_assets.settings import REPOSITORY

PICTURE = REPOSITORY / "docs" / "images" / "asset-graph.png"


@click.command()
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), default=PICTURE, help="The PNG to make."
)
def graph(output: Path) -> None:
    """Draw the asset graph from the definitions: the picture in the README."""
    from captcha_assets.definitions import defs
    from captcha_assets.defs.graph import assets_of, groups_of
    from captcha_assets.graph_picture import draw

    assets = assets_of(defs())
    draw(assets, groups_of(assets), output)
    click.echo(f"{len(assets)} assets in {output}")
