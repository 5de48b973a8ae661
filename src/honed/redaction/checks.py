"""What a shape alone cannot tell: check digits, dialling codes, and whether a value looks like a secret.

Each check takes (text, start, end) and returns where the finding ends, or None when it is none.
"""

import base64
import binascii
import math
import re
from collections import Counter
from ipaddress import ip_address
from itertools import pairwise
from typing import Final

_CARD_LENGTHS: Final = ((b"4", (16, 19)), (b"34", (15,)), (b"37", (15,)), (b"36", (14,)))
_IBAN_LENGTHS: Final = {
    code: int(length)
    for length, codes in {
        "15": "NO", "16": "BE", "18": "DK FO FI GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU XK",
        "21": "HR LI LV CH", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM TL SO",
        "24": "AD CZ MD PK RO SA SE SK ES TN VG DZ", "25": "PT ST LY", "26": "IS TR", "27": "FR GR IT MC SM MR BI",
        "28": "AL AZ CY DO GT HU LB PL BY SV NI", "29": "BR EG PS QA UA", "30": "JO KW MU", "31": "MT SC",
        "32": "LC", "33": "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
"""ISO 13616: how long the IBANs of a country are."""
IBAN_COUNTRIES: Final = "|".join(sorted(_IBAN_LENGTHS))

_DIALLING: Final = re.compile(
    rb"(?:20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    rb"|2[1-69]\d|3[578]\d|42\d|50\d|59\d|6[789]\d|8[058]\d|9[679]\d)"
)
"""ITU E.164 country codes but for 1 and 7, whose numbers all have 11 digits."""

_PHONE_CHARS: Final = re.compile(rb"[0-9 ()+./-]+")
_FILE_ENDINGS: Final = frozenset(
    b"png jpg jpeg gif svg webp ico js mjs ts tsx jsx css scss html py pyc rs go java rb php json yaml"
    b" yml toml md txt log sh zip gz whl so dll exe pdf csv lock local internal service socket timer target".split()
)
_ROBOTS: Final = frozenset((b"git", b"hg", b"svn"))
_STOP: Final = frozenset(
    b"null none nil true false string str text password passwd passphrase pwd secret token required"
    b" optional hidden redacted removed masked placeholder example changeme undefined unset empty default value"
    b" object array number boolean integer bytes missing invalid incorrect expired unknown wrong valid"
    b" enabled disabled credential credentials apikey api_key".split()
)
_TEMPLATE: Final = re.compile(
    rb"\$[{(A-Za-z_]|\{\{|%\(|\*{3}|\.{3}|[xX]{4}|(?i:your[_-]|environ|getenv|process\.env)"
    rb"|^\[(?:SECRET|PERSONAL):|^[<%{(\[]"
)
"""A hole for a secret, or one that was taken out."""
_PLAIN_PART: Final = re.compile(rb"[A-Za-z]*|[a-z]+[0-9]{1,2}|v?[0-9]{1,4}")


def is_card(text: bytes, start: int, end: int) -> int | None:
    """A payment card: its issuer's prefix and length, and Luhn's check digit."""
    if not _stands_alone(text, start, end):
        return None
    digits = bytes(c for c in text[start:end] if 48 <= c <= 57)
    if not digits or not _has_card_length(digits) or len(set(digits)) < 2:
        return None
    doubled = (int(chr(c)) * (1 + n % 2) for n, c in enumerate(reversed(digits)))
    return end if sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0 else None


def _has_card_length(digits: bytes) -> bool:
    for prefix, lengths in _CARD_LENGTHS:
        if digits.startswith(prefix):
            return len(digits) in lengths
    head = int(digits[:4])
    if 5100 <= head <= 5599 or 2221 <= head <= 2720:
        return len(digits) == 16
    if 3528 <= head <= 3589 or head == 6011 or 6440 <= head <= 6599:
        return len(digits) == 16
    if 6200 <= head <= 6299:
        return len(digits) in (16, 19)
    return 3000 <= head <= 3059 and len(digits) == 14


def _stands_alone(text: bytes, start: int, end: int) -> bool:
    """Whether no further digits, letters or decimals touch it."""
    after = text[end : end + 2]
    if after[:1].isalnum() or after[:1] == b"_":
        return False
    return not (after[:1] in (b".", b"-") and after[1:].isalnum())


def is_iban(text: bytes, start: int, end: int) -> int | None:
    """An IBAN: the length of its country and the remainder 1 modulo 97 (ISO 7064)."""
    wanted = _IBAN_LENGTHS[text[start : start + 2].decode()]
    stop, kept = start, bytearray()
    while stop < end and len(kept) < wanted:
        if text[stop] != 32:
            kept.append(text[stop])
        stop += 1
    if len(kept) != wanted or text[stop : stop + 1].isalnum():
        return None
    number = "".join(str(int(chr(c), 36)) for c in kept[4:] + kept[:4])
    return stop if int(number) % 97 == 1 else None


def is_phone(text: bytes, start: int, end: int) -> int | None:
    """A number that somebody could dial: a country code that exists, and a fitting length."""
    if text[end : end + 1].isalnum():
        return None
    digits = bytes(c for c in text[start:end] if 48 <= c <= 57)
    if text[start : start + 1] != b"+":
        return end if _is_north_american(digits.removeprefix(b"1")) else None
    if digits.startswith(b"1"):
        return end if _is_north_american(digits[1:]) else None
    if digits.startswith(b"7"):
        return end if len(digits) == 11 else None
    return end if 8 <= len(digits) <= 15 and _DIALLING.match(digits) else None


def _is_north_american(digits: bytes) -> bool:
    return len(digits) == 10 and digits[0] >= 50 and digits[3] >= 50 and len(set(digits)) > 2


def is_local_phone(text: bytes, start: int, end: int) -> int | None:
    """Seven to fifteen digits; it stands beside a word that says phone."""
    digits = sum(48 <= c <= 57 for c in text[start:end])
    return end if 7 <= digits <= 15 and not text[end : end + 1].isalnum() else None


def is_phone_field(text: bytes, start: int, end: int) -> int | None:
    """Seven to fifteen digits and nothing else, under a key that says phone."""
    return is_local_phone(text, start, end) if _PHONE_CHARS.fullmatch(text) else None


def is_email(text: bytes, start: int, end: int) -> int | None:
    """A mailbox: no file name such as `logo@2x.png`, and no login such as `git@`."""
    local, _, domain = text[start:end].rpartition(b"@")
    if local.lower() in _ROBOTS or domain.rpartition(b".")[2].lower() in _FILE_ENDINGS:
        return None
    return end


def is_ip(text: bytes, start: int, end: int) -> int | None:
    """An address of a host; this host and the wildcard are nobody's."""
    try:
        address = ip_address(text[start:end].decode())
    except ValueError:
        return None
    return None if address.is_loopback or address.is_unspecified else end


def is_jwt(text: bytes, start: int, end: int) -> int | None:
    """A header that names an algorithm."""
    header = text[start:end].partition(b".")[0]
    return end if b'"alg"' in _decode64(header.translate(_URL_SAFE)) else None


def is_basic_auth(text: bytes, start: int, end: int) -> int | None:
    """`user:password` in base64."""
    login = _decode64(text[start:end])
    return end if b":" in login and login.isascii() and login.decode().isprintable() else None


_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


def _decode64(value: bytes) -> bytes:
    value = value.rstrip(b"=")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""


def is_url_password(text: bytes, start: int, end: int) -> int | None:
    """Anything but a hole for one."""
    return None if is_hole(text[start:end]) else end


def is_password(text: bytes, start: int, end: int) -> int | None:
    """A person's password in running text: quoted, or with a digit or sign that no word has."""
    end = _trimmed(text, start, end)
    value = text[start:end]
    if is_hole(value) or _is_code(text, start, end):
        return None
    is_quoted = text[start - 1 : start] in (b'"', b"'") and text[end : end + 1] in (
        b'"',
        b"'",
        b"\\",
    )
    if is_quoted:
        return end if len(value) >= 4 else None
    has_letter = any(chr(c).isalpha() for c in value)
    has_other = any(not chr(c).isalpha() and c not in b"-_'.,/" for c in value)
    return end if len(value) >= 6 and has_letter and has_other else None


def is_password_field(text: bytes, start: int, end: int) -> int | None:
    """The value of a key that says password: anything that is no sentence, no path and no hole."""
    value = text[start:end]
    if not 4 <= len(value) <= 256 or is_hole(value) or value.startswith(b"/"):
        return None
    return None if any(c <= 32 for c in value) else end


def is_credential(text: bytes, start: int, end: int) -> int | None:
    """A random value in running text."""
    end = _trimmed(text, start, end)
    return None if _is_code(text, start, end) or not looks_random(text[start:end]) else end


def is_credential_field(text: bytes, start: int, end: int) -> int | None:
    """A random value under a key that says secret, token or key."""
    return end if looks_random(text[start:end]) else None


def is_hole(value: bytes) -> bool:
    """Whether it stands for a secret that is not there."""
    return value.lower() in _STOP or _TEMPLATE.search(value) is not None or len(set(value)) < 3


def looks_random(value: bytes) -> bool:
    """Whether a value is rather drawn than written: long, mixed, and with 3 bits a character or more.

    Measured in `docs/redaction.md`; names, versions, dates, paths and words joined by signs are not random.
    """
    if not 10 <= len(value) <= 4096 or is_hole(value) or any(c <= 32 for c in value):
        return False
    if value.isdigit() or value.startswith((b"/", b"http://", b"https://", b"./", b"~/")):
        return False
    parts = re.split(rb"[-_./:+=,;|]+", value)
    if all(_PLAIN_PART.fullmatch(part) and not _is_mixed_case(part) for part in parts):
        return False
    return bits_per_character(value) >= 3.0


def _is_mixed_case(part: bytes) -> bool:
    """Letters whose case changes too often for CamelCase."""
    changes = sum(chr(a).islower() and chr(b).isupper() for a, b in pairwise(part))
    return len(part) >= 16 and changes * 4 >= len(part) - 4


def bits_per_character(value: bytes) -> float:
    """Shannon's entropy of the value's own bytes."""
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts)


def _trimmed(text: bytes, start: int, end: int) -> int:
    """Without the signs that end a sentence, a list or a call."""
    while end > start and text[end - 1] in b".,;:)]}!?`":
        end -= 1
    return end


def _is_code(text: bytes, start: int, end: int) -> bool:
    """Whether it is an expression: `settings.SECRET_KEY`, `read_token(...)`, `os.environ[...]`."""
    if text[start - 1 : start] in (b'"', b"'"):
        return False
    value = text[start:end]
    if text[end : end + 1] in (b"(", b"[") or re.search(rb"[A-Za-z0-9_][(\[]", value):
        return True
    is_name = re.fullmatch(rb"[A-Za-z_]+(?:(?:\.|::|->)[A-Za-z_]+)*", value) is not None
    return is_name and not _is_mixed_case(value)
