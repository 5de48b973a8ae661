"""detect-secrets, another tool for the same purpose, looks over what is left."""

from collections.abc import Iterator

import msgspec
from detect_secrets.core.scan import scan_line
from detect_secrets.settings import transient_settings

from honed.redaction import Redactor
from tests.redaction_corpus import as_event, secrets

DETECTORS = [
    "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector", "GitHubTokenDetector",
    "GitLabTokenDetector", "JwtTokenDetector", "KeywordDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector",
    "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector",
    "StripeDetector", "TelegramBotTokenDetector", "TwilioKeyDetector",
]  # fmt: skip
"""All that know a shape; its entropy detectors take any word for a secret in running text."""


def _found(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        for found in scan_line(line):
            yield found.type, found.secret_value or ""


def test_another_scanner_finds_nothing_in_what_was_redacted() -> None:
    """What it finds in the corpus is gone; all that it still reports are placeholders and headings."""
    redactor = Redactor(secret=b"s")
    before, left = 0, set()
    with transient_settings({"plugins_used": [{"name": name} for name in DETECTORS]}):
        for secret in secrets():
            before += len(list(_found(secret.text)))
            event = as_event(secret.text)
            redacted = redactor.redact(msgspec.json.encode(event))
            if redacted is not None:
                event = msgspec.json.decode(redacted.line)
            for kind, value in _found(event["result"]["output"]):
                if "[SECRET:" not in value and value not in ("SECRET", "PERSONAL"):
                    left.add((kind, secret.kind, value))
    assert before > 500
    assert not left
