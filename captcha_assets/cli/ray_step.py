"""The entry point of a Ray job of a backfill: `python -m captcha_assets.cli.ray_step STEP`.

It materializes one step on this node, as a run of the database that all hosts of the profile `shared` have,
in a home of its own that is removed at the end. STEP is JSON: `assets`, `partition`, and `tags` of the run.
The exit status is 0 where the step was materialized, and 1, with one line that says why, where not.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import click

from captcha_assets import locks
from captcha_assets.atomic_files import own_folder
from captcha_assets.cli.root import main
from captcha_assets.cli.update import quiet_definitions
from captcha_assets.settings import Settings


@click.command()
@click.argument("step")
@click.pass_obj
def ray_step(settings: Settings, step: str) -> None:
    """Materialize one step of a backfill on a node of a Ray cluster."""
    from captcha_assets.cli.orchestration.execution import materialize
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.orchestration.staleness import Step

    asked = json.loads(step)
    chosen = Step(tuple(asked["assets"]), asked["partition"])
    definitions = quiet_definitions()
    with (
        open_instance(settings) as instance,
        # The process of a node that Ray has lost may still be at work on the same step.
        locks.exclusive(settings.paths, f"_ray_step {chosen}", lambda: click.echo(f"waiting for {chosen}")),
    ):
        _, error, _ = materialize(definitions, instance, chosen, tags=asked["tags"])
    if error:
        raise click.ClickException(error)


if __name__ == "__main__":
    main.add_command(ray_step)
    with own_folder(Path(tempfile.gettempdir(), f"captcha-assets-{os.getuid()}"), "ray-step-") as own:
        # Not the folder itself, of which this process holds the lock: a writer locks the folder it writes to.
        home = own / "home"
        home.mkdir()
        os.environ["CAPTCHA_HOME"] = str(home)
        os.environ.pop("DAGSTER_HOME", None)
        sys.argv[1:1] = ["ray-step"]
        main()
