"""A process that forks a `captcha-assets` command for every request, so that all of them share its imports.

    python -m captcha_assets_tests.command_server

reads one JSON object a line, `{"arguments", "environment", "folder", "output", "errors"}`, and answers each
with the exit status of the command. What a command prints goes to the files `output` and `errors`.
"""

import gc
import json
import os
import sys
from typing import Any

from captcha_assets_tests import forked_process


def _import_all() -> None:
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
    gc.freeze()  # a collection in a forked process would copy every page of what is imported


def _run(request: dict[str, Any]) -> None:
    """Be the command, in a forked process, as if it had been started by itself."""
    from captcha_assets.cli import main

    files = [
        os.open(os.devnull, os.O_RDONLY),
        *(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("output", "errors")),
    ]
    forked_process.become(request["environment"], request["folder"], files)
    sys.modules["__main__"].__package__ = None  # by it, click would call the command "python -m ..."
    sys.argv = ["captcha-assets", *request["arguments"]]
    main()


def main() -> None:
    """Answer requests until nobody asks any more."""
    _import_all()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            try:
                _run(json.loads(line))
            finally:
                forked_process.end()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    main()
