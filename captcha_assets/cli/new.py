"""`captcha-assets new`: the project of another data set, from the template."""

import json
import keyword
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import click

from captcha_assets.cli.process import Interrupted
from captcha_assets.dataset import Format
from captcha_assets.paths import REPOSITORY


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", "project_name", help="Name of the project; default that of the folder.")
@click.option("--package", "package_name", help="Name of its Python package; default that of the project.")
@click.option("--classes", help="Classes in the order of a model's outputs, with commas between them.")
@click.option("--height", type=int, help="Height of an image in pixels.")
@click.option("--width", type=int, help="Width of an image in pixels.")
@click.option("--channels", type=click.Choice(["1", "3"]), help="1: grayscale; 3: RGB.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(get_args(Format)),
    help="Format of the files; may be given twice.",
)
@click.option(
    "--label-from",
    type=click.Choice(["file_name", "folder"]),
    help="<label>_<n>.<suffix>, or <label>/<any name>.",
)
@click.option("--other-sizes", type=click.Choice(["reject", "resize"]), help="Images of another size.")
@click.option(
    "--source", "captcha_assets_source", help="Where captcha-assets comes from: git+https://..., or a path."
)
@click.option(
    "--template", help="Address of a git repository, or a path; default where this command is from."
)
@click.option("--template-version", help="Tag, branch or commit of --template; default its latest version.")
@click.option("--defaults", is_flag=True, help="Ask nothing: what no option answers has its default.")
def new(
    path: Path, template: str | None, template_version: str | None, defaults: bool, **options: Any
) -> None:
    """Make a project for a data set of your own in PATH.

    PATH is a new or an empty folder. What no option answers is asked for. docs/template.md says what the
    project holds.
    """
    folder = path.expanduser().resolve()
    _check_folder(path, folder)
    if not defaults and not sys.stdin.isatty():
        raise click.ClickException("there is no terminal to ask at: answer by options, and give --defaults")
    answers = {
        name: list(answer) if isinstance(answer, tuple) else answer
        for name, answer in options.items()
        if answer is not None and answer != ()
    }
    if shutil.which("git") is None:
        raise click.ClickException("this needs git: install it")
    name = str(answers.get("project_name") or folder.name.lower().replace("_", "-").replace(" ", "-"))
    _check_package(str(answers.get("package_name") or name.replace("-", "_")))
    suggested = {"project_name": name}
    if source := _own_source():
        suggested["captcha_assets_source"] = source
    place, version = (template, template_version) if template else _own_template()
    _copy(place, version, folder, answers, suggested, defaults=defaults)
    click.echo(f"{folder} holds the project: go on as its README.md says")


def _check_folder(path: Path, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise click.ClickException(f"{path} is a file: name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise click.ClickException(
            f"{path} is not empty: name a new folder (copier update updates a project)"
        )


def _check_package(name: str) -> None:
    """Reject a name that another module has."""
    if keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise click.ClickException(
            f"{name!r} cannot name a package, since Python has this name: --package NAME"
        )


def _copy(
    template: str,
    version: str | None,
    folder: Path,
    answers: dict[str, Any],
    suggested: dict[str, str],
    *,
    defaults: bool,
) -> None:
    """Run copier, with its errors in one line."""
    try:
        from copier import errors, run_copy
        from plumbum.commands.processes import ProcessExecutionError
    except ModuleNotFoundError as error:
        raise click.ClickException("this needs copier: install captcha-assets[template]") from error
    try:
        run_copy(
            template, folder, answers, vcs_ref=version, user_defaults=suggested, defaults=defaults, quiet=True
        )
    except errors.CopierAnswersInterrupt as stop:
        raise Interrupted from stop
    except ProcessExecutionError as error:
        raise click.ClickException(f"{template}: {_last_line(error.stderr)}") from error
    except (errors.CopierError, ValueError, TypeError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error


def _last_line(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or ["git failed"])[-1].strip()


def _own_template() -> tuple[str, str | None]:
    """Return where the template of this version lies, and which version of it that is."""
    origin = _origin()
    commit = origin.get("vcs_info", {}).get("commit_id")
    if commit:
        return f"git+{origin['url']}", commit
    for place in (REPOSITORY, _folder_of(origin)):
        if place and (place / "copier.yml").exists():
            return str(place), _commit_of(place)
    raise click.ClickException(
        "this installation has no template: name the git repository of captcha-assets by --template"
    )


def _commit_of(checkout: Path) -> str | None:
    """Return the commit that is checked out: from what is not committed, nothing can be updated later."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def _own_source() -> str | None:
    """Return where this installation comes from, as the template asks for it; None: not known."""
    origin = _origin()
    commit = origin.get("vcs_info", {}).get("commit_id")
    if commit:
        return f"git+{origin['url']}@{commit}"
    if (REPOSITORY / "pyproject.toml").exists():
        return str(REPOSITORY)
    place = _folder_of(origin)
    return str(place) if place else None


def _origin() -> dict[str, Any]:
    """Return what the installer recorded of where the package comes from (`direct_url.json`)."""
    try:
        text = metadata.distribution("captcha-assets").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}


def _folder_of(origin: dict[str, Any]) -> Path | None:
    """Return the folder or archive that was installed."""
    parts = urlsplit(origin.get("url", ""))
    return Path(unquote(parts.path)) if parts.scheme == "file" else None
