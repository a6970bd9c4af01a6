"""Links of the README and its neighbours lead somewhere; the build checks those between pages."""

import re
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

from captcha_assets.paths import REPOSITORY

_LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([\w-]+))?\)")


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        slugify(heading.replace("`", ""), "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", sorted(REPOSITORY.glob("*.md")), ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_of_it(page: Path) -> None:
    wrong = []
    for name, anchor in _LINK.findall(page.read_text()):
        target = REPOSITORY / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(f"{name}#{anchor}")
    assert wrong == []
