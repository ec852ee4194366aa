"""What long jobs say on a pipe: how much is done, and how long the rest takes at the rate of this run."""

from __future__ import annotations

import pytest

from pipeline.commands import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(capsys, clock, *updates: tuple[float, int]) -> list[str]:
    with progress.Bars() as bars:
        for seconds, done in updates:
            clock[0] = seconds
            bars.update("copies", done, 1000)
    return capsys.readouterr().err.splitlines()


def test_the_time_left_is_that_of_the_rate_since_the_first_items(capsys, clock):
    assert lines(capsys, clock, (0, 0), (10, 100), (20, 300)) == ["copies: 300 of 1,000, about 35 s left"]


def test_what_an_earlier_build_made_does_not_count(capsys, clock):
    assert lines(capsys, clock, (0, 900), (20, 910)) == ["copies: 910 of 1,000, about 180 s left"]


def test_no_time_is_told_before_a_rate_is_known(capsys, clock):
    assert lines(capsys, clock, (0, 0), (13, 1), (24, 501)) == [
        "copies: 1 of 1,000",
        "copies: 501 of 1,000, about 11 s left",
    ]


def test_lines_come_every_ten_seconds_and_never_when_quiet(capsys, clock):
    assert len(lines(capsys, clock, *((second, second) for second in range(1, 36)))) == 3
    with progress.Bars(quiet=True) as bars:
        clock[0] = 100
        bars.update("copies", 1, 2)
    assert capsys.readouterr().err == ""


def test_what_has_no_known_end_is_counted(capsys, clock):
    with progress.Bars() as bars:
        for seconds, done in ((0, 0), (13, 1024), (26, 2048)):
            clock[0] = seconds
            bars.update("find", done, 0)
    assert capsys.readouterr().err.splitlines() == ["find: 1,024", "find: 2,048"]
