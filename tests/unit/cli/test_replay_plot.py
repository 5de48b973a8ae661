"""The plot of a replay: what waited when, and where the rule fired."""

from honed.cli.replay_plot import Course, bars, svg

DAY = 86_400_000


def sawtooth(until: int = 4 * DAY) -> Course:
    """Rises by one an hour, back to nothing once a day."""
    course = Course(0, until)
    for hour in range(1, 97):
        course.add(hour * 3_600_000, hour % 24)
    return course


def test_bars_have_their_top_and_their_carets() -> None:
    """The highest column is full, and each firing has a caret below it."""
    lines = list(bars(sawtooth(), [DAY, 3 * DAY]))
    assert lines[0].strip() == "episodes that wait"
    assert lines[1].startswith("23 |")
    assert "█" in lines[1]
    carets = lines[-2].removeprefix("    ")
    assert [n for n, sign in enumerate(carets) if sign == "^"] == [18, 54]
    assert lines[-1].strip().startswith("1970-01-01 00:00 UTC")
    assert lines[-1].endswith("1970-01-05 00:00 UTC")


def test_what_waits_stays_until_something_happens() -> None:
    """A part of the time in which nothing came in shows what was left."""
    course = Course(0, 720_000)
    course.add(10_000, 5)
    course.add(360_000, 0)
    most = course.most()
    assert most[:9] == [0] * 9
    assert set(most[10:360]) == {5}
    assert set(most[361:]) == {0}


def test_a_history_without_length_is_drawn() -> None:
    """All at one instant, or nothing at all."""
    for course in (Course(7, 7), Course(0, 10)):
        course.add(7, 3)
        assert list(bars(course, [7]))
        assert svg(course, [7], title="a < b").count("a &lt; b") == 1


def test_the_svg_numbers_its_marks() -> None:
    """Unless there are so many that they would be a smear."""
    assert ">2</text>" in svg(sawtooth(), [DAY, 3 * DAY], title="x")
    many = svg(sawtooth(), [DAY + n for n in range(100)], title="x")
    assert many.count('class="mark"') == 100
    assert ">99</text>" not in many
