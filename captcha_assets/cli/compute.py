"""`captcha-assets compute`: where trainings run, and what would be sent there."""

from pathlib import Path

import click

from captcha_assets.cli.training_settings import chosen_settings
from captcha_assets.settings import Settings


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run config, a YAML file; the production settings if not given.",
)
@click.pass_obj
def compute(settings: Settings, config: Path | None) -> None:
    """Show where trainings run, and the job of one; nothing is sent.

    CAPTCHA_COMPUTE names the place: docs/training.md and docs/deployment.md.
    """
    import yaml

    from captcha_assets.defs.resources import cluster_of

    chosen = chosen_settings(settings.paths, config)
    click.echo(f"# trainings run on: {settings.compute}")
    if settings.compute != "local":
        click.echo(f"# their files go through: {settings.staging_store}")
    cluster = cluster_of(settings)
    if cluster is not None:
        # The folder of a training is named after it when it is staged.
        request = dict(cluster.request(chosen, settings.staging_store / "FOLDER"))
        click.echo(yaml.safe_dump(request, sort_keys=False), nl=False)
