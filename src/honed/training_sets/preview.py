"""What a run would learn from: its training set, built as the run builds it, looked at and cleared away."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import anyio
import anyio.to_thread
import msgspec

from honed.domain.dataset import Shape
from honed.domain.episode import Episode
from honed.domain.records import LlmCallRecord, OutcomeRecord
from honed.domain.reports import reporter
from honed.domain.trained_model import Selection
from honed.domain.training_data import TrainingMetadata
from honed.domain.verdict import UNSIGNED
from honed.errors import EmptyDataError
from honed.ports import (
    PREVIEW_PREFIX,
    Correction,
    Look,
    Material,
    Preview,
    Remark,
    Review,
    Reviews,
    ShownRow,
    Tally,
    TrainingSet,
)

_NONE: Final = "-"
_TOO_FEW: Final = "in rows too few to train on"

_decode_metadata: Final = msgspec.json.Decoder(TrainingMetadata).decode


class Builds(Protocol):
    """What the run itself builds with."""

    async def material(self) -> Material:
        """What there is to learn from now."""

    async def build(
        self,
        folder: Path,
        *,
        selection: Selection,
        shape: Shape,
        material: Material | None,
        look: Look | None,
    ) -> TrainingSet:
        """Write the files."""


class _Looked(NamedTuple):
    """What of an episode is counted."""

    id: str
    source: str
    verdict: str
    skill: str
    corrections: tuple[Correction, ...]


async def preview(
    sets: Builds,
    reviews: Reviews,
    *,
    scenario: str,
    learn_model: str,
    skill_tag: str,
    scratch: Path,
    review: Review | None,
    num_rows: int,
    selection: Selection,
    shapes: Sequence[Shape],
) -> Preview:
    """Build it in a folder of its own under `scratch`, in the first of the shapes that gives enough rows.

    At most `num_rows` rows are shown.
    """
    material = review.material if review else await sets.material()
    looked: list[_Looked] = []
    made: TrainingSet | None = None
    refused: EmptyDataError | None = None
    left_out: Counter[str] = Counter()
    rows: list[ShownRow] = []
    await anyio.Path(scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=PREVIEW_PREFIX) as folder:
        for shape in shapes:
            looked.clear()
            try:
                made = await sets.build(
                    Path(folder),
                    selection=review.selection if review else selection,
                    shape=shape,
                    material=material,
                    look=lambda episode, reason: looked.append(_seen(episode, skill_tag)),
                )
            except EmptyDataError as error:
                refused = refused or error
            else:
                rows = await anyio.to_thread.run_sync(_first_rows, made.data_path, num_rows)
                break
        else:
            assert refused is not None
            shape = shapes[0]
            left_out.update(refused.left_out)
            left_out[_TOO_FEW] = max(0, len(looked) - left_out.total())
    remarks = await reviews.remarks([each.id for each in looked])
    taught = frozenset(made.episode_ids if made else ())
    held_out = frozenset(each.episode_id for each in made.held_out) if made else frozenset()
    labels = _labels(remarks)

    def tallied(names: Iterable[Iterable[str]]) -> dict[str, Tally]:
        tallies: dict[str, Tally] = {}
        for each, its_names in zip(looked, names, strict=True):
            for name in its_names:
                _count(tallies.setdefault(name, Tally()), each.id in taught, each.id in held_out)
        return dict(sorted(tallies.items()))

    return Preview(
        scenario=scenario,
        learn_model=learn_model,
        shape=shape,
        review=review,
        problem=None if made or refused is None else _words(refused),
        num_rows=made.num_rows if made else 0,
        num_episodes=len(looked),
        num_new=material.num_new,
        num_changed=material.num_changed,
        num_held_out=len(held_out),
        num_near_duplicates=made.num_near_duplicates if made else None,
        left_out=made.left_out if made else {why: num for why, num in left_out.items() if num},
        by_source=tallied([each.source] for each in looked),
        by_verdict=tallied([each.verdict] for each in looked),
        by_skill=tallied([each.skill] for each in looked),
        by_label=tallied(labels.get(each.id, ()) for each in looked),
        data_digest=made.data_digest if made else None,
        remarks=remarks,
        corrections=[correction for each in looked for correction in each.corrections],
        rows=rows,
    )


def _words(error: EmptyDataError) -> str:
    return f"{error} ({error.advice})" if error.advice else str(error)


def _seen(episode: Episode, skill_tag: str) -> _Looked:
    calls = episode.records_of(LlmCallRecord)
    said = [told for told in episode.records_of(OutcomeRecord) if told.outcome is not None]
    return _Looked(
        id=episode.id,
        source=reporter(calls[0]) if calls else "events",
        verdict=(said[-1].source if said else None) or UNSIGNED,
        skill=episode.metadata.tags.get(skill_tag) or _NONE,
        corrections=tuple(_corrections(episode)),
    )


def _corrections(episode: Episode) -> Iterator[Correction]:
    for told in episode.demonstrations:
        yield Correction(
            episode_id=episode.id,
            said_by=told.source,
            at_ms=told.timestamp_ms,
            comment=told.comment,
        )


def _count(tally: Tally, is_taught: bool, is_held_out: bool) -> None:
    if is_taught:
        tally.taught += 1
    elif is_held_out:
        tally.held_out += 1
    else:
        tally.left_out += 1


def _labels(remarks: Iterable[Remark]) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for remark in remarks:
        if remark.label:
            labels.setdefault(remark.episode_id, set()).add(remark.label)
    return labels


def _first_rows(data_path: Path, num_rows: int) -> list[ShownRow]:
    metadata_path = data_path.with_name(f"{data_path.stem}.meta.jsonl")
    with data_path.open() as data, metadata_path.open() as metadata:
        return list(itertools.islice(_rows(data, metadata), num_rows))


def _rows(data: Iterable[str], metadata: Iterable[str]) -> Iterator[ShownRow]:
    for line, told in zip(data, metadata, strict=True):
        about = _decode_metadata(told)
        yield ShownRow(
            episode_id=about.episode_id or "",
            data=line.rstrip("\n"),
            near_duplicate_of=about.near_duplicate_of,
        )
