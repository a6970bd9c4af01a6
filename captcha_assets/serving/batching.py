"""Micro-batching: a call of the model takes all that waited for it, and nothing waits for more to come."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captcha_assets.serving.champion_reloader import ServedModel


class QueueFullError(RuntimeError):
    """So many images wait that a request is not taken.

    Attributes:
        retry_after: seconds after which the queue takes requests again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many images wait: try again in {retry_after} s")
        self.retry_after = retry_after


class DeadlineError(RuntimeError):
    """The model did not come to a request in time."""


@dataclass(frozen=True)
class Computed:
    """What the model says about the images of one request."""

    probabilities: NDArray[np.float32]
    queue_seconds: float
    compute_seconds: float
    batch_size: int


@dataclass(frozen=True)
class _Waiting:
    """The images of one request, which one model answers together."""

    model: ServedModel
    images: NDArray[np.uint8]
    answer: "asyncio.Future[Computed]"
    arrived: float


class Batcher:
    """A bounded queue before a model that runs in a thread of its own.

    While the model runs, requests wait; when it is done, it takes those that wait, up to `batch_size` images.
    A request is answered by the model that it came with, so that no request sees two.

    Args:
        batch_size: most images in one call; a larger request is a call of its own.
        queue_length: most images that wait.
        deadline: longest time that a request waits, in seconds; none is added where those that wait take half
            of it.
        observe: called after each call of the model, with the number of images and the seconds.

    Attributes:
        waiting: images that wait now.
    """

    def __init__(
        self, batch_size: int, queue_length: int, deadline: float, observe: Callable[[int, float], None]
    ) -> None:
        self._batch_size, self._queue_length, self._deadline = batch_size, queue_length, deadline
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self.waiting = self._running = 0
        self._arrival = asyncio.Event()
        self._seconds_per_image = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def predict(self, model: ServedModel, images: NDArray[np.uint8]) -> Computed:
        """Return what a model says about images.

        Raises:
            QueueFullError: too many images wait, or it would take too long.
            DeadlineError: the model did not come to these in time.
        """
        seconds = (self._running + self.waiting) * self._seconds_per_image
        too_many = self.waiting + len(images) > self._queue_length
        if too_many or seconds > self._deadline / 2:
            raise QueueFullError(max(1, math.ceil(seconds)))
        loop = asyncio.get_running_loop()
        one = _Waiting(model, images, loop.create_future(), time.monotonic())
        self._queue.append(one)
        self.waiting += len(images)
        self._arrival.set()
        return await one.answer

    async def run(self) -> None:
        """Answer what comes, until cancelled."""
        try:
            while True:
                await self._arrival.wait()
                self._arrival.clear()
                while batch := self._next_batch():
                    await self._answer(batch)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _next_batch(self) -> list[_Waiting]:
        """Take the requests of one call: of one model, and none that has waited too long."""
        batch: list[_Waiting] = []
        images, oldest = 0, time.monotonic() - self._deadline
        while self._queue:
            one = self._queue[0]
            if one.answer.cancelled():  # the service is about to end
                pass
            elif one.arrived < oldest:
                detail = f"the model did not come to it within {self._deadline:g} s"
                one.answer.set_exception(DeadlineError(detail))
            else:
                full = images + len(one.images) > self._batch_size
                if batch and (full or one.model is not batch[0].model):
                    break
                batch.append(one)
                images += len(one.images)
            self._queue.popleft()
            self.waiting -= len(one.images)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        images = np.concatenate([one.images for one in batch])
        self._running = len(images)
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        call = loop.run_in_executor(self._thread, batch[0].model.predictor.predict, images)
        await asyncio.wait({call})  # whatever it raises concerns the requests of this batch alone
        self._running, seconds = 0, time.monotonic() - started
        self._seconds_per_image += (seconds / len(images) - self._seconds_per_image) / 4
        self._observe(len(images), seconds)
        start = 0
        for one in batch:
            end = start + len(one.images)
            if one.answer.cancelled():
                pass
            elif error := call.exception():
                one.answer.set_exception(error)
            else:
                found = call.result()[start:end]
                one.answer.set_result(Computed(found, started - one.arrived, seconds, len(images)))
            start = end
