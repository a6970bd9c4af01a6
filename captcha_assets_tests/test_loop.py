"""The loop from served predictions to a better model, with real processes and no further hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets_tests.conftest import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.no_cover
def test_a_stream_in_a_new_font_leads_to_a_model_that_reads_it(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.loop", "--small", "--json", str(figures)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert found["fresh_before"] < found["usual_before"]
    assert found["severity"] in {"warning", "critical"}
    assert f"{found['severity']} drift on" in found["why"]
    assert "new corrections" in found["why"]
    assert found["fresh_after"] > found["fresh_before"]
    assert found["version_after"] != found["version_before"]
