"""A swarm to run beside `honed up`, and to make into your own.

    honed init support --base-model Qwen/Qwen3-0.6B && honed up      # in one shell
    python examples/swarm.py                                         # in another, in the same folder

Agents route support tickets. A house has its own rules for that, which no model can know: here they
are in `right_queue`, and the agents' prompt does not tell them. Each ticket is tried a few times; the
desk finds out later whether the queue was right, and says so. That is all that honed needs: the calls
go through its gateway, which keeps them, and `HonedClient.outcome` tells how each task ended. From
the successes it learns the house's rules.

To make it your own: replace `Ticket`, `SYSTEM` and `right_queue` by your task and the way you find out
whether it was done well. What must stay is in `attempt`: the base URL, the two headers, the outcome.
"""

import argparse
import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from openai import OpenAI, OpenAIError

from honed.client import HonedClient
from honed.config import Config, load_config
from honed.errors import ConfigError

QUEUES = ("billing", "network", "returns", "sales", "security", "vip")
SYSTEM = f"You route support tickets. Answer with one queue and nothing else: {', '.join(QUEUES)}."


class Ticket(NamedTuple):
    """What a customer wrote, and what the house knows about it."""

    number: int
    product: str
    wish: str
    amount: int
    """Euros at stake."""

    def text(self) -> str:
        """The ticket as an agent sees it."""
        return f"Ticket {self.number}: {self.wish} my {self.product}, {self.amount} euros"


def make_ticket(seed: int, number: int) -> Ticket:
    """The same seed and number always give the same ticket."""
    rng = random.Random(f"{seed}/{number}")
    return Ticket(
        number,
        product=rng.choice(("router", "phone", "contract", "account")),
        wish=rng.choice(("I want to return", "I cannot use", "I want to extend", "I lost")),
        amount=rng.randrange(10, 1000),
    )


def right_queue(ticket: Ticket) -> str:
    """The house's rules; agents are never shown them."""
    if ticket.amount >= 800:
        return "vip"
    if ticket.wish == "I lost":
        return "security"
    if ticket.wish == "I cannot use":
        return "network" if ticket.product in ("router", "phone") else "billing"
    return "returns" if ticket.wish == "I want to return" else "sales"


class Desk:
    """The agents' way to the model, and the score board."""

    def __init__(self, config: Config, *, base_url: str, seed: int) -> None:
        self._scenario = config.scenario
        self._seed = seed
        # Retries on 429 and 503, which the gateway answers while a server of it restarts.
        self._models = OpenAI(base_url=base_url, api_key="unused", max_retries=5)
        self._feed = HonedClient(config.feed_socket)
        self._lock = threading.Lock()
        self._tries: Counter[str] = Counter()
        self._right: Counter[str] = Counter()

    def attempt(self, number: int, trial: int) -> None:
        """One agent tries one ticket once."""
        ticket = make_ticket(self._seed, number)
        task_id = f"ticket-{self._seed}-{number}-{trial}"
        raw = self._models.chat.completions.with_raw_response.create(
            model=self._scenario,
            messages=[
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": ticket.text()},
            ],
            temperature=1.0,  # attempts that differ are what there is to learn from
            max_tokens=8,
            extra_headers={
                "x-honed-task": task_id,  # calls of one attempt
                "x-honed-group": f"ticket-{self._seed}-{number}",  # attempts at the same thing
            },
        )
        answer = (raw.parse().choices[0].message.content or "").strip().lower()
        is_right = answer == right_queue(ticket)
        # Here at once; your desk may find out tomorrow: the task's id is all that it must keep.
        self._feed.outcome(task_id=task_id, success=is_right, reason=f"routed to {answer[:20]!r}")
        self._note(raw.headers.get("x-honed-model", "?"), is_right)

    def _note(self, model: str, is_right: bool) -> None:
        with self._lock:
            self._tries[model] += 1
            self._right[model] += is_right

    def board(self) -> str:
        """How often each version of the model was right."""
        with self._lock:
            shares = [
                f"{model} {self._right[model]}/{tries} ({self._right[model] / tries:.0%})"
                for model, tries in self._tries.items()
            ]
        return "right: " + ", ".join(shares) if shares else "no answer yet"


def main() -> None:
    """Work on tickets and show, for each version of the model, how often it was right."""
    parser = argparse.ArgumentParser(description="An example swarm beside `honed up`.")
    parser.add_argument("--config", type=Path, help="honed's config file; default: as honed")
    parser.add_argument("--base-url", help="the gateway; default: from the config")
    parser.add_argument("--tickets", type=int, default=500)
    parser.add_argument("--trials", type=int, default=2, help="attempts at each ticket")
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1, help="another seed brings other tickets")
    asked = parser.parse_args()
    try:
        config = load_config(asked.config)
    except ConfigError as error:
        sys.exit(f"{error} (run this in the folder with honed.toml, or give --config)")
    base_url = asked.base_url or f"http://{config.serve.host}:{config.serve.port}/v1"
    desk = Desk(config, base_url=base_url, seed=asked.seed)
    failed = 0
    with ThreadPoolExecutor(asked.agents) as agents:
        tries = [
            agents.submit(desk.attempt, number, trial)
            for number in range(asked.tickets)
            for trial in range(asked.trials)
        ]
        for done, one in enumerate(tries, 1):
            try:
                one.result()
            except OpenAIError as error:
                failed += 1
                print(f"an attempt had no answer: {error}")
            if done % 50 == 0 or done == len(tries):
                print(f"{done}/{len(tries)} attempts, {failed} failed; {desk.board()}", flush=True)
    if failed == len(tries):
        sys.exit(f"nothing answers at {base_url}: is `honed up` running?")


if __name__ == "__main__":
    main()
