"""The messages of a Ray job, which is stopped before they are left."""

from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.defs.compute import ray_jobs

if TYPE_CHECKING:
    from dagster_ray.core.pipes import PipesRayJobMessageReader
    from ray.job_submission import JobSubmissionClient


def job_messages(client: "JobSubmissionClient", name: str) -> "PipesRayJobMessageReader":
    """Return what reads the messages of one Ray job, and stops the job when the run leaves it.

    dagster-ray reads the log to its end. The log of a job that still waits for a node has none: a run
    that was cancelled would go on for two minutes and end with another error.
    """
    # At the top, it would be imported with the definitions.
    from dagster_ray.core.pipes import PipesRayJobMessageReader

    class JobMessages(PipesRayJobMessageReader):
        def terminate(self, handler: dg.PipesMessageHandler) -> None:
            if ray_jobs.stop(client, name):
                super().terminate(handler)
            else:
                self.session_closed.set()

    return JobMessages()
