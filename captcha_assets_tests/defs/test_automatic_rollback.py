"""A new champion that people correct more often than the one before is rolled back, if one wants that."""

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from captcha_assets.cli.orchestration import sensor_switches
from captcha_assets.dataset import CAPTCHA
from captcha_assets.defs.model.rollback import automatic_rollback
from captcha_assets.defs.observed_sources import observe
from captcha_assets.models import manual_promotion_and_rollback, registry
from captcha_assets.models.registry import Champion
from captcha_assets.served_predictions.automatic_rollback import DAYS, compare
from captcha_assets.serving.champion_reloader import ChampionReloader
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.settings import Settings
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home, made_once
from captcha_assets_tests.models.conftest import as_if_nothing_served
from captcha_assets_tests.serving.predictions import prediction
from captcha_assets_tests.serving.services import make_home

ANSWERED = 120


class Served:
    """A home in which one champion replaced another, and what people say of their predictions."""

    def __init__(self, home: Home) -> None:
        self.home, self.paths, self.number, self.cursor = home, home.settings.paths, 0, None
        self.first, self.second, self.third = registry.list_models(self.paths.models)
        registry.promote(self.paths.models, self.second, "a better test accuracy")

    @property
    def champion(self) -> Champion:
        found = registry.champion(self.paths.models)
        assert found
        return found

    def says(self, model: str, wrong: int, right: int, unanswered: int = 0, **changes: Any) -> None:
        """Let a model answer, before or after the last promotion, and people correct or confirm it."""
        last = registry.history(self.paths.models)[-1]
        after = last.model_id == model
        began = datetime.fromisoformat(last.since) - timedelta(hours=0 if after else 3)
        url = f"sqlite:///{self.paths.home}/.serving/predictions.db"
        with open_prediction_log(url) as log:
            made = []
            for place in range(wrong + right + unanswered):
                self.number += 1
                time = began + timedelta(milliseconds=place)
                alike = {"brightness": place % 60, "contrast": place % 7, "foreground_fraction": 0.25}
                facts = {"model_version": model, "time": time, "statistics": alike, **changes}
                made.append(prediction(self.number, **facts))
                assert log.record(made[-1])
            assert log.flush()
            for place, one in enumerate(made[: wrong + right]):
                other = CAPTCHA.classes[CAPTCHA.classes.index(one.label) - 1]
                log.correct(one.inference_id, other if place < wrong else one.label)

    def tick(self, cursor: str | None = None, **settings: Any) -> str:
        """Tick the sensor as the daemon does, and return what it says."""
        policy = {"rollback": "answered", **settings}
        resources = {"settings": Settings(paths=self.paths, **policy)}
        with dg.build_sensor_context(
            self.home.instance, cursor or self.cursor, resources=resources
        ) as context:
            answer = automatic_rollback(context)
        if isinstance(answer, dg.SkipReason):
            return str(answer.skip_message)
        assert not answer.run_requests
        self.cursor = answer.cursor
        return str(answer.skip_reason.skip_message if answer.skip_reason else "")

    def alerts(self) -> list[dict[str, Any]]:
        log = self.paths.alerts
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def served(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The second of three models was promoted instead of the first one."""
    folder = made_once(tmp_path_factory, "served", make_home)
    shutil.copytree(folder, home.settings.paths.home, dirs_exist_ok=True)
    return Served(home)


@pytest.fixture
def worse(served: Served) -> Served:
    """Half of what the champion says is corrected; of its predecessor it was a twentieth."""
    served.says(served.first, 6, ANSWERED - 6)
    served.says(served.second, 60, ANSWERED - 60)
    return served


def test_nothing_is_rolled_back_until_somebody_wants_it(worse: Served) -> None:
    assert Settings(paths=worse.paths).rollback == "off"
    assert worse.tick(rollback="off") == "CAPTCHA_ROLLBACK is off: no champion is rolled back by itself"
    assert worse.champion.model_id == worse.second
    assert worse.alerts() == []
    assert "\nrollback" not in succeeded(worse.paths.home, "status")


def test_a_champion_that_is_worse_is_rolled_back_once_and_the_service_follows(worse: Served) -> None:
    reloader = ChampionReloader(worse.paths.models, worse.paths.artifact_root / "onnx_model", CAPTCHA, print)
    reloader.look()
    assert reloader.current
    assert reloader.current.version == worse.second
    tags = {"dagster/data_version": worse.second}
    worse.home.instance.report_runless_asset_event(dg.AssetMaterialization("champion", tags=tags))
    observe(worse.home.settings, worse.home.instance)

    worse.tick()
    reloader.look()
    assert reloader.current.version == worse.first
    entry = worse.champion
    assert (entry.model_id, entry.instead_of, entry.action, entry.by) == (
        worse.first,
        worse.second,
        "rollback",
        "rule",
    )
    assert entry.reason == (
        "error rate by corrections: 60 of 120 answered images corrected as wrong (50.0 %); "
        f"6 of 120 (5.0 %) of {worse.first} before it: worse beyond chance"
    )
    assert worse.home.version("champion") == worse.first
    (alert,) = worse.alerts()
    assert alert["title"] == f"{worse.second} was rolled back: {worse.first} serves"
    assert f"captcha-assets model promote {worse.second} --reason WHY" in alert["lines"][1]

    for _ in range(3):
        assert "serves by a rollback" in worse.tick()
    assert len(registry.history(worse.paths.models)) == 3
    assert len(worse.alerts()) == 1
    assert len(worse.home.instance.fetch_materializations(dg.AssetKey("champion"), limit=10).records) == 2


def test_what_was_rolled_back_is_not_promoted_by_the_rule_and_may_be_by_a_person(worse: Served) -> None:
    worse.tick()
    assert str(registry.barred(worse.paths.models, worse.second)).startswith(
        "rolled back: error rate by corrections: 60 of 120"
    )
    manual_promotion_and_rollback.promote_by_hand(
        worse.paths, worse.second, "the corrections were wrong", force=True
    )
    worse.says(worse.second, 60, ANSWERED - 60)
    for _ in range(2):
        worse.tick()
    assert worse.champion.model_id == worse.second, "a person has the last word"
    assert [alert["title"].partition(" ")[2] for alert in worse.alerts()] == [
        f"was rolled back: {worse.first} serves",
        f"is worse by corrections than {worse.first}, and serves on",
    ]
    assert worse.alerts()[1]["lines"][0] == "a person promoted it"


def test_the_next_promotion_is_compared_anew(worse: Served) -> None:
    worse.tick()
    registry.promote(worse.paths.models, worse.third, "a better test accuracy")
    assert "too few" in worse.tick()
    worse.says(worse.third, 60, ANSWERED - 60)
    worse.says(worse.first, 6, ANSWERED - 6)
    worse.tick()
    assert worse.champion.model_id == worse.first
    assert worse.champion.instead_of == worse.third


@pytest.mark.parametrize(
    ("champion", "words"),
    [
        ((6, ANSWERED - 6), "not worse beyond chance"),
        ((14, ANSWERED - 14), "not worse beyond chance"),
        ((0, ANSWERED), "not worse beyond chance"),
        ((50, 49), "too few, 100 of each are needed"),
    ],
)
def test_what_chance_explains_and_what_few_people_say_changes_nothing(
    served: Served, champion: tuple[int, int], words: str
) -> None:
    served.says(served.first, 6, ANSWERED - 6)
    served.says(served.second, *champion)
    assert words in served.tick()
    assert served.champion.model_id == served.second
    assert served.alerts() == []


def test_more_people_who_look_make_no_champion_worse(served: Served) -> None:
    """One prediction in twenty is wrong; of the champion's predictions ten times as many are answered."""
    served.says(served.first, 5, 95, unanswered=900)
    served.says(served.second, 50, 950)
    assert "not worse beyond chance" in served.tick()
    assert served.tick(rollback="predictions").endswith("worse beyond chance"), "who asks for it, gets it"


def test_where_nobody_confirms_the_share_of_all_predictions_is_compared(served: Served) -> None:
    served.says(served.first, 10, 0, unanswered=490)
    served.says(served.second, 120, 0, unanswered=380)
    assert "too few" in served.tick()
    served.tick(rollback="predictions")
    assert served.champion.model_id == served.first
    assert "120 of 500 images corrected as wrong (24.0 %)" in served.champion.reason


def test_the_same_image_sent_again_and_again_counts_once(served: Served) -> None:
    served.says(served.first, 6, ANSWERED - 6)
    served.says(served.second, 6, ANSWERED - 6)
    served.says(served.second, 100, 0, image=b"the same", image_hash="0" * 32)
    assert served.tick().startswith("7 of 121 answered images")


def test_the_latest_correction_of_a_prediction_counts(served: Served) -> None:
    served.says(served.second, 1, 0)
    assert "1 of 1 answered images corrected as wrong" in served.tick()
    url = f"sqlite:///{served.paths.home}/.serving/predictions.db"
    with open_prediction_log(url) as log:
        log.correct(f"id-{served.number}", log.prediction(f"id-{served.number}").label)
    assert "0 of 1 answered images corrected as wrong" in served.tick()


def test_predictions_of_long_ago_and_of_other_models_do_not_count(worse: Served) -> None:
    old = datetime.fromisoformat(worse.champion.since) - timedelta(days=DAYS, seconds=1)
    worse.says(worse.first, 100, 0, time=old)
    worse.says(worse.third, 100, 0)
    assert f"6 of 120 (5.0 %) of {worse.first} before it" in worse.tick()


@pytest.mark.parametrize(("retention", "days"), [(None, DAYS), ("5", 5), ("1", 1), ("90", DAYS)])
def test_a_champion_is_compared_for_so_many_days(
    worse: Served, monkeypatch: pytest.MonkeyPatch, retention: str | None, days: int
) -> None:
    """The retention removes what nobody answered: a denominator must not lose images."""
    if retention:
        monkeypatch.setenv("CAPTCHA_SERVING_PREDICTION_LOG_RETENTION", retention)
    settings = Settings(paths=worse.paths, rollback="answered")
    over = datetime.fromisoformat(worse.champion.since) + timedelta(days=days)
    assert compare(settings, over - timedelta(seconds=1)).is_worse
    finding = compare(settings, over)
    assert not finding.is_worse
    assert finding.words == (
        f"nothing is compared: {worse.second} has served for {days} day{'s' if days > 1 else ''}"
    )


def test_other_images_than_before_are_an_alert_and_no_rollback(served: Served) -> None:
    served.says(served.first, 6, ANSWERED - 6)
    dark = {"brightness": 20.0, "contrast": 0.5, "foreground_fraction": 0.25}
    served.says(served.second, 60, ANSWERED - 60, statistics=dark)
    for _ in range(2):
        served.tick()
    assert served.champion.model_id == served.second
    (alert,) = served.alerts()
    assert alert["title"] == f"{served.second} is worse by corrections than {served.first}, and serves on"
    assert alert["lines"][0].startswith("the images are others than before (brightness)")


@pytest.mark.parametrize("damage", ["export", "no export", "folder", "refused"])
def test_a_predecessor_that_cannot_serve_is_an_alert_and_no_rollback(worse: Served, damage: str) -> None:
    model, export = worse.paths.models / worse.first, worse.paths.onnx_model(worse.first)
    weights = (export if damage == "export" else model) / (
        "model.onnx" if damage == "export" else "model.safetensors"
    )
    whole = weights.read_bytes()
    if damage == "no export":
        export.rename(export.with_name("elsewhere"))
    elif damage == "refused":
        registry.refuse(worse.paths.models, worse.first, "it reads m as n")
    else:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        worse.tick()
    assert worse.champion.model_id == worse.second
    assert len(registry.history(worse.paths.models)) == 2
    (alert,) = worse.alerts()
    assert alert["title"] == f"{worse.second} is worse by corrections than {worse.first}, and serves on"
    assert worse.first in alert["lines"][0]
    if damage != "refused":
        if damage == "no export":
            export.with_name("elsewhere").rename(export)
        weights.write_bytes(whole)
        worse.tick()
        assert worse.champion.model_id == worse.first, "it is whole again"


def test_two_sensors_at_once_go_one_step_back(served: Served) -> None:
    registry.promote(served.paths.models, served.third, "a better test accuracy")
    served.says(served.second, 6, ANSWERED - 6)
    served.says(served.third, 60, ANSWERED - 60)
    settings = Settings(paths=served.paths, rollback="answered")
    finding = compare(settings, datetime.now(UTC))
    barrier, errors = threading.Barrier(4), []

    def tick() -> None:
        from captcha_assets.served_predictions.automatic_rollback import roll_back

        barrier.wait()
        errors.append(roll_back(served.paths, finding))

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [None] * 4
    entries = registry.history(served.paths.models)
    assert [entry.model_id for entry in entries] == [served.first, served.second, served.third, served.second]
    for _daemon in range(2):
        served.cursor = None
        served.tick()
        assert len(served.alerts()) == 1, "whoever rolled back, the next tick of one daemon tells it"


def test_a_decision_on_a_former_champion_rolls_nothing_back(worse: Served) -> None:
    finding = compare(Settings(paths=worse.paths, rollback="answered"), datetime.now(UTC))
    registry.promote(worse.paths.models, worse.third, "a person was faster", by="human")
    with pytest.raises(registry.RegistryError, match="the champion was changed meanwhile"):
        manual_promotion_and_rollback.roll_back(
            worse.paths, "r", worse.first, by="rule", instead_of=finding.champion
        )
    assert worse.champion.model_id == worse.third


def test_the_first_champion_has_nobody_to_go_back_to(home: Home, served: Served) -> None:
    as_if_nothing_served(served.paths.models)
    assert "no model has replaced another one" in served.tick()
    registry.promote(served.paths.models, served.first, "the first")
    assert "no model has replaced another one" in served.tick()


def test_a_log_that_is_off_or_cannot_be_read_changes_nothing(
    worse: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (worse.paths.home / ".serving" / "predictions.db").write_bytes(b"no database at all" * 100)
    assert worse.tick().startswith("the prediction log cannot be used: file is not a database (")
    monkeypatch.setenv("CAPTCHA_SERVING_PREDICTION_LOG", "off")
    assert worse.tick() == "nothing is compared: the prediction log is off"
    assert worse.champion.model_id == worse.second


@pytest.mark.slow
def test_status_says_how_the_champion_compares(worse: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_ROLLBACK", "answered")
    said = succeeded(worse.paths.home, "status")
    assert (
        "\nrollback 60 of 120 answered images corrected as wrong (50.0 %); "
        f"6 of 120 (5.0 %) of {worse.first} before it: worse beyond chance; "
        "the sensor is off: captcha-assets automation on\n"
    ) in said
    sensor_switches.switch(worse.home.instance, on=True)
    assert "the sensor is off" not in succeeded(worse.paths.home, "status")
    worse.tick()
    assert f"\nrollback nothing is compared: {worse.first} serves by a rollback" in succeeded(
        worse.paths.home, "status"
    )
    assert worse.champion.model_id == worse.first
