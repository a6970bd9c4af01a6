"""The root of the command: its options, and how errors are said."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from dotenv import dotenv_values

from captcha_assets import interrupts
from captcha_assets.atomic_files import MissingBucketError, file_errors
from captcha_assets.cli import errors, process
from captcha_assets.cli.orchestration import database_store
from captcha_assets.dataset import DatasetSpec, load_dataset
from captcha_assets.paths import Paths
from captcha_assets.project import project
from captcha_assets.settings import Settings, SettingsError, load_settings
from captcha_assets.settings_validation import debugging

#: Where a context notes that a subcommand was asked for its help.
_HELP = f"{__name__}.help"
#: Where a context notes what follows the name of the subcommand.
_ARGUMENTS = f"{__name__}.arguments"
#: The commands that make a home where there is none.
_MAKING_A_HOME = (["batch", "add"], ["automation", "on"], ["ui"], ["backup", "restore"])
#: The commands that write nothing that depends on the data set.
_READING = (
    ["automation", "off"], ["automation", "show"], ["backup", "create"], ["batch", "list"], ["compute"],
    ["lineage"], ["model", "history"], ["model", "list"], ["model", "show"], ["model", "test"], ["predict"],
    ["profile"], ["reports"], ["status"], ["sweep", "show"],
)  # fmt: skip


class _Root(click.Group):
    """Says each error in one line, with exit status 1; a usage error has exit status 2."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        if args is not None:  # called by another program, whose process it is
            return super().main(args, *more, **extra)
        with process.owned():
            return super().main(args, *more, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.meta[_ARGUMENTS] = list(ctx.args)
        ctx.meta[_HELP] = bool({"-h", "--help"} & set(ctx.args))
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if interrupts.received() and not isinstance(error, process.Interrupted):
                raise process.Interrupted from error  # a library's own error for the interrupt
            raise
        except (click.exceptions.Exit, click.Abort):
            raise  # click's own, and RuntimeErrors
        except KeyboardInterrupt as stop:
            raise process.Interrupted from stop
        except errors.known() as error:
            if debugging():
                raise
            raise _said(error, ctx.obj) from error


def _said(error: BaseException, settings: Settings | None) -> Exception:
    """The exception that ends the command with the right words."""
    if interrupts.received():
        return process.Interrupted()
    if isinstance(error, BrokenPipeError) and error.filename == process.STANDARD_OUTPUT:
        return error  # click ends without a word, as other commands do whose reader has gone away
    default = settings.paths.dagster_home if settings else "DAGSTER_HOME"
    dagster_home = os.environ.get("DAGSTER_HOME") or default
    return click.ClickException(errors.in_one_line(error, dagster_home))


def _check_home(paths: Paths, arguments: list[str]) -> None:
    """Reject a home that is none, before anything is created there."""
    if paths.unfinished_restoration.exists() and arguments[:2] != ["backup", "restore"]:
        raise SettingsError(
            f"a backup was restored into {paths.home} only in part: run captcha-assets backup restore PATH "
            "again"
        )
    why = paths.why_no_home()
    if arguments[:2] == ["backup", "restore"] and why and paths.home.exists():
        raise SettingsError(f"CAPTCHA_HOME={str(paths.home)!r}: {why}. Give an empty folder, or a new one")
    if why and not any(arguments[: len(making)] == making for making in _MAKING_A_HOME):
        raise SettingsError(
            f"CAPTCHA_HOME={str(paths.home)!r} is no home: {why}. Correct the path, or make a home there: "
            "captcha-assets batch add NAME SOURCE"
        )


def _check_dataset(paths: Paths, spec: DatasetSpec, arguments: list[str]) -> None:
    """Reject a home that holds another data set, and a bucket that is not there.

    Of another data set, a command that writes nothing only warns.
    """
    from captcha_assets import dataset_record

    if arguments[:1] == ["graph"] or arguments[:2] == ["backup", "restore"]:
        return
    reads = any(arguments[: len(reading)] == reading for reading in _READING)
    try:
        dataset_record.check(paths, spec)
    except dataset_record.OtherDatasetError as error:
        if not reads:
            raise
        click.echo(f"warning: {error}", err=True)
    except file_errors() as error:
        # The service starts while its object store does not answer.
        if arguments[:1] != ["serve"] or isinstance(error, MissingBucketError):
            raise


def _enter_project() -> None:
    """Read the `.env` of the project and make its modules importable, both as `dg` does."""
    own = project()
    if own is None:
        return
    os.environ.update(
        {name: text for name, text in dotenv_values(own.folder / ".env").items() if text is not None}
    )
    if str(own.folder) not in sys.path:
        sys.path.insert(0, str(own.folder))


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="captcha-assets")
@click.pass_context
def main(ctx: click.Context) -> None:
    """From a batch of labelled images to a promoted model.

    Set CAPTCHA_DEBUG=1 for a traceback with every error.
    """
    from captcha_assets.sources import inbox

    if ctx.meta[_HELP] or ctx.invoked_subcommand == "new":
        return  # they need no settings
    _enter_project()
    settings = load_settings()
    arguments = [str(ctx.invoked_subcommand), *ctx.meta[_ARGUMENTS]]
    _check_home(settings.paths, arguments)
    if arguments[:2] != ["backup", "restore"]:  # which has a rule of its own
        database_store.check(settings.paths)
    spec = load_dataset(settings.dataset)
    ctx.obj = settings.with_kaggle_dataset(spec.kaggle_dataset)
    _check_dataset(settings.paths, spec, arguments)
    prepared = inbox.prepare(ctx.obj.paths) if arguments[:1] != ["backup"] else None
    for problem in (prepared, ctx.obj.paths.unused_settings):
        if problem:
            click.echo(f"warning: {problem}", err=True)
