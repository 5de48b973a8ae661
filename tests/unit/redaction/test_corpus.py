"""The figures in docs/redaction.md are those of the corpus."""

from pathlib import Path

from honed.redaction import Redactor
from tests.redaction_corpus import false_positives, recall, report

DOCS = Path(__file__).parents[3] / "docs" / "redaction.md"


def test_the_docs_publish_what_the_corpus_gives() -> None:
    """After a change: python -m tests.redaction_corpus, and paste."""
    published = DOCS.read_text().split("<!-- corpus: python -m tests.redaction_corpus -->")[1]
    assert published.split("<!-- end -->")[0].strip() == report()


def test_secrets_with_a_shape_are_all_found() -> None:
    """What a vendor, a URL or a header marks as a secret is never kept; only people's free text is."""
    free_text = {"password", "credential", "email", "phone", "iban"}
    found = recall(Redactor(secret=b"s"))
    assert {kind for kind, (gone, total) in found.items() if gone < total} <= free_text
    assert min(gone / total for gone, total in found.values()) >= 0.75


def test_ordinary_text_is_left_alone() -> None:
    """No finding but numbers that are cards by all their digits."""
    counts = false_positives(Redactor(secret=b"s"))
    assert counts.pop("16-digit numbers")[0] < 200
    assert not {name: taken for name, (hit, _, taken) in counts.items() if hit}
