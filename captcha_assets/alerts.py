"""Alerts: a line in a log file, and a message to a webhook where one is set.

With the profile `shared` the log is a folder of the object store, with a file for each alert, whose name
tells the time and the hash of what it says: nothing can be appended to an object.

An alert never fails the run that it is about: a webhook that is slow, broken or absent is given up after
seconds, and a line of the log reports it.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from captcha_assets import locks
from captcha_assets.atomic_files import AnyPath, create, file_errors, json_text, locked
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings

#: Seconds for a webhook to answer, connection included.
TIMEOUT = 5.0

#: How the name of an alert's file begins, in UTC.
_TIME = "%Y-%m-%dT%H%M%SZ"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alert:
    """What happened.

    Attributes:
        title: one line.
        lines: the details.
        link: where to look, or None.
    """

    title: str
    lines: tuple[str, ...] = ()
    link: str | None = None

    def to_slack(self) -> dict[str, str]:
        """Return the message as Slack's incoming webhooks take it."""
        text = "\n".join([f"*{_escaped(self.title)}*", *(f"• {_escaped(line)}" for line in self.lines)])
        return {"text": f"{text}\n<{self.link}|look at it>" if self.link else text}


def _escaped(text: str) -> str:
    """Return text in which Slack sees no markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def send(settings: Settings, alert: Alert) -> bool:
    """Write an alert to the log file and post it to the webhook. Never raises, never takes long.

    Returns:
        Whether the webhook, if there is one, took the alert.
    """
    posted = (
        None if settings.alert_webhook is None else _posted(settings.alert_webhook.get_secret_value(), alert)
    )
    at = datetime.now(UTC)
    line = {"at": at.isoformat(timespec="seconds"), **asdict(alert)}
    if posted is not None:
        line["webhook"] = posted
    try:
        if isinstance(settings.paths.alerts, Path):
            _append(settings.paths.alerts, json.dumps(line, ensure_ascii=False) + "\n")
        else:
            create(settings.paths.alerts / f"{at:{_TIME}}-{_hash(alert)}.json", json_text(line))
    except file_errors() as error:
        _logger.warning(
            "the alert %r could not be written to %s: %s", alert.title, settings.paths.alerts, error
        )
        return False
    return posted in (None, "delivered")


def _append(log: Path, line: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(line)


def _hash(alert: Alert) -> str:
    """Return the hash of what an alert says."""
    return hashlib.sha256(json.dumps([alert.title, alert.lines]).encode()).hexdigest()[:16]


def send_new(
    settings: Settings, alerts: Sequence[Alert], cursor: str | None, since: datetime | None = None
) -> str:
    """Send the alerts that are not among those of the cursor.

    Args:
        settings: where alerts go.
        alerts: those of now.
        cursor: those of the time before.
        since: when that began which the alerts are about. What the log file has since then, another process
            sent, which has a cursor of its own: it is not sent again.

    Returns:
        The next cursor: all these alerts.
    """
    try:
        sent = {str(one) for one in json.loads(cursor or "[]")}
    except (ValueError, TypeError):  # of an earlier version
        sent = set()
    named = {"; ".join([alert.title, *alert.lines]): alert for alert in alerts}
    for name, alert in named.items():
        if name in sent:
            continue
        with _locked(settings.paths) if since else nullcontext():
            if since is None or not was_sent(settings.paths.alerts, alert, since):
                send(settings, alert)
    return json.dumps(sorted(named))


@contextmanager
def _locked(paths: Paths) -> Iterator[None]:
    """Hold the lock of the log, where there can be one."""
    log = paths.alerts
    with ExitStack() as stack:
        if not isinstance(log, Path):
            stack.enter_context(locks.exclusive(paths, "_alerts"))
            yield
            return
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
            stack.enter_context(locked(log))
        yield


def was_sent(log: AnyPath, alert: Alert, since: datetime | None = None) -> bool:
    """Return whether the log has an alert with the same title and lines, not older than `since`."""
    if not isinstance(log, Path):
        oldest = f"{since.astimezone(UTC):{_TIME}}" if since else ""
        return any(path.name >= oldest for path in log.glob(f"*-{_hash(alert)}.json"))
    wanted = [alert.title, list(alert.lines)]
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return False
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            # It names whole seconds.
            if since and datetime.fromisoformat(entry["at"]) < since.replace(microsecond=0):
                return False
            if [entry["title"], entry["lines"]] == wanted:
                return True
    return False


def _posted(url: str, alert: Alert) -> str:
    """Post an alert and say what became of it, within seconds however slowly the other side answers."""
    outcome: list[str] = []
    poster = threading.Thread(target=lambda: outcome.append(_post(url, alert)), daemon=True)
    poster.start()
    poster.join(TIMEOUT + 1)  # an answer that comes byte by byte never runs into the timeout of `requests`
    return outcome[0] if outcome else "not delivered: no whole answer in time"


def _post(url: str, alert: Alert) -> str:
    import requests  # noqa: PLC0415 - only where there is a webhook

    try:
        response = requests.post(url, json=alert.to_slack(), timeout=TIMEOUT)
    except requests.RequestException as error:
        # The address is a secret, and such errors repeat it.
        return f"not delivered: {type(error).__name__}"
    return "delivered" if response.ok else f"not delivered: answered {response.status_code}"
