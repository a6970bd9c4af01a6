"""The fork server of all tests: its processes start in milliseconds, whichever test was the first to need it.

A process of the tests has one fork server, and what that imports is fixed when it starts.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "captcha_assets.training.__main__",
        "captcha_assets.training.fit",
        "captcha_assets_tests.images.test_killed",
        "captcha_assets_tests.models.test_registry",
        "captcha_assets_tests.serving.log_processes",
        "captcha_assets_tests.training.processes",
    ]
)
