import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from studio_runner.config import cascade
from studio_runner.config.options import NOT_HERE, OPTIONS
from studio_runner.config.reach import reach_of
from studio_runner.config.settings import Settings
from studio_runner.errors import ConfigError


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setattr(cascade, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    return {"HOME": str(tmp_path / "home")}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_field_of_the_settings_has_an_option_and_a_default():
    expected = {
        f"{group}.{field.name}" for group, typed in get_type_hints(Settings).items() for field in fields(typed)
    }

    defaults = tomllib.loads((Path(cascade.__file__).parent / "defaults.toml").read_text())

    assert {option.key for option in OPTIONS} == expected
    assert {f"{group}.{name}" for group, table in defaults.items() for name in table} == expected


def test_no_flag_or_variable_belongs_to_two_settings():
    flags = [flag for option in OPTIONS for flag in option.flags]
    variables = [name for option in OPTIONS for name in option.variables]

    assert len(set(flags)) == len(flags)
    assert len(set(variables)) == len(variables)
    assert not set(NOT_HERE) & set(flags)


def test_defaults_follow_the_user_directories(environ, tmp_path):
    settings = cascade.load(environ).settings

    assert settings.places.home == tmp_path / "home" / ".studioml"
    assert settings.places.queue_root == tmp_path / "home" / ".studioml" / "queue"
    assert settings.places.cache_dir == tmp_path / "home" / ".cache" / "studio-runner"
    assert settings.queues.lease == 15.0
    assert settings.experiments.finish_timeout == 600.0
    assert settings.experiments.output_limit == 100_000_000


def test_studioml_home_moves_everything_that_is_under_it(environ):
    settings = cascade.load({**environ, "STUDIOML_HOME": "/srv/studio", "XDG_CACHE_HOME": "/var/cache"}).settings

    assert settings.places.queue_root == Path("/srv/studio/queue")
    assert settings.places.working_dir == Path("/srv/studio/runner")
    assert settings.places.store == Path("/srv/studio/store")
    assert settings.places.cache_dir == Path("/var/cache/studio-runner")


def test_each_source_beats_the_one_before_it_and_says_where_a_value_is_from(environ, tmp_path):
    file = write(tmp_path / "config.toml", '[queues]\nmatch = "^file$"\nmismatch = "^file$"\nlease = "20s"\n')
    environ |= {"QUEUE_MISMATCH": "^variable$", "QUEUE_MATCH": "^variable$"}

    found = cascade.load(environ, {"queues.match": "^flag$"}, file)

    assert (found.settings.queues.match, found.values["queues.match"].origin) == ("^flag$", "flag --queue-match")
    assert found.values["queues.mismatch"].origin == "environment QUEUE_MISMATCH"
    assert found.settings.queues.mismatch == "^variable$"
    assert (found.settings.queues.lease, found.values["queues.lease"].origin) == (20.0, str(file))
    assert found.values["queues.poll"].origin == "default"
    assert found.values["queues.poll"].default


def test_our_own_variable_beats_the_reference_name(environ):
    environ |= {"MAX_CORES": "8", "STUDIO_RUNNER_MAX_CORES": "2"}

    found = cascade.load(environ)

    assert found.settings.machine.max_cores == 2
    assert found.values["machine.max_cores"].origin == "environment STUDIO_RUNNER_MAX_CORES"


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("QUEUE_ROOT", "/q", "places.queue_root", Path("/q")),
        ("WORKING_DIR", "/w", "places.working_dir", Path("/w")),
        ("CACHE_DIR", "/c", "places.cache_dir", Path("/c")),
        ("CACHE_SIZE", "10Gb", "caches.artifacts", 10_000_000_000),
        ("QUEUE_MATCH", "^a", "queues.match", "^a"),
        ("QUEUE_MISMATCH", "^b", "queues.mismatch", "^b"),
        ("MAX_CORES", "3", "machine.max_cores", 3),
        ("MAX_MEM", "4GiB", "machine.max_mem", 4 << 30),
        ("MAX_DISK", "100gb", "machine.max_disk", 100_000_000_000),
        ("CPU_ONLY", "true", "machine.cpu_only", True),
        ("LIMIT_TASKS", "5", "limits.tasks", 5),
        ("LIMIT_IDLE_DURATION", "1h30m", "limits.idle_duration", 5400.0),
        ("LIMIT_INTERVAL", "90s", "limits.interval", 90.0),
        ("SCHEMA_LOGS", "1", "experiments.schema_logs", True),
        ("GENERATE_METADATA", "false", "experiments.generate_metadata", False),
        ("PROM_ADDRESS", ":9090", "http.address", "0.0.0.0:9090"),
        ("PROM_ADDRESS", "none", "http.address", ""),
        ("DEBUG", "true", "log.level", "debug"),
    ],
)
def test_variables_of_the_reference_work(environ, variable, text, key, value):
    found = cascade.load({**environ, variable: text}).values[key]

    assert found.value == value
    assert found.origin == f"environment {variable}"


def test_a_debug_variable_meant_for_another_program_is_no_error(environ):
    assert cascade.load({**environ, "DEBUG": "express:*"}).settings.log.level == "info"


def test_an_empty_variable_counts_as_not_set(environ):
    assert cascade.load({**environ, "QUEUE_MATCH": ""}).settings.queues.match == "^(rmq|sqs|local)_.*$"


def test_relative_paths_start_where_they_are_written(environ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "etc2" / "runner.toml", '[places]\nqueue_root = "queues"\ncache_dir = "~/cache"\n')

    places = cascade.load({**environ, "WORKING_DIR": "work/../work"}, None, file).settings.places

    assert places.queue_root == tmp_path / "etc2" / "queues"
    assert places.cache_dir == tmp_path / "home" / "cache"
    assert places.working_dir == tmp_path / "work"


def test_the_configuration_file_is_the_named_one_else_the_users_else_the_machines(environ, tmp_path):
    system = write(tmp_path / "etc" / "config.toml", "[queues]\ndeliveries = 1\n")
    assert cascade.load(environ).file == system

    user = write(tmp_path / "home" / ".config" / "studio-runner" / "config.toml", "[queues]\ndeliveries = 2\n")
    assert cascade.load(environ).file == user

    moved = write(tmp_path / "xdg" / "studio-runner" / "config.toml", "[queues]\ndeliveries = 3\n")
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert cascade.load(environ).file == moved

    named = write(tmp_path / "named.toml", "[queues]\ndeliveries = 4\n")
    environ["STUDIO_RUNNER_CONFIG"] = str(named)
    found = cascade.load(environ)
    assert (found.file, found.settings.queues.deliveries) == (named, 4)


def test_a_named_file_that_is_not_there_is_an_error(environ, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        cascade.load({**environ, "STUDIO_RUNNER_CONFIG": str(tmp_path / "nowhere.toml")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[queues]\nmathc = 1\n", "unknown key 'queues.mathc': did you mean 'queues.match'?"),
        ("[qeues]\nmatch = 1\n", "unknown section 'qeues': did you mean 'queues'?"),
        ("lease = 3\n", "unknown section 'lease'"),
        ("[queues\n", "is not TOML: .*line 1"),
        ("[queues]\nlease = '5 parsecs'\n", "queues.lease .* is '5 parsecs': accepted is a duration such as"),
        ("[queues]\nlease = 0\n", "queues.lease .*at least 50 ms"),
        ("[queues]\ndeliveries = 0\n", "queues.deliveries .*at least 1"),
        ("[queues]\nmatch = '('\n", r"queues.match .*'\(' \(not a regular expression: .*\): accepted is"),
        ("[queues]\nmatch = 7\n", "queues.match .* is 7 .*accepted is a regular expression"),
        ("[machine]\nmax_cores = 1.5\n", "machine.max_cores .*1.5.*a whole number"),
        ("[machine]\nmax_cores = true\n", "machine.max_cores .*True"),
        ("[machine]\nmax_mem = -1\n", "machine.max_mem .* is -1"),
        ("[machine]\nmax_mem = inf\n", "machine.max_mem .* is inf"),
        ("[experiments]\nkeep = 'perhaps'\n", "experiments.keep .*'perhaps'.*true or false"),
        ("[log]\nlevel = 'loud'\n", "log.level .*'loud'.*debug, info, warning or error"),
        ("[http]\naddress = 'localhost'\n", "http.address .*'localhost'.*HOST:PORT"),
        ("[http]\naddress = 'localhost:99999'\n", "http.address .*99999"),
        ("[http]\naddress = '::1:80'\n", "http.address .*brackets"),
        ("[places]\nstore = ''\n", "places.store .*an empty path"),
        ('[places]\nstore = "a\\u0000b"\n', "places.store .*NUL"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place_and_what_is_accepted(environ, tmp_path, text, message):
    file = write(tmp_path / "config.toml", text)

    with pytest.raises(ConfigError, match=message) as caught:
        cascade.load(environ, None, file)

    assert str(file) in str(caught.value)


def test_a_file_that_is_no_text_is_an_error(environ, tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="is not TOML"):
        cascade.load(environ, None, file)


def test_a_secret_is_in_no_message_and_in_no_listing(environ, tmp_path):
    found = cascade.load({**environ, "STUDIO_RUNNER_HTTP_TOKEN": "hunter2"})
    assert found.settings.http.token == "hunter2"
    assert found.values["http.token"].shown == "********"

    with pytest.raises(ConfigError) as caught:
        cascade.load(environ, None, write(tmp_path / "config.toml", "[http]\ntoken = [4711]\n"))
    assert "4711" not in f"{caught.value} {caught.value.hint}"


def test_a_variable_that_does_nothing_is_noted(environ):
    environ |= {
        "STUDIO_RUNNER_QUEUE_MACTH": "^x$",
        "K8S_NAMESPACE": "/keys/password",
        "STUDIO_RUNNER_PORT_9090_TCP_ADDR": "10.0.0.1",
    }

    notes = cascade.load(environ).notes

    assert [re.match(r"\w+", note)[0] for note in notes] == ["STUDIO_RUNNER_QUEUE_MACTH", "K8S_NAMESPACE"]
    assert "did you mean STUDIO_RUNNER_QUEUE_MATCH?" in notes[0]
    assert "password" not in " ".join(notes)


@pytest.mark.parametrize(
    ("queue", "served"),
    [
        ("local_cpu", True),
        ("sqs_x", True),
        ("other", False),
        ("local_cpu_response", False),
        ("local_gpu", False),
        ("my_local_x", False),
    ],
)
def test_which_queues_are_served(environ, queue, served):
    queues = cascade.load({**environ, "QUEUE_MISMATCH": "gpu$"}).settings.queues

    assert queues.serves(queue) is served


def test_a_configuration_directory_that_is_closed_to_us_counts_as_none(environ, tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.stat", closed)

    assert cascade.find_file(environ) is None


@pytest.mark.parametrize(
    "text",
    ['[gpus]\nslots = "A100 = 30, RTX 4090=12"\n', '[gpus.slots]\n"A100" = 30\n"RTX 4090" = 12\n'],
)
def test_slots_are_written_as_a_table_or_in_one_line(environ, tmp_path, text):
    path = tmp_path / "slots.toml"
    path.write_text(text)
    configuration = cascade.load(environ, file=path)
    assert configuration.settings.gpus.slots == (("A100", 30), ("RTX 4090", 12))
    assert configuration.values["gpus.slots"].shown == "A100 = 30, RTX 4090 = 12"


@pytest.mark.parametrize("text", ["A100", "A100=", "A100=0", "A100=-1", "=3", "A100=1.5", "A100=99999", "A100=x"])
def test_slots_that_mean_nothing_are_refused(environ, text):
    with pytest.raises(ConfigError, match="names of cards with their slots, such as"):
        cascade.load({**environ, "STUDIO_RUNNER_GPU_SLOTS": text})


@pytest.mark.parametrize(
    ("variables", "allowed", "refused"),
    [
        ({}, ["/etc", "{store}"], []),
        ({"STUDIO_RUNNER_STORAGE_DIRECTORIES": "/srv/data"}, ["/srv/data/x", "{store}"], ["/srv", "/etc"]),
        ({"STUDIO_RUNNER_REQUIRE_CONTAINER": "true"}, ["{store}"], ["/etc", "{home}"]),
    ],
)
def test_where_messages_may_name_files(environ, variables, allowed, refused):
    settings = cascade.load({**environ, **variables}).settings
    reach, places = reach_of(settings), {"store": settings.places.store, "home": settings.places.home}
    assert [path for path in allowed if not reach.allows(path.format(**places))] == []
    assert [path for path in refused if reach.allows(path.format(**places))] == []
