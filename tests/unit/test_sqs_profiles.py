"""The directory of credentials for SQS."""

import pytest

from studio_runner.errors import ConfigError
from studio_runner.queues.sqs.profiles import profiles_in

KEYS = "aws_access_key_id = AKIA\naws_secret_access_key = verysecret\n"


def put(directory, credentials="", config=""):
    directory.mkdir(parents=True, exist_ok=True)
    if credentials:
        (directory / "credentials").write_text(credentials)
    if config:
        (directory / "config").write_text(config)


def found(directory, region=""):
    return {
        (profile.name, profile.region, profile.credentials.parent.name)
        for profile in profiles_in(directory, region)
    }


def test_one_profile_with_its_region(tmp_path):
    put(tmp_path / "a", f"[default]\n{KEYS}", "[default]\nregion = us-west-2\n")
    assert found(tmp_path / "a") == {("default", "us-west-2", "a")}


def test_several_profiles_of_several_directories(tmp_path):
    put(tmp_path / "a", f"[default]\n{KEYS}[two]\n{KEYS}", "[default]\nregion = r1\n[profile two]\nregion = r2\n")
    put(tmp_path / "b", f"[default]\n{KEYS}region = r3\n")
    assert found(tmp_path) == {("default", "r1", "a"), ("two", "r2", "a"), ("default", "r3", "b")}


def test_a_profile_without_a_region_takes_the_default_ones_and_then_the_configured_one(tmp_path):
    put(tmp_path / "a", f"[default]\n{KEYS}[two]\n{KEYS}", "[default]\nregion = r1\n")
    put(tmp_path / "b", f"[three]\n{KEYS}")
    assert found(tmp_path, "r9") == {("default", "r1", "a"), ("two", "r1", "a"), ("three", "r9", "b")}


def test_a_role_is_a_profile_and_a_mere_region_is_none(tmp_path):
    put(
        tmp_path / "a",
        f"[base]\n{KEYS}",
        "[default]\nregion = r1\n[profile role]\nrole_arn = arn:x\nsource_profile = base\n[profile bare]\nregion = r2\n",
    )
    assert {name for name, _, _ in found(tmp_path)} == {"base", "role"}


def test_a_mounted_secret_is_read_once(tmp_path):
    put(tmp_path / "..2026", f"[default]\n{KEYS}region = r1\n")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "credentials").symlink_to("..data/credentials")
    assert len(profiles_in(tmp_path, "")) == 1


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        ("", "no AWS credentials"),
        ("[default]\nregion = r1\n", "no AWS credentials"),
        (f"[default]\n{KEYS}", "has no region"),
        (KEYS, "not in the form"),
        (f"[default]\n{KEYS}verysecret\n", "not in the form"),
    ],
)
def test_what_is_of_no_use_is_said_without_the_secret(tmp_path, credentials, said):
    put(tmp_path / "a", credentials)
    with pytest.raises(ConfigError, match=said) as caught:
        profiles_in(tmp_path / "a", "")
    assert "verysecret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_directory_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match="not a directory"):
        profiles_in(tmp_path / "nowhere", "")
