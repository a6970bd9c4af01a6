"""The service's own application on granian instead of uvicorn."""

import logging
import sys

from granian.constants import Interfaces
from granian.server.embed import Server

from captcha_assets.dataset import CAPTCHA
from captcha_assets.paths import Paths
from captcha_assets.serving.allowed_hosts import AllowedHosts
from captcha_assets.serving.app import build_app
from captcha_assets.serving.champion_reloader import ChampionReloader
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.serving.service import Service
from captcha_assets.serving.settings import ServingSettings
from captcha_assets.settings import load_settings

_logger = logging.getLogger(__name__)


async def main() -> None:
    paths, serving = Paths(), ServingSettings()
    champion = ChampionReloader(paths.models, paths.artifact_root / "onnx_model", CAPTCHA, _logger.error)
    log = open_prediction_log(serving.prediction_log_at(paths) or "")
    service = Service(serving, champion, log, _logger.error, load_settings().corrections_in_batch)
    app = build_app(service, None, AllowedHosts("*"))
    server = Server(
        app, port=int(sys.argv[1]), interface=Interfaces.ASGI, log_enabled=False, websockets=False
    )
    await server.serve()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
