"""Every message on the page about troubleshooting is one that the code still says."""

import ast
import re
from functools import cache

from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.architecture.source import modules

PAGE = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
#: The first cell of a row of a table.
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


@cache
def said() -> str:
    """Return every text of the code and of the Makefile; … stands where a value is filled in."""
    texts = [(REPOSITORY / "Makefile").read_text()]
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(_fixed(part) for part in node.values))
    return "\n".join(texts)


def _fixed(part: ast.expr) -> str:
    return part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "…"


def fixed_parts(message: str) -> list[str]:
    """Return what of a message is always the same."""
    return [part.strip() for part in message.split("…") if len(part.strip()) > 3]


def test_there_are_messages_and_each_has_a_fixed_part() -> None:
    assert len(MESSAGES) >= 25
    assert [message for message in MESSAGES if not fixed_parts(message)] == []


def test_the_code_still_says_each_message() -> None:
    gone = [
        f"{message}: {part!r} stands nowhere"
        for message in MESSAGES
        for part in fixed_parts(message)
        if part not in said()
    ]
    assert gone == []


def test_each_message_has_a_cause_and_a_remedy() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) == len(MESSAGES)
    assert [row for row in rows if not all(cell.strip() for cell in row.strip("|").split("|")[:3])] == []
