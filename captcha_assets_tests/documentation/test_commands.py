"""Every command that a page shows is one that there is: its names and its options."""

import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import click
import pytest

from captcha_assets.cli import main
from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.documentation.pages import blocks, pages, spans

#: What ends a command of a shell.
_ENDS = re.compile(r"[|&;<>()]+")
#: Programs that run what follows.
_RUNNERS = {"docker", "$"}


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `captcha-assets` in lines of a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += ":@%,…[]+*{}!^$"
        try:
            words = list(lexer)
        except ValueError:  # an apostrophe in a line that is no command
            continue
        for ends, part in groupby(words, lambda word: _ENDS.fullmatch(word) is not None):
            if not ends and (arguments := _arguments(list(part))) is not None:
                yield arguments


def _arguments(words: list[str]) -> list[str] | None:
    """Return the arguments of `captcha-assets` where the words run it; None where they only name it."""
    for place, word in enumerate(words):
        before = words[:place]
        run = all("=" in one for one in before) or before[0] in _RUNNERS or before[-1] == "--"
        if word.rpartition("/")[2] == "captcha-assets" and run:
            return words[place + 1 :]
    return None


def _problem(arguments: list[str]) -> str | None:
    """Return what is wrong with the arguments of `captcha-assets`, as click sees it; nothing is run."""
    command: click.Command = main
    context = click.Context(main, info_name="captcha-assets")
    rest = list(arguments)
    try:
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(context, rest[0])
            if found is None:
                return f"there is no command {rest[0]}"
            command, context = found, click.Context(found, info_name=rest.pop(0), parent=context)
        _, left, _ = command.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        return error.format_message()
    return f"too many arguments: {left}" if left and not isinstance(command, click.Group) else None


def _wrong(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Return what is wrong with the commands in texts, each of which comes with its page."""
    return [
        f"{page}: captcha-assets {' '.join(arguments)}: {why}"
        for page, text in texts
        for arguments in _commands(text)
        if (why := _problem(arguments))
    ]


def _name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def test_every_command_line_in_a_block_names_commands_and_options_that_exist() -> None:
    shown = [
        (_name(page), block) for page in pages() for block in blocks(page, "console", "bash", "sh", "shell")
    ]
    assert sum(1 for _, block in shown for _ in _commands(block)) > 60, "the pages are not read as written"
    assert _wrong(shown) == []


def test_every_command_in_the_text_names_commands_and_options_that_exist() -> None:
    # Forms such as [--host HOST] are no commands, and an option may be named without its value.
    shown = [(_name(page), span) for page in pages() for span in spans(page) if "[" not in span]
    assert sum(1 for _, span in shown for _ in _commands(span)) > 60, "the pages are not read as written"
    assert [one for one in _wrong(shown) if "requires an argument" not in one] == []


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("captcha-assets update --dry-run    # what for", ["update", "--dry-run"]),
        ("CAPTCHA_HOME=/srv/new captcha-assets status | head -1", ["status"]),
        ("captcha-assets batch add a synthetic:10:1 && true", ["batch", "add", "a", "synthetic:10:1"]),
        ("docker compose exec code captcha-assets automation on", ["automation", "on"]),
        ("captcha-assets predict a/ \\\n  --json", ["predict", "a/", "--json"]),
    ],
)
def test_a_command_is_found_in_a_line(line: str, arguments: list[str]) -> None:
    assert list(_commands(line)) == [arguments]


@pytest.mark.parametrize(
    "arguments", [["updat"], ["update", "--dry"], ["batch", "ad"], ["status", "now"], ["model", "--json"]]
)
def test_a_wrong_command_is_noticed(arguments: list[str]) -> None:
    assert _problem(arguments)


def test_python_blocks_compile() -> None:
    compiled = 0
    for page in pages():
        for block in blocks(page, "python"):
            compile(block, str(page), "exec")
            compiled += 1
    assert compiled > 8
