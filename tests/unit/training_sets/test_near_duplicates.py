"""Rows that say nearly the same: which are found, and which of them stays."""

import hashlib
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from honed.domain.message import FunctionCall, Message, ToolCall
from honed.domain.outcome import Failure, Outcome, Success
from honed.domain.training_data import ChatExample, PreferencePair
from honed.errors import TrainingError
from honed.stores import SqlStore
from honed.training_sets.candidates import Origin, candidate
from honed.training_sets.keyed_texts import KeyedTexts
from honed.training_sets.near_duplicates import Signed, as_once_told, near_duplicates, said, sketch
from honed.training_sets.rows import SpooledRow
from tests.unit.training_sets.test_builder import KEPT, add, build, rows, told, with_store

EXCERPT = Path(__file__).parents[2] / "data" / "tau-airline-excerpt.jsonl"


def example(text: str, *, system: str = "", answer: str = "yes") -> ChatExample:
    head = (Message(role="system", content=system),) if system else ()
    asked = Message(role="user", content=text)
    return ChatExample(messages=(*head, asked, Message(role="assistant", content=answer)))


def words(count: int, *, seed: int, swapped: int = 0) -> str:
    """A text of its own for each seed, some of its words replaced."""
    chosen = [f"w{n}" for n in random.Random(seed).choices(range(5_000), k=count)]
    for place in range(swapped):
        chosen[(place + 1) * count // (swapped + 1)] = f"other{place}"
    return " ".join(chosen)


def found(*texts: str, similarity: float = 0.8) -> dict[str, str]:
    ranked = [Signed(str(n), sketch(example(text))) for n, text in enumerate(texts)]
    return near_duplicates(ranked, similarity)


def test_a_few_other_words_are_the_same_text() -> None:
    """Each changed word touches five sequences: 2 of 200 leave nine tenths, 12 leave half."""
    text = words(200, seed=1)
    texts = (
        text,
        words(200, seed=1, swapped=2),
        words(200, seed=1, swapped=12),
        words(200, seed=2),
    )
    assert found(*texts) == {"1": "0"}
    assert found(*texts, similarity=0.95) == {}
    assert found(text, text.upper().replace(" ", ",\n")) == {"1": "0"}


def test_it_is_compared_with_what_stays() -> None:
    """A chain of small changes does not take all of itself away."""
    long = words(240, seed=1).split()
    a, b, c = (" ".join(long[start : start + 200]) for start in (0, 20, 40))
    assert found(a, b, c, similarity=0.74) == {"1": "0"}  # a and c have 0.66 in common
    assert found(b, a, c, similarity=0.74) == {"1": "0", "2": "0"}


def test_instructions_that_all_share_do_not_make_them_alike() -> None:
    """The system turn is left out; tool calls are not."""
    system = words(2_000, seed=3)
    ranked = [Signed(str(n), sketch(example(words(50, seed=n), system=system))) for n in range(3)]
    assert near_duplicates(ranked, 0.5) == {}

    def calling(name: str) -> ChatExample:
        call = ToolCall(id="c", function=FunctionCall(name=name, arguments={"id": 7}))
        turns = (
            Message(role="user", content="go"),
            Message(role="assistant", content=None, tool_calls=(call,)),
        )
        return ChatExample(messages=turns)

    told = [Signed(name, sketch(calling(name))) for name in ("look", "jump", "look")]
    assert near_duplicates([told[0], told[1], told[2]._replace(key="again")], 0.8) == {
        "again": "look"
    }


def test_short_and_empty_texts_are_compared_whole() -> None:
    """Fewer than five words are one sequence."""
    assert found("go", "go", "stop") == {"1": "0"}


FRENCH = (
    "où est la clé du deuxième étage, près de l'entrée où l'élève a été aperçu après l'été dernier"
)
CHINESE = "昨天客户打电话来说他的订单还没有到\uff0c请问什么时候能到\uff1f他很着急\uff0c请他再等两天"


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (FRENCH, unicodedata.normalize("NFD", FRENCH).upper()),
        (CHINESE, CHINESE.replace("\uff0c", "").replace("\uff1f", " ")),
        (f"Frage 7: {CHINESE}", f"frage 7 {CHINESE}"),
        ("料金はいくらですか。教えて", "料金はいくらですか教えて"),
    ],
    ids=["accents", "chinese", "mixed", "japanese"],
)
def test_how_it_is_written_makes_no_other_text(text: str, other: str) -> None:
    """Accents may be put together or not; where no spaces are set, commas part no words."""
    assert said(example(text)) == said(example(other))
    assert found(text, other) == {"1": "0"}


def test_chinese_texts_that_differ_are_told_apart() -> None:
    """They are compared character by character."""
    other = "请问这件商品可以退货吗\uff0c我昨天才收到\uff0c包装已经打开了\uff0c但是没有用过"
    assert found(CHINESE, other) == {}
    assert found(CHINESE, CHINESE.replace("两", "三")) == {"1": "0"}


@pytest.mark.parametrize("text", [unicodedata.normalize("NFD", FRENCH), CHINESE], ids=["fr", "zh"])
def test_what_was_remembered_in_the_old_form_is_found(text: str) -> None:
    """A row is looked for as it would be told now and as it was once told; most are told the same."""
    words = re.findall(r"\w+", f"{text} yes".lower())
    once = hashlib.blake2b(" ".join(words).encode()).digest()[:16]
    told = as_once_told(example(text), sketched=True)
    assert told is not None
    assert told[0] == once != said(example(text))
    assert as_once_told(example(text), sketched=False) == (once, None)
    row = candidate(
        example(text),
        SpooledRow(0, 0, 0, b""),
        Origin(("e",), (), 0, "", is_new=True),
        seed=1,
        is_taught=True,
        worth=(False, 1.0),
        sketched=False,
    )
    assert [version[0] for version in row.versions] == [said(example(text)), once]
    for same in (FRENCH, "Straße, İstanbul", "plain words", "naïve café"):
        assert as_once_told(example(same), sketched=False) is None


def test_both_answers_of_a_pair_are_compared() -> None:
    """A pair with another rejected answer teaches something else."""

    def pair(rejected: str) -> PreferencePair:
        turn = lambda text: (Message(role="assistant", content=text),)  # noqa: E731
        prompt = (Message(role="user", content="what now?"),)
        return PreferencePair(prompt=prompt, chosen=turn("left"), rejected=turn(rejected))

    ranked = [
        Signed(name, sketch(pair(text)))
        for name, text in (("a", "go"), ("b", words(9, seed=1)), ("c", "go"))
    ]
    assert near_duplicates(ranked, 0.8) == {"c": "a"}


def test_the_same_rows_give_the_same_answer_in_every_process() -> None:
    """The hashes have a seed of their own; Python's changes with each process."""
    code = (
        "from tests.unit.training_sets.test_near_duplicates import *\n"
        "print(sketch(example(words(300, seed=1))).digest())"
    )
    run = [sys.executable, "-c", code]
    here = Path(__file__).parents[3]
    digests = {
        subprocess.run(
            run, cwd=here, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {f"{sketch(example(words(300, seed=1))).digest()}\n"}


def test_the_estimate_is_close_to_the_truth() -> None:
    """On real conversations, cut and changed by hand: within 0.15 of the exact share."""
    for line in EXCERPT.read_bytes().splitlines():
        turns = msgspec.json.decode(line)["traj"]
        plain = " ".join(turn.get("content") or "" for turn in turns)
        for share in (0.5, 0.7, 0.9):
            cut = plain[: round(len(plain) * share)]
            a, b = sketch(example(plain)), sketch(example(cut))
            assert abs(a.jaccard(b) - _jaccard(plain, cut)) < 0.15


def _jaccard(a: str, b: str) -> float:
    def parts(text: str) -> set[tuple[str, ...]]:
        found = [*re.findall(r"\w+", text.lower()), "yes"]
        return set(zip(*(found[n:] for n in range(5)), strict=False))

    return len(parts(a) & parts(b)) / len(parts(a) | parts(b))


# ------------------------------------------------------------ in a training set


def attempt(name: str, outcome: Outcome, text: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of an attempt whose conversation is `text`."""
    events = told(name, outcome, **fields)
    events[0]["messages"] = [{"role": "user", "content": text}]
    return events


def test_the_newest_with_the_best_outcome_stays(tmp_path: Path) -> None:
    """A given answer before the agent's own, then the score, then the age; each loss is counted."""

    async def test(store: SqlStore, folder: Path) -> None:
        one, two, three = (words(60, seed=n) for n in range(3))
        ids = [
            await add(store, attempt(name, outcome, text))
            for name, outcome, text in (
                (KEPT[0], Success(0.9), one),
                (KEPT[1], Success(1.0), one),
                (KEPT[2], Success(1.0), one),
                (KEPT[3], Success(0.5), one),
                (KEPT[4], Success(1.0), two),
                (KEPT[6], Success(0.1), three),
            )
        ]
        given = attempt(KEPT[5], Failure("no"), two)
        given[1] |= {"demonstration": "yes", "source": "ann"}
        ids.append(await add(store, given))
        dropped = await build(store, folder / "drop", near_duplicates="drop")
        assert set(dropped.episode_ids) == {ids[2], ids[5], ids[6]}
        assert dropped.left_out == {"near-duplicate": 4}
        assert (dropped.num_rows, dropped.num_near_duplicates) == (3, 4)
        kept = await build(store, folder / "keep")
        assert (kept.num_rows, kept.num_near_duplicates, kept.left_out) == (7, 4, {})
        marks = {
            row["episode_id"]: row.get("near_duplicate_of")
            for row in rows(folder / "keep" / "chat.meta.jsonl")
        }
        assert marks == {
            ids[0]: ids[2],
            ids[1]: ids[2],
            ids[2]: None,
            ids[3]: ids[2],
            ids[4]: ids[6],
            ids[5]: None,
            ids[6]: None,
        }
        again = await build(store, folder / "again", near_duplicates="drop")
        assert again.data_digest == dropped.data_digest

    with_store(test, tmp_path)


def test_a_control_is_as_large_as_what_it_is_compared_with(tmp_path: Path) -> None:
    """A blind draw has as many rows as the successes have without their near-duplicates."""

    async def test(store: SqlStore, folder: Path) -> None:
        same = words(60, seed=1)
        for n in range(6):
            outcome = Success() if n < 4 else Failure("no")
            text = same if n < 3 else words(60, seed=10 + n)
            await add(store, attempt(KEPT[n], outcome, text))
        settings: dict[str, Any] = {"near_duplicates": "drop"}
        taught = await build(store, folder / "taught", **settings)
        blind = await build(store, folder / "blind", selection="blind", **settings)
        assert (taught.num_rows, blind.num_rows) == (2, 2)
        assert blind.left_out == {"near-duplicate": 2, "not drawn": 2}

    with_store(test, tmp_path)


def test_without_the_library_nothing_is_dropped_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are kept unmarked, and the count is unknown; to drop them is refused with what to install."""
    monkeypatch.setitem(sys.modules, "rensa", None)

    async def test(store: SqlStore, folder: Path) -> None:
        for n in range(2):
            await add(store, attempt(KEPT[n], Success(), words(60, seed=1)))
        kept = await build(store, folder / "keep")
        assert (kept.num_rows, kept.num_near_duplicates) == (2, None)
        with pytest.raises(TrainingError, match="rensa") as refused:
            await build(store, folder / "drop", near_duplicates="drop")
        assert "honed[train]" in str(refused.value.advice)

    with_store(test, tmp_path)


def test_what_is_remembered_of_a_text_is_the_same_in_every_version() -> None:
    """Stores keep these numbers for ever: a library or a change that gives others forgets what was held out."""
    asked = Message(role="user", content="Where is the red fox now?")
    answer = Message(role="assistant", content="The red fox is in the den.")
    told = ChatExample(messages=(asked, answer))
    made = sketch(told)
    assert made.digest()[:3] == [3389514676, 3496953894, 3304310778]
    held = KeyedTexts(b"k" * 32).text(said(told), made)
    assert held.digest.hex() == "0c926a52181ac0cd623d3108d335c5aa"
    assert held.parts[:8].hex() == "ddb15d1b78ba3ae3"
    assert held.bands[:2] == (3977791838725018362, -4883173890077648989)
