"""Settings and jobs: what is wrong is rejected with its name, before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.training.config import JobError, SettingsError, TrainingJob, TrainingSettings
from captcha_assets_tests.training.examples import job_on

JOB = job_on(([Path("a.parquet")], Path("splits.parquet")), Path())


@pytest.fixture
def job(tmp_path):
    for name in ("a.parquet", "splits.parquet"):
        (tmp_path / name).touch()
    return JOB.model_copy(update={"tables": (tmp_path / "a.parquet",), "splits": tmp_path / "splits.parquet"})


def test_every_setting_says_what_it_is_for():
    for name, field in TrainingSettings.model_fields.items():
        assert str(field.description).endswith("."), name
        assert not field.is_required(), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs=0 cannot be used: Input should be greater than or equal to 1"),
        ({"epochs": 2.5}, r"epochs=2\.5 cannot be used: Input should be a valid integer"),
        ({"epochs": True}, "epochs=True cannot be used: Input should be a valid integer"),
        ({"epochs": None}, "epochs=None cannot be used: Input should be a valid integer"),
        ({"sample_size": 0}, "sample_size=0 cannot be used: Input should be greater than or equal to 1"),
        (
            {"learning_rate": float("nan")},
            "learning_rate=nan cannot be used: Input should be a finite number",
        ),
        ({"pretrained": "yes"}, "pretrained='yes' cannot be used: Input should be a valid boolean"),
        ({"accelerator": "tpu"}, "accelerator='tpu' cannot be used: Input should be 'auto', 'cpu' or 'gpu'"),
        ({"channels": [8, 8, 8]}, r"channels=\[8, 8, 8\] cannot be used: .* at least 4 items"),
        ({"channels": [8, 8, 8, 0]}, r"channels\[3\]=0 cannot be used"),
        ({"channels": [8, 8, 8, "8"]}, r"channels\[3\]='8' cannot be used: Input should be a valid integer"),
        ({"learning_rate": "1e-1"}, "learning_rate='1e-1' cannot be used: Input should be a valid number"),
        ({"batch_size": 65, "devices": 2}, "devices=2 cannot be used: batch_size=65 is not divisible by it"),
        ({"epoch": 3}, r"unknown settings: epoch; is epochs meant\? known are .*epochs"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(values, message):
    with pytest.raises(SettingsError, match=message):
        TrainingSettings.of(values)


@given(
    st.builds(
        TrainingSettings,
        seed=st.integers(0, 2**31 - 1),
        sample_size=st.none() | st.integers(1),
        epochs=st.integers(1, 10_000),
        learning_rate=st.floats(1e-8, 100),
        channels=st.tuples(*[st.integers(1, 4096)] * 4),
        accelerator=st.sampled_from(["auto", "cpu", "gpu"]),
        pretrained=st.booleans(),
    )
)
def test_settings_survive_json(settings):
    assert TrainingSettings.of(json.loads(settings.model_dump_json())) == settings


def test_a_job_survives_its_file(job, tmp_path):
    job = job.model_copy(update={"provenance": {"run_id": "r1"}, "pruning_thresholds": {2: 0.5}})
    job.save(tmp_path / "deep" / "job.json")
    assert TrainingJob.load(tmp_path / "deep" / "job.json") == job


def test_only_what_decides_the_weights_is_in_a_jobs_fingerprint(job):
    same = job.model_copy(
        update={"output": Path("other"), "checkpoints": Path("x"), "provenance": {"run_id": "r2"}}
    )
    assert same.fingerprint == job.fingerprint
    for change in (
        {"splits_version": "v2"},
        {"code_version": "c2"},
        {"settings": TrainingSettings(seed=1)},
        {"tables": (Path("a.parquet"), Path("b.parquet"))},
    ):
        assert job.model_copy(update=change).fingerprint != job.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": []}, "names no image tables"),
        ({"tables": ["gone.parquet"]}, r"gone\.parquet, which does not exist: materialize"),
        ({"splits": "gone.parquet"}, r"gone\.parquet, which does not exist: materialize"),
        ({"tables": 3}, "tables=3 cannot be used"),
        ({"spilts": "x"}, "unknown settings: spilts; is splits meant?"),
    ],
)
def test_a_job_that_cannot_be_used_says_why(job, tmp_path, change, message):
    path = tmp_path / "job.json"
    job.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(JobError, match=message):
        TrainingJob.load(path)


def test_a_job_file_that_is_none_says_so(tmp_path):
    path = tmp_path / "job.json"
    with pytest.raises(JobError, match="does not exist"):
        TrainingJob.load(path)
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "an object is needed"),
        ("{}", "tables: Field required"),
    ):
        path.write_text(text)
        with pytest.raises(JobError, match=message):
            TrainingJob.load(path)


def test_a_job_is_checked_without_anything_heavy():
    code = (
        "import sys, captcha_assets.training.__main__\n"
        "heavy = {'torch', 'timm', 'numpy', 'pyarrow', 'dagster', 'dagster_pipes', 'polars'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
