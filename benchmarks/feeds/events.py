"""Events as a swarm sends them, in any number."""

import random
from collections.abc import Iterator, Sequence

from honed.client.wire import new_event_id

WORDS = ("cache", "queue", "pod", "node", "shard", "lease", "probe", "quota", "retry", "span")
_ACTION = (
    b'{"event_id": "%s", "task_id": "task-%07d", "group_id": "group-%d", "timestamp_ms": %d,'
    b' "session_id": "session-%d", "type": "action", "tick": %d, "worker_id": %d,'
    b' "action": "read_%d", "target": "billing-api", "result": {"success": %s,'
    b' "output": "%s\\n%s"}, "context": {"selection_logic": "ucb1", "extra": {"agent": "sre-2"}}}\n'
)
_CALL = (
    b'{"event_id": "%s", "task_id": "task-%07d", "group_id": "group-%d", "timestamp_ms": %d,'
    b' "session_id": "session-%d", "type": "llm_call", "model": "small",'
    b' "messages": [{"role": "user", "content": "%s"}],'
    b' "response_message": {"role": "assistant", "content": "%s\\n"},'
    b' "receipt_id": "r-%08d", "latency_ms": 120}\n'
)
_SECRETS = (
    b"AKIA" + b"Q7" * 8,
    b"password=tr0ub4dor-3",
    b"jane.doe@example.org",
    b"Bearer " + b"a1B2c3D4" * 5,
)
SECRET_SHARE = 0.005
ESCAPE_SHARE = 0.038


def make_lines(count: int, *, first: int = 0) -> list[bytes]:
    """Events of about 930 bytes, 70 % actions and 30 % calls, 10 to a task, in the order of their ids."""
    return list(_lines(count, first))


def with_secrets(lines: Sequence[bytes]) -> list[bytes]:
    """The lines, 0.5 % with a secret or an address in their text, 3.8 % with a `\\u` escape."""
    rng = random.Random(5)
    made = []
    for line in lines:
        if rng.random() < SECRET_SHARE:
            line = line.replace(b"node ", rng.choice(_SECRETS) + b" ", 1)
        if rng.random() < ESCAPE_SHARE:
            line = line.replace(b"pod ", rb"\u001b[32mpod ", 1)
        made.append(line)
    return made


def _lines(count: int, first: int) -> Iterator[bytes]:
    rng = random.Random(7)
    texts = [" ".join(rng.choices(WORDS, k=60)).encode() for _ in range(997)]
    for n in range(first, first + count):
        text = texts[n % len(texts)]
        named = (
            new_event_id().encode(),
            n // 80 * 8 + n % 8,
            n // 800,
            1_772_442_123_456 + n,
            n % 97,
        )
        if n % 10 < 7:
            truth = b"true" if n % 5 else b"false"
            yield _ACTION % (*named, n // 8, n % 8, n % 13, truth, text, text[:200])
        else:
            yield _CALL % (*named, text, text[:250], n)
