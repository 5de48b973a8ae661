"""Asks a verifier about every new episode, and sends what it says through the sink like anybody's verdict.

The store is the queue: each verifier has a position there, and whatever comes after it is still to be asked, so
nothing is lost by a kill, and intake never waits. The position moves on when a page is done. A verdict's event id
follows from its source and the episode: asked again after a kill, it is a repeat. A verifier that fails on an
episode goes on, and the failure is counted.

A question that nobody answered (`UnreachableError`: silence, a server's error, a refusal) may be the endpoint's fault
or that episode's alone: a provider's filter refuses what it says, a model breaks or thinks for ever over it. What
tells them apart is whether anything was answered *after* it: another question of the page, else a probe, a question
that no episode plays a part in. If so, the episode has used up one of its `TRIES` rounds, and after the last it goes
without a verdict like any other failure, for one episode must not end a judge. If not, nobody can be asked: no
episode is charged, the position stays, and all that were not answered are asked about later, however long that
takes. So an outage uses up a round at most where the endpoint is back before the round ends. A round asks only about
those of the page that are left; which they are is remembered by the process, not written down, so a kill in the
middle costs a page of questions at most, and its rounds begin anew. An endpoint with room for a probe and none for
any episode (a time limit that is too short for its model) does lose the verdicts, counted and said with their reason:
holding all of them back for ever would look the same from here.
"""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

import anyio
import msgspec
from msgspec import Struct

from honed import log
from honed.domain.episode import Episode
from honed.domain.outcome import is_known
from honed.domain.records import OutcomeRecord
from honed.errors import RewardError, StoreError, UnreachableError
from honed.ports import Answer, DataSink, Rewards, Verifier

TRIES: Final = 3
"""Rounds of a page in which an episode may get no answer while others do."""
_PAGE: Final = 16
"""Whole episodes in memory at a time."""
_GRAIN_S: Final = 0.05
"""Episodes that are closed within it are asked about together."""
_LOOK_S: Final = 10.0
"""How often episodes are looked for that wait for somebody else's verdict first."""
_RETRY_FIRST_S: Final = 1.0
_RETRY_MAX_S: Final = 300.0
_REASON_CHARS: Final = 500
_NEVER_MS: Final = 10**13 - 2
"""The end of times of 13 digits, in which ids of episodes begin."""


class Ranks(Protocol):
    """A verifier that can compare attempts."""

    async def rank(self, episodes: Sequence[Episode]) -> list[Answer]:
        """What each is worth against the others, in their order; raises as `Verifier.verify`."""


class _Heard:
    """What came of the questions of one round."""

    def __init__(self) -> None:
        self.unanswered: list[tuple[Episode, UnreachableError]] = []
        """Those since which nothing was answered."""
        self.alone: list[tuple[Episode, UnreachableError]] = []
        """Those that got no answer, while somebody later did."""
        self.not_stored: list[StoreError] = []

    def answer(self) -> None:
        """Somebody answers: what was asked before and was not answered has failed by itself."""
        self.alone += self.unanswered
        self.unanswered.clear()


class AskedCounts(Struct):
    """What became of questions since the process started."""

    told: int = 0
    """Verdicts that were stored."""
    silent: int = 0
    """Episodes of which it had nothing to say."""
    failed: int = 0
    """Episodes that it failed on; they go without its verdict."""


class Asking:
    """One verifier and its place in the store.

    Args:
        verifier: who is asked.
        rewards: what the store knows.
        sink: takes the verdicts.
        scenario: of the episodes.
        learn_model: of the episodes.
        only_unlabelled: leave out what somebody has judged already.
        sample: share of the episodes, drawn by their ids.
        wait: how long an episode waits for somebody else's verdict first.
        at_a_time: episodes that are asked about at once.
        ranks: compares attempts of one group, `group_size` at a time, instead of judging each.
        group_size: of those; 0 judges each by itself.
        probe: asks who answers there something cheap; raises UnreachableError when nobody does.
        now_ms: the clock, Unix milliseconds.
    """

    def __init__(
        self,
        verifier: Verifier,
        rewards: Rewards,
        sink: DataSink,
        *,
        scenario: str,
        learn_model: str,
        now_ms: Callable[[], int],
        only_unlabelled: bool = False,
        sample: float = 1.0,
        wait: timedelta = timedelta(0),
        at_a_time: int = 1,
        ranks: Ranks | None = None,
        group_size: int = 0,
        probe: Callable[[], Awaitable[object]] | None = None,
        retry_first_s: float = _RETRY_FIRST_S,
    ) -> None:
        self._verifier = verifier
        self._rewards = rewards
        self._sink = sink
        self._mine = (scenario, learn_model)
        self._now_ms = now_ms
        self._only_unlabelled = only_unlabelled
        self._sample = sample
        self._wait_ms = round(wait.total_seconds() * 1000)
        self._turns = anyio.CapacityLimiter(at_a_time)
        self._ranks = ranks if group_size else None
        self._group_size = group_size
        self._probe = probe
        self._retry_first_s = retry_first_s
        self._position: str | None = None
        self._settled: set[str] = set()
        """Episodes of the present page that need not be asked about any more."""
        self._tries: Counter[str] = Counter()
        """Rounds in which those of the present page got no answer while others did."""
        self._wake = anyio.Event()
        self.counts = AskedCounts()
        self.problem: str | None = None
        """Why it cannot be asked now."""
        self.last_failure: str | None = None
        self._log = log.get(source=verifier.source)

    @property
    def source(self) -> str:
        """Who signs the verdicts."""
        return self._verifier.source

    @property
    def learn_model(self) -> str:
        """Of the episodes that it is asked about."""
        return self._mine[1]

    def notify(self) -> None:
        """Hear that there is a new episode; never blocks."""
        self._wake.set()

    async def run(self) -> None:
        """Ask about all new episodes, until cancelled."""
        faults = 0
        while True:
            self._wake = anyio.Event()
            try:
                page = await self._page()
                is_settled = await self._ask_all(page)
                if page and is_settled:
                    await self._move(page[-1].id)
            except (UnreachableError, StoreError) as error:
                faults += 1
                self._cannot(error, first=faults == 1)
                await self._pause(faults)
                continue
            faults, self.problem = 0, None
            if not is_settled:
                await self._pause(max(self._tries.values()))
            elif len(page) < _PAGE:
                await self._until_more()

    async def _page(self) -> Sequence[Episode]:
        if self._position is None:
            self._position = await self._rewards.position(*self._mine, self.source)
        return await self._rewards.episodes_after(
            *self._mine, after=self._position, until_ms=self._due_ms(), limit=_PAGE
        )

    async def _move(self, position: str) -> None:
        """Go on behind a page; should the store not take it, the next page's end is written instead."""
        self._position = position
        self._settled.clear()
        self._tries.clear()
        await self._rewards.advance(*self._mine, self.source, episode_id=position)

    async def _pause(self, faults: int) -> None:
        await anyio.sleep(min(_RETRY_MAX_S, self._retry_first_s * 2.0 ** min(faults - 1, 20)))

    async def _until_more(self) -> None:
        with anyio.move_on_after(_LOOK_S if self._wait_ms else None):
            await self._wake.wait()
        await anyio.sleep(_GRAIN_S)

    def _due_ms(self) -> int:
        """The youngest that an episode may be; without a wait also one from a clock that went ahead."""
        return self._now_ms() - self._wait_ms if self._wait_ms else _NEVER_MS

    def _cannot(self, error: UnreachableError | StoreError, *, first: bool) -> None:
        self.problem = self._sink.clean(_words(error))
        if first:
            self._log.warning(log.VERIFIER_LOST, error=type(error).__name__)

    async def _ask_all(self, page: Sequence[Episode]) -> bool:
        """Ask about those of a page that are left; whether none of them is any more.

        Raises:
            UnreachableError: nobody answers.
            StoreError: an answer could not be stored.
        """
        heard = _Heard()
        async with anyio.create_task_group() as tasks:
            for episode in page:
                if episode.id not in self._settled:
                    tasks.start_soon(self._one, episode, heard)
        if heard.unanswered and await self._is_there():
            heard.answer()
        for episode, error in heard.alone:
            self._charge(episode, error)
        if heard.unanswered:
            raise heard.unanswered[0][1]
        if heard.not_stored:
            raise heard.not_stored[0]
        return all(episode.id in self._settled for episode in page)

    async def _one(self, episode: Episode, heard: "_Heard") -> None:
        async with self._turns:
            try:
                is_asked = await self._ask(episode)
            except UnreachableError as error:
                heard.unanswered.append((episode, error))
                return
            except StoreError as error:
                heard.not_stored.append(error)
                return
            except RewardError as error:  # an answer, if a bad one
                self._failed(episode, error)
                heard.answer()
            except Exception as error:  # a verifier's fault must not end the others
                self._failed(episode, error)
            else:
                if is_asked:
                    heard.answer()
            self._settled.add(episode.id)

    async def _is_there(self) -> bool:
        """Whether anybody answers a question that no episode plays a part in."""
        if self._probe is None:
            return False
        try:
            await self._probe()
        except UnreachableError:
            return False
        except RewardError:
            return True  # an answer, if a bad one
        return True

    def _charge(self, episode: Episode, error: UnreachableError) -> None:
        """One round less for an episode that got no answer while others did."""
        self._tries[episode.id] += 1
        if self._tries[episode.id] >= TRIES:
            self._settled.add(episode.id)
            self._failed(episode, error)

    def _failed(self, episode: Episode, error: Exception) -> None:
        self.counts.failed += 1
        reason = self._sink.clean(_words(error))[:_REASON_CHARS]
        self.last_failure = f"{episode.id}: {reason}"
        self._log.warning(
            log.VERIFIER_FAILED, episode_id=episode.id, error=type(error).__name__, reason=reason
        )

    async def _ask(self, episode: Episode) -> bool:
        """Ask about an episode if it is wanted, and tell what is said; whether somebody was asked."""
        if self._ranks is not None and episode.group_id:
            return await self._ask_group(episode)
        if not self._wants(episode):
            return False
        answer = await self._verifier.verify(episode)
        if answer is None:
            self.counts.silent += 1
        else:
            await self._tell([(episode, answer)])
        return True

    async def _ask_group(self, episode: Episode) -> bool:
        """Rank so many attempts of the group once the last of them is there."""
        assert self._ranks is not None
        assert episode.group_id is not None
        ids = await self._rewards.group(*self._mine, episode.group_id)
        if episode.id not in ids or (ids.index(episode.id) + 1) % self._group_size:
            return False
        end = ids.index(episode.id) + 1
        attempts = await self._rewards.episodes(ids[end - self._group_size : end])
        group = [attempt for attempt in attempts if attempt.may_teach]  # the others are told nobody
        wanted = [attempt for attempt in group if self._wants(attempt)]
        if len(attempts) < self._group_size or len(group) < 2 or not wanted:
            return False
        answers = await self._ranks.rank(group)
        told = zip(group, answers, strict=True)
        await self._tell([(attempt, answer) for attempt, answer in told if attempt in wanted])
        return True

    def _wants(self, episode: Episode) -> bool:
        """Whether it is asked; never about what nothing may be learned from, or twice about the same."""
        if not episode.may_teach:
            return False
        if self._only_unlabelled and is_known(episode.outcome):
            return False
        if self._sample < 1.0 and _draw(self.source, episode.id) >= self._sample:
            return False
        mine = _event_id(self._verifier, episode)
        return all(record.event_id != mine for record in episode.records_of(OutcomeRecord))

    async def _tell(self, told: Sequence[tuple[Episode, Answer]]) -> None:
        lines = [msgspec.json.encode(self._event(*each)) for each in told]
        done = await self._sink.ingest(lines)
        self.counts.told += done.stored
        for each in done.rejected:
            if each.code == "conflict":  # of another answer before a kill: the first one stands
                self._log.info(log.VERIFIER_REPEATED, num=1)
            else:
                self._failed(told[each.position][0], RewardError(each.message))

    def _event(self, episode: Episode, answer: Answer) -> dict[str, Any]:
        told = {
            "type": "outcome",
            "event_id": _event_id(self._verifier, episode),
            "episode_id": episode.id,
            "source": self.source,
            "version": answer.version or self._verifier.version,
            "outcome": answer.outcome,
            "comment": answer.comment or None,
        }
        return {name: value for name, value in told.items() if value is not None}


def _words(error: Exception) -> str:
    """What happened and what to do, in one line."""
    return "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", [])])


def _event_id(verifier: Verifier, episode: Episode) -> str:
    named = f"{verifier.source}\0{verifier.version}\0{episode.id}"
    return f"asked-{hashlib.blake2b(named.encode(), digest_size=16).hexdigest()}"


def _draw(source: str, episode_id: str) -> float:
    """A number in 0..1 that follows from the episode, and another one for each source."""
    digest = hashlib.blake2b(f"{source}\0{episode_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
