"""`python -m docs_pages`: write the generated parts of the pages that keep them."""

from pathlib import Path

from docs_pages.blocks import filled, kept


def main() -> None:
    """Write each page of docs/ that keeps its generated parts, as the code is now."""
    for page in sorted((Path(__file__).resolve().parent.parent / "docs").rglob("*.md")):
        text = page.read_text()
        if kept(text) and (new := filled(text)) != text:
            page.write_text(new)
            print(f"wrote {page.name}")  # noqa: T201


if __name__ == "__main__":
    main()
