"""`captcha-assets status`: the state of the home."""

import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

import click

from captcha_assets.cli.printing import printable
from captcha_assets.cli.update import HOW_TO_BEGIN, conflicts_in_words, is_empty
from captcha_assets.dataset import load_dataset
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.text_formats import shown_time


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show what serves, what is stale and why, and what waits.

    It shows the last training, what starts the next one, and the last drift check as well.
    """
    found = {
        "champion": _champion(settings.paths),
        **_state(settings),
        "quarantined": _quarantined(settings.paths),
    }
    found["inbox"] = _inbox(settings.paths, watched=found.pop("inbox_watched"))
    if as_json:
        click.echo(json.dumps(found))
    else:
        for line in _once(_lines(found), found["champion"]):
            click.echo(_wrapped(line))
        if is_empty(settings.paths):
            click.echo(_wrapped(f"first    {HOW_TO_BEGIN}; or make demo, which adds one and trains a model"))


def _wrapped(line: str) -> str:
    """Wrap a line to the width of the terminal, below its text; what is piped stays in one line."""
    if not sys.stdout.isatty():
        return line
    columns = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        line, columns, subsequent_indent=9 * " ", break_long_words=False, break_on_hyphens=False
    )


def _state(settings: Settings) -> dict[str, Any]:
    """Dagster's state of the home, after lost files were reported to it."""
    from captcha_assets.cli.orchestration import instance_status
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.cli.update import quiet_definitions

    with open_instance(settings) as instance:
        return instance_status.look(settings, load_dataset(settings.dataset), quiet_definitions(), instance)


def _champion(paths: Paths) -> dict[str, Any] | None:
    from captcha_assets.models import registry
    from captcha_assets.models.overview import champion_figures, quantized
    from captcha_assets.models.registry_records import RegistryError
    from captcha_assets.stored_outputs import Output, StoredVersions

    try:
        serves = registry.champion(paths.models)
    except RegistryError as error:
        nothing = dict.fromkeys(("model", "remedy", "selection", "outdated", "int8", "guesses"))
        return {**nothing, "problem": str(error)}
    if serves is None:
        return None
    versions = StoredVersions(paths)
    problem = versions.look(Output("champion")).problem
    lost_export = versions.look(Output("onnx_model", model=serves.model_id)).problem
    lost_folder = str(paths.models / serves.model_id) in (problem or "")
    versions.save()
    return {
        "model": serves.model_id,
        "since": serves.since,
        "because": serves.reason,
        "problem": problem,
        "remedy": _remedy(problem, lost_export, lost_folder=lost_folder),
        "int8": quantized(paths, serves.model_id),
        **champion_figures(paths, serves),
    }


def _remedy(problem: str | None, lost_export: str | None, *, lost_folder: bool) -> str | None:
    """What restores the champion; None where nothing of it is damaged."""
    if problem is None:
        return None
    if lost_export and not lost_folder:
        return "export it again (captcha-assets model export champion)"
    if not lost_folder:
        return "captcha-assets update summarizes its training images again"
    return (
        "restore its folder from a backup (while it is the candidate, captcha-assets update trains it "
        "again), or let another model serve (captcha-assets model promote)"
    )


def _quarantined(paths: Paths) -> list[dict[str, Any]]:
    """The batches that failed a blocking check, and which."""
    from captcha_assets.quality.validation_result import quarantined
    from captcha_assets.sources.batch_registration import known_batches

    found = quarantined(
        {name: paths.validation_results("image_table", name) for name in known_batches(paths)}
    )
    return [{"batch": name, "failed": checks} for name, checks in found.items()]


def _inbox(paths: Paths, *, watched: bool) -> list[dict[str, str]]:
    """The files in the inbox, and why each is still there; `watched` says whether the sensor is on."""
    from captcha_assets.sources import inbox

    found = inbox.scan(paths)
    taken = "can be taken: the inbox sensor does it, once it is on (captcha-assets automation on)"
    if watched:
        taken = "is being taken by the inbox sensor, which is on (it needs the daemon: captcha-assets ui)"
    rows = [(one.path.name, taken) for one in found.arrivals]
    rows += [(one.name, one.reason) for one in found.left]
    return [{"file": name, "reason": reason} for name, reason in rows]


def _once(lines: Iterator[str], champion: dict[str, Any] | None) -> Iterator[str]:
    """Yield the lines of a state; what is wrong with the champion's history stands in the first one only."""
    if champion is None or champion["model"] is not None:
        yield from lines
        return
    yield next(lines)
    problem = champion["problem"]
    yield from (
        line.replace(problem, "what serves cannot be read") for line in lines if line != f"waits    {problem}"
    )


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield from _model(found)
    yield from _waiting(found)
    said = tuple(f"batch {batch['batch']} is quarantined:" for batch in found["quarantined"])
    for step in found["stale"]:
        why = step["last_failure"]
        failed = f"; its last run failed: {why}" if why and not why.startswith(said) else ""
        yield f"stale    {step['step']}: {'; '.join(step['reasons'])}{failed}"
    if not found["stale"]:
        yield "stale    nothing: everything is up to date"


def _model(found: dict[str, Any]) -> Iterator[str]:
    yield f"serves   {_serving(found['champion'])}"
    if found["champion"] and found["champion"]["outdated"]:
        yield f"         figures of its promotion: {found['champion']['outdated']}"
    if found["champion"] and found["champion"]["selection"]:
        yield f"         {found['champion']['selection']}"
    if found["champion"] and found["champion"]["int8"]:
        yield f"         its quantized export: {found['champion']['int8']}"
    if candidate := found["not_promoted"]:
        state = "served before and is not promoted again" if candidate["served"] else "is not promoted"
        yield f"         candidate {candidate['model']} {state}: {candidate['reason']}"
    yield f"trained  {_training(found['last_training'])}"
    yield f"next     {found['next_training']}"
    set_aside = {batch["batch"] for batch in found["quarantined"]}
    yield f"drift    {_drift(found['last_drift'], set_aside)}"
    if drifted := [name for name in found["drifted"] if name not in set_aside]:
        yield f"         batches that drifted: {', '.join(drifted)}"
    if found["served_drift"]:
        yield f"         served predictions: {found['served_drift']}"
    if found["automatic_rollback"]:
        yield f"rollback {found['automatic_rollback']}"


def _waiting(found: dict[str, Any]) -> Iterator[str]:
    for run in found["runs"]:
        yield f"{'waits' if run['status'] in _NOT_STARTED else 'runs':<8} {_run(run)}"
    for batch in found["quarantined"]:
        checks = ", ".join(batch["failed"])
        yield f"waits    batch {batch['batch']} is quarantined: {checks} failed"
    for file in found["inbox"]:
        yield f"waits    in the inbox, {printable(file['file'])}: {file['reason']}"
    for line in [*found["unusable"], *found["idle_decisions"]]:
        yield f"waits    {line}"
    if found["label_conflicts"]:
        yield f"waits    {conflicts_in_words(found['label_conflicts'])}"


#: The states of a run that executes nothing yet.
_NOT_STARTED = ("queued", "not_started", "managed")


def _run(run: dict[str, Any]) -> str:
    where = f" [{run['partition']}]" if run["partition"] else ""
    why = f": {run['why']}" if run["why"] else ""
    advice = (
        "; if the machine or container that executes it is gone, terminate it in the UI"
        if run["of_unknown_process"]
        else ""
    )
    state = "" if run["status"] == "started" else f" {run['status']}"
    begun = f"run {run['run_id'][:8]}{state} since {shown_time(run['since'])}"
    return f"{begun}, {run['materializes']}{where}{why}{advice}"


def _serving(champion: dict[str, Any] | None) -> str:
    if champion is None:
        return "no model yet"
    if champion["model"] is None:
        return f"cannot be read: {champion['problem']}"
    if champion["problem"]:
        return f"{champion['model']}, whose files are {champion['problem']}; {champion['remedy']}"
    accuracy = "accuracy not measured"
    if champion["accuracy"] is not None:
        low, high = champion["accuracy_low"], champion["accuracy_high"]
        accuracy = f"accuracy {champion['accuracy']:.4f} ({low:.4f} to {high:.4f}, n = {champion['n']:,})"
    if champion["guesses"]:
        accuracy += ", no better than guessing"
    return f"{champion['model']} since {shown_time(champion['since'])}, {accuracy}"


def _training(last: dict[str, Any] | None) -> str:
    if last is None:
        return "never"
    why = f": {last['why']}" if last["why"] else ""
    return f"{last['model']} at {shown_time(last['at'])} in run {last['run_id'][:8]}{why}"


def _drift(last: dict[str, Any] | None, set_aside: Collection[str]) -> str:
    if last is None:
        return "never checked"
    quarantined = ", which is quarantined," if last["batch"] in set_aside else ""
    return f"batch {last['batch']}{quarantined} at {shown_time(last['at'])}: {last['found']}"
