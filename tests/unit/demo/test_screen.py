"""What the demo shows where there is no terminal."""

import pytest

from honed.demo.screen import Screen


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A phase is announced with the time, results are lines, and no line is broken or coloured."""
    screen = Screen(quiet=False)
    with screen.open(), screen.phase("collect episodes") as phase:
        phase.update(1, 10, "1 resolved")
        screen.line("resolved: 22.0 % [16.8, 28.2]" + " and more" * 30)
    announced, result = capsys.readouterr().out.splitlines()
    assert announced.endswith(" s] collect episodes")
    assert result == "resolved: 22.0 % [16.8, 28.2]" + " and more" * 30


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """So that `--json` is the only output."""
    screen = Screen(quiet=True)
    with screen.open(), screen.phase("collect episodes"):
        screen.line("resolved")
    assert capsys.readouterr() == ("", "")


def test_a_phase_that_fails_is_timed_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Durations are kept in the order of the phases."""
    screen = Screen(quiet=True)
    with screen.phase("first"):
        pass
    with pytest.raises(ValueError, match="broken"), screen.phase("second"):
        raise ValueError("broken")
    assert list(screen.seconds) == ["first", "second"]
    assert all(0 <= seconds <= screen.total_s for seconds in screen.seconds.values())
