"""Commands are forked from a process that has what they import: see `fork_server`."""

import sys


def prepare() -> None:
    """Import what the commands import."""
    import great_expectations  # noqa: F401
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401

    from captcha_assets import definitions
    from captcha_assets.cli import main  # noqa: F401
    from captcha_assets.cli.orchestration import backfills, execution, instance_status  # noqa: F401
    from captcha_assets.evaluation import evaluate, onnx_parity, plots  # noqa: F401
    from captcha_assets.models import network  # noqa: F401
    from captcha_assets_tests import dagster_storage, training_server

    dagster_storage.reuse()
    training_server.use()
    definitions.defs()


def run(*arguments: str) -> None:
    """Be the command, as if it had been started by itself."""
    from captcha_assets.cli import main

    sys.modules["__main__"].__package__ = None  # by it, click would call the command "python -m ..."
    sys.argv = ["captcha-assets", *arguments]
    main()
