"""Real installers, real processes: what is built, what fails how, and what is left when something dies."""

import asyncio
import base64
import hashlib
import io
import os
import signal
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from studio_runner.environments import builder, bytecode
from studio_runner.environments.base import EnvironmentSpec
from studio_runner.environments.interpreters import Interpreters
from studio_runner.environments.virtualenv import VirtualenvProvider
from studio_runner.errors import EnvironmentFailedError
from studio_runner.process.spawn import Spawner

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
PLAIN = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="session")
def downloads(tmp_path_factory) -> Path:
    """What installers have downloaded, shared by the tests of this file."""
    return tmp_path_factory.mktemp("downloads")


class Workplace:
    """A cache directory and a directory of made-up packages, which is the only index."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.links = home / "links"
        self.links.mkdir()
        self.words: list[str] = []
        self.variables = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PIP_CONFIG_FILE": os.devnull}

    def offline(self) -> dict[str, str]:
        return self.variables | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.links)}

    @asynccontextmanager
    async def provider(
        self, variables: dict[str, str] | None = None, budget: int = 0
    ) -> AsyncIterator[VirtualenvProvider]:
        async with (
            Spawner() as spawner,
            VirtualenvProvider(self.home / "cache", budget, spawner, variables or self.offline()) as provider,
        ):
            yield provider

    async def installed(self, spec: EnvironmentSpec, variables: dict[str, str] | None = None) -> dict[str, str]:
        """Names and versions of the packages in that environment."""
        async with self.provider(variables) as provider, provider.prepare(spec, self.words.append) as environment:
            return {package.name: package.version for package in environment.packages()}

    def wheel(self, name: str, version: str, requires: str = "", modules: int = 1) -> None:
        files = {f"{name}/__init__.py": f"version = {version!r}\n"}
        files |= {f"{name}/m{number}.py": f"value = {number}\n" for number in range(1, modules)}
        write_wheel(self.links / f"{name}-{version}-py3-none-any.whl", name, version, files, requires)

    def source(self, name: str, action: str) -> None:
        """A source distribution whose build does `action` first."""
        backend = BACKEND.format(name=name, action=textwrap.indent(textwrap.dedent(action), "    "))
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        project += f'[project]\nname = "{name}"\nversion = "1.0"\n'
        with tarfile.open(self.links / f"{name}-1.0.tar.gz", "w:gz") as archive:
            for file, text in {
                "pyproject.toml": project,
                "backend.py": backend,
                "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            }.items():
                member = tarfile.TarInfo(f"{name}-1.0/{file}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))


BACKEND = """\
import os, subprocess, sys, time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
{action}
    file = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, file), "w") as wheel:
        wheel.writestr("{name}/__init__.py", "")
        wheel.writestr("{name}-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        wheel.writestr("{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("{name}-1.0.dist-info/RECORD", "")
    return file
"""


def write_wheel(path: Path, name: str, version: str, files: dict[str, str], requires: str) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = files | {
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},sha256={digest(text)},{len(text)}\n" for file, text in files.items())
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            wheel.writestr(file, text)


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def place(tmp_path) -> Workplace:
    return Workplace(tmp_path)


async def run(environment, code: str, cwd: Path) -> str:
    command = environment.command(["-c", code], PLAIN, cwd)
    process = await asyncio.create_subprocess_exec(
        *command.argv, env=dict(command.env), cwd=command.cwd, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def require_interpreter(version: str, tmp_path: Path) -> None:
    try:
        await Interpreters(tmp_path / "interpreters.json", os.environ).find(version)
    except EnvironmentFailedError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"NOT TESTED: {error}")


@pytest.mark.network
@pytest.mark.parametrize("version", ["2.7", "3.6", "3.8", "3.11", "3.13"])
async def test_six_under_every_version(version, tmp_path, downloads):
    await require_interpreter(version, tmp_path)
    variables = dict(os.environ) | {"UV_CACHE_DIR": str(downloads / "uv"), "PIP_CACHE_DIR": str(downloads / "pip")}
    words: list[str] = []
    async with Spawner() as spawner, VirtualenvProvider(tmp_path, 0, spawner, variables) as provider:
        spec = EnvironmentSpec(version, ("six==1.16.0", "wsgiref==0.1.2", "Python==2.7.12"))
        async with provider.prepare(spec, words.append) as environment:
            code = (
                "import six, sys; print('%d.%d %s' % (sys.version_info[0], sys.version_info[1], six.__version__))"
            )
            assert await run(environment, code, tmp_path) == f"{version} 1.16.0"
            assert "six" in {package.name for package in environment.packages()}
    assert any("six" in word for word in words)


class TestLists:
    async def test_pins_that_contradict_each_other_are_installed_all_the_same(self, place):
        place.wheel("alpha", "1.0", requires="beta==1.0")
        place.wheel("beta", "1.0")
        place.wheel("beta", "2.0")

        found = await place.installed(EnvironmentSpec(HERE, ("alpha==1.0", "beta==2.0")))

        assert (found["alpha"], found["beta"]) == ("1.0", "2.0")
        assert any("No solution found" in word for word in place.words)
        assert any("without resolving dependencies" in word for word in place.words)

    @pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer interpreters bring no setuptools")
    async def test_setuptools_is_there_also_beside_pins_that_contradict_each_other(self, place):
        """Older packages import `pkg_resources`."""
        place.wheel("alpha", "1.0", requires="beta==1.0")
        place.wheel("beta", "1.0")
        place.wheel("beta", "2.0")

        found = await place.installed(EnvironmentSpec(HERE, ("setuptools==1.0", "alpha==1.0", "beta==2.0")))

        assert (found["alpha"], found["beta"]) == ("1.0", "2.0")
        assert found["setuptools"]

    async def test_a_pin_of_setuptools_that_cannot_be_had_does_not_matter(self, place):
        place.wheel("alpha", "1.0")

        found = await place.installed(EnvironmentSpec(HERE, ("setuptools==1.0", "pip==0.1", "alpha==1.0")))

        assert found["alpha"] == "1.0"
        assert any("without a fixed version of pip" in word for word in place.words)

    async def test_dependencies_are_installed_and_known(self, place):
        place.wheel("alpha", "1.0", requires="beta")
        place.wheel("beta", "2.0")

        async with place.provider() as provider, provider.prepare(EnvironmentSpec(HERE, ("alpha",)), print) as made:
            packages = {package.name: package for package in made.packages()}

        assert packages["alpha"].requires == ("beta",)
        assert packages["beta"].version == "2.0"

    async def test_extra_lines_come_after_the_list(self, place):
        place.wheel("alpha", "1.0")
        place.wheel("alpha", "2.0")

        found = await place.installed(EnvironmentSpec(HERE, ("alpha==1.0",), extra=("alpha==2.0",)))

        assert found["alpha"] == "2.0"

    async def test_a_variable_that_is_not_the_requests_is_not_the_runners_either(self, place):
        variables = place.offline() | {"PIP_EXTRA_INDEX_URL": "https://me:pw@127.0.0.1:9/simple"}
        line = "alpha @ http://127.0.0.1:9/${UV_INDEX}/alpha-1.0.tar.gz"
        with pytest.raises(EnvironmentFailedError) as caught:
            await place.installed(EnvironmentSpec(HERE, (line,)), variables)

        assert "pw" not in str(caught.value) + "".join(place.words)


class TestFailures:
    async def test_a_package_that_does_not_exist(self, place):
        with pytest.raises(EnvironmentFailedError, match="nothing-of-that-name") as caught:
            await place.installed(EnvironmentSpec(HERE, ("nothing-of-that-name==1.0",)))

        assert not caught.value.transient
        assert any("nothing-of-that-name" in word for word in place.words)

    async def test_a_package_that_cannot_be_built_is_built_once(self, place):
        place.source(
            "broken", f"open({str(place.home / 'tries')!r}, 'a').write('x')\nraise RuntimeError('no compiler')"
        )

        with pytest.raises(EnvironmentFailedError) as caught:
            await place.installed(EnvironmentSpec(HERE, ("broken==1.0",)))

        assert not caught.value.transient
        assert any("no compiler" in word for word in place.words)
        assert (place.home / "tries").read_text() == "x"

    async def test_an_index_that_does_not_answer_is_tried_three_times(self, place, monkeypatch):
        monkeypatch.setattr(builder, "_PAUSES", (0.0, 0.0))
        variables = place.variables | {"PIP_INDEX_URL": "http://me:pw@127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}

        with pytest.raises(EnvironmentFailedError) as caught:
            await place.installed(EnvironmentSpec(HERE, ("six",)), variables)

        assert caught.value.transient
        assert sum("trying again" in word for word in place.words) == 2
        assert "pw" not in str(caught.value) + "".join(place.words)

    async def test_a_failed_environment_leaves_nothing_that_is_used(self, place):
        spec = EnvironmentSpec(HERE, ("alpha==1.0",))
        with pytest.raises(EnvironmentFailedError):
            await place.installed(spec)
        place.wheel("alpha", "1.0")

        assert (await place.installed(spec))["alpha"] == "1.0"


SLEEPING = """\
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({pids!r} + ".new", "w") as file:
    file.write("%d %d" % (os.getpid(), child.pid))
os.rename({pids!r} + ".new", {pids!r})
while not os.path.exists({go!r}):
    time.sleep(0.02)
child.kill()
child.wait()
"""


class Sleeper:
    """A package whose build starts a child and waits to be let go."""

    def __init__(self, place: Workplace) -> None:
        self.file, self.go = place.home / "pids", place.home / "go"
        place.source("sleeper", SLEEPING.format(pids=str(self.file), go=str(self.go)))
        self.spec = EnvironmentSpec(HERE, ("sleeper==1.0",))

    def started(self) -> bool:
        return self.file.exists()

    def pids(self) -> list[int]:
        return [int(pid) for pid in self.file.read_text().split()]


class TestInterrupted:
    async def test_cancelled_it_leaves_no_process_and_no_lock(self, place):
        sleeper = Sleeper(place)
        async with place.provider() as provider:
            building = asyncio.create_task(self.prepare(provider, sleeper.spec))
            await until(sleeper.started)
            building.cancel()
            with pytest.raises(asyncio.CancelledError):
                await building

            assert not any(alive(pid) for pid in sleeper.pids())
            sleeper.go.touch()
            assert await self.prepare(provider, sleeper.spec) == ["sleeper"]

    async def test_when_one_is_cancelled_those_who_wait_for_it_go_on(self, place):
        sleeper = Sleeper(place)
        async with place.provider() as provider:
            building = asyncio.create_task(self.prepare(provider, sleeper.spec))
            await until(sleeper.started)
            waiting = asyncio.create_task(self.prepare(provider, sleeper.spec))
            await asyncio.sleep(0)
            building.cancel()
            await asyncio.wait([building])
            sleeper.go.touch()

            assert await waiting == ["sleeper"]

    async def test_killed_it_leaves_no_process_and_the_next_one_builds(self, place):
        sleeper = Sleeper(place)
        driver = await drive(place, sleeper.spec)
        await until(sleeper.started)
        driver.send_signal(signal.SIGKILL)
        await driver.communicate()

        await until(lambda: not any(alive(pid) for pid in sleeper.pids()))
        sleeper.go.touch()
        assert (await place.installed(sleeper.spec))["sleeper"] == "1.0"

    async def test_two_processes_build_it_once(self, place):
        sleeper = Sleeper(place)
        drivers = [await drive(place, sleeper.spec) for _ in range(2)]
        await until(sleeper.started)
        sleeper.go.touch()
        outputs = [(await driver.communicate())[0].decode() for driver in drivers]

        assert [driver.returncode for driver in drivers] == [0, 0]
        assert sum("building an environment" in output for output in outputs) == 1
        assert all("ready: sleeper" in output for output in outputs)

    async def prepare(self, provider: VirtualenvProvider, spec: EnvironmentSpec) -> list[str]:
        async with provider.prepare(spec, lambda line: None) as environment:
            return [package.name for package in environment.packages() if package.name != "setuptools"]


DRIVER = """\
import asyncio, sys
from pathlib import Path
from studio_runner.environments.base import EnvironmentSpec
from studio_runner.environments.virtualenv import VirtualenvProvider
from studio_runner.process.spawn import Spawner

async def main(home, python, line):
    own = {{"PATH": "/usr/bin:/bin", "HOME": home, "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1"}}
    own["PIP_FIND_LINKS"] = home + "/links"
    async with Spawner() as spawner, VirtualenvProvider(Path(home, "cache"), 0, spawner, own) as provider:
        async with provider.prepare(EnvironmentSpec(python, (line,)), print) as environment:
            print("ready:", *(package.name for package in environment.packages() if package.name == "sleeper"))

asyncio.run(main(*sys.argv[1:]))
""".replace("{{", "{").replace("}}", "}")


async def drive(place: Workplace, spec: EnvironmentSpec) -> asyncio.subprocess.Process:
    """Another runner process that prepares the same."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DRIVER, str(place.home), spec.python, spec.requirements[0]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_an_environment_in_use_is_never_evicted(place):
    place.wheel("alpha", "1.0")
    place.wheel("beta", "1.0")
    alpha, beta = EnvironmentSpec(HERE, ("alpha",)), EnvironmentSpec(HERE, ("beta",))
    async with place.provider(budget=1) as provider:
        async with provider.prepare(alpha, print) as using:
            async with provider.prepare(beta, print):
                pass
            await provider.tidied()
            assert await run(using, "import alpha; print(alpha.version)", place.home) == "1.0"
            prefix = using.prefix
        async with provider.prepare(EnvironmentSpec(HERE, ("alpha", "beta")), print):
            await provider.tidied()

    assert not prefix.exists()


async def test_downloads_of_environments_that_are_gone_go_as_well(place):
    place.wheel("alpha", "1.0")
    place.wheel("beta", "1.0")
    async with place.provider(budget=1) as provider:
        for name in ("alpha", "beta"):
            async with provider.prepare(EnvironmentSpec(HERE, (name,)), print):
                await provider.tidied()
        kept = {path.name for path in (place.home / "cache/uv").rglob("*.dist-info")}
        assert "beta-1.0.dist-info" in kept
        assert "alpha-1.0.dist-info" not in kept

        async with provider.prepare(EnvironmentSpec(HERE, ("alpha",)), print) as environment:
            assert await run(environment, "import alpha; print(alpha.version)", place.home) == "1.0"


async def test_one_that_an_experiment_changed_is_built_anew(place):
    place.wheel("alpha", "1.0")
    spec = EnvironmentSpec(HERE, ("alpha",))
    async with place.provider() as provider:
        async with provider.prepare(spec, print) as environment:
            site = next(environment.prefix.glob("lib/*/site-packages"))
            site.chmod(0o755)
            (site / "alpha.py").write_text("a stranger")
        async with provider.prepare(spec, place.words.append) as environment:
            assert not (site / "alpha.py").exists()

    assert any("building" in word for word in place.words)


class TestBytecode:
    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch) -> None:
        monkeypatch.setattr(bytecode, "_QUIET", 0.0)

    async def test_what_an_experiment_imports_is_compiled_for_the_next(self, place):
        place.wheel("alpha", "1.0", modules=3)
        async with place.provider() as provider, provider.prepare(EnvironmentSpec(HERE, ("alpha",)), print) as made:
            await run(made, "import alpha.m1", place.home)

            assert {path.name.partition(".")[0] for path in made.prefix.rglob("alpha/__pycache__/*.pyc")} >= {
                "__init__",
                "m1",
            }

    async def test_everything_is_compiled_in_the_background_and_counted(self, place):
        place.wheel("alpha", "1.0", modules=20)
        async with place.provider() as provider, provider.prepare(EnvironmentSpec(HERE, ("alpha",)), print) as made:
            await run(made, "pass", place.home)
            await provider.compiled()

            assert len(list(made.prefix.rglob("alpha/__pycache__/*.pyc"))) == 20
            assert int((made.prefix.parent / "compiled").read_text()) > 0

    async def test_it_ends_with_the_runner_and_goes_on_with_the_next(self, place):
        place.wheel("alpha", "1.0", modules=3000)
        spec = EnvironmentSpec(HERE, ("alpha",))
        async with place.provider() as provider, provider.prepare(spec, print) as made:
            made.command(["x.py"], PLAIN, place.home)
            await until(lambda: any(made.prefix.rglob("alpha/__pycache__/m*.pyc")))
            marker = made.prefix.parent / "compiled"

        assert not marker.exists()
        assert not [
            process for process in psutil.process_iter(["cmdline"]) if str(made.prefix) in str(process.info)
        ]
        async with place.provider() as provider, provider.prepare(spec, print) as made:
            made.command(["x.py"], PLAIN, place.home)
            await provider.compiled()
            assert marker.exists()


async def test_a_cache_that_cannot_be_written_is_not_the_experiments_fault(place):
    async with place.provider() as provider:
        (place.home / "cache/environments/trash").touch()
        with pytest.raises(EnvironmentFailedError, match="cannot be kept on this machine") as caught:
            async with provider.prepare(EnvironmentSpec(HERE, ()), print):
                pass

    assert caught.value.transient
