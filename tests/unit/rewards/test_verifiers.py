"""Programs and functions that are asked: what they may answer, and what happens when they do not."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from honed.domain.outcome import Failure, Success, Timeout
from honed.errors import RewardError, UnreachableError
from honed.ports import Answer
from honed.rewards.answers import verifier_answer
from honed.rewards.verifiers import CommandVerifier, FunctionVerifier, verifier_of
from tests.processes import is_alive
from tests.unit.rewards.parts import called, made

pytestmark = pytest.mark.anyio

PATIENCE = timedelta(seconds=20)
ROOT = Path(__file__).parents[3]


def _command(code: str, *, seconds: float = 20) -> CommandVerifier:
    command = [sys.executable, "-S", "-c", code]
    return CommandVerifier("v", "1", command, timeout=timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b"true", Answer(Success())),
        (b"false", Answer(Failure("the verifier says no"))),
        (b"0.25", Answer(Success(0.25))),
        (b"0", Answer(Failure("reward 0"))),
        (b"null", None),
        (b'{"type": "unknown"}', None),
        (b' {"type": "timeout", "partial_score": 0.5}\n', Answer(Timeout(0.5))),
        (
            b'{"outcome": {"type": "failure", "reason": "red"}, "comment": "2 of 9", "version": "3"}',
            Answer(Failure("red"), "2 of 9", "3"),
        ),
    ],
)
def test_an_answer_may_be_short_or_long(text: bytes, answer: Answer | None) -> None:
    """Yes or no, a score, an outcome, or an outcome with a comment; null says nothing."""
    assert verifier_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ok",
        b"2",
        b"-0.1",
        b"[1]",
        b'"yes"',
        b"{}",
        b'{"type": "success", "score": 7}',
        b'{"outcome": {"type": "success"}, "extra": 1}',
        b"true\ntrue",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 400,
        b"1" * 5_000,
        b"1e999",
        b"NaN",
        b"-Infinity",
        b'{"type": "success", "score": NaN}',
        b'"\xff"',
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_anything_else_is_no_verdict(text: bytes) -> None:
    """Garbage is counted, never guessed at; the advice says what was expected."""
    with pytest.raises(RewardError, match="no outcome") as caught:
        verifier_answer(text)
    assert "a number in 0..1" in (caught.value.advice or "")


async def test_a_command_reads_the_episode_and_writes_its_outcome() -> None:
    """As JSON on stdin and stdout."""
    code = (
        "import json, sys; e = json.load(sys.stdin);"
        "print(json.dumps({'type': 'success', 'score': len(e['records']) / 4}))"
    )
    assert await _command(code).verify(made(called(), called())) == Answer(Success(0.5))


async def test_a_command_need_not_read() -> None:
    """An episode larger than a pipe holds is no obstacle for a program that looks at nothing."""
    episode = made(called(answer="x" * 1_000_000))
    assert await _command("print('true')").verify(episode) == Answer(Success())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('no tests found')", "status 1: no tests found"),
        ("print('ok')", "no outcome"),
        ("print('x' * 10_000_000)", "wrote more than"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
    ],
)
async def test_a_command_that_fails_gives_no_verdict(code: str, words: str) -> None:
    """Its fault is this episode's alone, and says what went wrong."""
    with pytest.raises(RewardError, match=words):
        await _command(code).verify(made())


async def test_a_command_without_a_program_cannot_be_asked() -> None:
    """That is another fault than a wrong answer: the episode is asked about again later."""
    verifier = CommandVerifier("v", None, ["/no/such/program"], timeout=PATIENCE)
    with pytest.raises(UnreachableError, match="No such file"):
        await verifier.verify(made())


def _leaving(told: Path, *, then: str) -> str:
    """A command that leaves a child in a session of its own, with the streams open; its pids are in `told`."""
    return (
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(600)\n"
        f"with open({str(told)!r} + '.new', 'w') as file:\n"
        "    file.write(f'{os.getpid()} {child}')\n"
        f"os.rename({str(told)!r} + '.new', {str(told)!r})\n"
        f"{then}\n"
    )


def _pids(told: Path) -> list[int]:
    return [int(pid) for pid in told.read_text().split()]


async def _are_gone(pids: list[int]) -> None:
    """Killed; the kernel may take a moment."""
    with anyio.fail_after(60):
        while any(map(is_alive, pids)):
            await anyio.sleep(0.01)


async def test_a_verdict_is_taken_when_the_command_has_ended(tmp_path: Path) -> None:
    """Whatever it has left running, with stdout open and in another session: that is ended, too."""
    told = tmp_path / "pids"
    code = _leaving(told, then="sys.stdout.write('true' + ' ' * 60_000)")
    assert await _command(code, seconds=600).verify(made()) == Answer(Success())
    assert len(_pids(told)) == 2
    await _are_gone(_pids(told))


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """At the limit; out of its group is not out of reach."""
    told = tmp_path / "pids"
    with pytest.raises(RewardError, match="longer than 10 s"):
        await _command(_leaving(told, then="time.sleep(600)"), seconds=10).verify(made())
    assert len(_pids(told)) == 2
    await _are_gone(_pids(told))


async def test_a_command_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """The daemon stops in the middle of a verdict."""
    told = tmp_path / "pids"
    async with anyio.create_task_group() as tasks:
        command = _command(_leaving(told, then="time.sleep(600)"), seconds=600)
        tasks.start_soon(command.verify, made())
        with anyio.fail_after(60):
            while not told.exists():
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    await _are_gone(_pids(told))


async def test_a_command_does_not_outlive_a_daemon_that_is_killed(tmp_path: Path) -> None:
    """By kill -9, which gives the daemon no time to end it; what it started goes as well."""
    told = tmp_path / "pids"
    code = _leaving(told, then="time.sleep(600)")
    asks = (
        "import anyio, sys\n"
        "from tests.unit.rewards.parts import made\n"
        "from tests.unit.rewards.test_verifiers import _command\n"
        "anyio.run(_command(sys.argv[1], seconds=600).verify, made())\n"
    )
    variables = dict(os.environ) | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    async with await anyio.open_process(
        [sys.executable, "-c", asks, code], env=variables
    ) as daemon:
        with anyio.fail_after(60):
            while not told.exists():
                await anyio.sleep(0.01)
        daemon.kill()
        with anyio.fail_after(60):
            while any(map(is_alive, _pids(told))):
                await anyio.sleep(0.01)


async def test_a_command_that_kills_its_keeper_ends_with_it(tmp_path: Path) -> None:
    """That is a failure on this episode; nobody waits for it."""
    told = tmp_path / "pid"
    code = (
        f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid()));"
        "os.kill(os.getppid(), 9); time.sleep(600)"
    )
    with pytest.raises(RewardError, match="keeps it ended with -9"):
        await _command(code, seconds=600).verify(made())
    with anyio.fail_after(60):
        while any(map(is_alive, _pids(told))):
            await anyio.sleep(0.01)


async def test_a_command_may_talk_before_it_reads() -> None:
    """More than pipes hold, both ways at once."""
    code = (
        "import sys; sys.stderr.write('x' * 1_000_000); sys.stderr.flush();"
        "read = sys.stdin.read(); sys.stderr.write('y' * 1_000_000);"
        "print('true' if len(read) > 1_000_000 else 'false')"
    )
    answer = await _command(code, seconds=600).verify(made(called(answer="z" * 1_000_000)))
    assert answer == Answer(Success())


async def test_a_program_that_is_no_program_cannot_be_asked(tmp_path: Path) -> None:
    """Nobody has been asked: the episode waits until it is mended, and the message says what is wrong."""
    script = tmp_path / "check"
    script.write_text("#!/no/such/interpreter\n")
    verifier = CommandVerifier("v", None, [str(script)], timeout=PATIENCE)
    with pytest.raises(UnreachableError, match="Permission denied"):
        await verifier.verify(made())
    script.chmod(0o700)
    with pytest.raises(UnreachableError, match="No such file"):
        await verifier.verify(made())


async def test_a_verifier_sees_no_secret_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and tokens of honed's environment stay out of its own."""
    monkeypatch.setenv("HONED_JUDGE_KEY", "hidden")
    monkeypatch.setenv("OWN_SETTING", "kept")
    code = (
        "import json, os; print(json.dumps({'outcome': {'type': 'success'}, 'comment':"
        " str(os.environ.get('HONED_JUDGE_KEY')) + os.environ['OWN_SETTING']}))"
    )
    answer = await _command(code).verify(made())
    assert answer == Answer(Success(), "Nonekept")


@pytest.fixture
async def length(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FunctionVerifier]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    function = "tests.unit.rewards.checks:length"
    async with aclosing(FunctionVerifier("v", None, function, timeout=PATIENCE)) as verifier:
        yield verifier


async def test_a_function_stays_loaded(length: FunctionVerifier) -> None:
    """One process answers for many episodes, whatever the function prints; it may name its version."""
    assert await length.verify(made(called(answer="123"))) == Answer(Success(0.3))
    pids = {await _pid(length) for _ in range(3)}
    assert len(pids) == 1
    await length.aclose()
    assert not any(map(is_alive, pids))


async def _pid(verifier: FunctionVerifier) -> int:
    answer = await verifier.verify(made(called(answer="pid")))
    assert answer is not None
    assert answer.version == "7"
    return int(answer.comment or "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("raise", "ValueError: no such answer"),
        ("odd", "no outcome"),
        ("die", "status 3"),
        ("huge", "wrote"),
    ],
)
async def test_a_function_that_fails_once_answers_the_next_time(
    length: FunctionVerifier, answer: str, words: str
) -> None:
    """Its fault is this episode's alone; a process that died is made anew."""
    with pytest.raises(RewardError, match=words):
        await length.verify(made(called(answer=answer)))
    assert await length.verify(made(called(answer="12345"))) == Answer(Success(0.5))


async def test_a_function_that_hangs_is_ended(length: FunctionVerifier) -> None:
    """With its process; the next episode gets a new one."""
    pid = await _pid(length)
    length._limit_s = 0.2
    with pytest.raises(RewardError, match=r"longer than 0.2 s"):
        await length.verify(made(called(answer="hang")))
    assert not is_alive(pid)
    length._limit_s = 20
    assert await _pid(length) != pid


async def test_a_function_that_is_not_there_cannot_be_asked() -> None:
    """The message says what could not be imported."""
    async with aclosing(FunctionVerifier("v", None, "no_such:f", timeout=PATIENCE)) as verifier:
        with pytest.raises(UnreachableError, match="No module named 'no_such'"):
            await verifier.verify(made())


def test_one_word_names_a_function_unless_a_program_is_called_so() -> None:
    """A command is a command line; an entry point or `module:function` is a function."""
    for text in ("my.checks:exact", "exact-match"):
        assert isinstance(verifier_of("v", None, text, timeout=PATIENCE), FunctionVerifier)
    for text in ("true", "/srv/check.sh", "python3 check.py", "sh -c 'exit 1'"):
        assert isinstance(verifier_of("v", None, text, timeout=PATIENCE), CommandVerifier)
    assert os.environ["PATH"]
