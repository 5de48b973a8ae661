"""The judge, where one is configured: is it there, does it take our key, does it answer what it is asked for?"""

from datetime import timedelta
from typing import Final

import anyio

from honed.doctor.finding import Found, fail, ok
from honed.doctor.patient import Patient
from honed.errors import RewardError, UnreachableError
from honed.rewards import judge_of

LIMIT: Final = timedelta(seconds=30)
"""For its answer to one short question, if `judge.timeout` is not shorter: a model may have to be loaded first."""


def judge(patient: Patient) -> Found:
    """Asked for one vote on a made-up attempt; nothing of the swarm's is sent."""
    section = patient.config.judge
    if section.url is None:
        return ok("none is configured")
    asked = f"{section.model} at {section.url}"
    try:
        anyio.run(judge_of(patient.config, patience=LIMIT).try_out)
    except UnreachableError as error:
        told = error.advice or "start it, or correct the section judge"
        return fail(
            f"{asked}: {error}",
            f"{told}; episodes wait for it, and none is lost. The key is looked for in the environment of this command,"
            " which need not be the daemon's",
        )
    except RewardError as error:
        return fail(
            f"{asked} answers, but not with a verdict: {error}",
            "choose a model that writes JSON as it is told, behind an endpoint that knows response_format json_object;"
            " as it is, every episode goes without its verdict",
        )
    return ok(f"{asked} answers with a verdict")
