"""The fork server of all tests: its processes start fast, whichever test was the first to need it.

A process of the tests has one fork server, and what that imports is fixed when it starts.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
# No test module: with the libraries of tests loaded, each training takes half a second longer.
CONTEXT.set_forkserver_preload(
    [
        "captcha_assets.models.registry",
        "captcha_assets.training.__main__",
        "captcha_assets.training.fit",
        "captcha_assets_tests.serving.log_processes",
        "captcha_assets_tests.training.processes",
    ]
)
