"""What assets are handed: plain objects of the library, made when a run starts."""

import dagster as dg

from captcha_assets.settings import Settings, load_settings


@dg.resource(description="Where things are kept, read from the CAPTCHA_* variables.")
def settings(_context: dg.InitResourceContext) -> Settings:
    """Read the settings when a run starts, so that loading the definitions needs no environment."""
    return load_settings()


@dg.definitions
def resources() -> dg.Definitions:
    """Resources of every run, and one process per run: steps are short, and training has its own."""
    return dg.Definitions(
        resources={
            "settings": settings,
            "pipes": dg.PipesSubprocessClient(forward_termination=True, termination_timeout_seconds=20),
        },
        executor=dg.in_process_executor,
    )
