import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from studio_runner.messages.units import (
    CEILING,
    format_duration,
    format_size,
    parse_count,
    parse_duration,
    parse_size,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines

NOTHING = [None, "", "  ", "0", 0, 0.0, "0.0"]
ABSURD = [
    -1,
    "-1",
    float("nan"),
    float("inf"),
    2**63,
    1e300,
    10**400,
    "1" * 101,
    "1" * 5000,
    "nan",
    "inf",
    "Infinity",
]
NONSENSE = [True, False, [], {}, "five", "5 apples", "1h30", "--", "1e5", "٣", "1,5", "0x10", "1 2", b"5"]


@pytest.mark.parametrize(
    ("spelled", "seconds"),
    [
        ("1h30m", 5400),
        ("20m", 1200),
        ("3m", 180),
        ("90s", 90),
        ("1.5h", 5400),
        ("300ms", 0.3),
        ("2d", 172800),
        ("1h 30m", 5400),
        (" 5 min ", 300),
        ("2 hours", 7200),
        ("1D", 86400),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("5000000ns", 0.005),
        (".5s", 0.5),
        ("1.s", 1),
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("1.5", 1.5),
    ],
)
def test_a_duration_reads_in_every_spelling(spelled, seconds):
    assert parse_duration(spelled) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("spelled", "size"),
    [
        ("3gb", 3_000_000_000),
        ("2g", 2_000_000_000),
        ("4GiB", 4 * 1024**3),
        ("4gib", 4 * 1024**3),
        ("4Gi", 4 * 1024**3),
        ("512Mb", 512_000_000),
        ("1.5 GB", 1_500_000_000),
        ("200mb", 200_000_000),
        ("1kb", 1000),
        ("1KiB", 1024),
        ("2tb", 2 * 10**12),
        ("1pb", 10**15),
        ("1eb", 10**18),
        ("10b", 10),
        ("10 bytes", 10),
        (1024, 1024),
        ("1024", 1024),
        (1e9, 10**9),
        ("0.3b", 1),
        ("1.0000001kb", 1001),
    ],
)
def test_a_size_reads_in_every_spelling(spelled, size):
    assert parse_size(spelled) == size


@pytest.mark.parametrize(("spelled", "count"), [(1, 1), ("2", 2), (3.0, 3), ("4.0", 4), (" 5 ", 5)])
def test_a_count_reads_in_every_spelling(spelled, count):
    assert parse_count(spelled) == count


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_count])
@pytest.mark.parametrize("value", NOTHING)
def test_nothing_means_no_requirement(parse, value):
    assert parse(value) is None


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_count])
@pytest.mark.parametrize("value", [*ABSURD, *NONSENSE], ids=lambda value: str(value)[:20])
def test_what_is_no_quantity_is_refused_and_named(parse, value):
    with pytest.raises(ValueError, match=r"found .*, accepted is"):
        parse(value)


@pytest.mark.parametrize("value", [1.5, "1.5", "1k", "2 cores"])
def test_a_count_is_whole(value):
    with pytest.raises(ValueError, match="a whole number"):
        parse_count(value)


@pytest.mark.parametrize("value", ["5ib", "5i", "5 k i b", "5gg", "5zb", "gb"])
def test_sizes_have_known_units(value):
    with pytest.raises(ValueError, match="a size such as"):
        parse_size(value)


def test_just_below_the_ceiling_is_accepted():
    assert parse_size(CEILING - 1) == CEILING - 1
    with pytest.raises(ValueError, match="below 2\\^63"):
        parse_size("9223372036854775808")


@unhurried
@given(st.text(max_size=30) | st.integers() | st.floats() | st.booleans() | st.none())
@example("1" * 99 + "e")
@example(5e-324)
def test_any_value_gives_a_bounded_quantity_or_a_refusal(value):
    for parse in (parse_duration, parse_size, parse_count):
        try:
            quantity = parse(value)
        except ValueError:
            continue
        assert quantity is None or (0 < quantity < CEILING and math.isfinite(quantity))


@unhurried
@given(st.integers(min_value=0, max_value=10**9))
def test_a_duration_of_whole_seconds_survives_being_shown(seconds):
    assert (parse_duration(format_duration(seconds)) or 0) == seconds


@unhurried
@given(st.floats(min_value=0, max_value=1e9))
def test_any_duration_survives_being_shown_nearly(seconds):
    shown = parse_duration(format_duration(seconds)) or 0
    assert shown == pytest.approx(seconds, rel=0.06, abs=1e-6)


@unhurried
@given(st.integers(min_value=0, max_value=CEILING - 1))
def test_a_size_survives_being_shown_nearly(size):
    assert (parse_size(format_size(size)) or 0) == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.35, "350ms"),
        (0.9999, "1s"),
        (2.54, "2.5s"),
        (59.99, "1m"),
        (60, "1m"),
        (5400, "1h30m"),
        (90061, "1d1h1m1s"),
    ],
)
def test_durations_are_shown_briefly(seconds, shown):
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (1_500_000_000, "1.5 GB"),
        (999_999, "1 MB"),
        (200_000_000, "200 MB"),
    ],
)
def test_sizes_are_shown_briefly(size, shown):
    assert format_size(size) == shown


def test_a_duration_that_reaches_the_ceiling_when_it_becomes_a_float_is_refused():
    with pytest.raises(ValueError, match="below 2\\^63"):
        parse_duration(CEILING - 1)
