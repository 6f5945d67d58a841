"""What every environment provider promises."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from studio_runner.environments.base import EnvironmentProvider, EnvironmentSpec
from studio_runner.environments.virtualenv import VirtualenvProvider
from studio_runner.errors import EnvironmentFailedError
from studio_runner.process.spawn import Spawner

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
EMPTY = EnvironmentSpec(HERE, ())


def virtualenv(cache: Path, spawner: Spawner) -> AbstractAsyncContextManager[EnvironmentProvider]:
    own = {"PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "HOME": str(cache), "SECRET": "of the runner"}
    return VirtualenvProvider(cache, 0, spawner, own)


@pytest.fixture(params=[virtualenv], ids=lambda make: make.__name__)
def make(request) -> Callable[[Path, Spawner], AbstractAsyncContextManager[EnvironmentProvider]]:
    return request.param


@pytest.fixture
async def provider(make, tmp_path) -> AsyncIterator[EnvironmentProvider]:
    async with Spawner() as spawner, make(tmp_path / "cache", spawner) as made:
        yield made


async def output(
    provider: EnvironmentProvider, code: str, tmp_path: Path, env: dict[str, str] | None = None
) -> str:
    """What a script with this code prints in an empty environment."""
    (tmp_path / "script.py").write_text(code)
    async with provider.prepare(EMPTY, lambda line: None) as environment:
        command = environment.command(["script.py", "an argument"], env or {"PATH": "/usr/bin:/bin"}, tmp_path)
        process = await asyncio.create_subprocess_exec(
            *command.argv, env=dict(command.env), cwd=command.cwd, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def test_the_script_runs_with_its_arguments_in_its_directory(provider, tmp_path):
    code = "import os, sys; print(sys.argv, os.getcwd())"

    assert await output(provider, code, tmp_path) == f"['script.py', 'an argument'] {tmp_path}"


async def test_it_runs_under_the_version_asked_for(provider, tmp_path):
    assert await output(provider, "import sys; print('%d.%d' % sys.version_info[:2])", tmp_path) == HERE


async def test_programs_that_it_starts_find_the_same_python(provider, tmp_path):
    code = (
        "import subprocess, sys; print(subprocess.check_output(['python', '-c', 'import sys; print(sys.prefix)']).decode()"
        ".strip() == sys.prefix)"
    )

    assert await output(provider, code, tmp_path) == "True"


async def test_it_sees_what_it_was_given_and_nothing_of_the_runner(provider, tmp_path):
    code = (
        "import os, sys; print(os.environ.get('GIVEN'), os.environ.get('SECRET'), 'studio_runner' in str(sys.path))"
    )

    assert await output(provider, code, tmp_path, {"GIVEN": "yes"}) == "yes None False"


async def test_packages_of_the_runner_cannot_be_imported(provider, tmp_path):
    code = "import importlib.util as u; print(u.find_spec('studio_runner'), u.find_spec('pydantic'))"

    assert await output(provider, code, tmp_path) == "None None"


async def test_the_same_spec_is_the_same_environment(provider):
    async with provider.prepare(EMPTY, print) as one, provider.prepare(EMPTY, print) as other:
        first = one.command(["x.py"], {}, Path("/"))
        second = other.command(["x.py"], {}, Path("/"))

    assert first == second
    assert await provider.key(EMPTY) == await provider.key(EnvironmentSpec(HERE, ("", "# nothing")))


async def test_keys_differ_when_requirements_do(provider):
    keys = {
        await provider.key(spec)
        for spec in (
            EMPTY,
            EnvironmentSpec(HERE, ("six==1.16.0",)),
            EnvironmentSpec(HERE, ("six==1.15.0",)),
            EnvironmentSpec(HERE, (), extra=("six==1.16.0",)),
            EnvironmentSpec(HERE, ("p @ git+https://${T}@host/p",), {"T": "one"}),
            EnvironmentSpec(HERE, ("p @ git+https://${T}@host/p",), {"T": "other"}),
        )
    }

    assert len(keys) == 6
    assert not any("one" in key.split("-")[-1] or "other" in key for key in keys)


async def test_the_order_of_requirements_does_not_matter(provider):
    there = EnvironmentSpec(HERE, ("six==1.16.0", "idna==3.6"))
    back = EnvironmentSpec(HERE, ("idna==3.6", "six==1.16.0"))

    assert await provider.key(there) == await provider.key(back)


async def test_its_name_is_for_people(provider):
    async with provider.prepare(EMPTY, lambda line: None) as environment:
        assert environment.name == f"python {'.'.join(map(str, sys.version_info[:3]))}, 0 packages"


async def test_what_was_left_out_is_said_every_time(provider):
    spec = EnvironmentSpec(HERE, ("wsgiref==0.1.2",))
    for _ in range(2):
        said: list[str] = []
        async with provider.prepare(spec, said.append):
            assert "wsgiref==0.1.2: left out, it is part of the interpreter" in said


async def test_a_second_one_costs_no_process_and_no_words(provider, monkeypatch):
    async with provider.prepare(EMPTY, lambda line: None):
        pass

    def refuse(*_: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(Spawner, "spawn", refuse)
    said: list[str] = []
    async with provider.prepare(EMPTY, said.append):
        assert said == []


async def test_a_missing_version_is_the_experiments_failure(provider):
    with pytest.raises(EnvironmentFailedError, match=r"No Python 9\.9") as caught:
        async with provider.prepare(EnvironmentSpec("9.9", ()), lambda line: None):
            pass

    assert not caught.value.transient


async def test_nothing_but_bytecode_can_be_written(provider):
    async with provider.prepare(EMPTY, lambda line: None) as environment:
        prefix = Path(environment.command(["x.py"], {}, Path("/")).env["VIRTUAL_ENV"])
        writable = [
            path for path in (prefix, *prefix.rglob("*")) if not path.is_symlink() and path.stat().st_mode & 0o222
        ]

    assert {path.name for path in writable if "__pycache__" not in path.parts[:-1]} <= {"__pycache__"}


async def test_an_environment_is_the_same_after_a_restart(make, tmp_path):
    executables = []
    for _ in range(2):
        async with Spawner() as spawner, make(tmp_path, spawner) as made, made.prepare(EMPTY, print) as environment:
            executables.append(environment.command(["x.py"], {}, tmp_path).argv[0])

    assert executables[0] == executables[1]
    assert os.access(executables[0], os.X_OK)
