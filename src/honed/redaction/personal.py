"""Personal data: e-mail, phone, cards, bank accounts, and addresses of hosts when asked for."""

from typing import Final

from honed.redaction import checks
from honed.redaction.pattern import BEFORE, ESCAPE, Pattern

_MAILBOX: Final = r"(?:[^\x00-\x20\"(),:;<>@\[\\\]/=`{|}\x7f]|\\u[0-9A-Fa-f]{4})+"
_LABEL: Final = r"(?:[^\x00-,./:-@\[-`{-\x7f]|\\u[0-9A-Fa-f]{4})+"
"""Letters of any alphabet, digits and `-`: classes by exclusion compile to a tenth of `\\pL`."""
_PHONE_WORD: Final = r"(?:phone|mobile?|cell|tel|fax|whatsapp|call)"
_PHONE_FIELD: Final = r"(?i)(?:phone|mobile?|cell|tel|fax|whatsapp)(?:[_ -]?(?:number|no|nr))?"
_CARD: Final = (
    r"[2-6][0-9]{3}(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{1,7}|3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}"
)
_CARD_FIELD: Final = r"(?:card|pan)(?:[_ -]?(?:number|no|nr))?"

PERSONAL: Final = (
    Pattern(
        kind="email",
        group="PERSONAL",
        tight=rf"{ESCAPE}?({_MAILBOX}@(?:{_LABEL}\.)+[^\x00-\x40\[-`{{-\x7f]{{2,24}})",
        wide=r"""[^\x00-\x20"\\@]@[^\x00-\x20"@.]+\.[^\x00-\x20"@]{2}""",
        check=checks.is_email,
        examples=("Write to jane.doe+billing@mail.example.org today", "müller@bücher.example"),
    ),
    Pattern(
        kind="iban",
        group="PERSONAL",
        tight=BEFORE
        + rf"((?:{checks.IBAN_COUNTRIES})[0-9]{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?)",
        wide=rf"(?:{checks.IBAN_COUNTRIES})[0-9]{{2}} ?[A-Z0-9]{{4}} ?[A-Z0-9]{{4}}",
        check=checks.is_iban,
        rescans=True,
        examples=("IBAN DE89 3704 0044 0532 0130 00 AT THE BANK", "GB29NWBK60161331926819"),
    ),
    Pattern(
        kind="card",
        group="PERSONAL",
        tight=rf"(?:^|[^0-9A-Za-z_.-]|{ESCAPE})({_CARD})",
        wide=rf"(?:[^0-9.]|{ESCAPE})(?:{_CARD})",
        check=checks.is_card,
        rescans=True,
        examples=(
            "Visa 4111 1111 1111 1111, exp 12/29",
            "card=378282246310005",
            "5555-5555-5555-4444",
        ),
    ),
    Pattern(
        kind="card",
        group="PERSONAL",
        tight=rf"(?i){_CARD_FIELD}",
        wide=rf'(?i){_CARD_FIELD}"\s*:\s*"?[2-6][0-9]{{12}}',
        check=checks.is_card,
        is_field=True,
    ),
    Pattern(
        kind="phone",
        group="PERSONAL",
        tight=rf"(?:^|[^0-9A-Za-z_+]|{ESCAPE})(\+[1-9](?:[ .()-]{{0,2}}[0-9]){{7,14}})",
        wide=r"\+[1-9](?:[ .()-]{0,2}[0-9]){7}",
        check=checks.is_phone,
        rescans=True,
        examples=("Call +49 30 901820-17 now", "+14155552671", "tel:+44 (0)20 7946 0958"),
    ),
    Pattern(
        kind="phone",
        group="PERSONAL",
        tight=rf"(?:^|[^0-9A-Za-z_.+-]|{ESCAPE})"
        r"((?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4})",
        wide=r"[2-9][0-9]{2}[).-] ?[2-9][0-9]{2}[.-][0-9]{4}",
        check=checks.is_phone,
        rescans=True,
        examples=("(415) 555-2671", "1-415-555-2671", "415.555.2671"),
    ),
    Pattern(
        kind="phone",
        group="PERSONAL",
        tight=rf"(?i){_PHONE_WORD}[a-z .:#=]{{0,16}}(\(?0[0-9(][0-9 ()./-]{{5,18}}[0-9])",
        wide=rf"(?i){_PHONE_WORD}[a-z .:#=]{{0,16}}\(?0[0-9(]",
        check=checks.is_local_phone,
        examples=("Phone: 030 9018-2017", "call me at 07700 900123"),
    ),
    Pattern(
        kind="phone",
        group="PERSONAL",
        tight=_PHONE_FIELD,
        wide=rf'{_PHONE_FIELD}"\s*:\s*"[+(]*[0-9]',
        check=checks.is_phone_field,
        is_field=True,
    ),
)

ADDRESSES: Final = (
    Pattern(
        kind="ip",
        group="PERSONAL",
        tight=rf"(?:^|[^0-9A-Za-z_.]|{ESCAPE})([0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}})(?:$|[^0-9A-Za-z_])",
        wide=r"[0-9](?:\.[0-9]{1,3}){3}",
        check=checks.is_ip,
        examples=("from 203.0.113.7:443",),
    ),
    Pattern(
        kind="ip",
        group="PERSONAL",
        tight=rf"(?:^|[^0-9A-Za-z_:.]|{ESCAPE})([0-9A-Fa-f:]{{2,39}}:[0-9A-Fa-f]{{0,4}})",
        wide=r"[0-9A-Fa-f:]{2}[0-9A-Fa-f:]*:",
        check=checks.is_ip,
        examples=("peer 2001:db8::8a2e:370:7334 left",),
    ),
)
"""Only when asked for: a version such as 1.2.3.4 has the same shape."""
