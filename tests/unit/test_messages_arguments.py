import shlex

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.arguments import script_arguments
from studio_runner.messages.variables import expand

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
WITHOUT_QUOTING = st.text(st.characters(exclude_characters=" \t\n'\"\\\0", exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("element", "words"),
    [
        ("10", ["10"]),
        ("--lr=0.1", ["--lr=0.1"]),
        ("'a b'", ["a b"]),
        ("a b", ["a", "b"]),
        ("  a\t b\n", ["a", "b"]),
        ("", []),
        ("   ", []),
        ("''", [""]),
        ('""', [""]),
        ("a''", ["a"]),
        ("'' a", ["", "a"]),
        ("a'b c'd", ["ab cd"]),
        (r"a\ b", ["a b"]),
        (r"\'", ["'"]),
        (r'"a\"b"', ['a"b']),
        (r'"\$HOME \` \\"', [r"$HOME ` \ ".rstrip()]),
        (r'"\n"', [r"\n"]),
        (r"'\n'", [r"\n"]),
        ("a\\\nb", ["ab"]),
        ("\\\n", []),
        ('"a\\\nb"', ["ab"]),
        ("'it'\"'\"'s'", ["it's"]),
        ("héllo 'wörld'", ["héllo", "wörld"]),
        ("a\u00a0b\rc", ["a\u00a0b\rc"]),
    ],
)
def test_an_element_is_read_by_the_quoting_rules_of_a_shell(element, words):
    assert script_arguments([element]) == tuple(words)


@pytest.mark.parametrize(
    "element", ["$HOME", "`id`", "$(id)", "*.py", "~/x", "a|b;c&d>e<f", "#not", "{a,b}", "!x", "%PATH%"]
)
def test_nothing_is_expanded_and_nothing_is_an_operator(element):
    assert script_arguments([element]) == (element,)


@pytest.mark.parametrize("element", ["it's", '"open', "trailing\\", "a 'b", '"a\\"'])
def test_what_does_not_parse_is_passed_as_it_is(element):
    assert script_arguments(["before", element, "after"]) == ("before", element, "after")


@unhurried
@given(st.lists(TEXT))
def test_what_a_client_quoted_arrives_as_it_was(arguments):
    assert script_arguments([shlex.quote(argument) for argument in arguments]) == tuple(arguments)


@unhurried
@given(st.lists(TEXT))
def test_several_quoted_words_in_one_element_arrive_apart(arguments):
    assert script_arguments([shlex.join(arguments)]) == tuple(arguments)


@unhurried
@given(st.lists(WITHOUT_QUOTING))
def test_elements_without_quoting_are_one_word_each(arguments):
    assert script_arguments(arguments) == tuple(arguments)


@unhurried
@given(st.text("ab '\"\\\n$`", max_size=12))
def test_any_element_gives_words_without_an_error(element):
    words = script_arguments([element])
    assert words == (element,) or sum(map(len, words)) <= len(element)


OWN = {"PATH": "/usr/bin:/bin", "HOME": "/home/runner", "EMPTY": "", "NESTED": "%PATH%"}


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("%PATH%:./bin", "/usr/bin:/bin:./bin"),
        ("%HOME%/x", "/home/runner/x"),
        ("%HOME%%PATH%", "/home/runner/usr/bin:/bin"),
        ("a%EMPTY%b", "ab"),
        ("%UNKNOWN%", "%UNKNOWN%"),
        ("%UNKNOWN%HOME%", "%UNKNOWN/home/runner"),
        ("100%", "100%"),
        ("%%", "%%"),
        ("%1%", "%1%"),
        ("% PATH %", "% PATH %"),
        ("%NESTED%", "%PATH%"),
        ("plain", "plain"),
        ("$PATH", "$PATH"),
    ],
)
def test_the_runners_own_variables_are_put_in(value, expanded):
    assert expand({"NAME": value}, OWN) == {"NAME": expanded}


def test_names_are_left_alone():
    assert expand({"%PATH%": "x"}, OWN) == {"%PATH%": "x"}


@unhurried
@given(st.text("%AB ", max_size=20))
def test_without_variables_nothing_changes(value):
    assert expand({"NAME": value}, {}) == {"NAME": value}


@pytest.mark.parametrize("element", ["\\a" * 500_000, "'a'" * 500_000, '"' + "a" * 2_000_000, '"a"' * 300_000])
def test_a_hostile_argument_takes_no_longer_than_any_other(element):
    """Some of them took minutes."""
    assert len(script_arguments([element])) == 1


def test_what_no_program_could_be_started_with_is_not_read():
    """Tens of megabytes of single letters would be gigabytes of words."""
    long = "a " * 600_000
    assert script_arguments([long]) == (long,)
    half = "a " * 300_000
    assert script_arguments([half, half, "b c"]) == (*["a"] * 300_000, half, "b c")


def test_a_few_letters_do_not_stand_for_gigabytes():
    with pytest.raises(InvalidMessageError, match=r"\$\.config\.env\.X") as refused:
        expand({"X": "%LONG%" * 200}, {"LONG": "x" * 10_000})
    assert "too long" in str(refused.value)
