"""The loop, step by step: served predictions drift, people correct them, a better model serves.

    python -m benchmarks.loop [--small] [--home FOLDER] [--json FILE]     # make demo-loop

Everything runs as it does in use: the commands of `captcha-assets`, the service and Dagster's daemon, each a
process of its own, in a home of its own. The stream is drawn in a font that the model has not seen.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks import results
from benchmarks.loop.processes import Home, LoopError
from benchmarks.results import Recording
from captcha_assets.serving.client import PredictionClient
from captcha_assets.sources.kaptcha_renderer import FACES, Face, Faces
from captcha_assets.sources.synthetic_batches import generate

SERIF: Faces = ((Face("DejaVuSerif-Bold"),),) * 2

#: The assets of a day of the service, and those of a new batch before a training.
DAYS = "key:prediction_log or key:drift_report"
THROUGH_SPLITS = (
    "key:prediction_log or key:corrections or +key:splits or key:rejected_images or key:data_snapshot"
)

#: Images of one request.
_IMAGES = 32
#: Seconds until a step of the daemon counts as failed.
_PATIENCE = 900


@dataclass(frozen=True)
class Size:
    """The size of a run: images of the first batch, of a stream, of a fresh stream; epochs."""

    batch: int
    stream: int
    fresh: int
    epochs: int


FULL, SMALL = Size(3000, 1000, 400, 30), Size(1200, 1000, 200, 30)


@dataclass(frozen=True)
class Stream:
    """Labelled images, as PNG files."""

    labels: list[str]
    images: list[bytes]

    @classmethod
    def of(cls, count: int, seed: int, faces: Faces) -> "Stream":
        """Return a stream of generated images."""
        drawn = list(generate(count, seed, faces))
        return cls(
            [label for label, _ in drawn], [cv2.imencode(".png", image)[1].tobytes() for _, image in drawn]
        )


@dataclass(frozen=True)
class Answers:
    """What the service said about a stream."""

    accuracy: float
    versions: set[str]
    inference_ids: list[str]


def send(client: PredictionClient, stream: Stream) -> Answers:
    """Send a stream, and compare the answers with its labels."""
    found, versions = [], set()
    for start in range(0, len(stream.images), _IMAGES):
        answer = client.predict(stream.images[start : start + _IMAGES])
        found += answer.predictions
        versions.add(answer.model_version)
    right = [one.label == label for one, label in zip(found, stream.labels, strict=True)]
    return Answers(float(np.mean(right)), versions, [one.inference_id for one in found])


class Story:
    """Prints each step with the seconds since the start, and keeps its figures."""

    def __init__(self) -> None:
        self.figures: dict[str, float | str] = {}
        self._began = time.monotonic()

    def tell(self, text: str, **figures: float | str) -> None:
        """Print what happened."""
        self.figures |= figures | {"seconds": round(time.monotonic() - self._began)}
        print(f"{self.figures['seconds']:>4} s  {text}", flush=True)


def run(home: Home, size: Size, story: Story) -> None:
    """Go through the loop once.

    Raises:
        LoopError: a step failed, or came out otherwise than it should.
    """
    home.write_training_settings(size.epochs)
    home.command("batch", "add", "starter", f"synthetic:{size.batch}:1")
    home.command("update")
    champion = home.status()["champion"]["model"]
    story.tell(f"{champion} is trained on {size.batch:,} generated images and promoted")
    with home.service() as address, home.daemon(), PredictionClient(address) as client:
        story.tell(f"the champion answers at {address}; Dagster's daemon runs")
        usual, fresh = Stream.of(size.fresh, 2, FACES), Stream.of(size.fresh, 3, SERIF)
        before, fresh_before = send(client, usual), send(client, fresh)
        served = Stream.of(size.stream, 4, SERIF)
        answers = send(client, served)
        story.tell(
            f"accuracy {before.accuracy:.3f} on {size.fresh} images as it knows them; in a font that it has "
            f"not seen {answers.accuracy:.3f} on {size.stream}, and {fresh_before.accuracy:.3f} on "
            f"{size.fresh} others",
            usual_before=before.accuracy,
            stream_before=answers.accuracy,
            fresh_before=fresh_before.accuracy,
        )
        _drift(home, story)
        _corrections(home, story, client, served, answers)
        home.command("automation", "on")
        story.tell("captcha-assets automation on: from here on nobody does anything")
        now = _new_model(home, client, champion)
        why = home.status()["last_training"]["why"]
        story.tell(f"{now} answers. Its training was started for this reason: {why}", why=why)
        after, fresh_after = send(client, usual), send(client, fresh)
        story.tell(
            f"accuracy in the new font, the same {size.fresh} images: {fresh_before.accuracy:.3f} before, "
            f"{fresh_after.accuracy:.3f} now; on images as it knew them: {before.accuracy:.3f} before, "
            f"{after.accuracy:.3f} now",
            usual_after=after.accuracy,
            fresh_after=fresh_after.accuracy,
            version_before=" ".join(fresh_before.versions),
            version_after=" ".join(fresh_after.versions),
        )
        promotion = home.command("model", "history").strip().splitlines()[-1]
        story.tell(f"the promotion: {promotion.strip()}", promotion=promotion)


def _drift(home: Home, story: Story) -> None:
    home.command("update", "--select", DAYS)
    report = home.drift_report()
    if report["severity"] == "none":
        raise LoopError("the drift report of the day raises no alarm")
    story.tell(
        f"drift_report: the check served_drift fails, {report['severity']}: {report['sentences'][0]}",
        severity=report["severity"],
    )
    alert = home.wait_for_alert(" drift", _PATIENCE)
    story.tell(f"alert: {alert['title']}: {alert['lines'][0]}", alert=alert["title"])


def _corrections(
    home: Home, story: Story, client: PredictionClient, served: Stream, answers: Answers
) -> None:
    for inference_id, label in zip(answers.inference_ids, served.labels, strict=True):
        client.correct(inference_id, label, "demo")
    story.tell(f"{len(served.labels)} corrections are sent to the service")
    home.command("update", "--select", THROUGH_SPLITS)
    batches = [name for name in home.batches() if name.startswith("corrections-")]
    story.tell(f"they are the batch {', '.join(batches)}, validated, and split", batch=", ".join(batches))
    story.tell(f"status: {home.status()['next_training']}")


def _new_model(home: Home, client: PredictionClient, champion: str) -> str:
    """Wait until the service answers with another model, and return it."""
    until = time.monotonic() + _PATIENCE
    while (now := client.ready()) == champion:
        if reason := home.not_promoted():
            raise LoopError(f"the candidate is not promoted: {reason}")
        if time.monotonic() > until:
            raise LoopError(f"no other model answers after {_PATIENCE} s: see {home.folder}/daemon.log")
        time.sleep(2)
    return now


def main() -> None:
    """Go through the loop in a new home."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="fewer images and epochs")
    parser.add_argument("--home", type=Path, help="an empty folder, which is kept; default a temporary one")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    results.add_option(parser)
    chosen, recording = parser.parse_args(), Recording("benchmarks.loop", ("dagster", "torch"))
    with tempfile.TemporaryDirectory(prefix="loop-", ignore_cleanup_errors=True) as temporary:
        story = Story()
        try:
            run(Home(chosen.home or Path(temporary)), SMALL if chosen.small else FULL, story)
        except LoopError as error:
            sys.exit(f"error: {error}")
        if chosen.json:
            chosen.json.write_text(json.dumps(story.figures, indent=1))
        for kind, where in (("fresh", "a font that it had not seen"), ("usual", "images as it knew them")):
            before, after = (float(story.figures[f"{kind}_{when}"]) for when in ("before", "after"))
            recording.claim(
                kind, f"accuracy in {where}, after drift, corrections and a training", after, "",
                alternative=before, alternative_name="the model before", better="more",
            )  # fmt: skip
        recording.write(chosen.result)


if __name__ == "__main__":
    main()
