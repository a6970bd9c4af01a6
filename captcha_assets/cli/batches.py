"""`captcha-assets batch`: batches of images."""

from typing import TYPE_CHECKING

import click

from captcha_assets.cli.printing import print_rows
from captcha_assets.cli.process import Interrupted
from captcha_assets.cli.update import update
from captcha_assets.dataset import load_dataset
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

_THROUGH_SPLITS = "+key:splits or key:rejected_images or key:data_snapshot"


@click.group()
def batch() -> None:
    """Batches of images: add, list, remove."""


@batch.command()
@click.argument("name")
@click.argument("source")
@click.option("--materialize", is_flag=True, help="Also run it through to the splits.")
@click.pass_context
def add(ctx: click.Context, name: str, source: str, materialize: bool) -> None:
    """Register the batch NAME from SOURCE.

    SOURCE is a zip, a folder, a zip on an object store (s3://... or gs://...), kaggle[:VERSION] or
    synthetic:COUNT[:SEED]. A zip or folder whose content has changed is registered again.
    """
    from captcha_assets import dataset_record
    from captcha_assets.sources import batch_registration, kaggle
    from captcha_assets.sources.archives import BatchError

    try:
        wanted = batch_registration.parse_source(source)
        batch_registration.check_new(name, wanted)
    except BatchError as error:
        raise click.UsageError(str(error)) from error
    spec = load_dataset(ctx.obj.dataset)
    if isinstance(wanted, batch_registration.SyntheticSource):
        from captcha_assets.sources import synthetic_batches

        synthetic_batches.check_drawn(spec)
    batch_registration.register(ctx.obj, name, wanted, progress=_say)
    if held := dataset_record.hold(ctx.obj.paths, spec):
        click.echo(f"the home {ctx.obj.paths.home} now holds the data set {held}")
    ctx.obj.paths.home.mkdir(parents=True, exist_ok=True)  # the registration may lie on a store
    if isinstance(wanted, batch_registration.KaggleSource) and (problem := kaggle.credentials_problem()):
        click.echo(f"batch {name} cannot be fetched yet: {problem}")
    if materialize:
        ctx.invoke(update, select=_THROUGH_SPLITS)
    elif ctx.obj.paths.component.exists():
        click.echo("next: materialize it in your Dagster project")
    else:
        click.echo("next: captcha-assets update")


@batch.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the batches: files, usable, rejected, duplicates, checks."""
    from captcha_assets.quality.overview import describe_batches
    from captcha_assets.sources.batch_registration import known_batches

    rows = [row.to_dict() for row in describe_batches(settings.paths, known_batches(settings.paths))]
    if not rows and not as_json:
        click.echo("there is no batch yet: captcha-assets batch add NAME SOURCE")
        return
    columns = ["batch", "delivered", "usable", "rejected", "duplicates", "checks"]
    print_rows(columns, rows, as_json=as_json)


@batch.command()
@click.argument("name")
@click.pass_obj
def remove(settings: Settings, name: str) -> None:
    """Remove the batch NAME with all that was made of it.

    That is its archive, its tables, its reports and its partition. The split assignments of its images
    are kept: images that come back have the same splits.
    """
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.defs.batch_removal import remove_batch
    from captcha_assets.sources import batch_registration

    batch_registration.check_batch_name(name)
    with open_instance(settings) as instance:
        _check_idle(instance, name)
        waiting = batch_registration.waiting_in_inbox(settings.paths, name)
        try:
            remove_batch(settings.paths, instance, name, _say)
        except KeyboardInterrupt as stop:
            words = f"interrupted: batch {name} is not removed yet; the same command does it"
            raise Interrupted(words) from stop
    click.echo(f"batch {name}: removed")
    if waiting:
        click.echo(f"{waiting} still lies in the inbox: delete it too, or it is taken again")
    click.echo("next: captcha-assets update")


def _say(line: str) -> None:
    click.echo(f"batch {line}")


def _check_idle(instance: "dg.DagsterInstance", name: str) -> None:
    """Raise an error while a run works on the batch: the run would write again what is removed."""
    import dagster as dg

    statuses = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    found = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": name}, statuses=statuses), limit=1)
    if found:
        raise click.ClickException(
            f"run {found[0].run_id[:8]} works on batch {name}: wait until it ends, or terminate it in the UI"
        )
