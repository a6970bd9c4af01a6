"""The empty databases that the tests of the prediction log have."""

from captcha_assets_tests.serving.conftest import postgres, sqlite_url, url

__all__ = ["postgres", "sqlite_url", "url"]
