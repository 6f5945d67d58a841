"""The checks of `doctor`, each on a machine in trouble."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from studio_runner.cli import doctor, own_secrets
from studio_runner.cli.checkup import limits, places, python, reserved, system
from studio_runner.cli.checkup.finding import Finding, Here, State
from studio_runner.config import cascade
from studio_runner.config.studioml import StudioConfig


@pytest.fixture
def here(tmp_path):
    """What the checks are about, with variables and settings as given."""

    def making(flags=None, **environ):
        environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull, **environ}
        return Here(cascade.load(environ, flags).settings, environ)

    return making


def states(findings) -> set[State]:
    return {finding.state for finding in findings}


def problems(findings) -> list[Finding]:
    found = [finding for finding in findings if finding.state is not State.OK]
    assert all(finding.mend for finding in found)
    return found


def test_a_fresh_home_is_well(here):
    found = [*places.queue_root(here()), *places.working_dir(here()), *places.store(here()), *places.cache(here())]

    assert problems(found) == []
    assert any("can be made" in finding.sentence for finding in found)


def test_checks_leave_nothing_behind(here, tmp_path):
    queues = tmp_path / ".studioml" / "queue"
    cache = tmp_path / ".cache" / "studio-runner"
    queues.mkdir(parents=True)
    cache.mkdir(parents=True)

    assert problems([*places.queue_root(here()), *places.cache(here())]) == []

    assert list(queues.iterdir()) == []
    assert list(cache.iterdir()) == []


def test_places_within_the_reach_of_others_are_named(here):
    with tempfile.TemporaryDirectory() as top:  # that of pytest is closed
        os.chmod(top, 0o755)
        store = Path(top, "store")
        store.mkdir()
        store.chmod(0o750)
        shared = here({"places.store": str(store)})

        [finding] = problems(places.store(shared))
        assert f"{store} are within reach of a group" in finding.sentence
        store.chmod(0o755)
        assert "everybody" in problems(places.store(shared))[0].sentence
        os.chmod(top, 0o700)
        assert problems(places.store(shared)) == []


def open_files(tmp_path, flags=None, config=None, **environ):
    environ = {"HOME": str(tmp_path), **environ}
    return own_secrets.open_files(cascade.load(environ, flags), config or StudioConfig(), environ)


def test_a_configuration_file_with_a_secret_is_to_be_closed(tmp_path):
    file = tmp_path / ".config" / "studio-runner" / "config.toml"
    file.parent.mkdir(parents=True)
    file.touch(0o644)
    file.chmod(0o644)
    for harmless in ("", "[queues]\namqp_url = 'amqp://somewhere'\n"):
        file.write_text(harmless)
        assert open_files(tmp_path) == []
    for secret in ("[http]\ntoken = 'x'\n", "[queues]\namqp_url = 'amqp://me:mine@somewhere'\n"):
        file.write_text(secret)
        assert open_files(tmp_path) == [f"the configuration file {file} can be read by others"]
    file.chmod(0o600)
    assert open_files(tmp_path) == []


def test_files_of_credentials_are_to_be_closed(tmp_path):
    files = {name: tmp_path / name for name in ("auth", "key", "aws/credentials", "config.yaml", "own")}
    for file in files.values():
        file.parent.mkdir(exist_ok=True)
        file.touch()
        file.chmod(0o640)
    flags = {"containers.registry_auth": "auth", "storage.key": "key", "queues.sqs_certs": "aws"}
    flags = {key: str(tmp_path / name) for key, name in flags.items()} | {"storage.allow_env_secrets": "true"}
    config = StudioConfig(files["config.yaml"], {"storage": {"credentials": {"plain": "x"}}})

    found = open_files(tmp_path, flags, config, AWS_SHARED_CREDENTIALS_FILE=str(files["own"]))

    assert len(found) == len(files)
    assert all(any(str(file) in sentence for sentence in found) for file in files.values())


@pytest.mark.parametrize("check", [places.queue_root, places.working_dir, places.store, places.cache])
def test_a_file_in_the_way_is_a_problem(here, tmp_path, check):
    blocked = tmp_path / "file"
    blocked.touch()
    flags = {f"places.{name}": str(blocked / "x") for name in ("queue_root", "working_dir", "store", "cache_dir")}

    (found,) = problems(check(here(flags)))

    assert found.state is State.PROBLEM
    assert str(blocked) in found.sentence


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a directory that nobody can write: /sys/kernel")
def test_a_directory_that_cannot_be_written_is_a_problem(here):
    (found,) = problems(places.store(here({"places.store": "/sys/kernel/store"})))

    assert found.state is State.PROBLEM
    assert "/sys/kernel cannot be written" in found.sentence


def test_a_cache_of_uv_on_another_file_system_is_a_warning(here, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")

    (found,) = problems(places.cache(here(UV_CACHE_DIR=str(other))))

    assert found.state is State.WARNING
    assert "hard-linked" in found.sentence


def test_a_file_systems_kind_is_found_by_the_longest_mount_point():
    if not Path("/proc/self/mounts").exists():
        pytest.skip("no /proc here")

    assert places.file_system(Path("/proc/self")) == "proc"


def test_little_room_is_said(here, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000_000})
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: usage)
    assert states(places.disk(here())) == {State.WARNING}

    usage.free = 1_000_000
    assert states(places.disk(here())) == {State.PROBLEM}


def test_an_address_in_use_by_no_runner_is_a_warning_and_none_is_fine(here, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(reserved, "PATIENCE", 0.2)
        (found,) = problems(system.http(here({"http.address": address})))

    assert found.state is State.WARNING
    assert address in found.sentence
    assert list(system.http(here({"http.address": ""}))) == []


def test_an_address_that_start_would_refuse_is_a_problem(here):
    (found,) = problems(system.http(here({"http.address": "0.0.0.0:0"})))

    assert found.state is State.PROBLEM
    assert "token" in found.mend
    assert problems(system.http(here({"http.address": "0.0.0.0:0", "http.allow_remote": True}))) == []


def test_few_open_files_are_a_warning(here, monkeypatch):
    monkeypatch.setattr(system.resource, "getrlimit", lambda what: (256, 4096))

    (found,) = problems(system.open_files(here()))

    assert "256" in found.sentence


def test_an_index_that_does_not_answer_is_a_problem_without_its_password(here):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    (found,) = problems(python.indexes(here(PIP_INDEX_URL=f"http://user:hunter2@127.0.0.1:{port}/simple")))

    assert found.state is State.PROBLEM
    assert f"127.0.0.1:{port}/simple does not answer" in found.sentence
    assert "hunter2" not in str(found)


def test_a_directory_as_index_must_be_there(here, tmp_path):
    assert problems(python.indexes(here(PIP_INDEX_URL=f"file://{tmp_path}"))) == []
    assert states(python.indexes(here(PIP_INDEX_URL=f"file://{tmp_path}/none"))) == {State.PROBLEM}


def test_without_an_index_the_links_are_said(here):
    (found,) = python.indexes(here(PIP_NO_INDEX="1", PIP_FIND_LINKS="/wheels"))

    assert "/wheels" in found.sentence


def test_a_check_that_breaks_does_not_stop_the_others(here, monkeypatch):
    def broken(_here):
        raise PermissionError(13, "Permission denied", "/sys/x")
        yield

    monkeypatch.setattr(doctor, "checks", lambda: (broken, system.open_files))

    first, second = doctor.examine(here())

    assert (first.state, first.subject) == (State.PROBLEM, "broken")
    assert second.subject == "open files"


def test_a_default_index_that_does_not_answer_is_a_problem_in_the_words_of_uv(here):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    found = python.indexes(here(ALL_PROXY=f"http://127.0.0.1:{port}", UV_HTTP_TIMEOUT="2", UV_HTTP_RETRIES="0"))
    assert any("default index does not answer" in finding.sentence for finding in problems(found))


def test_what_is_not_held_by_the_kernel_is_said_with_its_mend(here):
    found = problems(limits.limits(here({"machine.cgroups": "off"})))

    assert [finding.subject for finding in found] == ["limit on memory", "limit on cores", "limit on processes"]
    assert all("machine.cgroups" in finding.mend for finding in found)
    assert states(limits.limits(here({"machine.cgroups": "off"}))) == {State.OK, State.WARNING}


def test_no_bound_on_processes_is_a_warning(here):
    found = problems(limits.limits(here({"machine.max_processes": "0"})))

    assert any("max_processes" in finding.sentence for finding in found)
