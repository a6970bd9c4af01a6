"""`captcha-assets graph`: the asset graph as text that GitHub and GitLab draw."""

import click


@click.command()
def graph() -> None:
    """Print the asset graph as a Mermaid flowchart."""
    from captcha_assets.cli.orchestration.code_location import definitions
    from captcha_assets.cli.orchestration.mermaid_graph import mermaid

    click.echo(mermaid(definitions()), nl=False)
