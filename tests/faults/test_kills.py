"""kill -9 of gateway, daemon and each llama-server under load: only what was in flight there fails, and says so.

`KILLS_SEED=n` chooses kinds and moments of the long form, `KILLS_ROUNDS=n` how often it runs, each time with the next
seed:

    KILLS_ROUNDS=3 pytest tests/faults/test_kills.py -m long
"""

import json
import os
import statistics
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from honed.stores import open_store
from tests.faults.chaos import marked
from tests.faults.clients import Clients
from tests.faults.killed_service import KilledService, Strategy, stable_port
from tests.faults.kills import (
    Kill,
    Killer,
    Kind,
    deck,
    lost,
    lost_beyond_memory,
    unexplained,
    unexplained_orders,
)
from tests.faults.orders import Operator
from tests.planted import Planted, letter_of
from tests.processes import honed
from tests.served import model

SEED: Final = int(os.environ.get("KILLS_SEED", "0"))
ROUNDS: Final = int(os.environ.get("KILLS_ROUNDS", "1"))
SETTINGS: Final = """
scenario = "tiny"
trigger = "manual()"

[events]
settle = "0.1s"

[apply.canary]
interval = "1h"  # nothing is ruled: what is tried stays as it was ordered

[serve]
port = {port}
base_model_path = "{base}"
ctx_size = 512
parallel = 4
threads = 1
drain_timeout = "20s"
hold_timeout = "60s"
"""
A_FEW: Final[list[tuple[Kind, Strategy]]] = [
    ("second", "hold"),
    ("former", "hold"),
    ("gateway", "hold"),
    ("candidate", "blue_green"),
    ("live", "blue_green"),
    ("daemon", "blue_green"),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Adapters whose tokens can be told from each other, whatever is asked."""
    return Planted(tmp_path_factory.mktemp("planted"))


@contextmanager
def serving(
    folder: Path, planted: Planted, *, seed: int, strategy: Strategy
) -> Iterator[tuple[KilledService, Operator, Clients]]:
    """A gateway and a daemon with four versions, of which the first is in service; who orders, and who asks."""
    mark, port, adapters = uuid.uuid4().hex, stable_port(), planted.adapters(4)
    with honed(folder, SETTINGS.format(port=port, base=planted.gguf)) as loop:
        loop.data_dir.mkdir(parents=True)
        anyio.run(_register, loop.data_dir / "honed.db", adapters)
        service = KilledService(loop, port=port, mark=mark)
        service.begin(strategy)
        versions = [folder.name for folder in adapters]
        loop.until(lambda: _serves(service, versions[0]), "the first adapter serves")
        control = loop.data_dir / "control.sock"
        yield service, Operator(control, versions, seed=seed), Clients(port, letter_of)
        assert service.loop.stop("serve") == 0
        assert service.loop.stop("run") == 0
    assert marked(mark) == []


def _serves(service: KilledService, version: str) -> bool:
    return "tiny" in service.loop.serving()["scenarios"] and service.lane()["model_id"] == version


async def _register(path: Path, adapters: list[Path]) -> None:
    async with open_store(f"sqlite:///{path}") as store:
        for folder in adapters:
            await store.add_model(model(folder))
        first = adapters[0].name
        assert await store.push_applied("tiny", first, expected=None, max_history=5, now_ms=1)


@pytest.mark.timeout(150)
def test_a_killed_process_fails_only_what_it_had(
    tmp_path: Path, planted: Planted, record_property: Callable[[str, object], None]
) -> None:
    """Six kills, one of each kind: what fails was in flight there, and the same adapter answers again."""
    record_property("kills", _survives(tmp_path, planted, 8, seed=0, plan=A_FEW))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_fifty_kills_fail_only_what_was_in_flight(
    tmp_path: Path, planted: Planted, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Fifty, of kinds and at moments that the seed chooses: 0 requests fail that no killed process had."""
    record_property("kills", _survives(tmp_path, planted, 16, seed=seed, plan=deck(seed)))


def _survives(
    folder: Path,
    planted: Planted,
    num_clients: int,
    *,
    seed: int,
    plan: list[tuple[Kind, Strategy]],
) -> dict[str, Any]:
    first = plan[0][1]
    with serving(folder, planted, seed=seed, strategy=first) as (service, operator, clients):
        killer = Killer(service, operator, clients, seed)
        with operator.ordering(), clients.asking(num_clients):
            killer.run(plan)
        service.loop.until(service.is_whole, "the last order is carried out")
        service.loop.until(service.is_stored, "all calls are stored")
        captured = service.lane()["captured"]
    stored = service.stored()
    missing = lost(clients.asked, set(stored))
    figures = told(killer.kills, clients, operator) | {"lost from memory": len(missing)}
    print("\nkills:", json.dumps(figures))  # noqa: T201 - shown when it fails, and by `pytest -s`
    assert unexplained(killer.kills, clients.asked) == []
    assert len(stored) == len(set(stored)), "a call is stored twice"
    assert lost_beyond_memory(killer.kills, missing) == []
    assert unexplained_orders(killer.kills, operator.orders) == []
    assert captured["dropped"] == captured["refused"] == captured["damaged"] == 0
    return figures


def told(kills: list[Kill], clients: Clients, operator: Operator) -> dict[str, Any]:
    """What happened, in figures."""
    failed = Counter[str]()
    for asked in clients.asked:
        if asked.fate in ("told", "cut"):
            failed[next((kill.kind for kill in kills if kill.explains(asked)), "none")] += 1
    by_kind = {}
    for kind in dict.fromkeys(kill.kind for kill in kills):
        back_s = [kill.back_s for kill in kills if kill.kind == kind]
        whole_s = [kill.whole_s for kill in kills if kill.kind == kind]
        by_kind[kind] = {
            "kills": len(back_s),
            "failed in flight": failed[kind],
            "back s": [round(statistics.median(back_s), 2), round(max(back_s), 2)],
            "whole s": [round(statistics.median(whole_s), 2), round(max(whole_s), 2)],
        }
    return {
        "kills": by_kind,
        "by strategy": dict(Counter(f"{kill.strategy} {kill.kind}" for kill in kills)),
        "requests": dict(Counter(asked.fate for asked in clients.asked)),
        "orders": dict(Counter(order.fate for order in operator.orders)),
        "failed otherwise": failed["none"],
    }
