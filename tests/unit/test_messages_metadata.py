import json

import jsonpatch
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.messages.metadata import Document, document_name, iso_time

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines

json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != "studioml"), json_values | st.none(), max_size=3
)


def fed(*directives, document=None):
    """A document that was fed these lines; what is no bytes is written as JSON."""
    document = document or Document()
    for directive in directives:
        document.feed(directive if isinstance(directive, bytes) else json.dumps(directive).encode())
    return document


def content(document):
    """What the script said, without the runner's part."""
    shown = json.loads(document.to_json())
    del shown["studioml"]
    return shown


def ours(document):
    return json.loads(document.to_json())["studioml"]


def test_objects_merge_and_the_newer_value_wins():
    document = fed(
        {"epoch": 1, "loss": {"train": 0.5, "test": 0.7}},
        b'   {"epoch": 2, "loss": {"train": 0.4}}  \r\n',
        {"loss": {"test": None}, "tags": ["a"]},
        {"tags": ["b"]},
    )
    assert content(document) == {"epoch": 2, "loss": {"train": 0.4}, "tags": ["b"]}
    assert document.applied == 4


def test_the_example_of_rfc_7386():
    document = fed(
        {
            "title": "Goodbye!",
            "author": {"givenName": "John", "familyName": "Doe"},
            "tags": ["example", "sample"],
            "content": "x",
        },
        {"title": "Hello!", "phoneNumber": "+01", "author": {"familyName": None}, "tags": ["example"]},
    )
    assert content(document) == {
        "title": "Hello!",
        "author": {"givenName": "John"},
        "tags": ["example"],
        "content": "x",
        "phoneNumber": "+01",
    }


def merged(target, patch):
    """RFC 7386 section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merged(target.get(name), value)
    return target


@unhurried
@given(st.lists(objects, max_size=4))
def test_any_objects_merge_as_rfc_7386_says(directives):
    expected = {}
    for directive in directives:
        expected = merged(expected, directive)
    assert content(fed(*directives)) == expected


def test_arrays_are_patches():
    document = fed(
        {"a": {"b": [1, 2]}, "old": 1},
        [
            {"op": "test", "path": "/a/b/0", "value": 1},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "replace", "path": "/a/b/0", "value": 0},
            {"op": "copy", "from": "/a/b", "path": "/copy"},
            {"op": "move", "from": "/old", "path": "/new"},
            {"op": "remove", "path": "/a/b/1"},
        ],
        [{"op": "add", "path": "/a~1b~0c", "value": 1}],
        [],
    )
    assert content(document) == {"a": {"b": [0, 3]}, "copy": [0, 2, 3], "new": 1, "a/b~c": 1}
    assert (document.applied, document.refused) == (4, 0)


def test_of_a_patch_all_applies_or_nothing():
    before = {"a": {"b": [1, {"c": 1}]}}
    document = fed(
        before,
        [
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "replace", "path": "/a/b/1/c", "value": 2},
            {"op": "remove", "path": "/a/b/0"},
            {"op": "test", "path": "/a", "value": "something else"},
        ],
    )
    assert content(document) == before
    assert document.refused == 1


def test_a_copy_and_its_origin_go_separate_ways():
    document = fed(
        {"a": {"list": [1]}},
        [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/list/-", "value": 2}],
        {"b": {"more": 1}},
    )
    assert content(document) == {"a": {"list": [1]}, "b": {"list": [1, 2], "more": 1}}


@pytest.mark.parametrize(
    "directive",
    [
        [1],
        ["add"],
        [{}],
        [{"op": "append", "path": "/text", "value": "x"}],
        [{"op": {}, "path": "/text", "value": "x"}],
        [{"op": "add", "value": 1}],
        [{"op": "add", "path": 5, "value": 1}],
        [{"op": "add", "path": "nowhere", "value": 1}],
        [{"op": "add", "path": "/x"}],
        [{"op": "add", "path": "/no/such/parent", "value": 1}],
        [{"op": "add", "path": "/list/9", "value": 1}],
        [{"op": "add", "path": "/list/x", "value": 1}],
        [{"op": "add", "path": "/list/" + "9" * 5000, "value": 1}],
        [{"op": "add", "path": "/text/0", "value": 1}],
        [{"op": "remove", "path": "/missing"}],
        [{"op": "move", "path": "/x"}],
        [{"op": "move", "from": "/missing", "path": "/x"}],
        [{"op": "move", "from": "/deep", "path": "/deep/inside"}],
        [{"op": "copy", "from": "/list/²", "path": "/x"}],
        [{"op": "add", "path": "/~2", "value": 1}],
    ],
    ids=str,
)
def test_a_patch_that_does_not_fit_is_skipped_and_counted(directive):
    before = {"text": "t", "list": [1], "deep": {}}
    document = fed(before, directive)
    assert content(document) == before
    assert (document.applied, document.refused) == (1, 1)
    assert ours(document)["scrape"]["refused"] == 1


pointers = st.text("/~01-ab2", max_size=6) | st.sampled_from(
    ["/list", "/list/0", "/list/-", "/deep", "/deep/x", "/studioml/host"]
)
operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "append", "?"]), "path": pointers},
    optional={"value": json_values | st.none(), "from": pointers},
)


@unhurried
@given(st.lists(operations, max_size=5))
def test_any_patch_applies_or_is_refused_and_the_runners_facts_stand(patch):
    document = fed({"text": "t", "list": [1, [2]], "deep": {"x": {"y": 1}}})
    document.add_studioml({"host": "machine"})
    fed(patch, document=document)
    assert document.applied + document.refused == 2
    assert ours(document)["host"] == "machine"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"epoch 1",
        b"[INFO] started",
        b"{not json}",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": [1e999]}',
        b'{"a": -Infinity}',
        b'{"a": 1} and more',
        b'{"a": 1}, {"b": 2}',
        b'"text"',
        b"5",
        b"{",
        b"[}",
        b"{\xff}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 120 + b"1" + b"}" * 120,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_other_lines_are_no_directives(line):
    document = fed(line)
    assert content(document) == {}
    assert (document.applied, document.refused, document.left_out) == (0, 0, 0)


@unhurried
@given(st.binary(max_size=40) | st.text('{}[]",:1a \\', max_size=20).map(str.encode))
def test_any_line_leaves_a_document_that_is_json(line):
    assert isinstance(json.loads(fed(line).to_json()), dict)


FACTS = {
    "artifacts": {"modeldir": "s3://h/b/modeldir.tar"},
    "experiment": {"key": "k", "project": None},
    "host": "machine",
    "pipdeptree": [{"package": "numpy", "dependencies": []}],
}


def test_the_runner_adds_what_it_knows():
    document = fed({"epoch": 1})
    document.add_studioml(FACTS)
    document.add_studioml({"start_time": iso_time(0)})
    assert ours(document) == {
        "artifacts": {"modeldir": "s3://h/b/modeldir.tar"},
        "experiment": {"key": "k"},
        "host": "machine",
        "pipdeptree": [{"package": "numpy", "dependencies": []}],
        "start_time": "1970-01-01T00:00:00.000000000Z",
        "log": [],
    }


@pytest.mark.parametrize(
    "directive",
    [
        {"studioml": {"x": 1}},
        {"studioml": None, "epoch": 2},
        [{"op": "remove", "path": "/studioml"}],
        [{"op": "add", "path": "/studioml", "value": 1}],
        [{"op": "replace", "path": "/studioml/host", "value": 1}],
        [{"op": "remove", "path": "/studioml/host"}],
        [{"op": "move", "from": "/studioml/host", "path": "/x"}],
        [{"op": "move", "from": "/epoch", "path": "/studioml/host"}],
        [{"op": "copy", "from": "/epoch", "path": "/studioml/x"}],
        [{"op": "test", "path": "/studioml/host", "value": "machine"}],
        [{"op": "replace", "path": "", "value": {}}],
        [{"op": "add", "path": "", "value": {}}],
        [{"op": "add", "path": "/x", "value": 1}, {"op": "remove", "path": "/studioml/host"}],
    ],
    ids=str,
)
def test_scripts_do_nothing_but_add_to_the_runners_part(directive):
    document = fed({"epoch": 1})
    document.add_studioml(FACTS)
    fed(directive, document=document)
    assert document.refused == 1
    assert content(document) == {"epoch": 1}
    assert ours(document)["host"] == "machine"
    assert "x" not in ours(document)


def test_scripts_may_add_to_the_runners_part_and_change_no_fact():
    document = Document()
    document.add_studioml(FACTS)
    fed(
        [
            {"op": "add", "path": "/studioml/team", "value": "vision"},
            {"op": "add", "path": "/studioml/experiment/notes", "value": "n"},
            {"op": "add", "path": "/studioml/experiment/key", "value": "forged"},
            {"op": "add", "path": "/studioml/host", "value": {"forged": 1}},
            {"op": "add", "path": "/studioml/pipdeptree/-", "value": "forged"},
            {"op": "add", "path": "/studioml/log/-", "value": {"ts": "t", "msg": "m"}},
        ],
        document=document,
    )
    document.log(b"a line", 5)
    shown = ours(document)
    assert document.applied == 1
    assert shown["team"] == "vision"
    assert shown["experiment"] == {"key": "k", "notes": "n"}
    assert shown["host"] == "machine"
    assert shown["pipdeptree"] == [{"package": "numpy", "dependencies": []}]
    assert shown["log"] == [
        {"ts": "t", "msg": "m"},
        {"ts": "1970-01-01T00:00:00.000000005Z", "msg": "a line"},
    ]


def test_lines_that_are_no_directives_are_logged_where_that_is_wanted():
    document = Document()
    document.feed_or_log(b'{"epoch": 1}\n', 0)
    document.feed_or_log(b"hello \xff\r\n", 1_700_000_000_123_456_789)
    assert content(document) == {"epoch": 1}
    assert ours(document)["log"] == [{"ts": "2023-11-14T22:13:20.123456789Z", "msg": "hello \ufffd"}]


def test_endless_directives_fill_the_budget_and_no_more():
    document = Document(budget=10_000)
    for number in range(2000):
        fed({f"name{number}": "x" * 50}, document=document)
    written = document.to_json()
    assert len(written) < 12_000
    assert document.applied + document.left_out == 2000
    scrape = ours(document)["scrape"]
    assert scrape["left_out"] == document.left_out > 1500
    assert "10000 bytes" in scrape["note"]


def test_endless_new_values_of_the_same_names_always_fit():
    document = Document(budget=10_000)
    for number in range(5000):
        fed({"epoch": number, "loss": 0.5}, document=document)
    assert content(document) == {"epoch": 4999, "loss": 0.5}
    assert document.left_out == 0
    assert "scrape" not in ours(document)


def test_one_huge_line_is_left_out_without_being_read():
    document = Document(budget=10_000)
    fed(b'{"a": ' + b"not json at all " * 1000 + b"}", {"b": 1}, document=document)
    assert content(document) == {"b": 1}
    assert document.left_out == 1


def test_the_runners_part_counts_as_well():
    document = Document(budget=10_000)
    for number in range(2000):
        fed([{"op": "add", "path": f"/studioml/x{number}", "value": "y" * 50}], document=document)
    assert len(document.to_json()) < 15_000
    assert document.left_out > 1000


def test_a_patch_cannot_double_the_document_for_ever():
    document = fed({"a": {"text": "x" * 1000}}, document=Document(budget=100_000))
    doubling = [{"op": "copy", "from": "/a", "path": f"/a/{number}"} for number in range(30)]
    fed(doubling, document=document)
    assert document.refused == 1
    assert content(document) == {"a": {"text": "x" * 1000}}


def test_a_patch_moves_no_masses():
    masses = {"a": {"many": [[] for _ in range(20_000)]}, "few": [1]}
    document = fed(
        masses, [{"op": "move", "from": "/a", "path": "/b"}], [{"op": "copy", "from": "/a", "path": "/b"}]
    )
    assert content(document) == masses
    fed([{"op": "add", "path": "/b", "value": [0] * 20_000}], document=document)
    fed([{"op": "add", "path": "/few/-", "value": 1}] * 1001, document=document)
    assert content(document) == masses
    assert document.refused == 4
    fed([{"op": "add", "path": "/a/many/-", "value": 1}], [{"op": "remove", "path": "/a"}], document=document)
    assert content(document) == {"few": [1]}


def test_patches_cannot_nest_the_document_for_ever():
    document = fed({"a": {}})
    path = "/a"
    for _ in range(200):
        path += "/a"
        fed([{"op": "add", "path": path, "value": {}}], document=document)
    assert 90 < document.applied < 102
    for _ in range(20):
        fed(
            [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "move", "from": "/b", "path": "/a/b"}],
            document=document,
        )
    assert isinstance(json.loads(document.to_json()), dict)


def test_the_log_has_a_budget_of_its_own():
    document = Document(budget=10_000)
    for number in range(1000):
        document.log(b"x" * 100, number)
    fed({"epoch": 1}, document=document)
    assert content(document) == {"epoch": 1}
    assert document.log_left_out > 900
    assert ours(document)["scrape"]["log_left_out"] == document.log_left_out


def test_half_a_surrogate_pair_is_written_as_it_came():
    document = fed(b'{"a": "\\ud800"}')
    assert json.loads(document.to_json())["a"] == "\ud800"


def test_times_have_all_their_nanoseconds():
    assert iso_time(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"


def test_names_of_documents_sort_by_time():
    times = [0, 1, 61, 62, 10**9, 1_700_000_000, 1_700_000_001, 1_795_342_836, 4_000_000_000]
    names = [document_name("host", time) for time in times]
    assert names == sorted(names)
    assert len(set(names)) == len(times)
    assert document_name("host", 1_700_000_000.9) == "scrape-host-host-1r31eq.json"


def test_a_host_name_becomes_part_of_a_file_name():
    assert document_name("a/b c", 62) == "scrape-host-a_b_c-000010.json"


@unhurried
@given(st.lists(operations, max_size=5))
def test_a_patch_does_what_the_library_does_or_nothing(patch):
    before = {"text": "t", "list": [1, [2]], "deep": {"x": {"y": 1}}}
    document = fed(before, patch)
    if document.refused:
        assert content(document) == before
    else:
        patched = jsonpatch.apply_patch({**before, "studioml": {}}, patch)
        assert content(document) == {name: value for name, value in patched.items() if name != "studioml"}


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "move", "from": "/list/0", "path": "/list/0/x"}],
        [{"op": "test", "path": "/one", "value": True}],
        [{"op": "test", "path": "/list", "value": [1, {"a": 1}]}],
        [{"op": "replace", "path": "/list/-", "value": 1}],
        [{"op": "remove", "path": "/list/00"}],
        [{"op": "add", "path": "/one/x", "value": 1}],
        [{"op": "add", "path": "", "value": {}}],
    ],
    ids=str,
)
def test_no_patch_is_read_more_kindly_than_the_standard_has_it(patch):
    before = {"one": 1, "list": [1, {"a": True}, {}]}
    document = fed(before, [{"op": "add", "path": "/new", "value": 1}, *patch])
    assert (content(document), document.refused) == (before, 1)


def test_short_patches_cannot_keep_the_runner_busy():
    document = fed({"many": list(range(9000)), "text": "x" * 400_000})
    for _ in range(3000):
        fed(
            [{"op": "copy", "from": "/text", "path": "/b"}, {"op": "test", "path": "/none", "value": 1}],
            [{"op": "move", "from": "/many", "path": "/b"}, {"op": "move", "from": "/b", "path": "/many"}],
            document=document,
        )
    assert document.refused > 5000
    assert content(document) == {"many": list(range(9000)), "text": "x" * 400_000}
    fed([{"op": "add", "path": "/many/-", "value": 1}], document=document)
    assert content(document)["many"][-1] == 1


@pytest.mark.parametrize(
    "operation",
    [{"op": "add", "path": "/many/0", "value": 1}, {"op": "remove", "path": "/many/0"}],
    ids=["add", "remove"],
)
def test_no_single_patch_keeps_the_runner_busy(operation):
    many = list(range(100_000))
    document = fed({"many": many})
    fed([operation] * 1000, [{"op": "add", "path": "/many/-", "value": 1}] * 1000, document=document)
    assert (document.applied, document.refused) == (2, 1)
    assert content(document)["many"] == [*many, *[1] * 1000]


def test_half_of_what_a_document_may_hold_can_be_copied():
    text = "x" * 500_000
    assert content(fed({"a": text}, [{"op": "copy", "from": "/a", "path": "/b"}])) == {"a": text, "b": text}


def test_a_pointer_deeper_than_any_document_is_refused_unread():
    assert fed([{"op": "add", "path": "/a" * 400_000, "value": 1}]).refused == 1
