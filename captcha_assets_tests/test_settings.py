"""Everything hangs off one home; what cannot be used is rejected with the variable's name and a reason."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from click.testing import CliRunner
from upath import UPath

from captcha_assets.atomic_files import write_json
from captcha_assets.cli import main
from captcha_assets.paths import REPOSITORY
from captcha_assets.settings import Settings, SettingsError, load_settings
from captcha_assets_tests.commands import run


def _places(settings: Settings) -> dict[str, Path]:
    return {
        "raw": settings.paths.raw,
        "inbox": settings.paths.inbox,
        "dagster_home": settings.paths.dagster_home,
        "scratch": settings.paths.scratch,
        "artifact_root": Path(str(settings.paths.artifact_root)),
        "image_table": Path(str(settings.paths.image_table("starter"))),
        "rejected_images": Path(str(settings.paths.rejected_images("starter"))),
        "validation_results": Path(str(settings.paths.validation_results("image_table", "starter"))),
        "image_index": Path(str(settings.paths.image_index)),
        "splits": Path(str(settings.paths.splits)),
        "models": Path(str(settings.paths.models)),
        "evaluation": Path(str(settings.paths.evaluation("one"))),
        "onnx_model": Path(str(settings.paths.onnx_model("one"))),
        "quantized_model": Path(str(settings.paths.quantized_model("one"))),
    }


# --- the home


def test_two_homes_never_touch_each_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    places = {home: _places(load_settings(home=home)) for home in (one, two)}
    assert all(place.is_relative_to(one) for place in places[one].values())
    assert all(place.is_relative_to(two) for place in places[two].values())


def test_every_thing_has_a_place_of_its_own(settings: Settings) -> None:
    places = list(_places(settings).values())
    assert len(set(places)) == len(places)


def test_the_repository_is_the_home_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPTCHA_HOME")
    assert load_settings().paths.home == REPOSITORY
    assert (REPOSITORY / "pyproject.toml").is_file()


def test_an_empty_variable_is_an_unset_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_HOME", "")
    monkeypatch.setenv("CAPTCHA_ARTIFACTS", "")
    assert load_settings().paths.home == REPOSITORY
    assert Path(load_settings().paths.artifact_root) == REPOSITORY / "artifacts"


def test_the_home_is_read_from_the_environment_when_settings_are_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path / name))
        assert load_settings().paths.home == tmp_path / name


def test_what_is_given_explicitly_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path / "environment"))
    assert load_settings(home=tmp_path / "given").paths.home == tmp_path / "given"


def test_a_home_is_absolute_whatever_folder_a_step_runs_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert load_settings(home="captcha").paths.home == tmp_path / "captcha"
    assert load_settings(home="~/captcha").paths.home == tmp_path / "me" / "captcha"


def test_a_home_that_is_a_file_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CAPTCHA_HOME", str(file))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"CAPTCHA_HOME='{file}' cannot be used: {file} is not a folder"


def test_a_home_that_is_a_loop_of_links_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path / "one"))
    with pytest.raises(SettingsError, match=r"^CAPTCHA_HOME='.*one' cannot be used: it leads nowhere"):
        load_settings()


def test_reading_the_settings_creates_nothing(tmp_path: Path) -> None:
    _places(load_settings(home=tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


# --- where artifacts go


@pytest.mark.parametrize(
    ("artifacts", "place"),
    [
        ("made", "{home}/made"),
        ("{tmp}/made", "{tmp}/made"),
        ("file://{tmp}/made", "{tmp}/made"),
        ("~/made", "{tmp}/made"),
    ],
)
def test_a_folder_of_artifacts_is_local_and_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, artifacts: str, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / "home"
    settings = load_settings(home=home, artifacts=artifacts.format(tmp=tmp_path))
    assert isinstance(settings.paths.artifact_root, Path)
    assert str(settings.paths.artifact_root) == place.format(tmp=tmp_path, home=home)


@pytest.mark.parametrize("address", ["s3://bucket/captcha", "gs://bucket/captcha", "s3://bucket/captcha/"])
def test_the_same_places_exist_on_an_object_store(tmp_path: Path, address: str) -> None:
    settings = load_settings(home=tmp_path, artifacts=address)
    assert str(settings.paths.splits) == f"{address.rstrip('/')}/splits"
    assert settings.paths.raw == tmp_path / "data" / "raw"


@pytest.mark.parametrize(
    ("artifacts", "reason"),
    [
        ("ftp://host/folder", "ftp:// is not supported: give a folder, s3://... or gs://..."),
        ("s3://", "name a bucket: s3://<bucket>/<folder>"),
    ],
)
def test_an_address_that_cannot_be_used_is_rejected_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, artifacts: str, reason: str
) -> None:
    monkeypatch.setenv("CAPTCHA_ARTIFACTS", artifacts)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"CAPTCHA_ARTIFACTS='{artifacts}' cannot be used: {reason}"


@pytest.mark.parametrize("variable", ["CAPTCHA_ARTIFACTS", "CAPTCHA_COMPUTE_STORE"])
def test_credentials_in_an_address_are_neither_taken_nor_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "s3://AKIA:hunter2@bucket/folder")
    with pytest.raises(
        SettingsError, match=rf"^{variable} cannot be used: credentials are never taken"
    ) as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


# --- where trainings run


@pytest.mark.parametrize("place", ["local", "http://head:8265", "https://ray.example.org"])
def test_trainings_run_here_or_on_a_ray_cluster(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("CAPTCHA_COMPUTE", "")
    assert load_settings().compute == "local"
    monkeypatch.setenv("CAPTCHA_COMPUTE", place)
    assert load_settings().compute == place


WANTED = (
    "give local, the address of Ray's job API, http://host:8265, k8s://namespace, or vertex://project/region"
)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("gpu", WANTED),
        ("head:8265", WANTED),
        ("http://", WANTED),
        ("http://head:many", WANTED),
        ("http://head:8265?fast", WANTED),
        ("ray://head:10001", f"ray:// is the address of Ray Client: {WANTED}"),
        (
            "ssh://me@gpu/scratch",
            (
                "trainings on another machine run on a Ray cluster: run `ray start --head` there, and give "
                "http://host:8265"
            ),
        ),
        ("http://me:secret@head:8265", "a name or password is never taken: Ray's token is RAY_AUTH_TOKEN"),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_rejected_by_name(
    monkeypatch: pytest.MonkeyPatch, place: str, reason: str
) -> None:
    monkeypatch.setenv("CAPTCHA_COMPUTE", place)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    given = "CAPTCHA_COMPUTE" if "secret" in place else f"CAPTCHA_COMPUTE='{place}'"
    assert str(caught.value) == f"{given} cannot be used: {reason}"


def test_the_files_of_a_training_on_a_cluster_lie_where_the_artifacts_do_or_where_the_setting_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path))
    assert load_settings().staging_store == tmp_path / ".scratch" / "ray"
    monkeypatch.setenv("CAPTCHA_ARTIFACTS", "s3://bucket/artifacts")
    assert str(load_settings().staging_store) == "s3://bucket/artifacts/.ray"
    monkeypatch.setenv("CAPTCHA_COMPUTE_STORE", "file:///shared/ray")
    assert load_settings().staging_store == Path("/shared/ray")
    monkeypatch.setenv("CAPTCHA_COMPUTE_STORE", "ray")
    assert load_settings().staging_store == tmp_path / "ray"
    monkeypatch.setenv("CAPTCHA_COMPUTE_STORE", "ftp://host/ray")
    with pytest.raises(
        SettingsError, match=r"^CAPTCHA_COMPUTE_STORE='ftp://host/ray' cannot be used: ftp://"
    ):
        load_settings()


# --- what a command says of the environment


def rejected(name: str, value: str) -> str:
    """What a command says that is rejected for a variable: one line, and exit status 1."""
    done = CliRunner(env={name: value}).invoke(main, ["batch", "list"])
    assert done.exit_code == 1, done.output
    assert len(done.output.strip().splitlines()) == 1
    return done.output


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CAPTCHA_KAGGLE_DATASET", "abc", "give owner/slug"),
        ("CAPTCHA_KAGGLE_DATASET", "https://www.kaggle.com/datasets/a/b", "give owner/slug"),
        ("CAPTCHA_REPORTS_URL", "abc", "give http://host[:port]"),
        ("CAPTCHA_REPORTS_URL", "http://host/a?b", "give http://host[:port]"),
        ("CAPTCHA_UI_URL", "localhost:3000", "give http://host[:port]"),
        ("CAPTCHA_UI_URL", "http://host:port", "give http://host[:port]"),
        ("CAPTCHA_UI_URL", "http://", "give http://host[:port]"),
        ("CAPTCHA_ARTIFACTS", "s3://bucket/x?key=secret", "leave out what follows the ?"),
        ("CAPTCHA_RETRAIN_NEW_IMAGES", "many", "valid integer"),
        ("CAPTCHA_RETRAIN_NEW_SHARE", "inf", "finite number"),
        ("CAPTCHA_PROMOTION_LATENCY", "nan", "finite number"),
        ("CAPTCHA_DEBUG", "maybe", "valid boolean"),
    ],
)
def test_a_value_that_cannot_be_used_is_rejected_with_the_variables_name(
    name: str, value: str, reason: str
) -> None:
    said = rejected(name, value)
    assert f"{name}='{value}' cannot be used: " in said
    assert reason in said


@pytest.mark.parametrize("value", ["hush", "hush://hooks.example.com", "https://", "https://a b/hush"])
def test_a_webhook_that_is_no_address_is_rejected_and_its_value_is_not_shown(value: str) -> None:
    said = rejected("CAPTCHA_ALERT_WEBHOOK", value)
    assert "CAPTCHA_ALERT_WEBHOOK cannot be used: give an address that begins with https://" in said
    assert "hush" not in said


@pytest.mark.parametrize("name", ["CAPTCHA_ALERT_WEBHOOK", "CAPTCHA_ROLLBACK"])
def test_an_empty_value_turns_nothing_off_that_protects(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match=f"{name} is empty: give a value, or unset the variable"):
        load_settings()


def test_a_webhook_that_is_no_address_is_not_shown_by_a_traceback_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAPTCHA_ALERT_WEBHOOK", "hush")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_a_variable_that_nothing_reads_is_rejected_with_the_one_that_is_meant() -> None:
    said = rejected("CAPTCHA_RETRAIN_NEW_IMAGE", "5")
    assert "CAPTCHA_RETRAIN_NEW_IMAGE is no setting: is CAPTCHA_RETRAIN_NEW_IMAGES meant?" in said
    assert "CAPTCHA_XYZ is no setting: docs/settings.md lists all" in rejected("CAPTCHA_XYZ", "5")
    assert "CAPTCHA_HOMe is no setting: is CAPTCHA_HOME meant?" in rejected("CAPTCHA_HOMe", "/tmp")


@pytest.mark.parametrize("name", ["who?", "ten%20"])
def test_a_home_whose_path_a_database_address_cannot_hold_is_rejected(tmp_path: Path, name: str) -> None:
    said = rejected("CAPTCHA_HOME", str(tmp_path / name))
    assert "no folder may be used whose path holds ? or %" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["CAPTCHA_ASSETS_SERVICE_HOST", "CAPTCHA_PORT", "CAPTCHA_UI_PORT_3000_TCP_ADDR"],
)
def test_variables_that_others_set_are_none_of_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = load_settings()
    monkeypatch.setenv(name, "1")
    assert load_settings() == before


def test_an_address_may_end_with_a_slash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPTCHA_REPORTS_URL", "https://reports.example.com/captcha/")
    settings = load_settings(home=tmp_path)
    assert settings.public_url(settings.paths.splits) == "https://reports.example.com/captcha/splits"


# --- links and stores


def test_a_report_has_an_address_below_the_report_servers(tmp_path: Path) -> None:
    local = load_settings(home=tmp_path)
    stored = load_settings(home=tmp_path, artifacts="s3://bucket/made")
    for settings in (local, stored):
        report = settings.paths.evaluation("one") / "report.html"
        assert settings.public_url(report) == "http://localhost:3001/evaluation/one/report.html"


STORE_ONE = """
import sys
from captcha_assets.settings import load_settings
from captcha_assets.atomic_files import write_json
write_json(load_settings().paths.models / "champion.json", sys.argv[1])
"""


def test_what_another_process_stores_is_seen_at_once(bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_ARTIFACTS", str(bucket / "made"))
    models = load_settings().paths.models
    write_json(models / "history.json", [])
    assert [path.name for path in models.iterdir()] == ["history.json"]
    for content in ("first", "second, and longer"):
        subprocess.run([sys.executable, "-c", STORE_ONE, content], check=True)
        assert (models / "champion.json").exists()
        assert (models / "champion.json").read_text() == f'"{content}"\n'
        assert len(list(models.iterdir())) == 2


# --- the profile


DATABASE = "postgresql://user:password@host/database"
STORE = "s3://<bucket>/<folder> or gs://<bucket>/<folder>"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"CAPTCHA_ARTIFACTS": "s3://bucket/made"},
            f"CAPTCHA_PROFILE=shared needs a database: set CAPTCHA_DATABASE to {DATABASE}",
        ),
        (
            {"CAPTCHA_DATABASE": "postgresql://me:hunter2@host/captcha"},
            f"CAPTCHA_PROFILE=shared needs an object store: set CAPTCHA_ARTIFACTS to {STORE}",
        ),
        (
            {"CAPTCHA_DATABASE": "mysql://me:hunter2@host/captcha"},
            f"CAPTCHA_DATABASE cannot be used: give {DATABASE}",
        ),
        (
            {"CAPTCHA_DATABASE": "postgresql://me:hunter2@host"},
            f"CAPTCHA_DATABASE cannot be used: give {DATABASE}",
        ),
    ],
)
def test_a_shared_profile_without_its_database_or_store_is_one_error(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], reason: str
) -> None:
    monkeypatch.setenv("CAPTCHA_PROFILE", "shared")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["batch", "list"])
    assert (done.exit_code, done.output) == (1, f"Error: {reason}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_profile_that_does_not_exist_is_rejected_by_name() -> None:
    assert "CAPTCHA_PROFILE='team' cannot be used" in rejected("CAPTCHA_PROFILE", "team")


def test_the_local_profile_says_that_a_database_is_not_used(tmp_path: Path) -> None:
    variables = {"CAPTCHA_HOME": str(tmp_path), "CAPTCHA_DATABASE": "postgresql://me:hunter2@host/captcha"}
    done = CliRunner(env=variables).invoke(main, ["batch", "list"])
    assert done.exit_code == 0
    assert "warning: CAPTCHA_DATABASE is not used, since CAPTCHA_PROFILE is local" in done.stderr
    assert "hunter2" not in done.output + repr(load_settings(database=variables["CAPTCHA_DATABASE"]))


@pytest.mark.parametrize("name", ["CAPTCHA_UI_URL", "CAPTCHA_REPORTS_URL"])
def test_a_password_in_an_address_that_alerts_show_is_rejected_and_not_printed(
    name: str, tmp_path: Path
) -> None:
    done = run(tmp_path, "status", **{name: "http://u:hunter2@host"})
    assert done.returncode == 1
    assert "leave the user and the password out" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
