"""`captcha-assets lineage`: what a model, batch, image or prediction was derived from and used for."""

import json
from typing import TYPE_CHECKING, Any

import click

from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from rich.tree import Tree

    from captcha_assets.models.lineage import Lineage, Node


@click.command()
@click.argument("what")
@click.option("--up", "direction", flag_value="up", help="Only what it was derived from.")
@click.option("--down", "direction", flag_value="down", help="Only what it was used for.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: what, derived_from, used_for.")
@click.pass_obj
def lineage(settings: Settings, what: str, direction: str | None, as_json: bool) -> None:
    """Show what WHAT was derived from and what it was used for.

    WHAT is a model (its id, champion or candidate), a batch, an image (its id, or the name of its file in
    the archive), or the inference id of a served prediction; of a model's or an image's id, the first
    characters are enough.
    """
    from captcha_assets.models.lineage import trace
    from captcha_assets.served_predictions.lineage import prediction

    found = trace(settings.paths, what, prediction)
    if as_json:
        values = found.to_dict()
        dropped = {"up": "used_for", "down": "derived_from"}.get(direction or "")
        click.echo(json.dumps({key: value for key, value in values.items() if key != dropped}))
    else:
        _print(found, direction)


def _print(found: "Lineage", direction: str | None) -> None:
    from rich.console import Console
    from rich.tree import Tree

    tree = Tree(_label(found.what), guide_style="dim")
    for side, words, nodes in (
        ("up", "derived from", found.derived_from),
        ("down", "used for", found.used_for),
    ):
        if direction in (None, side):
            branch = tree.add(f"[bold]{words}[/bold]" + ("" if nodes else ": nothing that is known"))
            for node in nodes:
                _add(branch, node)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # what is piped is not wrapped to the width of a screen
    console.print(tree)


def _add(tree: "Tree", node: "Node") -> None:
    branch = tree.add(_label(node))
    for below in node.nodes:
        _add(branch, below)


def _label(node: "Node") -> str:
    """A thing's name, and below it a line for each fact."""
    from rich.markup import escape

    title = f"[cyan]{escape(node.kind)}[/cyan] [bold]{escape(node.id)}[/bold]"
    facts = _shown_facts(node.facts) if node.kind == "training run" else node.facts
    lines = [
        f"[dim]{name.replace('_', ' ')}:[/dim] {escape(_words(value))}"
        for name, value in facts.items()
        if value is not None
    ]
    return "\n".join([title, *lines])


def _shown_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a training with only those settings that are not the production values."""
    from captcha_assets.training.config import TrainingSettings

    usual = TrainingSettings().model_dump(mode="json")
    given = json.loads(json.dumps(facts["settings"]))
    other = {key: value for key, value in given.items() if value != usual.get(key)}
    return facts | {"settings": other or "the production values"}


def _words(value: Any) -> str:
    if value is None:
        return "all"  # of the settings: a sample size that is not limited
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(one)}" for key, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
