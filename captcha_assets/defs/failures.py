"""Why a step failed, in one line: for the terminal, alerts and trial records."""

import dagster as dg

from captcha_assets.defs.dagster_internals import SerializableErrorInfo

_OURS = "captcha_assets."


def reason_of(event: dg.DagsterEvent) -> str:
    """Return why a step failed.

    The message of an error of this library says what is wrong and what to do, whatever caused the error. Of
    other errors the first cause is returned, with the name of its class.
    """
    error = event.step_failure_data.error
    if error is None:
        return event.message or "failed"
    chain = [error]
    while chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    if chain[-1].cls_name == "DagsterExecutionInterruptedError":
        return "interrupted: the run was terminated, or the process that carried it out was ended"
    return _plainly(next((one for one in chain if one.message.startswith(_OURS)), chain[-1]))


def failed_with(event: dg.DagsterEvent, kind: type[Exception]) -> bool:
    """Whether a step failed with an error of this very class, or because of one."""
    error = event.step_failure_data.error
    while error is not None:
        if error.cls_name == kind.__name__:
            return True
        error = error.cause
    return False


def _plainly(error: SerializableErrorInfo) -> str:
    message = error.message.strip()
    name, _, words = message.partition(": ")
    return words if words and name.startswith(_OURS) else message
