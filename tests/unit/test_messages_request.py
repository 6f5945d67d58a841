import contextlib
import copy
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_runner.errors import InvalidMessageError
from studio_runner.messages.request import MAX_BODY, parse_request, short_key
from studio_runner.messages.resources import Resources

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines

SAMPLES = sorted((Path(__file__).parents[1] / "samples").glob("*.json"))
SEED = next(path for path in SAMPLES if path.name == "seed-request.json").read_bytes()
WORKSPACE = {"workspace": {"qualified": "s3://host/bucket/w.tar", "mutable": False, "unpack": True}}


def message(experiment=None, config=None):
    """A small request with these fields changed."""
    base = {"key": "1_a", "filename": "train.py", "artifacts": WORKSPACE}
    return json.dumps({"experiment": {**base, **(experiment or {})}, "config": config or {}}).encode()


def with_value(path, value):
    """The seed's message with the value at `path` changed."""
    document = json.loads(SEED)
    *way, last = path
    node = document
    for step in way:
        node = node[step]
    node[last] = value
    return json.dumps(document).encode()


def refused(body):
    with pytest.raises(InvalidMessageError) as caught:
        parse_request(body)
    return caught.value


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_a_message_of_a_client_is_accepted_and_written_again_as_it_was(sample):
    body = sample.read_bytes()
    assert parse_request(body).to_json() == body


def test_the_seed_message_is_understood():
    request = parse_request(SEED)
    assert request.key == "1530054412_70d7eaf4-3ce3-493a-a8f6-ffa0212a5c92"
    assert request.pythonver == "2"
    assert request.experiment.filename == "train_cifar10.py"
    assert request.experiment.args == ("10",)
    assert request.experiment.max_duration == 1200
    assert (
        "-e git+https://github.com/SentientTechnologies/studio@685f4891764227a2e1ea5f7fc91b31dcf3557647#egg=studioml"
        in (request.experiment.pythonenv)
    )
    assert request.lifetime_deadline == pytest.approx(1530054413.134781 + 1800)
    assert request.checkpoint_period == 180
    assert request.metrics_period is None
    assert request.environment_variables["PATH"] == "%PATH%:./bin"
    assert request.owner == "guest"
    assert request.project == ""
    resources = request.resources
    assert (resources.cpus, resources.ram, resources.hdd) == (1, 2 * 10**9, 3 * 10**9)
    assert (resources.gpus, resources.gpu_mem, resources.gpu_count) == (1, 4 * 10**9, 0)
    assert set(request.artifacts) == {"output", "_metrics", "modeldir", "workspace", "tb"}
    assert request.config.storage.bucket == "kmutch-rmq"
    assert request.config.runner.slack_destination == "@karl.mutch"


def test_unknown_fields_are_kept_and_can_be_read():
    request = parse_request(message({"novelty": {"deep": [1, None]}}, {"other": "x"}))
    assert request.experiment.novelty == {"deep": [1, None]}
    assert request.config.other == "x"
    assert json.loads(request.to_json())["experiment"]["novelty"] == {"deep": [1, None]}


def test_replacing_fields_makes_another_request_and_keeps_the_rest():
    request = parse_request(SEED)
    replaced = request.replace(key="other", pythonver="3.8", max_duration="1h")
    assert (replaced.key, replaced.pythonver, replaced.experiment.max_duration) == ("other", "3.8", 3600)
    expected = json.loads(SEED)
    expected["experiment"].update(key="other", pythonver="3.8", max_duration="1h")
    assert json.loads(replaced.to_json()) == expected
    assert request.key.startswith("1530054412_")


def test_a_replacement_is_checked_like_any_message():
    with pytest.raises(InvalidMessageError, match=r"\$\.experiment\.key"):
        parse_request(SEED).replace(key="a/b")


@pytest.mark.parametrize(
    ("spelled", "prefix"),
    [
        (2, "2"),
        (3, "3"),
        ("3", "3"),
        ("3.6", "3.6"),
        ("3.11.7", "3.11.7"),
        (" 3.8 ", "3.8"),
        (3.8, "3.8"),
        (3.11, "3.11"),
        (3.1, "3.10"),
        (3.0, "3"),
        (None, ""),
        ("", ""),
        ("<no value>", ""),
    ],
)
def test_the_python_version_becomes_a_prefix(spelled, prefix):
    assert parse_request(message({"pythonver": spelled})).pythonver == prefix


def test_absent_and_null_fields_mean_nothing_is_asked():
    nulls = dict.fromkeys(
        ["args", "pythonenv", "max_duration", "time_added", "resources_needed", "project", "status", "pythonver"]
    )
    for body in (message(), message(nulls, dict.fromkeys(["env", "pip", "storage", "experimentLifetime"]))):
        request = parse_request(body)
        assert request.experiment.args == request.experiment.pythonenv == request.config.pip == ()
        assert request.environment_variables == {}
        assert request.lifetime_deadline is None
        assert request.experiment.max_duration is None
        assert (request.resources.cpus, request.resources.ram, request.resources.gpu_count) == (0, 0, 0)


def test_config_may_be_missing_or_null():
    document = json.loads(message())
    assert parse_request(json.dumps({**document, "config": None}).encode()).checkpoint_period is None
    del document["config"]
    assert parse_request(json.dumps(document).encode()).checkpoint_period is None


@pytest.mark.parametrize(
    ("of_experiment", "of_config", "cpus"),
    [
        ({"cpus": 2}, {"cpus": 4}, 2),
        (None, {"cpus": 4}, 4),
        ({}, {"cpus": 4}, 4),
        ({"cpus": 0}, {"cpus": 4}, 0),
        (None, None, 0),
    ],
)
def test_resources_are_the_experiments_else_the_senders(of_experiment, of_config, cpus):
    body = message({"resources_needed": of_experiment}, {"resources_needed": of_config})
    assert parse_request(body).resources.cpus == cpus


@pytest.mark.parametrize(
    ("added", "lifetime", "deadline"),
    [
        (1000.5, "1h", 4600.5),
        (1000, 60, 1060),
        ("1000", "60s", 1060),
        (9.9, "1h", None),
        (0, "1h", None),
        (None, "1h", None),
        ("<no value>", "1h", None),
        (1000, None, None),
        (1000, "0", None),
    ],
)
def test_the_lifetime_ends_when_it_can_be_known(added, lifetime, deadline):
    request = parse_request(message({"time_added": added}, {"experimentLifetime": lifetime}))
    assert request.lifetime_deadline == deadline


def test_variables_become_text():
    env = {"TEXT": "a", "NUMBER": 5, "PART": 0.5, "YES": True, "NO": False, "NOTHING": None}
    request = parse_request(message(config={"env": env}))
    assert request.environment_variables == {
        "TEXT": "a",
        "NUMBER": "5",
        "PART": "0.5",
        "YES": "true",
        "NO": "false",
        "NOTHING": "",
    }


def test_numbers_among_the_arguments_become_words():
    assert parse_request(message({"args": ["a", 5, 0.1]})).experiment.args == ("a", "5", "0.1")


@pytest.mark.parametrize(
    "filename", ["train.py", "sub/train.py", "./train.py", "a/../train.py", "..train.py", "a b.py", None]
)
def test_a_script_inside_the_workspace_is_accepted(filename):
    assert parse_request(message({"filename": filename})).experiment.filename == filename


def test_a_module_needs_no_workspace():
    request = parse_request(message({"filename": "-m", "args": ["pkg.module"], "artifacts": {}}))
    assert request.experiment.filename == "-m"


def test_the_owner_may_be_called_author():
    assert parse_request(message({"author": "ann"})).owner == "ann"
    assert parse_request(message({"owner": "<no value>", "author": "ann"})).owner == "ann"
    assert parse_request(message({"owner": "bob", "author": "ann"})).owner == "bob"


BAD = [
    (("experiment", "key"), 5, "$.experiment.key", "5", "a string"),
    (("experiment", "key"), "", "$.experiment.key", '""', "one safe path component"),
    (("experiment", "key"), "../x", "$.experiment.key", '"../x"', "one safe path component"),
    (("experiment", "key"), "a\tb", "$.experiment.key", '"a\\tb"', "without control characters"),
    (("experiment", "key"), "k" * 300, "$.experiment.key", '"kkk', "one safe path component"),
    (("experiment", "pythonver"), "abc", "$.experiment.pythonver", '"abc"', "a Python version"),
    (("experiment", "pythonver"), "3.x.y", "$.experiment.pythonver", '"3.x.y"', "a Python version"),
    (("experiment", "pythonver"), -3, "$.experiment.pythonver", "-3", "a Python version"),
    (("experiment", "pythonver"), True, "$.experiment.pythonver", "true", "a Python version"),
    (("experiment", "pythonver"), [3], "$.experiment.pythonver", "an array of 1", "a Python version"),
    (("experiment", "filename"), "/etc/passwd", "$.experiment.filename", '"/etc/passwd"', "inside the workspace"),
    (("experiment", "filename"), "../x.py", "$.experiment.filename", '"../x.py"', "inside the workspace"),
    (("experiment", "filename"), "a/../../x.py", "$.experiment.filename", "x.py", "inside the workspace"),
    (("experiment", "filename"), "..", "$.experiment.filename", '".."', "inside the workspace"),
    (("experiment", "filename"), "", "$.experiment.filename", '""', "inside the workspace"),
    (("experiment", "filename"), "-c", "$.experiment.filename", '"-c"', "inside the workspace"),
    (("experiment", "filename"), "a\0.py", "$.experiment.filename", "a NUL character", "without NUL"),
    (("experiment", "args"), "10", "$.experiment.args", '"10"', "an array"),
    (("experiment", "args"), ["a", {}, "b"], "$.experiment.args[1]", "an object", "a string or a number"),
    (("experiment", "args"), ["a", "b", None], "$.experiment.args[2]", "null", "a string or a number"),
    (("experiment", "args"), ["a\0"], "$.experiment.args[0]", "a NUL character", "without NUL"),
    (("experiment", "args"), ["\ud800"], "$.experiment.args[0]", "half a surrogate pair", "Unicode text"),
    (("experiment", "max_duration"), "soon", "$.experiment.max_duration", '"soon"', "a duration such as"),
    (("experiment", "max_duration"), -5, "$.experiment.max_duration", "-5", "not negative"),
    (("experiment", "time_added"), "yesterday", "$.experiment.time_added", '"yesterday"', "seconds since 1970"),
    (("experiment", "time_added"), 1e30, "$.experiment.time_added", "1e+30", "seconds since 1970"),
    (("experiment", "pythonenv"), {"six": "1"}, "$.experiment.pythonenv", "an object", "an array"),
    (("experiment", "pythonenv"), ["six", 5], "$.experiment.pythonenv[1]", "5", "a string"),
    (("experiment", "resources_needed", "ram"), "lots", "$.experiment.resources_needed.ram", '"lots"', "a size"),
    (("experiment", "resources_needed", "cpus"), "many", "$.experiment.resources_needed.cpus", '"many"', "a whole"),
    (
        ("experiment", "resources_needed", "gpuMem"),
        -1,
        "$.experiment.resources_needed.gpuMem",
        "-1",
        "not negative",
    ),
    (
        ("experiment", "resources_needed", "gpuCount"),
        2**70,
        "$.experiment.resources_needed.gpuCount",
        "11805",
        "2^63",
    ),
    (("experiment", "resources_needed"), [], "$.experiment.resources_needed", "an array of 0", "an object"),
    (("experiment", "artifacts"), [], "$.experiment.artifacts", "an array of 0", "an object"),
    (
        ("experiment", "artifacts", "a/b"),
        {"qualified": "s3://h/b/k"},
        '$.experiment.artifacts["a/b"]',
        '"a/b"',
        "one safe",
    ),
    (
        ("experiment", "artifacts", ".."),
        {"qualified": "s3://h/b/k"},
        '$.experiment.artifacts[".."]',
        '".."',
        "one safe",
    ),
    (("experiment", "artifacts", ""), {"qualified": "s3://h/b/k"}, '$.experiment.artifacts[""]', '""', "one safe"),
    (
        ("experiment", "artifacts", "é" * 128),
        {"qualified": "s3://h/b/k"},
        "$.experiment.artifacts[",
        "é",
        "255 bytes",
    ),
    (("experiment", "artifacts", "tb"), "s3://h/b/k", "$.experiment.artifacts.tb", '"s3://h/b/k"', "an object"),
    (
        ("experiment", "artifacts", "tb"),
        {},
        "$.experiment.artifacts.tb.qualified",
        "nothing",
        "a value for this field",
    ),
    (
        ("experiment", "artifacts", "tb", "qualified"),
        "x",
        "$.experiment.artifacts.tb.qualified",
        '"x"',
        "s3://HOST",
    ),
    (("experiment", "artifacts", "tb", "qualified"), 5, "$.experiment.artifacts.tb.qualified", "5", "a string"),
    (
        ("experiment", "artifacts", "tb", "mutable"),
        "no",
        "$.experiment.artifacts.tb.mutable",
        '"no"',
        "true or false",
    ),
    (
        ("experiment", "artifacts", "tb", "hash"),
        "12ab",
        "$.experiment.artifacts.tb.hash",
        '"12ab"',
        "64 hexadecimal",
    ),
    (
        ("experiment", "artifacts", "tb", "saveFrequency"),
        "x",
        "$.experiment.artifacts.tb.saveFrequency",
        '"x"',
        "a duration",
    ),
    (("config",), [], "$.config", "an array of 0", "an object"),
    (("config", "saveWorkspaceFrequency"), "x", "$.config.saveWorkspaceFrequency", '"x"', "a duration"),
    (("config", "env"), [], "$.config.env", "an array of 0", "an object"),
    (("config", "env", "A"), {}, "$.config.env.A", "an object", "a string or a number"),
    (("config", "env", "A=B"), "x", '$.config.env["A=B"]', '"A=B"', "without '='"),
    (("config", "env", "A"), "x\0", "$.config.env.A", "a NUL character", "without NUL"),
    (("config", "pip"), "six", "$.config.pip", '"six"', "an array"),
    (("config", "storage"), "s3", "$.config.storage", '"s3"', "an object"),
    (("config", "storage", "bucket"), 5, "$.config.storage.bucket", "5", "a string"),
    (("experiment",), None, "$.experiment", "null", "an object"),
]


@pytest.mark.parametrize(
    ("path", "value", "named", "found", "accepted"),
    BAD,
    ids=[f"{'.'.join(row[0])[:40]}={row[1]!r:.20}" for row in BAD],
)
def test_a_bad_value_is_named_with_what_was_found_and_what_is_accepted(path, value, named, found, accepted):
    error = refused(with_value(path, value))
    assert error.path.startswith(named)
    assert found in error.found
    assert accepted in error.accepted
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", "line 1 column 1"),
        (b'{"experiment":\n {,}}', "line 2 column 3"),
        (b"\xff\xfe{}", "not UTF-8, at offset 0"),
        (b"[]", "an array of 0"),
        (b'"text"', '"text"'),
        (b"null", "null"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"[" * 200_000, "100 levels"),
        (b'{"a":' * 120 + b"1" + b"}" * 120, "100 levels"),
        (b" " * (MAX_BODY + 1), f"{MAX_BODY + 1} bytes"),
    ],
    ids=["empty", "syntax", "utf-8", "array", "string", "null", "digits", "bomb", "deep", "huge"],
)
def test_what_is_no_message_at_all_is_told(body, found):
    error = refused(body)
    assert error.path == "$"
    assert found in error.found


@pytest.mark.parametrize(("spelled", "found"), [("NaN", "NaN"), ("-Infinity", "-Infinity"), ("1e999", "Infinity")])
def test_numbers_without_a_value_are_refused_wherever_they_are(spelled, found):
    body = message({"unknown": [0, 1.5, "MARK"]}).replace(b'"MARK"', spelled.encode())
    error = refused(body)
    assert (error.path, error.found) == ("$.experiment.unknown[2]", found)


def test_a_message_without_an_experiment_says_so():
    error = refused(b"{}")
    assert (error.path, error.found) == ("$.experiment", "nothing")


def test_a_message_without_a_key_says_so():
    error = refused(b'{"experiment": {}, "config": {}}')
    assert (error.path, error.found) == ("$.experiment.key", "nothing")


def test_several_bad_values_are_counted():
    error = refused(message({"max_duration": "x", "pythonver": "y", "resources_needed": {"ram": "z"}}))
    assert error.path == "$.experiment.pythonver"
    assert "2 more wrong" in error.accepted


def test_a_million_bad_values_are_not_collected():
    error = refused(message({"args": [{}] * 200_000}))
    assert error.path == "$.experiment.args[0]"
    error = refused(message({"artifacts": {str(number): 5 for number in range(20_000)}}))
    assert (error.path, error.found) == ("$.experiment.artifacts", "20000 members")


def test_a_script_needs_the_workspace_that_holds_it():
    error = refused(message({"artifacts": {}}))
    assert error.path == "$.experiment.artifacts.workspace"
    assert "filename" in error.accepted


def test_a_module_needs_its_name():
    assert refused(message({"filename": "-m", "args": []})).path == "$.experiment.args"


SECRET = "s3cr3t-Value"


@pytest.mark.parametrize(
    "body",
    [
        with_value(("config", "storage"), f"https://user:{SECRET}@host/x"),
        with_value(("experiment", "artifacts", "tb", "qualified"), f"https://u:{SECRET}@host/"),
        with_value(("experiment", "max_duration"), f"https://h/k?X-Amz-Signature={SECRET}"),
        with_value(("config", "storage", "credentials"), SECRET),
        with_value(("config", "storage", "credentials"), {"aws": {"secret_key": [SECRET]}}),
        with_value(("config", "env", "API_TOKEN"), [SECRET]),
        with_value(("experiment", "artifacts", "tb", "credentials"), {"jwt": {"token": {"x": SECRET}}}),
        with_value(("experiment", "args"), [f"--password={SECRET}\0"]),
    ],
)
def test_a_refusal_never_shows_a_secret(body):
    error = refused(body)
    chain, seen = error, ""
    while chain is not None:
        seen += str(chain) + repr(chain)
        chain = chain.__cause__ or chain.__context__
    assert SECRET not in seen


def test_a_request_is_shown_without_its_secrets():
    request = parse_request(SAMPLES[-1].read_bytes())
    shown = (
        repr(request) + repr(request.artifacts) + repr(request.config) + repr(request.config.storage.credentials)
    )
    assert "wJalrXUtnFEMI" not in shown
    assert "AKIAIOSFODNN7" not in shown
    assert "guest:guest" not in shown


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NEW_NAMES = st.text(max_size=12).map(lambda name: f"x{name}") | st.sampled_from(
    ["copy", "json", "model_fields", "__class__", "label", "__dict__", "model_config", "_private"]
)


@unhurried
@given(st.dictionaries(NEW_NAMES, json_values, max_size=4), st.dictionaries(NEW_NAMES, json_values, max_size=4))
def test_whatever_is_unknown_survives(of_experiment, of_artifact):
    document = json.loads(SEED)
    document["experiment"].update(of_experiment)
    document["experiment"]["artifacts"]["tb"].update(of_artifact)
    body = json.dumps(document).encode()
    request = parse_request(body)
    assert request.to_json() == body
    assert request.artifacts["tb"].label == "tb"
    expected = copy.deepcopy(document)
    expected["experiment"]["status"] = "running"
    assert json.loads(request.replace(status="running").to_json()) == expected


@unhurried
@given(st.sampled_from([row[0] for row in BAD]), json_values)
def test_any_value_anywhere_is_accepted_or_named(path, value):
    body = with_value(path, value)
    with contextlib.suppress(InvalidMessageError):
        assert parse_request(body).to_json() == body


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_refused(body):
    with pytest.raises(InvalidMessageError):
        parse_request(body)


@pytest.mark.parametrize(
    ("key", "short"),
    [
        ("1530054412_70d7eaf4-3ce3-493a-a8f6-ffa0212a5c92", "1530054412_70d7eaf4-3ce3-493a-a8f6-ffa0212a5c92"),
        ("my.experiment-1", "my.experiment-1"),
        ("my experiment", "my_experiment-c8ba7fd2"),
        (".hidden", "_hidden-16924190"),
    ],
)
def test_a_short_key_is_the_key_where_it_can_be(key, short):
    assert short_key(key) == short


@unhurried
@given(st.text() | st.text("ab./ -0f", max_size=60))
def test_a_short_key_is_a_safe_file_name(key):
    short = short_key(key)
    assert 0 < len(short) <= 48
    assert not short.startswith(".")
    assert all(character.isascii() and (character.isalnum() or character in "._-") for character in short)


@unhurried
@given(st.text("ab/.", max_size=60), st.text("ab/.", max_size=60))
def test_different_keys_have_different_short_keys(one, other):
    assert (short_key(one) == short_key(other)) == (one == other)


@unhurried
@given(st.text("ab/ ", min_size=1, max_size=60))
def test_the_short_key_of_a_short_key_is_not_taken_for_it(key):
    short = short_key(key)
    assert short == key or short_key(short) != short


@pytest.mark.parametrize(
    ("gpus", "gpu_mem", "gpu_count", "expected"),
    [
        (1, "4gb", None, (1, 4 * 10**9, 0)),
        ("1", "4GiB", "2", (1, 4 << 30, 2)),
        ("1.0", "4 GB", 2.0, (1, 4 * 10**9, 2)),
        (" 24 ", "16G", " 1 ", (24, 16 * 10**9, 1)),
        (None, "", "", (0, 0, 0)),
        ("", None, 0, (0, 0, 0)),
        ("0", "0", "0", (0, 0, 0)),
        (2, 8_000_000_000, "4", (2, 8 * 10**9, 4)),
        (2, "8000000000", 1, (2, 8 * 10**9, 1)),
        (2, "1.5tb", 1, (2, 1_500_000_000_000, 1)),
        (2, "512mib", 1, (2, 512 << 20, 1)),
        (2, "1.5Gi", 1, (2, 3 << 29, 1)),
    ],
)
def test_gpus_are_read_in_all_the_spellings_of_clients(gpus, gpu_mem, gpu_count, expected):
    found = Resources.model_validate({"gpus": gpus, "gpuMem": gpu_mem, "gpuCount": gpu_count})
    assert (found.gpus, found.gpu_mem, found.gpu_count) == expected


@pytest.mark.parametrize("value", ["one", "1.5", -1, "-1", True, [1], {"n": 1}, "1e3", 2**63])
@pytest.mark.parametrize("name", ["gpus", "gpuCount"])
def test_a_number_of_gpus_that_is_none_is_refused(name, value):
    with pytest.raises(ValueError, match="whole number"):
        Resources.model_validate({name: value})


def test_a_number_without_a_value_behind_a_million_others_costs_no_memory():
    tracemalloc.start()
    body = b'{"x":' + b"[" * 90 + b"0," * 300_000 + b"NaN" + b"]" * 90 + b"}"
    with pytest.raises(InvalidMessageError, match="found NaN"):
        parse_request(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50 << 20


@pytest.mark.parametrize(
    ("experiment", "config", "place"),
    [
        ({"pythonenv": ["a"] * 10_001}, {}, "$.experiment.pythonenv"),
        ({"pythonenv": ["a" * 20_000]}, {}, "$.experiment.pythonenv"),
        ({"pythonenv": ["a" * 10_000] * 200}, {}, "$.experiment.pythonenv"),
        ({"args": ["a" * 10_000] * 200}, {}, "$.experiment.args"),
        ({}, {"pip": ["a" * 20_000]}, "$.config.pip"),
        ({}, {"env": {"A": "x" * 600_000, "B": "x" * 600_000}}, "$.config.env"),
        ({}, {"env": {str(number): "x" for number in range(10_001)}}, "$.config.env"),
    ],
)
def test_more_than_anybody_needs_is_refused_before_it_costs(experiment, config, place):
    assert str(refused(message(experiment, config))).startswith(f"{place}")
