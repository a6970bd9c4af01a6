"""The service's own application on granian instead of uvicorn."""

import logging
import sys

from granian.constants import Interfaces
from granian.server.embed import Server

from captcha_assets.dataset import CAPTCHA
from captcha_assets.paths import Paths
from captcha_assets.serving.app import build_app
from captcha_assets.serving.champion_watcher import ChampionWatcher
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.serving.service import Service
from captcha_assets.serving.settings import ServingSettings

_logger = logging.getLogger(__name__)


async def main() -> None:
    paths, serving = Paths(), ServingSettings()
    watcher = ChampionWatcher(paths.models, paths.artifact_root / "onnx_model", CAPTCHA, _logger.error)
    log = open_prediction_log(serving.prediction_log_at(paths.home) or "")
    app = build_app(Service(serving, watcher, log), None)
    server = Server(
        app, port=int(sys.argv[1]), interface=Interfaces.ASGI, log_enabled=False, websockets=False
    )
    await server.serve()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
