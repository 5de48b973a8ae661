r"""Secrets that tell by where they stand: key blocks, JWTs, logins in URLs and headers, telling names.

A name tells by its end: `DB_PASSWORD`, `apiKey` and `aws_secret_access_key` do, `max_tokens` and
`token_id` do not. Beside it the value must look like a secret (`checks`), in running text or as the value
of a JSON key.
"""

from typing import Final

from honed.redaction import checks
from honed.redaction.pattern import BEFORE, Check, Pattern, token

_PASSWORD: Final = r"(?:password|passwd|passphrase|passwort|pwd|pw)"
_CREDENTIAL: Final = (
    r"(?:secret|token|credential"
    r"|(?:api|access|secret|private|auth|signing|encryption|account|master|session|bot)[_ -]?key)"
)
_CHAR: Final = r"""[^\x00-\x20"'\\<>\x7f]"""
"""What a value in running text is made of: nothing that JSON escapes by a letter."""


def _named(
    kind: str, name: str, in_text: Check, in_field: Check, *examples: str
) -> tuple[Pattern, ...]:
    quotes = r"""["'\\]{0,4}"""
    return (
        Pattern(
            kind=kind,
            tight=rf"(?i)(?:--[a-z-]*{name}[ =]"  # a command's option
            rf"|{name}[0-9]?(?:{quotes}\s{{0,3}}(?::=|=>|==?|:)\s{{0,3}}| is (?:now )?))"
            rf"{quotes}({_CHAR}{{6,}})",
            wide=rf"(?i){name}[0-9]?(?:\\[nrtf]|[\\\"'\s:=>])+(?:is (?:now )?)?[\\\"']*{_CHAR}{{6}}",
            check=in_text,
            examples=examples,
        ),
        Pattern(
            kind=kind,
            tight=rf"(?i){name}[0-9]?",
            wide=rf'(?i){name}[0-9]?"\s*:\s*"',
            check=in_field,
            is_field=True,
        ),
    )


_KEY_BLOCK: Final = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"

KEY_BLOCKS: Final = (
    Pattern(
        kind="private_key",
        # Up to its end, or to where it was cut off. Headers (`DEK-Info: AES-128-CBC`) hold single dashes.
        tight=rf"(-----BEGIN {_KEY_BLOCK}(?:\s|\\+[nr])*(?:[A-Za-z0-9+/=]{{16}}|Proc-Type|Version:|Comment:)"
        rf"(?:[A-Za-z0-9+/=\s\\,:.()]|-[^-])*(?:-----END {_KEY_BLOCK})?)",
        wide=rf"-----BEGIN {_KEY_BLOCK}",
        examples=(
            "-----BEGIN RSA [P]\n[a:64]\n[a:64]\n[a:20]==\n-----END RSA [P]",
            "-----BEGIN OPENSSH [P]\n[a:70]\n[a:44]=\n-----END OPENSSH [P]\nand on it goes",
            "-----BEGIN RSA [P]\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,[f:32]\n\n[a:64]\n-----END RSA [P]",
            r"-----BEGIN [P]\n[a:64]\n[a:44]=\n-----END [P]\n",
            "-----BEGIN PGP [B]\n\n[a:64]\n=[a:4]\n-----END PGP [B]",
        ),
    ),
    Pattern(
        kind="private_key",
        tight=r"Private-Lines: [0-9]{1,3}((?:\s|\\+[nr]){1,4}[A-Za-z0-9+/=\s]{32,})",  # PuTTY
        wide="Private-Lines: [0-9]",
        examples=("Private-Lines: 2\n[a:64]\n[a:32]=",),
    ),
)

CREDENTIALS: Final = (
    token(
        "jwt",
        r"eyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*){2,4}",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.[a:90].[a:43]",
        wide=r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*\.",
        check=checks.is_jwt,
    ),
    Pattern(
        kind="url_password",
        # Greedy up to the last `@`, because people do not escape the ones in their passwords.
        tight=r"""[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\x00-\x20"'\\<>/:@]*:"""
        r"""([^\x00-\x20"'\\<>/]+)@[A-Za-z0-9\[_]""",
        wide=r"""://[^\x00-\x20"\\/:@]*:[^\x00-\x20"\\/]+@""",
        check=checks.is_url_password,
        examples=(
            "postgresql://app:[a:12]@db.internal:5432/app",
            "redis://:[a:20]@cache:6379/0",
            "https://bot:[a:6]@[a:6]@git.example.org/x.git",
        ),
    ),
    Pattern(
        kind="bearer_token",
        tight=rf"(?i){BEFORE}bearer {{1,4}}([A-Za-z0-9._~+/=-]{{16,}})",
        wide=r"(?i)bearer {1,4}[A-Za-z0-9._~+/=-]{16}",
        check=checks.is_credential,
        examples=(
            "Authorization: Bearer [a:40]",
            "\x1b[32mBearer [a:40]\x1b[0m",
            r"\u001b[1mBearer [a:40]",
        ),
    ),
    Pattern(
        kind="basic_auth",
        tight=rf"(?i){BEFORE}basic {{1,4}}([A-Za-z0-9+/]{{8,}}={{0,2}})",
        wide=r"(?i)basic {1,4}[A-Za-z0-9+/]{8}",
        check=checks.is_basic_auth,
        examples=("authorization: Basic YXBwOk1hMTc4eHhRcTk=",),
    ),
    Pattern(
        kind="password",
        tight=rf"""(?:-u|--user)[ =]["'\\]{{0,3}}[^\x00-\x20"'\\<>:]+:({_CHAR}{{4,}})""",
        wide=rf"""(?:-u|--user)[ =]["'\\]*[^\x00-\x20"'\\<>:]+:{_CHAR}{{4}}""",
        check=checks.is_password,
        examples=("curl -u admin:[a:12] http://metrics.local/",),
    ),
    *_named(
        "password",
        _PASSWORD,
        checks.is_password,
        checks.is_password_field,
        'password = "hunter-two"',
        "DB_PASSWORD=[a:11]4",
        "login with --password [z:1][a:8]9",
        r"{\"passwd\": \"[a:10]1\"}",
        "the password is [z:8]7!",
    ),
    *_named(
        "credential",
        _CREDENTIAL,
        checks.is_credential,
        checks.is_credential_field,
        "export COHERE_API_KEY=[a:40]",
        "api-key: [f:32]",
        "aws_secret_access_key = [a:40]",
        "AccountKey=[a:86]==;EndpointSuffix=core.windows.net",
        '"client_secret": "[a:32]"',
    ),
)
