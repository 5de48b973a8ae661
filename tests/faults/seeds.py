"""Good input to begin from: one event of each type, a hello, and a trace in OpenTelemetry's JSON."""

import json
from typing import Any, Final

_OUTCOME: Final = {"type": "success", "score": 0.9}
EVENTS: Final[list[bytes]] = [
    json.dumps(event).encode()
    for event in (
        {
            "type": "action",
            "event_id": "a-1",
            "task_id": "t-7",
            "group_id": "g",
            "tick": 23,
            "worker_id": 3,
            "action": "read_logs",
            "target": "billing",
            "result": {"success": True, "output": "3 timeouts", "kpi_contribution": 0.25},
            "duration_ms": 418,
            "context": {"observation": "slow ü", "extra": {"agent": {"deep": [1, 2.5, None]}}},
            "tags": {"env": "staging"},
        },
        {
            "type": "llm_call",
            "event_id": "c-1",
            "task_id": "t-7",
            "receipt_id": "r-1",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "now?"}]}],
            "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
            "response_message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "x",
                        "type": "function",
                        "function": {"name": "look", "arguments": "{}"},
                    }
                ],
            },
        },
        {
            "type": "strategy_advice",
            "timestamp_ms": 1,
            "tick": 2,
            "advisor": "rules",
            "current_strategy": "ucb1",
            "recommended": "greedy",
            "should_change": True,
            "confidence": 0.8,
            "reason": "no",
            "frontier_count": 4,
            "total_visits": 12,
            "failure_rate": 0.4,
            "latency_ms": 3,
            "success": True,
        },
        {
            "type": "dependency_graph_inference",
            "timestamp_ms": 1,
            "prompt": "first?",
            "response": "look",
            "available_actions": ["look", "jump"],
            "discover_order": ["look"],
            "not_discover_order": ["jump"],
            "model": "tiny",
            "endpoint": "local",
            "latency_ms": 9,
            "success": True,
        },
        {
            "type": "learn_stats_snapshot",
            "timestamp_ms": 1,
            "scenario": "swarm",
            "session_id": "1772442000000-9f3a0001",
            "stats_json": '{"visits": {"look": 12}}',
            "outcome": _OUTCOME,
            "total_ticks": 40,
            "total_actions": 120,
        },
        {"type": "outcome", "event_id": "o-1", "receipt_id": "r-1", "outcome": _OUTCOME},
        {"type": "outcome", "task_id": "t-7", "outcome": {"type": "failure", "reason": "no"}},
        {"type": "hello", "protocol": 1, "client": "fuzz/1"},
    )
]


def _attribute(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": value}}


SPANS: Final = {
    "resourceSpans": [
        {
            "resource": {"attributes": [_attribute("service.name", "travel")]},
            "scopeSpans": [
                {
                    "scope": {"name": "agent"},
                    "spans": [
                        {
                            "traceId": "5b8efff798038103d269b633813fc60c",
                            "spanId": "eee19b7ec3c1b174",
                            "name": "chat tiny",
                            "startTimeUnixNano": "1772442123000000000",
                            "endTimeUnixNano": "1772442124000000000",
                            "attributes": [
                                _attribute("gen_ai.operation.name", "chat"),
                                _attribute("gen_ai.request.model", "tiny"),
                                _attribute("gen_ai.conversation.id", "c-7"),
                                _attribute(
                                    "gen_ai.input.messages",
                                    '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
                                ),
                                _attribute(
                                    "gen_ai.output.messages",
                                    '[{"role":"assistant","parts":[{"type":"text","content":"ho"}]}]',
                                ),
                            ],
                            "events": [
                                {
                                    "timeUnixNano": "1772442123500000000",
                                    "name": "gen_ai.evaluation.result",
                                    "attributes": [
                                        {
                                            "key": "gen_ai.evaluation.score.value",
                                            "value": {"doubleValue": 0.5},
                                        }
                                    ],
                                }
                            ],
                            "status": {"code": 1},
                        }
                    ],
                }
            ],
        }
    ]
}
