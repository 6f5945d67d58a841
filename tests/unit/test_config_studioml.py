import json
from pathlib import Path

import pytest

from studio_runner.config.studioml import StudioConfig, parse_studio_config, read_studio_config
from studio_runner.errors import ConfigError

TYPICAL = """\
database:
    type: s3
    endpoint: http://minio.local:9000
    bucket: meta
    authentication: none
storage:
    type: s3
    endpoint: http://minio.local:9000
    bucket: data
    credentials:
        aws:
            access_key: $ACCESS
            secret_access_key: "${SECRET}"
queue: local
cloud:
    queue:
        rmq: amqp://guest:guest@broker:5672/
        persistent: true
verbose: debug
saveWorkspaceFrequency: 3m
saveMetricsFrequency: 90
experimentLifetime: 1h30m
resources_needed:
    cpus: 2
    ram: 3g
    gpus: 0
env:
    PATH: "%PATH%:./bin"
    FLAG: yes
    MODE: 010
    HOME_OF: $ACCESS
    EMPTY:
pip:
    - six==1.16.0
optimizer:
    sigma0: 0.25
    started: 2020-01-02
"""


def parse(text: str, **environ: str) -> StudioConfig:
    return parse_studio_config(text, Path("/c/config.yaml"), environ)


def test_a_typical_file():
    found = parse(TYPICAL, ACCESS="AKIA", SECRET="s3cr3t")

    assert found.storage["credentials"]["aws"] == {"access_key": "AKIA", "secret_access_key": "s3cr3t"}
    assert found.database["bucket"] == "meta"
    assert found.cloud_queue["persistent"] is True
    assert found.resources_needed == {"cpus": 2, "ram": "3g", "gpus": 0}
    assert (found.experiment_lifetime, found.save_workspace_frequency, found.save_metrics_frequency) == (
        5400,
        180,
        90,
    )
    assert (found.queue, found.verbose, found.pip) == ("local", "debug", ("six==1.16.0",))


def test_environment_values_are_text_as_they_are_written():
    env = parse(TYPICAL, ACCESS="AKIA").env

    assert env == {"PATH": "%PATH%:./bin", "FLAG": "yes", "MODE": "010", "HOME_OF": "AKIA", "EMPTY": ""}


def test_the_document_keeps_everything_and_is_json():
    document = parse(TYPICAL, ACCESS="AKIA").document

    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["optimizer"] == {"sigma0": 0.25, "started": "2020-01-02"}
    assert document["experimentLifetime"] == "1h30m"
    assert document["env"]["FLAG"] == "yes"


def test_an_unknown_variable_is_left_alone():
    assert parse("database:\n  key: $NOT_SET/${NEITHER}/x\n").database == {"key": "$NOT_SET/${NEITHER}/x"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "storage:\nenv:\n"])
def test_an_empty_file_says_nothing(text):
    found = parse(text)

    assert (found.storage, found.env, found.experiment_lifetime) == ({}, {}, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c\n", r"/c/config\.yaml, line 1 is not YAML"),
        ("a: 1\n\tb: 2\n", r"/c/config\.yaml, line 2 is not YAML"),
        ("- 1\n- 2\n", "the file holds a list, accepted is a mapping"),
        ("x: 1\nstorage: s3\n", "line 2: storage is 's3', accepted is a mapping"),
        ("x: 1\ncloud:\n  queue: local\n", r"line 3: cloud\.queue is 'local', accepted is a mapping"),
        ("\n\nexperimentLifetime: soon\n", "line 3: experimentLifetime is 'soon', accepted is a duration"),
        ("saveWorkspaceFrequency: -3\n", "line 1: saveWorkspaceFrequency is -3"),
        ("env:\n  A: x\n  B: [1]\n", r"line 3: env\.B is a list, accepted is text"),
        ("pip: six\n", "line 1: pip is 'six', accepted is a list of requirement lines"),
        ("verbose: {a: 1}\n", "line 1: verbose is a mapping, accepted is text"),
        ("x: !!python/object/apply:os.getcwd []\n", "line 1 is not YAML"),
    ],
)
def test_mistakes_are_named_with_line_and_key(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_the_homes_file_comes_before_the_users_and_no_file_is_fine(tmp_path):
    environ = {"HOME": str(tmp_path / "user")}
    home = tmp_path / "elsewhere"
    assert read_studio_config(home, environ) == StudioConfig()

    user = tmp_path / "user" / ".studioml" / "config.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("queue: of-the-user\n")
    assert read_studio_config(home, environ).queue == "of-the-user"

    home.mkdir()
    (home / "config.yaml").write_text("queue: of-the-home\n")
    assert read_studio_config(home, environ).queue == "of-the-home"


def test_credentials_are_not_in_the_representation():
    assert "s3cr3t" not in repr(parse(TYPICAL, SECRET="s3cr3t", ACCESS="s3cr3t"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a: !!int ''",
            "a: !!int x",
            "a: !!float ''",
            "a: !!bool x",
            "a: !!timestamp x",
            "a: " + "1:" * 300 + "1.0",
        ),
        *("a: &a [*a]", "a: &a {b: *a}", "[" * 60 + "]" * 60, "[" * 2000),
    ],
    ids=lambda text: text[:20],
)
def test_what_yaml_itself_stumbles_over_is_told(text):
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        parse_studio_config(text, Path("config.yaml"), {})


def test_aliases_of_aliases_fill_no_memory():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]" for level in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        parse_studio_config("\n".join(lines), Path("config.yaml"), {})


def test_a_number_too_long_to_be_spelled_is_kept_as_text():
    config = parse_studio_config(f"queue: 0x{'f' * 5000}", Path("config.yaml"), {})
    assert config.queue == f"0x{'f' * 5000}"


def test_of_two_keys_of_one_name_the_last_counts():
    config = parse_studio_config("env:\nenv:\n  N: 010\n", Path("config.yaml"), {})
    assert config.env == {"N": "010"}
