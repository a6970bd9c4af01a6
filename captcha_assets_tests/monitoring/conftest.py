import pytest

from captcha_assets_tests.monitoring.served import Model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that was never seen before, with its reference."""
    return Model(tmp_path_factory.mktemp("served"))
