"""The header that travels with a message."""

from hypothesis import given
from hypothesis import strategies as st

from studio_runner.queues.rabbitmq.passport import HEADER, REMEMBERED, Passport, identity_of


def copied(passport: Passport, **headers) -> Passport:
    """As the next one to get the message reads it."""
    return Passport.of(passport.headers({}) | headers)


def deaths(count: int, queue: str = "studio-runner.hold.rmq_x.me", reason: str = "expired") -> list:
    return [{"count": count, "queue": queue, "reason": reason}]


def test_a_message_of_a_client_was_never_tried():
    assert Passport.of({}) == Passport()
    assert Passport.of({"other": 1}).is_blank


def test_it_survives_the_journey():
    passport = Passport(id="i").returned("i", "it broke", 1).held("i", "me")
    assert copied(passport) == passport


def test_deaths_of_runners_are_charged_and_then_part_of_the_count():
    held = Passport(attempts=1).held("i", "me")
    back = copied(held, **{"x-death": deaths(1)})
    assert (back.attempts, back.deaths) == (2, 1)
    again = Passport.of(back.held("i", "other").headers({"x-death": deaths(1)}))
    assert (again.attempts, again.deaths) == (2, 0)


def test_waiting_in_a_delay_queue_is_no_death():
    waited = copied(Passport(id="i"), **{"x-death": deaths(1, "studio-runner.delay.rmq_x.5000")})
    assert waited.attempts == 0


def test_only_some_reasons_are_remembered():
    passport = Passport(id="i")
    for number in range(REMEMBERED + 5):
        passport = passport.returned("i", f"reason {number}", 1)
    assert passport.history[-1] == f"reason {REMEMBERED + 4}"
    assert len(passport.history) == REMEMBERED


def test_what_would_copy_the_message_elsewhere_is_left_behind():
    headers = Passport(id="i").headers({"CC": ["rmq_y"], "BCC": ["rmq_z"], "x-death": [], "mine": 1})
    assert set(headers) == {HEADER, "mine"}


def test_somebody_else_having_had_it_shows():
    ours = Passport().held("i", "me")
    assert not copied(ours, **{"x-death": deaths(1)}).is_newer_than(ours, "me")
    assert not Passport().is_newer_than(ours, "me")
    assert Passport().held("i", "other").is_newer_than(ours, "me")
    assert ours.returned("i", "", 0).is_newer_than(ours, "me")


def test_identities_are_of_the_body():
    assert identity_of(b"a") == identity_of(b"a") != identity_of(b"b")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
fields = st.sampled_from(["id", "attempts", "turn", "holder", "history", "count", "queue", "reason"])


@given(
    st.dictionaries(
        st.sampled_from([HEADER, "x-death"]),
        junk | st.dictionaries(fields, junk) | st.lists(st.dictionaries(fields, junk)),
    )
)
def test_anything_may_stand_in_a_header(headers):
    passport = Passport.of(headers)
    assert passport.attempts >= 0
    assert Passport.of(passport.headers(headers)).id == passport.id
