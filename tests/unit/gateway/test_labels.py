"""Labels of a call, from wherever a client can say them, and where they send it."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from honed.gateway.labels import NOTHING, Labels, read_labels, read_metadata, read_path
from honed.gateway.refusal import Refused
from tests.unit.gateway.stub import CHAT, answering, fronted, lane_to, relaying, upstream

pytestmark = pytest.mark.anyio


def labels(*headers: tuple[bytes, bytes], path: bytes = b"", metadata: object = None) -> Labels:
    """The labels of a request that says these things."""
    said = read_path(path)[1] if path else {}
    return read_labels(list(headers), said, read_metadata(metadata))


def test_a_path_says_what_headers_say() -> None:
    """Every label, and the path that is left."""
    path = (
        b"/r/task/t1/group/g/session/s/agent/a/role/planner/user/u/worker/7/purpose/evaluation"
        b"/train/false/scenario/airline/v1/chat/completions"
    )
    rest, said = read_path(path)
    assert rest == b"/v1/chat/completions"
    assert Labels(**said) == Labels(
        task_id="t1",
        group_id="g",
        session_id="s",
        agent="a",
        role="planner",
        user="u",
        worker_id=7,
        purpose="evaluation",
        train=False,
        scenario="airline",
    )


@pytest.mark.parametrize(
    ("path", "rest", "said"),
    [
        (b"/r/v1/models", b"/v1/models", {}),
        (b"/r/task/a%2Fb%20c/v1/x", b"/v1/x", {"task_id": "a/b c"}),
        (b"/r/task/%C3%A9/v1/x", b"/v1/x", {"task_id": "é"}),
        (b"/r/task/1/v1/files/a%2Fb", b"/v1/files/a%2Fb", {"task_id": "1"}),
        (b"/r/task/1/tokenize", b"/tokenize", {"task_id": "1"}),
        (b"/r/task/1/", b"/", {"task_id": "1"}),
        (b"/r/task/1", b"/", {"task_id": "1"}),
        (b"/r/task//v1/x", b"/v1/x", {}),
        (b"/r/task", b"/task", {}),
        (b"/r/", b"/", {}),
        (b"/r/task/v1x/group/r/v1/x", b"/v1/x", {"task_id": "v1x", "group_id": "r"}),
    ],
)
def test_what_follows_the_labels_is_the_path(
    path: bytes, rest: bytes, said: dict[str, Any]
) -> None:
    """It is passed on as it was written; an empty value says nothing."""
    assert read_path(path) == (rest, said)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (b"/r/tsk/1/v1/x", "tsk"),
        (b"/r/task/1/x/2/v1/x", "/r/x"),
        (b"/r/task/v1/chat/completions", "no value"),
        (b"/r/task/1/task/2/v1/x", "twice"),
        (b"/r/purpose/eval/v1/x", "expected work, evaluation or probe"),
        (b"/r/train/no/v1/x", "true or false"),
        (b"/r/worker/70000/v1/x", "0 to 65535"),
        (b"/r/worker/" + b"9" * 5000 + b"/v1/x", "0 to 65535"),
        (b"/r/purpose//v1/x", "expected work"),
        (b"/r/task/%FF/v1/x", "UTF-8"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(path: bytes, told: str) -> None:
    """A typing error in a URL is seen at once, and not learned from."""
    with pytest.raises(Refused, match=told) as refusal:
        read_path(path)
    assert refusal.value.status == 400


@given(st.binary(max_size=60))
def test_any_path_is_read_or_refused(tail: bytes) -> None:
    """Nothing else comes out of it, and what is left begins with a slash."""
    try:
        rest, _ = read_path(b"/r/" + tail)
    except Refused:
        return
    assert rest.startswith(b"/")


def test_a_header_wins_over_the_path_and_the_path_over_metadata() -> None:
    """Each completes what the one before has not said."""
    said = labels(
        (b"x-honed-task", b"header"),
        path=b"/r/task/path/group/path/v1/x",
        metadata={"honed_task": "body", "honed_group": "body", "honed_agent": "body"},
    )
    assert said == Labels(task_id="header", group_id="path", agent="body")


def test_a_bad_value_is_refused_even_where_another_would_win() -> None:
    """It was meant."""
    with pytest.raises(Refused, match=r"metadata\.honed_train"):
        labels((b"x-honed-train", b"false"), metadata={"honed_train": "nope"})


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"honed_train": False, "honed_worker": 3}, Labels(train=False, worker_id=3)),
        ({"honed_train": "False", "honed_worker": "3"}, Labels(train=False, worker_id=3)),
        ({"honed_task": None, "honed_new": "x", "task": "mine"}, Labels()),
        ({"honed_task": 42}, Labels(task_id="42")),
        ({"honed_task": ""}, Labels()),
        ("text", Labels()),
        ([1], Labels()),
        (None, Labels()),
    ],
)
def test_metadata_is_the_callers_own_but_for_our_names(metadata: object, expected: Labels) -> None:
    """What does not begin with `honed_`, or is no label, means nothing here."""
    assert labels(metadata=metadata) == expected


@pytest.mark.parametrize("value", [1.5, {"a": 1}, ["x"]])
def test_metadata_that_is_no_text_is_refused(value: object) -> None:
    """A label is one plain value."""
    with pytest.raises(Refused, match="no text"):
        labels(metadata={"honed_task": value})


async def test_the_path_goes_on_without_its_labels(tmp_path: Path) -> None:
    """The server sees the path that it knows, with the query; the gateway's own answers are there too."""
    async with relaying(answering(), tmp_path) as front:
        await front.client.post(f"/r/task/t%2F1/train/false{CHAT}?a=%2F", json={})
        models = await front.client.get("/r/task/1/v1/models")
        health = await front.client.get("/r/task/1/health")
        forbidden = await front.client.post("/r/task/1/lora-adapters", json=[])
        [request] = front.upstream.requests
        call = await front.lane.captured.take()
    assert request.line == f"POST {CHAT}?a=%2F HTTP/1.1"
    assert (call.labels.task_id, call.labels.train, call.endpoint) == ("t/1", False, CHAT)
    assert (models.status_code, health.status_code, forbidden.status_code) == (200, 200, 403)


async def test_metadata_labels_the_call_and_passes(tmp_path: Path) -> None:
    """The body goes on as it is."""
    body = b'{"metadata": {"honed_task":"t1", "mine": [1]},  "messages": []}'
    async with relaying(answering(), tmp_path) as front:
        answer = await front.client.post(CHAT, content=body)
        refused = await front.client.post(CHAT, json={"metadata": {"honed_purpose": "eval"}})
        [request] = front.upstream.requests
        call = await front.lane.captured.take()
    assert (answer.status_code, refused.status_code) == (200, 400)
    assert request.body == body
    assert call.labels == Labels(task_id="t1")


async def test_error_in_a_labelled_path_has_its_callers_form(tmp_path: Path) -> None:
    """The dialect is that of the path behind the labels, also when these cannot be read."""
    async with relaying(answering(), tmp_path) as front:
        found = [
            msgspec.json.decode((await front.client.post(path, content=b"{")).content)
            for path in ("/r/task/1/v1/messages", "/r/tsk/1/v1/messages", "/r/tsk/1/v1/responses")
        ]
    assert [said.get("type") for said in found] == ["error", "error", None]
    assert found[2]["error"]["code"] == "invalid_label"


async def test_a_label_names_the_scenario_whatever_the_model(tmp_path: Path) -> None:
    """In header, path or metadata, with a version or without; one that is not there is a 404, also where a default
    would answer.
    """
    async with upstream(answering("one")) as one, upstream(answering("two")) as two:
        lanes = {
            "one": lane_to(one.address, tmp_path, scenario="one"),
            "two": lane_to(two.address, tmp_path, scenario="two"),
        }
        async with (
            fronted(lanes, default="one") as address,
            httpx.AsyncClient(base_url=str(address)) as client,
        ):
            body = {"model": "one"}
            named = {"metadata": {"honed_scenario": "two"}}
            answers = [
                await client.post("/x", json=body),
                await client.post("/x", json=body, headers={"x-honed-scenario": "two"}),
                await client.post("/r/scenario/two/x", json=body),
                await client.post("/x", json=body | named),
                await client.post("/r/scenario/two@3/x", json=body),
            ]
            not_served = await client.post("/r/scenario/two@2/x", json=body)
            unknown = await client.post("/r/scenario/three/x", json=body)
    assert [answer.json() for answer in answers] == ["one", "two", "two", "two", "two"]
    assert (unknown.status_code, not_served.status_code) == (404, 404)
    assert "'three'; there are: one, two" in unknown.json()["error"]["message"]


BAD_TEXTS = ["a\0b", "a\nb", "a\x1b[2Jb", "a\x7f", "a\x9b", "x" * 501]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=ascii)
@pytest.mark.parametrize("label", ["task", "user", "scenario"])
def test_a_text_that_no_name_has_is_refused_wherever_it_stands(label: str, text: str) -> None:
    """It would be stored, shown on terminals, or be refused by a store after the answer was given."""
    quoted = quote(text, safe="").encode()
    with pytest.raises(Refused, match="control characters"):
        read_path(b"/r/%s/%s/v1/chat/completions" % (label.encode(), quoted))
    with pytest.raises(Refused, match="control characters"):
        read_metadata({f"honed_{label}": text})
    with pytest.raises(Refused, match="control characters") as refused:
        read_labels([(b"x-honed-" + label.encode(), text.encode())], NOTHING, NOTHING)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "text", ["Zo\xeb", "\u738b\u5c0f\u660e", "\U0001f468\u200d\U0001f469", "a b", "x" * 500]
)
def test_one_name_is_the_same_wherever_it_stands(text: str) -> None:
    """A header of bytes in UTF-8 names nobody else than the path does."""
    quoted = quote(text, safe="").encode()
    _, in_path = read_path(b"/r/user/" + quoted + b"/v1/chat/completions")
    expected = {"user": text}
    assert in_path == read_metadata({"honed_user": text}) == expected
    assert read_labels([(b"x-honed-user", text.encode())], NOTHING, NOTHING).user == text


def test_a_header_in_latin_1_is_read() -> None:
    """As older clients send it."""
    assert read_labels([(b"x-honed-user", b"Zo\xeb")], NOTHING, NOTHING).user == "Zo\xeb"
