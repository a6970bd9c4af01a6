"""`captcha-assets backup`: a copy of what no update can compute again."""

from pathlib import Path

import click

from captcha_assets.dataset import load_dataset
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import dvc_snapshot


@click.group()
def backup() -> None:
    """Back up what no update can compute again, and restore it."""


@backup.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--archives", is_flag=True, help="Take the archives of the batches along.")
@click.pass_obj
def create(settings: Settings, path: Path, *, archives: bool) -> None:
    """Write a backup of the home to the zip PATH.

    It holds runs, registry, registrations, splits, prediction log and settings. Nothing has to be
    stopped. Another command that materializes is waited for.
    """
    from captcha_assets import backup as backups
    from captcha_assets.cli.orchestration.command_lock import alone
    from captcha_assets.cli.orchestration.instance import dagster_home

    instance = dagster_home(settings.paths)
    with alone(settings.paths, click.echo):
        made = backups.create(settings.paths, instance, _log(settings), path, archives=archives)
    click.echo(f"{path}: {len(made.files):,} files, {path.stat().st_size / 1e6:.1f} MB")
    for line in made.left_out:
        click.echo(f"not in it: {line}")


@backup.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def restore(settings: Settings, path: Path) -> None:
    """Restore the backup PATH into a new CAPTCHA_HOME.

    The home has not been used yet.
    """
    from captcha_assets import backup as backups
    from captcha_assets import dataset_record, locks
    from captcha_assets.cli.orchestration.instance import dagster_home

    backups.read(path, settings.paths.profile)  # before anything is created in the home
    with locks.locked_file(settings.paths.scratch, "_restoring", _say_that_it_waits):
        restored = backups.restore(settings.paths, dagster_home(settings.paths), _log(settings), path)
    click.echo(f"{settings.paths.home} is as {restored.home} was at {restored.made}")
    for line in restored.left_out:
        click.echo(f"not in it: {line}")
    if not settings.paths.raw.exists():
        click.echo(_archives_come_back(settings.paths))
    try:
        dataset_record.check(settings.paths, load_dataset(settings.dataset))
    except dataset_record.OtherDatasetError as error:
        click.echo(f"warning: {error}", err=True)
    click.echo(
        "compute the tables again: captcha-assets update, with the --config that the model was trained with, "
        "if any"
    )


def _say_that_it_waits() -> None:
    click.echo("waiting for another restoration into this home")


def _archives_come_back(paths: Paths) -> str:
    # Of data/ no more than this: what DVC does not know of data/splits, it would remove.
    if dvc_snapshot.default_remote(paths.home, paths.dvc_remote):
        return "bring the archives back: dvc pull data/raw, or let the update fetch them from their sources"
    return "the update fetches the archives from their sources"


def _log(settings: Settings) -> str | None:
    """Return the address of the prediction log's database; None where nothing is logged."""
    from captcha_assets.serving.settings import load_serving_settings

    return load_serving_settings().prediction_log_at(settings.paths)
