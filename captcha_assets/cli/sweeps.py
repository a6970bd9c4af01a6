"""`captcha-assets sweep`: searches for training settings, and makes the best ones the production settings."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from captcha_assets import interrupts
from captcha_assets.cli.printing import print_rows
from captcha_assets.cli.process import Interrupted
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from captcha_assets.cli.orchestration.staleness import Step
    from captcha_assets.sweeps.definition import Sweep

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)


@click.group()
def sweep() -> None:
    """Sweeps: start, run, show, apply the best."""


@sweep.command()
@_FILE
@click.pass_obj
def start(settings: Settings, file: Path | None) -> None:
    """Register the trials of FILE, and train nothing yet.

    Without FILE, it is configs/sweep.yaml of the home, or else the one that comes with the code.
    """
    from captcha_assets.cli.orchestration.instance import open_instance

    file, chosen = _loaded(settings.paths, file)
    with open_instance(settings) as instance:
        _register(settings.paths, instance, chosen)
    click.echo(f"next: captcha-assets sweep run {file}")


def _loaded(paths: Paths, file: Path | None) -> "tuple[Path, Sweep]":
    """Read the file, or the default file where none was named, and print which one that is."""
    from captcha_assets.sweeps import definition

    if file is None:
        file = paths.sweep_file
        click.echo(f"no FILE was named: using {file}")
    return file, definition.load(file)


def _register(paths: Paths, instance: "dg.DagsterInstance", chosen: "Sweep") -> None:
    from captcha_assets.defs.partitions import TRIAL
    from captcha_assets.sweeps import definition

    definition.register(paths, chosen)
    known = set(instance.get_dynamic_partitions(TRIAL))
    new = [name for name in chosen.trial_names if name not in known]
    if new:
        instance.add_dynamic_partitions(TRIAL, new)
    click.echo(f"sweep {chosen.identity}: {len(chosen)} trials, {len(new)} of them new")


@sweep.command()
@_FILE
@click.pass_obj
def run(settings: Settings, file: Path | None) -> None:
    """Train the trials of FILE that are missing or out of date.

    All trials of FILE are registered first, and ranked at the end. Without FILE, it is configs/sweep.yaml
    of the home, or else the one that comes with the code. As many train in parallel as the pool `sweep`
    has slots; one, unless it was given more.
    """
    from captcha_assets.cli.orchestration import command_lock, execution, staleness
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.update import quiet_definitions
    from captcha_assets.defs import lost_outputs

    chosen, definitions = _loaded(settings.paths, file)[1], quiet_definitions()
    with open_instance(settings) as instance, command_lock.alone(settings.paths, click.echo):
        _register(settings.paths, instance, chosen)
        # A trial whose record is lost or damaged is trained again.
        lost_outputs.report(settings.paths, instance)
        names = set(chosen.trial_names)
        steps = [
            one
            for one in staleness.stale_steps(definitions, instance, ("sweep_trial",))
            if one.partition in names
        ]
        if not steps:
            click.echo("every trial is up to date")
        failed = _run_trials(settings, definitions, instance, sorted(steps))
        problems = [f"failed: {', '.join(failed)}"] if failed else []
        if steps or staleness.stale_steps(definitions, instance, ("sweep_leaderboard",)):
            ranking = staleness.Step(("sweep_leaderboard",))
            if error := execution.materialize(definitions, instance, ranking)[1]:
                problems.append(f"{ranking} failed: {error}")
    click.echo(f"{len(steps) - len(failed)} trained, {len(failed)} failed; see: captcha-assets sweep show")
    if problems:
        raise click.ClickException(f"{'; '.join(problems)}; run it again to try them again")


def _run_trials(
    settings: Settings, definitions: "dg.Definitions", instance: "dg.DagsterInstance", steps: Sequence["Step"]
) -> list[str]:
    """Materialize the steps, print what became of each, and return the trials that failed."""
    number, failed = 0, []
    try:
        with closing(_results(settings, definitions, instance, steps)) as results:
            for trial, error in results:
                number += 1
                click.echo(f"[{number}/{len(steps)}] {_became(settings.paths, trial, error)}")
                failed += [trial] if error else []
    except KeyboardInterrupt as stop:
        message = f"interrupted after {number} of {len(steps)} trials; the same command continues from there"
        raise Interrupted(message) from stop
    return failed


def _results(
    settings: Settings, definitions: "dg.Definitions", instance: "dg.DagsterInstance", steps: Sequence["Step"]
) -> Generator[tuple[str, str | None], None, None]:
    """Materialize the steps, as many at once as the pool has slots; yield each trial and why it failed."""
    from captcha_assets.cli.orchestration import execution

    slots = instance.event_log_storage.get_concurrency_info("sweep").slot_count or 1
    if slots == 1:
        yield from (
            (str(step.partition), execution.materialize(definitions, instance, step)[1]) for step in steps
        )
        return
    pool, started = ThreadPoolExecutor(slots), list[subprocess.Popen[str]]()
    try:
        waiting = {
            pool.submit(_trained_in_process, settings.paths, str(step.partition), started): step
            for step in steps
        }
        interrupts.check()
        for ended in as_completed(waiting):
            yield str(waiting[ended].partition), ended.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.send_signal(signal.SIGINT)  # nothing to one that has ended
        pool.shutdown()


def _trained_in_process(paths: Paths, trial: str, started: list[subprocess.Popen[str]]) -> str | None:
    """Materialize a trial in a process of its own, since Dagster executes one run at a time in each."""
    # It is interrupted when this process is killed: the next `sweep run` would start the trial once more.
    tether = [sys.executable, "-m", "captcha_assets.cli.parent_death_signal", str(os.getpid())]
    command = [*tether, sys.executable, "-m", "captcha_assets.cli", "sweep", "trial", trial]
    homes = {"CAPTCHA_HOME": str(paths.home)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=os.environ | homes, stdout=pipe, stderr=pipe, text=True) as process:
        started.append(process)
        if interrupts.received():  # too late for the signal that the others got
            process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    if process.returncode == 0:
        return None
    return (errors.strip().splitlines() or ["its process was killed"])[-1].removeprefix("Error: ")


@sweep.command(hidden=True)
@click.argument("name")
@click.pass_obj
def trial(settings: Settings, name: str) -> None:
    """Train the one trial NAME."""
    from captcha_assets.cli.orchestration import execution, staleness
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.update import quiet_definitions

    with open_instance(settings) as instance:
        error = execution.materialize(quiet_definitions(), instance, staleness.Step(("sweep_trial",), name))[
            1
        ]
    if error:
        raise click.ClickException(error)


def _became(paths: Paths, trial: str, error: str | None) -> str:
    from captcha_assets.sweeps import trial_records

    record = trial_records.load_readable(paths, trial)
    if error or record is None or record.value is None:
        return f"{trial}: failed: {error}"
    how = (
        f"stopped after {len(record.history)} epochs at"
        if record.state == trial_records.PRUNED
        else "accuracy"
    )
    return f"{trial}: {how} {record.value:.4f} ({trial_records.described(record.parameters)})"


@sweep.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with all settings.")
@click.pass_obj
def show(settings: Settings, as_json: bool) -> None:
    """Show all trials, the best first.

    Those on other images than today's have no rank. Trials that have not ended come last: they wait for
    `sweep run`, or are under way.
    """
    from captcha_assets.sweeps import leaderboard, trial_records

    version = leaderboard.splits_now(settings.paths)
    records = trial_records.load_all(settings.paths)
    waiting = leaderboard.waiting(settings.paths, records)
    rows = leaderboard.rows(records, version) + waiting
    if as_json:
        print_rows([], _unpacked(rows), as_json=True)
        return
    if not rows:
        click.echo("no sweep was started yet: captcha-assets sweep run")
        return
    shown = [row | {"accuracy": row["accuracy"] and f"{row['accuracy']:.4f}"} for row in rows]
    for row in shown:
        row["parameters"] = trial_records.described(json.loads(row["parameters"]))
    print_rows(["rank", "trial", "state", "accuracy", "epochs", "parameters"], shown, as_json=False)
    if waiting:
        click.echo(
            f"{len(waiting)} trials wait or are under way: captcha-assets sweep run trains what is missing"
        )


def _unpacked(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    return [row | {name: json.loads(str(row[name])) for name in ("parameters", "settings")} for row in rows]


@sweep.command()
@click.option(
    "--trial", metavar="NAME", help="Which trial; the best complete one on today's images if not given."
)
@click.option(
    "--only-varied",
    is_flag=True,
    help="Take the settings that the sweep varied, and keep the others as in production.",
)
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a run config for `update --config` instead, and leave production as it is.",
)
@click.pass_obj
def apply(settings: Settings, trial: str | None, only_varied: bool, target: Path | None) -> None:
    """Make the settings of the best trial the production settings.

    They are written to configs/training.yaml of the home. From then on every training without --config
    uses them, automated ones too.
    """
    from captcha_assets.sweeps import best_trial

    if target:
        click.echo(best_trial.write_run_config(settings.paths, target, trial, only_varied=only_varied))
        click.echo(f"next: captcha-assets update --config {target}")
    else:
        click.echo(best_trial.apply(settings.paths, trial, only_varied=only_varied))
        click.echo("next: captcha-assets update")
