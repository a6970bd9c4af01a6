"""Materializes the steps of batches on a Ray cluster, several at once: a Ray job executes one run.

A job executes its run on a node as a command on any other host does (`captcha_assets.cli.ray_step`), and
records it in the database of the profile `shared`. This process submits the jobs and waits for them. A run
whose process or node was lost is ended here, and its step tried again as another run.
"""

import json
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import dagster as dg

from captcha_assets import interrupts
from captcha_assets.cli.orchestration.execution import Outcome, is_removed, obstacle, reason_of_run
from captcha_assets.cli.orchestration.run_findings import findings
from captcha_assets.cli.orchestration.staleness import Step
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.compute import ray_jobs
from captcha_assets.defs.killed_runs import UNFINISHED, end
from captcha_assets.defs.run_alerts import alert_about
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.training.failures import RayClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_T = TypeVar("_T")

#: Tags of a run that a Ray job executes: the cluster's address, and the id of the job.
CLUSTER_TAG, JOB_TAG = "captcha_assets/ray_cluster", "captcha_assets/ray_job"

#: How often a step is submitted whose process or node was lost.
_ATTEMPTS = 3
#: Seconds between two looks at the jobs.
_INTERVAL = 1.0
#: Seconds for which the head of the cluster may be unreachable.
_PATIENCE = 60
#: Settings that a node has of its own, or that are secrets: Ray's dashboard shows what is sent.
_NOT_SENT = {"paths", "home", "database", "alert_webhook"}
_LOOKED_AT = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
}


@dataclass(frozen=True)
class _Job:
    """A step on the cluster: the id of its Ray job, and how its earlier attempts were lost."""

    step: Step
    name: str
    lost: tuple[str, ...] = ()


@dataclass
class RayExecution:
    """Executes steps on the Ray cluster that the settings name.

    Args:
        tags: of each run, and the metadata of each Ray job. What an earlier command with the same tags left
            on the cluster is stopped.
    """

    settings: Settings
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    tags: Mapping[str, str]
    _reached: float = field(default=0.0, init=False)

    @cached_property
    def _client(self) -> "JobSubmissionClient":
        return ray_jobs.connected(self.settings.compute)

    def execute(self, steps: Iterable[Step], broken: set[Step]) -> Iterator[Step | Outcome]:
        """Materialize steps that do not depend on each other.

        Each is yielded when it is submitted, and its `Outcome` when it has ended.

        However this ends, none of the jobs is left on the cluster, and none of the runs unfinished.

        Args:
            steps: what to materialize.
            broken: the steps that failed, to which those of `steps` are added.

        Raises:
            RayClusterError: the cluster cannot be reached.
        """
        lost_outputs.report(self.settings.paths, self.instance)
        self._end_left_over()
        waiting, running = deque(steps), list[_Job]()
        try:
            while waiting or running:
                interrupts.check()
                free = self._capacity() - len(running) if waiting else 0
                for _ in range(min(len(waiting), free)):
                    yield from self._begun(waiting.popleft(), running, broken)
                time.sleep(_INTERVAL if running or waiting else 0)
                for job in tuple(running):
                    yield from _noted(self._ended(job, running), broken)
        finally:
            self._stop(running)

    def _capacity(self) -> int:
        """How many steps the nodes can execute at once; 0 while that is not known."""
        cpus = self._patiently(lambda: ray_jobs.num_cpus(self.settings.compute))
        return 0 if cpus is None else max(1, sum(each // self.settings.compute_num_cpus for each in cpus))

    def _patiently(self, ask: Callable[[], _T]) -> _T | None:
        """Ask the head of the cluster; None while it is unreachable for a short time."""
        try:
            with ray_jobs.cluster_errors(self.settings.compute):
                answer = ask()
        except RayClusterError:
            if time.monotonic() - self._reached > _PATIENCE:
                raise
            return None
        self._reached = time.monotonic()
        return answer

    def _begun(self, step: Step, running: list[_Job], broken: set[Step]) -> Iterator[Step | Outcome]:
        if is_removed(self.definitions, self.instance, step):
            return
        if error := obstacle(self.definitions, self.instance, step, broken):
            yield from _noted([Outcome(step, (), None, error)], broken)
            return
        yield step
        self._submit(_Job(step, _new_name(step)), running)

    def _submit(self, job: _Job, running: list[_Job]) -> None:
        threads = str(self.settings.compute_num_cpus)
        tags = {**self.tags, CLUSTER_TAG: self.settings.compute, JOB_TAG: job.name}
        step = json.dumps({"assets": job.step.assets, "partition": job.step.partition, "tags": tags})
        running.append(job)  # before it is submitted: an interrupt may arrive in between
        with ray_jobs.cluster_errors(self.settings.compute):
            self._client.submit_job(
                submission_id=job.name,
                entrypoint=ray_jobs.entry_point("captcha_assets.cli.ray_step", step),
                entrypoint_num_cpus=self.settings.compute_num_cpus,
                metadata=dict(self.tags),
                runtime_env=ray_jobs.runtime_env(
                    self.settings.compute_num_cpus,
                    gpus=False,
                    variables={"POLARS_MAX_THREADS": threads, **_variables()},
                ),
            )

    def _ended(self, job: _Job, running: list[_Job]) -> Iterator[Outcome]:
        """Yield the outcome of a job that has ended; submit it again where its process or node was lost."""
        info = self._patiently(lambda: self._client.get_job_info(job.name))
        if info is None or not info.status.is_terminal():
            return
        run = self._run_of(job)
        if run is not None and run.is_finished:
            outcome = self._outcome(job, run)
        else:
            why = self._why_unfinished(info)
            run = run and end(self.instance, run, f"{why}.")
            if ray_jobs.was_lost(info) and len(job.lost) + 1 < _ATTEMPTS:
                self._submit_again(job, why, running)
                return
            outcome = Outcome(job.step, (), run.run_id if run else None, why, job.lost)
            if run:
                alert_about(self.instance, run, self.settings)
        running.remove(job)
        if not (outcome.error and is_removed(self.definitions, self.instance, job.step)):
            yield outcome

    def _submit_again(self, job: _Job, why: str, running: list[_Job]) -> None:
        running.remove(job)
        line = f"warning: {job.step}: attempt {len(job.lost) + 1} of {_ATTEMPTS}: {why}"
        self._submit(_Job(job.step, _new_name(job.step), (*job.lost, line)), running)

    def _run_of(self, job: _Job) -> dg.DagsterRun | None:
        found = self.instance.get_runs(dg.RunsFilter(tags={JOB_TAG: job.name}), limit=1)
        return next(iter(found), None)

    def _outcome(self, job: _Job, run: dg.DagsterRun) -> Outcome:
        entries = self.instance.all_logs(run.run_id, of_type=_LOOKED_AT)
        events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
        succeeded = run.status == dg.DagsterRunStatus.SUCCESS
        if run.status == dg.DagsterRunStatus.CANCELED:
            error: str | None = f"the run was canceled; its Ray job was {job.name}"
        else:
            error = None if succeeded else reason_of_run(events)
        found = findings(events, job.step.partition, succeeded=succeeded)
        return Outcome(job.step, (), run.run_id, error, (*job.lost, *found))

    def _why_unfinished(self, info: "JobDetails") -> str:
        """Return why a job has ended without ending its run."""
        if why := ray_jobs.why_ended(info):
            return why
        with suppress(RuntimeError, OSError):  # the node that has the log is gone
            lines = self._client.get_job_logs(str(info.submission_id)).splitlines()
            errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
            if errors:
                return f"{errors[-1]} (on a node of the Ray cluster)"
            if info.driver_exit_code == 0:
                return "the node of the Ray cluster has another CAPTCHA_DATABASE: the run is not in this one"
        return f"the Ray job {info.submission_id} has failed: see its log in Ray's dashboard"

    def _stop(self, running: Iterable[_Job]) -> None:
        """Stop the jobs, and end their runs."""
        for job in running:
            with suppress(RuntimeError, OSError):  # it was not submitted, or the cluster is unreachable
                self._client.stop_job(job.name)
        for job in running:
            ray_jobs.stop(self._client, job.name)
            run = self._run_of(job)
            if run is not None and not run.is_finished:
                self.instance.report_run_canceled(run, "The command was interrupted.")
                self.instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)

    def _end_left_over(self) -> None:
        """Stop the jobs that a killed command left behind, and end the runs whose job has ended without."""
        with ray_jobs.cluster_errors(self.settings.compute):
            jobs = {str(job.submission_id): job for job in self._client.list_jobs()}
        alive = {name: job for name, job in jobs.items() if not job.status.is_terminal()}
        for name, job in list(alive.items()):
            if (job.metadata or {}).items() >= self.tags.items():
                ray_jobs.stop(self._client, name)
                del alive[name]
        of_this_cluster = dg.RunsFilter(tags={CLUSTER_TAG: self.settings.compute}, statuses=UNFINISHED)
        for run in self.instance.get_runs(of_this_cluster):
            if run.tags[JOB_TAG] not in alive:
                end(self.instance, run, f"The Ray job {run.tags[JOB_TAG]} is gone: start the run again.")


def _noted(outcomes: Iterable[Outcome], broken: set[Step]) -> Iterator[Outcome]:
    """Yield the outcomes, and add the steps that failed to `broken`."""
    for outcome in outcomes:
        if outcome.error:
            broken.update(Step((asset,), outcome.step.partition) for asset in outcome.step.assets)
        yield outcome


def _new_name(step: Step) -> str:
    """Return a new id of a Ray job, in which a person finds the step."""
    return "-".join([*step.assets[:1], *([step.partition] if step.partition else []), uuid.uuid4().hex[:8]])


def _variables() -> dict[str, str]:
    """Return the settings that the nodes are to have as well."""
    names = {f"CAPTCHA_{name.upper()}" for name in {*Settings.model_fields, *Paths.model_fields} - _NOT_SENT}
    return {name: os.environ[name] for name in sorted(names & os.environ.keys())}
