"""The rows that are left of a harvest, as files, and the manifest that says how they came about."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from honed.domain.dataset import Dataset
from honed.domain.held_text import HeldText
from honed.ports import HeldOut
from honed.training_sets.candidates import Candidate
from honed.training_sets.choosing import (
    NEAR_HELD_OUT,
    NEAR_LEARNED,
    Chosen,
    HeldRow,
    chosen,
    kept_out,
    largest_gaps,
)
from honed.training_sets.harvest import HELD_OUT, NO_OUTCOME, Harvest
from honed.training_sets.mixture import age_classes
from honed.training_sets.shortage import check_enough

_SIMILARITY: Final = "learn.near_duplicate_similarity"


class Written(NamedTuple):
    """The files of a build; as `ports.TrainingSet` says."""

    data_path: Path
    held_out_path: Path
    episode_ids: tuple[str, ...]
    held_out: tuple[HeldOut, ...]
    dataset: Dataset
    left_out: dict[str, int]
    unsettled: dict[bytes, bool]
    """By name whether it is held out, of the episodes whose side this build decides."""
    held_texts: list[HeldText]
    """What the held-out rows say, evidence or not yet."""


def write(harvest: Harvest, folder: Path, *, num_new: int = 0, num_changed: int = 0) -> Written:
    """Write the files; raises EmptyDataError when they hold too little."""
    rules, spool = harvest.rules, harvest.spool
    kept, taken = _taken(harvest)
    rows = taken.rows
    left_out = {reason: count for reason, count in sorted(harvest.left_out.items()) if count}
    check_enough(len(rows), harvest.num_episodes, rules, Counter(left_out), _advice(harvest))
    name = rules.learn_model.name
    data_path, held_out_path = folder / f"{name}.jsonl", folder / "held_out.jsonl"
    evidence = (row.evidence for row in kept if row.evidence is not None)
    held_out = sorted(evidence, key=lambda pair: pair[0].episode_id)
    held_out_digest = spool.write(
        (spooled for _, spooled in held_out), held_out_path, folder / "held_out.meta.jsonl"
    )
    digest = spool.write((row.row for row in rows), data_path, folder / f"{name}.meta.jsonl")
    ages = age_classes(rows)
    dataset = Dataset(
        rules=rules.told(harvest.shape, harvest.selection),
        digest=digest,
        num_rows=len(rows),
        held_out_digest=held_out_digest,
        num_held_out=len(held_out),
        num_episodes=harvest.num_episodes,
        num_new=num_new,
        num_changed=num_changed,
        left_out=left_out,
        rows_new=sum(row.origin.is_new for row in rows),
        rows_by_skill=_counted(row.origin.skill for row in rows),
        rows_by_age=_counted(ages[row.key] for row in rows),
        num_near_duplicates=taken.num_near,
    )
    told = msgspec.json.format(msgspec.json.encode(dataset), indent=2)
    (folder / "dataset.json").write_bytes(told + b"\n")
    return Written(
        data_path=data_path,
        held_out_path=held_out_path,
        episode_ids=tuple(sorted({id for row in rows for id in row.origin.episode_ids})),
        held_out=tuple(episode for episode, _ in held_out),
        dataset=dataset,
        left_out=left_out,
        unsettled=_unsettled(harvest, kept),
        held_texts=[rules.split.texts.text(row.said, row.sketch) for row in kept],
    )


def _taken(harvest: Harvest) -> tuple[list[HeldRow], Chosen]:
    """The held-out rows that the gate may go by, and the rows of the training file; the others are counted."""
    rules, left_out = harvest.rules, harvest.left_out
    candidates: Sequence[Candidate] = harvest.candidates
    if harvest.shape == "preference":
        candidates = largest_gaps(candidates, rules.pairs.max_pairs, left_out)
    names = frozenset(name for name, is_held_out in harvest.sides.items() if is_held_out)
    kept = kept_out(
        harvest.held_out, candidates, harvest.settled, rules.similarity, held_out_names=names
    )
    num_out = sum(row.evidence is not None for row in _others(harvest, kept))
    left_out[HELD_OUT] -= num_out
    left_out[NEAR_LEARNED] += num_out
    taken = chosen(
        candidates,
        rules,
        harvest.selection,
        left_out,
        held_out=kept,
        held_out_names=names,
        sketched=harvest.is_sketched,
    )
    return kept, taken


def _unsettled(harvest: Harvest, kept: Sequence[HeldRow]) -> dict[bytes, bool]:
    """The sides that are decided now; names of held-out rows that are not kept stay unsettled."""
    passed_over = {name for row in _others(harvest, kept) for name in row.origin.names}
    passed_over -= {name for row in kept for name in row.origin.names}
    known = harvest.settled.keys() | passed_over
    return {name: side for name, side in harvest.sides.items() if name not in known}


def _others(harvest: Harvest, kept: Sequence[HeldRow]) -> list[HeldRow]:
    staying = {row.origin.episode_ids for row in kept}
    return [row for row in harvest.held_out if row.origin.episode_ids not in staying]


def _advice(harvest: Harvest) -> str:
    """What to do where too few rows are left."""
    if harvest.fault is not None and 2 * harvest.num_faults > harvest.num_episodes:
        return f"see why the learn model refuses them (the first: {harvest.fault})"
    others = (num for why, num in harvest.left_out.items() if why not in (HELD_OUT, NEAR_HELD_OUT))
    if harvest.left_out[NEAR_HELD_OUT] > max(others, default=0):
        return (
            "rows that say nearly what is held out are never learned from: give all attempts at one task one"
            f" group_id, or, where different tasks share a template, set {_SIMILARITY} higher than"
            f" {harvest.rules.similarity:g}"
        )
    if harvest.left_out[NO_OUTCOME]:
        return "wait for outcomes (or set learn.unlabelled to train)"
    return "wait for more successes"


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
