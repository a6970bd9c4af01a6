"""The `captcha-assets` command: what dagster's own commands cannot do.

Exit status 0 is success; 2 a usage error; 1 anything else, with one line that says why.
"""

import sys

try:
    from captcha_assets.cli.automation import automation
    from captcha_assets.cli.backfill import backfill
    from captcha_assets.cli.backup import backup
    from captcha_assets.cli.batches import batch
    from captcha_assets.cli.compute import compute
    from captcha_assets.cli.data_docs import data_docs
    from captcha_assets.cli.graph import graph
    from captcha_assets.cli.lineage import lineage
    from captcha_assets.cli.models import model, predict
    from captcha_assets.cli.new import new
    from captcha_assets.cli.profiling import profile
    from captcha_assets.cli.reproduce import reproduce
    from captcha_assets.cli.root import main
    from captcha_assets.cli.serve import serve
    from captcha_assets.cli.status import status
    from captcha_assets.cli.sweeps import sweep
    from captcha_assets.cli.update import update
    from captcha_assets.cli.web import reports, ui
except KeyboardInterrupt:
    sys.exit("Error: interrupted")

for _command in (
    new,
    automation,
    batch,
    update,
    backfill,
    predict,
    model,
    sweep,
    profile,
    compute,
    graph,
    lineage,
    reproduce,
    status,
    serve,
    ui,
    reports,
    data_docs,
    backup,
):
    main.add_command(_command)

__all__ = ["main"]
