"""`captcha-assets reproduce`: train a model again from what it recorded, and compare."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from captcha_assets.dataset import load_dataset
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.reproduction import Reproduction


@click.command()
@click.argument("model")
@click.option("--worktree", is_flag=True, help="Train with the code of the recorded git commit.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, and no progress.")
@click.pass_obj
def reproduce(settings: Settings, model: str, worktree: bool, as_json: bool) -> None:
    """Train MODEL again as recorded; say whether it is the same.

    The same are data, splits, settings and seed. Exit status 0: the same model, bit for bit. 1: another
    one; what differs is listed. The registry and the home's tables stay as they are.
    """
    from captcha_assets.models.predict_files import resolve
    from captcha_assets.reproduction import reproduce as again
    from captcha_assets.training.config import TRAINING_CODE

    def say(line: str) -> None:
        if not as_json:
            click.echo(f"  {line}")

    result = again(
        settings,
        load_dataset(settings.dataset),
        resolve(settings.paths, model),
        TRAINING_CODE,
        say,
        worktree=worktree,
    )
    for line in [json.dumps(result.to_dict())] if as_json else _lines(result):
        click.echo(line)
    sys.exit(0 if result.same else 1)


def _lines(result: "Reproduction") -> Iterator[str]:
    for difference in result.differences:
        yield f"changed since: {difference}"
    if result.same:
        yield f"the same model, bit for bit: {result.model_id}"
        return
    then, now = result.validation_accuracy
    apart = result.largest_weight_difference
    yield f"another model: {result.again} instead of {result.model_id}"
    yield f"validation accuracy {then:.4f} then, {now:.4f} now"
    yield "other weights altogether" if apart is None else f"weights differ by at most {apart:.3g}"
    if not result.differences:
        yield "nothing that is recorded differs: the hardware or an unrecorded change is the cause"
