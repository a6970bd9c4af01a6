"""The first line of a message is what a command says of it."""

import pytest

from captcha_assets.text_formats import first_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("\n  what is wrong  \nTraceback", "what is wrong"),
        (ValueError("what is wrong\nmore"), "what is wrong"),
        (TimeoutError(), "TimeoutError"),
        ("", ""),
        ("x" * 1000, "x" * 500),
    ],
)
def test_the_first_line_of_a_message(said: object, line: str) -> None:
    assert first_line(said) == line
