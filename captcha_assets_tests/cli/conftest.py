"""The homes of the tests of `defs/`, for the commands."""

from captcha_assets_tests.defs.conftest import (
    config_file,
    databases,
    finished,
    finished_folder,
    home,
    mostly_bad_archive,
)

__all__ = ["config_file", "databases", "finished", "finished_folder", "home", "mostly_bad_archive"]
