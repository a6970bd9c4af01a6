"""Processes that use a prediction log and are killed: what they run, and how they are started.

A process says through a pipe what it was promised. The fork server has no threads, so that a process starts
in milliseconds and inherits no lock.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from captcha_assets.serving.prediction_log import PredictionLog, UnknownPredictionError, open_prediction_log
from captcha_assets_tests.forkserver import CONTEXT
from captcha_assets_tests.serving.predictions import prediction

#: What a process does: ("record", number), ("correct", number, label), ("flush",).
Operation = tuple[Any, ...]


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Start a function in a process; return it and the end of the pipe that it reports to."""
    reader, writer = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=target, args=(writer, *arguments), daemon=True)
    process.start()
    writer.close()
    return process, reader


def everything(reader: Connection) -> list[Any]:
    """Return all that a process reported until it ended."""
    reports = []
    try:
        while True:
            reports.append(reader.recv())
    except EOFError:
        return reports


def live(writer: Connection, url: str, operations: list[Operation], ends: str) -> None:
    """Do what is asked, report what the log promised, and end by SIGKILL or by closing the log."""
    log = open_prediction_log(url)
    recorded: list[int] = []
    for operation in operations:
        if operation[0] == "record":
            assert log.record(prediction(operation[1]))
            recorded.append(operation[1])
        elif operation[0] == "flush":
            assert log.flush(60)
            writer.send(("written", list(recorded)))
        else:
            _correct(writer, log, *operation[1:])
    if ends == "close":
        log.close()
        writer.send(("written", recorded))
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _correct(writer: Connection, log: PredictionLog, number: int, label: str) -> None:
    try:
        stored = log.correct(f"id-{number}", label)
    except UnknownPredictionError:
        writer.send(("unknown", number))
    else:
        writer.send(("corrected", number, label, stored.id))


def record_for_ever(writer: Connection, url: str) -> None:
    """Record one prediction after the other; report each, when it was recorded, and how many are written."""
    log = open_prediction_log(url)
    for number in itertools.count():
        made = prediction(number)
        assert log.record(made)
        writer.send((number, time.monotonic(), log.written))
        time.sleep(0.001)  # as a service whose model takes a core


def record_many(writer: Connection, url: str, first: int, count: int) -> None:
    """Record many predictions at once and correct every tenth."""
    with open_prediction_log(url) as log:
        for number in range(first, first + count):
            assert log.record(prediction(number))
            if number % 10 == 0:
                log.correct(f"id-{number}", "a", f"process {first}")
    writer.send((log.written, log.dropped, log.error))
