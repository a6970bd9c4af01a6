"""Every alert that can be sent is on the page of alerts."""

import ast
from collections.abc import Iterator

from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.architecture.source import modules, place

PAGE = (REPOSITORY / "docs" / "alerts.md").read_text()


def titles() -> Iterator[tuple[str, str]]:
    """Yield where each alert is made, and the longest part of its title that is always the same."""
    for module in modules():
        for node in ast.walk(module.tree):
            if title := _of_call(node) or _of_function(node):
                for part in ast.walk(title):
                    if (
                        isinstance(part, ast.Constant)
                        and isinstance(part.value, str)
                        and len(part.value) > 12
                    ):
                        yield place(module, title), part.value.strip(" :,")


def _of_call(node: ast.AST) -> ast.AST | None:
    """Return the title that a call of `Alert` gives."""
    is_alert = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Alert"
    return node.args[0] if is_alert and isinstance(node, ast.Call) else None


def _of_function(node: ast.AST) -> ast.AST | None:
    """Return the title that a function returns as the first of the `_Content` of an alert."""
    if not (isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == "_Content"):
        return None
    found = [
        one.value.elts[0]
        for one in ast.walk(node)
        if isinstance(one, ast.Return) and isinstance(one.value, ast.Tuple)
    ]
    return found[0] if found else None


def test_every_title_is_on_the_page() -> None:
    found = list(titles())
    assert len(found) >= 8
    assert [(where, title) for where, title in found if title not in PAGE] == []
