"""Several reports of one call become one call of the episode."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest

from honed.domain.episode import Episode
from honed.domain.records import LlmCallRecord
from honed.domain.reports import reporter
from honed.gateway.capture import Call
from honed.gateway.labels import Labels
from honed.learn_models import create
from honed.ports import EpisodeFilter, Whose
from honed.sources.otlp.mapping import events_of
from honed.sources.otlp.spans import Span
from tests.feed_parts import call, line, open_intake, success

pytestmark = pytest.mark.anyio

ANSWER = "chatcmpl-7"


def by_gateway(number: int, response_id: str = ANSWER) -> bytes:
    """A call as the gateway captured it; its receipt is `r-NUMBER`."""
    answer = {
        "id": response_id,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": f"answer {number}"},
            }
        ],
    }
    return Call(
        receipt_id=f"r-{number}",
        labels=Labels(task_id="t1"),
        endpoint="/v1/chat/completions",
        scenario="airline",
        adapter_id="airline@3",
        started_at_ms=1,
        latency_ms=1,
        request=msgspec.json.encode({"messages": [{"role": "user", "content": f"ask {number}"}]}),
        answer=msgspec.json.encode(answer),
        is_stream=False,
    ).event()


def by_trace(number: int, **attributes: str) -> bytes:
    """The same call as an instrumentation traced it."""
    says = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": f"ask {number}"}]}
        ],
        "gen_ai.output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": f"answer {number}"}]}
        ],
        "honed.task_id": "t1",
    }
    span = Span("ab" * 16, f"{number:016x}", "chat", 1, 2, says | attributes, {}, (), False, "")
    [event] = events_of([span]).lines
    return event


def by_client(number: int, **fields: Any) -> bytes:
    """The same call as the client library told it."""
    return line(
        call(
            task_id="t1",
            messages=[{"role": "user", "content": f"ask {number}"}],
            response_message={"role": "assistant", "content": f"answer {number}"},
            **fields,
        )
    )


async def episode_of(lines: Sequence[bytes]) -> tuple[Episode, int]:
    """The episode of these events, and how many reports were joined; all of them belong to it."""
    async with open_intake(None, settle=timedelta(0)) as intake:
        await intake.sink.ingest([*lines, line(success(task_id="t1"))])
        made = await intake.episodes.receive()
        stored = await intake.store.get_episode(made.id)
        assert [row.num_records for row in await intake.store.list_episodes(EpisodeFilter())] == [
            len(stored.records)
        ]
        joined = intake.sink.counts().joined_reports
        extent = await intake.store.keeping.find(Whose("task", "t1"))
        assert len(extent.record_ids) == len(lines) + 1
        return stored, joined


def reporters(episode: Episode) -> list[str]:
    return [reporter(told) for told in episode.records_of(LlmCallRecord)]


@pytest.mark.parametrize("turned", [False, True])
async def test_gateway_client_and_trace_tell_of_one_call(turned: bool) -> None:
    """By receipt or by the answer's id, in whatever order they come; the gateway's report is the call."""
    told = [
        by_gateway(1),
        by_client(1, receipt_id="r-1"),
        by_trace(1, **{"gen_ai.response.id": ANSWER}),
    ]
    found, joined = await episode_of(told[::-1] if turned else told)
    assert reporters(found) == ["gateway"]
    assert found.metadata.adapter_id == "airline@3"
    assert joined == 2


@pytest.mark.parametrize("name", ["chat", "dpo(chat)", "tests.unit.learn_models.own_model:Haiku"])
async def test_reports_are_joined_for_every_learn_model(name: str) -> None:
    """Before a learn model sees them, also one's own: no model has to know that there are several."""
    model = create(name)
    told = [by_client(1, receipt_id="r-1"), by_gateway(1), line(success(task_id="t1"))]
    async with open_intake(None, settle=timedelta(0), learn_models=[model]) as intake:
        await intake.sink.ingest(told)
        with anyio.fail_after(60):
            made = await intake.episodes.receive()
    assert (made.learn_model, reporters(made)) == (model.name, ["gateway"])


async def test_a_trace_that_names_the_receipt_is_joined() -> None:
    """Without the answer's id as well."""
    told = [by_trace(1, **{"http.response.header.x-honed-receipt": "r-1"}), by_gateway(1)]
    found, joined = await episode_of(told)
    assert (reporters(found), joined) == (["gateway"], 1)


async def test_a_client_is_believed_before_a_trace() -> None:
    """Instrumentations shorten what was said."""
    told = [
        by_trace(1, **{"gen_ai.response.id": ANSWER}),
        by_client(1, response_id=ANSWER),
        by_client(2, receipt_id="chatcmpl-8"),
        by_trace(2, **{"gen_ai.response.id": "chatcmpl-8"}),
    ]
    found, joined = await episode_of(told)
    assert (reporters(found), joined) == (["client", "client"], 2)


async def test_ids_that_repeat_join_no_calls_of_one_reporter() -> None:
    """Some servers number their answers from few numbers, or name all of them alike."""
    told = [
        by_gateway(1),
        by_gateway(2),
        by_trace(1, **{"gen_ai.response.id": ANSWER}),
        by_trace(2, **{"gen_ai.response.id": ANSWER}),
        by_client(3, response_id="other"),
    ]
    found, joined = await episode_of(told)
    assert reporters(found) == ["gateway", "gateway", "client"]
    assert joined == 2


async def test_calls_without_ids_stay_apart() -> None:
    """Nothing says that they are one."""
    found, joined = await episode_of([by_gateway(1, ""), by_trace(1), by_client(1)])
    assert (len(reporters(found)), joined) == (3, 0)


async def test_who_keeps_a_call_from_training_is_heard_first() -> None:
    """What one report forbids, another of the same call cannot allow; trust likewise."""
    forbidden = by_client(1, receipt_id="r-1", train=False)
    found, _ = await episode_of([by_gateway(1), forbidden])
    assert (reporters(found), found.may_teach) == (["client"], False)
    untrusted = by_client(1, receipt_id="r-1", trust="untrusted")
    found, _ = await episode_of([by_gateway(1), untrusted])
    assert [record.trust for record in found.records_of(LlmCallRecord)] == ["untrusted"]
