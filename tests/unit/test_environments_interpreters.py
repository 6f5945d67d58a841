import json
import os
import sys
from pathlib import Path

import pytest

from studio_runner.environments import interpreters
from studio_runner.environments.interpreters import Interpreter, Interpreters
from studio_runner.errors import EnvironmentFailedError


class Machine:
    """A machine with made-up interpreters: small programs that answer as a real one does, and count how often."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = home / "cache/interpreters.json"
        self.asked = home / "asked"
        self.path: list[str] = []

    def add(self, folder: str, name: str, version: str = "", **facts) -> Path:
        facts = {
            "version": version,
            "level": "final",
            "implementation": "cpython",
            "free_threaded": False,
            "platform": "linux-x86_64",
            "abi": "",
            "build": f"{version} (made up)",
        } | facts
        return self.program(folder, name, f"echo '{json.dumps(facts)}'")

    def program(self, folder: str, name: str, action: str) -> Path:
        path = self.home / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {name} >> {self.asked}\n{action}\n")
        path.chmod(0o755)
        return path

    def interpreters(self) -> Interpreters:
        environ = {"HOME": str(self.home), "PATH": os.pathsep.join(str(self.home / entry) for entry in self.path)}
        return Interpreters(self.store, environ, probe_timeout=2, recheck=0)

    def questions(self) -> list[str]:
        return self.asked.read_text().split() if self.asked.exists() else []


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    monkeypatch.setattr(interpreters, "SYSTEM", ())
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "runner"))
    made = Machine(tmp_path)
    made.path = ["bin"]
    return made


async def found(machine, prefix) -> str:
    return str(await machine.interpreters().find(prefix))


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", "python 3.11.7"),
        ("3", "python 3.11.7"),
        ("3.1", "python 3.1.9"),
        ("3.9", "python 3.9.18"),
        ("3.9.2", "python 3.9.2"),
        ("2", "python 2.7.18"),
        ("2.7.18", "python 2.7.18"),
    ],
)
async def test_the_newest_version_with_that_prefix(machine, prefix, expected):
    for version in ("2.7.18", "3.9.18", "3.9.2", "3.11.7", "3.1.9"):
        machine.add(f".pyenv/versions/{version}/bin", "python", version)

    assert await found(machine, prefix) == expected


async def test_a_missing_version_says_what_is_there_and_how_to_add_one(machine):
    machine.add("bin", "python3.9", "3.9.18")
    machine.add("bin", "python2.7", "2.7.18")

    with pytest.raises(EnvironmentFailedError) as caught:
        await machine.interpreters().find("3.12")

    assert "3.12" in str(caught.value)
    assert "python 3.9.18, python 2.7.18" in str(caught.value)
    assert "uv python install 3.12" in caught.value.hint


async def test_python_3_never_gives_python_2(machine):
    machine.add("bin", "python2.7", "2.7.18")

    with pytest.raises(EnvironmentFailedError):
        await machine.interpreters().find("")


@pytest.mark.parametrize("prefix", ["three", "3.x", "3..1", "3.11; rm"])
async def test_what_is_no_version_is_refused(machine, prefix):
    with pytest.raises(EnvironmentFailedError, match="not a Python version"):
        await machine.interpreters().find(prefix)


class TestPreference:
    async def test_a_release_before_a_newer_prerelease(self, machine):
        machine.add("bin", "python3.13", "3.13.1")
        machine.add("bin", "python3.14", "3.14.0", level="candidate")

        assert await found(machine, "3") == "python 3.13.1"
        assert await found(machine, "3.14") == "python 3.14.0 (candidate)"

    async def test_the_usual_build_before_a_free_threaded_one(self, machine):
        machine.add("bin", "python3.13", "3.13.1")
        machine.add("bin", "python3.13t", "3.13.2", free_threaded=True)

        assert await found(machine, "3.13") == "python 3.13.1"
        assert await found(machine, "3.13.2") == "python 3.13.2 free-threaded"

    async def test_cpython_before_a_newer_pypy(self, machine):
        machine.add("bin", "python3.9", "3.9.1")
        machine.add("bin", "pypy3.9", "3.9.18", implementation="pypy")

        assert await found(machine, "3.9") == "python 3.9.1"
        assert await found(machine, "3.9.18") == "pypy 3.9.18"

    async def test_of_equals_the_first_on_the_path(self, machine):
        machine.path = ["first", "second"]
        machine.add("second", "python3.9", "3.9.1")
        first = machine.add("first", "python3.9", "3.9.1")

        assert (await machine.interpreters().find("3.9")).path == str(first)


class TestPlaces:
    @pytest.mark.parametrize(
        "folder",
        [
            "bin",
            "runner/bin",
            ".pyenv/versions/3.9.1/bin",
            ".local/share/uv/python/cpython-3.9.1-linux/bin",
            ".local/bin",
        ],
    )
    async def test_looked_into(self, machine, folder):
        machine.add(folder, "python3.9", "3.9.1")

        assert await found(machine, "3.9") == "python 3.9.1"

    async def test_condas_own_list_of_environments(self, machine):
        machine.add("conda/envs/x/bin", "python3.9", "3.9.1")
        (machine.home / ".conda").mkdir()
        (machine.home / ".conda/environments.txt").write_text(f"{machine.home / 'conda/envs/x'}\n")

        assert await found(machine, "3.9") == "python 3.9.1"

    async def test_shims_are_not_interpreters(self, machine):
        machine.path = ["pyenv/shims"]
        machine.add("pyenv/shims", "python3.9", "3.9.1")

        assert await machine.interpreters().all() == ()
        assert machine.questions() == []

    async def test_of_a_virtual_environment_its_base_is_meant(self, machine):
        base = machine.add("base", "python3.9", "3.9.1")
        linked = machine.home / "venv/bin/python3"
        linked.parent.mkdir(parents=True)
        linked.symlink_to(base)
        machine.add("copied/bin", "python3.8", "3.8.1")
        (machine.home / "copied/pyvenv.cfg").touch()
        machine.path = ["venv/bin", "copied/bin"]

        assert [one.path for one in await machine.interpreters().all()] == [str(base)]

    async def test_tools_with_similar_names_are_not_run(self, machine):
        for name in ("python3-config", "python3.9-gdb.py", "pythonw", "ipython3"):
            machine.program("bin", name, "exit 0")

        assert await machine.interpreters().all() == ()
        assert machine.questions() == []


class TestBadOnes:
    @pytest.mark.parametrize("action", ["exit 1", "echo nonsense", "echo '{}'", "kill -9 $$", "echo '[]'"])
    async def test_a_broken_one_is_passed_over(self, machine, action):
        machine.program("bin", "python3.8", action)
        machine.add("bin", "python3.9", "3.9.1")

        assert [str(one) for one in await machine.interpreters().all()] == ["python 3.9.1"]

    async def test_one_that_never_answers_is_passed_over_and_killed(self, machine):
        machine.program("bin", "python3.8", f"echo $$ > {machine.home}/pid; sleep 600")
        environ = {"HOME": str(machine.home), "PATH": str(machine.home / "bin")}

        assert await Interpreters(machine.store, environ, probe_timeout=0.3).all() == ()

        pid = int((machine.home / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    async def test_one_that_cannot_be_executed_is_passed_over(self, machine):
        path = machine.home / "bin/python3.8"
        path.parent.mkdir()
        path.write_bytes(b"\x7fELF nothing")
        path.chmod(0o755)

        assert await machine.interpreters().all() == ()


class TestMemory:
    async def test_each_is_asked_once(self, machine):
        machine.add("bin", "python3.9", "3.9.1")
        some = machine.interpreters()
        await some.all()
        await some.find("3.9")
        await machine.interpreters().all()

        assert machine.questions() == ["python3.9"]

    async def test_one_whose_name_rules_it_out_is_not_asked(self, machine):
        machine.add("bin", "python3.9", "3.9.1")
        machine.add("bin", "python3.8", "3.8.1")
        await machine.interpreters().find("3.9")

        assert machine.questions() == ["python3.9"]

    async def test_one_that_was_replaced_is_asked_again(self, machine):
        machine.add("bin", "python3.9", "3.9.1")
        await machine.interpreters().all()
        machine.add("bin", "python3.9", "3.9.22")

        assert await found(machine, "3.9") == "python 3.9.22"

    async def test_one_that_is_installed_meanwhile_is_found(self, machine):
        machine.add("bin", "python3.9", "3.9.1")
        some = machine.interpreters()
        await some.all()
        machine.add("bin", "python3.10", "3.10.1")

        assert str(await some.find("3")) == "python 3.10.1"

    async def test_a_damaged_memory_is_made_anew(self, machine):
        machine.add("bin", "python3.9", "3.9.1")
        machine.store.parent.mkdir()
        machine.store.write_text("{ not json")

        assert await found(machine, "3.9") == "python 3.9.1"
        assert json.loads(machine.store.read_text())


async def test_this_very_interpreter_is_known_for_what_it_is(tmp_path):
    here = os.path.realpath(sys.executable)

    found = await interpreters.probe(here)

    assert isinstance(found, Interpreter)
    assert found.numbers == sys.version_info[:3]
