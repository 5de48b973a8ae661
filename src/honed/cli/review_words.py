"""What `honed review` prints of a preview: counts, reasons, remarks, rows."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.table import Table

from honed.cli.figures import said_by
from honed.cli.printing import add_row
from honed.cli.show import rows_of
from honed.domain.rendered import RenderedExample
from honed.ports import Preview, RemarkKind, Tally

_DIGEST: Final = 12
"""Characters of the digest that people copy."""

_ROW_MAX: Final = 20_000
"""Characters of a row as it is written."""


def head(preview: Preview, which: str) -> Iterator[str]:
    """Which run it is and what to do about it, how much it would learn from, and why not from the rest.

    Args:
        preview: what is shown.
        which: the option that names its learn model, where there are several; else empty.
    """
    yield f"{preview.scenario}, learn model {preview.learn_model}"
    review = preview.review
    if review is None:
        yield "no run waits; one that started now would learn from this"
    elif review.approved_by is not None:
        yield f"run {review.id} ({review.reason}) was approved by {review.approved_by}"
    else:
        digest = f" {preview.data_digest[:_DIGEST]}" if preview.data_digest else ""
        yield f"run {review.id} ({review.reason}) waits since {_time(review.at_ms)} UTC"
        yield f"            `honed review approve{digest}{which}` lets it run"
        yield f"            `honed review reject{which}` moves on without these episodes"
    if preview.problem:
        yield f"problem     it would train on nothing: {preview.problem}"
    near = preview.num_near_duplicates
    yield (
        f"rows        {preview.num_rows} of {preview.num_episodes} episodes "
        f"({preview.num_new} new, {preview.num_changed} changed), "
        + ("near-duplicates not looked for" if near is None else f"{near} near-duplicates")
    )
    told = sorted(preview.left_out.items(), key=lambda found: (-found[1], found[0]))
    yield "left out    " + (", ".join(f"{num} {reason}" for reason, num in told) or "nothing")


def tallies(preview: Preview) -> Table:
    """What becomes of the episodes, counted by who and what they are of."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("by", "", "taught", "held out", "left out"):
        table.add_column(name, overflow="fold")
    groups: dict[str, dict[str, Tally]] = {
        "source": preview.by_source,
        "verdict": preview.by_verdict,
        "skill": preview.by_skill,
        "label": preview.by_label,
    }
    for group, found in groups.items():
        for name, tally in found.items():
            nums = (tally.taught, tally.held_out, tally.left_out)
            add_row(table, group, name, *map(str, nums))
            group = ""
    return table


def remarks(preview: Preview) -> Iterator[str]:
    """What people said about the episodes, and where they gave a better answer."""
    words: dict[RemarkKind, str] = {"drop": "dropped", "keep": "taken again", "note": "marked"}
    for remark in preview.remarks:
        label = f" {remark.label}" if remark.label else ""
        note = f": {remark.note}" if remark.note else ""
        yield (
            f"{remark.episode_id} {words[remark.kind]}{label} by {remark.said_by}, "
            f"{_time(remark.at_ms)} UTC{note}"
        )
    for given in preview.corrections:
        comment = f": {given.comment}" if given.comment else ""
        who = said_by(given.said_by, learn_model=preview.learn_model)
        yield f"{given.episode_id} corrected by {who}, {_time(given.at_ms)} UTC{comment}"


def samples(
    preview: Preview, rendered: Sequence[RenderedExample] | None, why: str | None
) -> Iterator[str]:
    """The first rows, as they are trained on or, with the reason, as they are written."""
    if why:
        yield f"the rows below are as they are written: {why}"
    elif rendered:
        yield "lines with + count in the loss, lines with - are dropped, the others are context"
    for number, row in enumerate(preview.rows):
        near = f", nearly what {row.near_duplicate_of} says" if row.near_duplicate_of else ""
        yield f"--- episode {row.episode_id}{near}"
        if rendered is None:
            hidden = len(row.data) - _ROW_MAX
            more = f" [{hidden:,} more characters: --json shows them]" if hidden > 0 else ""
            yield row.data[:_ROW_MAX] + more
        else:
            yield from rows_of(rendered[number].rows)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
