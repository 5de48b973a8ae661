"""All patterns, in the order in which a kind is chosen where several find the same text."""

from typing import Final

from honed.redaction.credentials import CREDENTIALS, KEY_BLOCKS
from honed.redaction.personal import ADDRESSES, PERSONAL
from honed.redaction.vendor_keys import VENDOR_KEYS

PATTERNS: Final = (*KEY_BLOCKS, *VENDOR_KEYS, *CREDENTIALS, *PERSONAL, *ADDRESSES)
KINDS: Final = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))
DEFAULT_KINDS: Final = tuple(kind for kind in KINDS if kind not in {p.kind for p in ADDRESSES})
"""All but `ip`, which has to be asked for."""
