"""What every environment promises, of containers: their provider needs an image besides."""

import os
import sys
from contextlib import asynccontextmanager

import pytest

from studio_runner.environments.base import EnvironmentSpec
from studio_runner.environments.containers import workroom
from studio_runner.environments.containers.isolation import Box
from studio_runner.environments.containers.provider import Containers, ContainerSpec
from studio_runner.environments.containers.runtime import Runtimes
from studio_runner.environments.images.base import Image
from studio_runner.environments.programs import Programs
from studio_runner.errors import EnvironmentFailedError
from studio_runner.process.spawn import Spawner

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
EMPTY = EnvironmentSpec(HERE, ())


class OneImage:
    """Has what it is asked for, as `sandbox` is on this machine anyway."""

    @asynccontextmanager
    async def obtain(self, source, _log):
        yield Image(source, "sandbox" if source.is_dir() else "sif", f"sha256:{source}", f"file://{source}")


@pytest.fixture
async def programs():
    async with Spawner() as spawner:
        yield Programs(spawner)


@pytest.fixture
async def provider(apptainer, programs, tmp_path):
    own = {**os.environ, "SECRET": "of the runner"}
    async with Containers(tmp_path / "cache", OneImage(), Runtimes(programs, apptainer, own)) as made:
        yield made


@pytest.fixture(params=["sandbox", "sif"])
def image(request, image_sandbox, image_sif):
    return {"sandbox": image_sandbox, "sif": image_sif}[request.param]


@pytest.fixture
def workspace(tmp_path):
    directory = tmp_path / "a.1" / "workspace"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def run(provider, programs, workspace):
    """What a script with this code prints in a container of the image, its exit code, and whether it started."""

    async def started(image, code, env=None, spec=EMPTY):
        (workspace / "script.py").write_text(code)
        lines = []
        async with provider.prepare(
            ContainerSpec(Box(workspace.parent), spec), image, lambda _: None
        ) as environment:
            command = environment.command(["script.py", "an argument"], env or {}, workspace)
            code = await programs.run(command, lines.append)
            return "\n".join(lines), code, environment.not_started(code, "\n".join(lines).encode())

    return started


async def test_the_script_runs_with_its_arguments_in_its_directory(run, image, workspace):
    output, code, trouble = await run(image, "import os, sys; print(sys.argv, os.getcwd())")

    assert output == f"['script.py', 'an argument'] {workspace}"
    assert (code, trouble) == (0, None)


async def test_it_runs_under_the_version_asked_for(run, image):
    output, *_ = await run(image, "import sys; print('%d.%d' % sys.version_info[:2])")

    assert output == HERE


async def test_programs_that_it_starts_find_the_same_python(run, image):
    code = "import os, subprocess; print(subprocess.check_output(['python3', '-c', 'import sys; print(sys.version)']) != b'')"

    assert (await run(image, code))[0] == "True"


async def test_it_sees_what_it_was_given_and_nothing_of_the_runner(run, image):
    code = (
        "import os, sys; print(os.environ.get('GIVEN'), os.environ.get('SECRET'), 'studio_runner' in str(sys.path))"
    )

    assert (await run(image, code, {"GIVEN": "yes"}))[0] == "yes None False"


async def test_the_launchers_own_environment_holds_nothing_of_the_runners(provider, image_sandbox, workspace):
    spec = ContainerSpec(Box(workspace.parent), EMPTY)
    async with provider.prepare(spec, image_sandbox, lambda _: None) as environment:
        command = environment.command(["script.py"], {"GIVEN": "yes"}, workspace)

    assert "of the runner" not in command.env.values()
    assert "yes" not in command.argv


async def test_packages_of_the_runner_cannot_be_imported(run, image):
    code = "import importlib.util as u; print(u.find_spec('studio_runner'), u.find_spec('pydantic'))"

    assert (await run(image, code))[0] == "None None"


async def test_its_name_is_for_people(provider, image_sandbox, workspace):
    spec = ContainerSpec(Box(workspace.parent), EMPTY)
    async with provider.prepare(spec, image_sandbox, lambda _: None) as environment:
        assert environment.name.startswith(f"container file://{image_sandbox}, python {HERE}.")


async def test_a_second_one_costs_no_process_and_no_words(provider, image_sandbox, workspace, monkeypatch):
    spec = ContainerSpec(Box(workspace.parent), EMPTY)
    async with provider.prepare(spec, image_sandbox, lambda _: None):
        pass

    def refuse(*_):
        pytest.fail("a process was started")

    monkeypatch.setattr(Spawner, "spawn", refuse)
    said = []
    async with provider.prepare(spec, image_sandbox, said.append):
        assert said == []


async def test_a_missing_version_is_the_experiments_failure(provider, image_sandbox, workspace):
    spec = ContainerSpec(Box(workspace.parent), EnvironmentSpec("9.9", ()))

    with pytest.raises(EnvironmentFailedError, match=r"has no Python 9\.9") as caught:
        async with provider.prepare(spec, image_sandbox, lambda _: None):
            pass

    assert not caught.value.transient


async def test_a_container_that_cannot_be_made_is_told_from_a_script_that_fails(run, image, tmp_path):
    _, code, trouble = await run(image, "import sys; sys.exit(255)")
    assert (code, trouble) == (255, None)

    with pytest.raises(EnvironmentFailedError, match="The container could not be started"):
        await run(tmp_path / "nowhere.sif", "")


async def test_no_image_is_left_asked_or_unpacked(provider, image, workspace, tmp_path):
    async with provider.prepare(ContainerSpec(Box(workspace.parent), EMPTY), image, lambda _: None):
        pass

    rooms = list((tmp_path / "cache" / "containers").glob("run-*"))
    assert [list(room.iterdir()) for room in rooms] == [[]]


async def test_the_room_of_a_runner_that_died_is_cleared(tmp_path, monkeypatch):
    left, begun = tmp_path / "run-dead", tmp_path / "new-dead"
    for directory in (left, begun):
        (directory / "rootfs").mkdir(parents=True)

    with workroom.workroom(tmp_path) as alive:
        assert not left.exists()
        assert begun.exists()  # made a moment ago: its runner may be about to lock it
        monkeypatch.setattr(workroom, "_JUST_MADE", 0.0)
        with workroom.workroom(tmp_path):
            assert not begun.exists()
            assert alive.exists()
