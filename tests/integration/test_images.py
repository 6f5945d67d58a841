"""Images of containers, pulled by the real runtime from a real registry."""

import asyncio
import contextlib
import os
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
from dataclasses import replace

import psutil
import pytest

from studio_runner.config import cascade
from studio_runner.environments.images.logins import Login
from studio_runner.environments.images.provider import KeptImages
from studio_runner.environments.images.pull import Puller
from studio_runner.environments.images.reference import Reference
from studio_runner.environments.images.sources import RegistryImage
from studio_runner.environments.programs import Programs
from studio_runner.errors import (
    ArtifactInvalidError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    UnauthorisedError,
)
from studio_runner.process.spawn import Spawner

NOBODY = 65534


@pytest.fixture
async def spawner():
    async with Spawner() as one:
        yield one


@pytest.fixture
def opened(tmp_path, spawner, apptainer, registry):
    """Opens images below one directory; keywords are settings."""

    @contextlib.asynccontextmanager
    async def opening(budget=0, **settings):
        chosen = settings_for(registry, **settings)
        puller = Puller(Programs(spawner), lambda: str(apptainer), os.environ, budget)
        async with KeptImages(tmp_path / "cache", budget, chosen, puller) as images:
            images.getter.pauses = (0.0,)
            yield images

    return opening


def settings_for(registry, **settings):
    defaults = cascade.load({"HOME": "/"}).settings.containers
    return replace(defaults, **{"plain_http": (registry.host,), "pull_timeout": 300.0, **settings})


def docker(registry, name="team/box:1", login=None):
    return RegistryImage(Reference.parse("docker", f"{registry.host}/{name}"), login)


def oras(registry, name="team/sif:1", login=None):
    return RegistryImage(Reference.parse("oras", f"{registry.host}/{name}"), login)


async def run(apptainer, image, script):
    process = await asyncio.create_subprocess_exec(
        apptainer, "exec", "--containall", image.path, "/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


def left(tmp_path):
    """Everything in the cache but images, their locks and the records of sources."""
    cache = tmp_path / "cache/images"
    found = [*(cache / "work").iterdir(), *(cache / "trash").iterdir(), *(cache / "sources").glob("*.lock")]
    return found + [one for one in children() if "apptainer" in one or "mksquashfs" in one]


def children():
    """Command lines; servers of other tests have children as well, which come and go."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(one.cmdline()))
    return found


def kept(tmp_path):
    return [path.name for path in (tmp_path / "cache/images").iterdir() if (path / "manifest.json").exists()]


async def test_an_image_is_pulled_once_and_runs(opened, registry, apptainer, tmp_path):
    said = []
    async with opened() as images:
        async with images.obtain(docker(registry), said.append) as image:
            assert await run(apptainer, image, "echo $TAG") == "1\n"
        assert said[0] == f"pulling the image docker://{registry.host}/team/box:1"
        said.clear()
        async with images.obtain(docker(registry), said.append) as again:
            assert again == image
        assert (await images.usage()).hits == 1
    assert registry.pulls("team/box") == 1
    assert said == []
    assert left(tmp_path) == []


async def test_it_is_there_for_the_next_runner_and_has_the_same_digest_elsewhere(
    opened, registry, spawner, apptainer, tmp_path
):
    async with opened() as images, images.obtain(docker(registry), print) as image:
        first = image
    async with opened() as images, images.obtain(docker(registry), print) as image:
        assert image == first
    assert registry.pulls("team/box") == 1
    puller = Puller(Programs(spawner), lambda: str(apptainer), os.environ, 0)
    async with (
        KeptImages(tmp_path / "elsewhere", 0, settings_for(registry), puller) as images,
        images.obtain(docker(registry), print) as other,
    ):
        assert other.digest == first.digest
        assert other.path != first.path


async def test_a_sif_image_of_a_registry(opened, registry, apptainer):
    async with opened() as images, images.obtain(oras(registry), print) as image:
        assert image.kind == "sif"
        assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"


async def test_a_second_tag_of_the_same_image_is_not_pulled_again(opened, registry):
    registry.content.tags["team/box", "stable"] = registry.content.tags["team/box", "1"]
    async with (
        opened() as images,
        images.obtain(docker(registry), print) as image,
        images.obtain(docker(registry, "team/box:stable"), print) as same,
    ):
        assert same.path == image.path
        assert same.name != image.name
    assert registry.pulls("team/box") == 1


PULLER = """
import asyncio, os, sys
from dataclasses import replace
from pathlib import Path
from studio_runner.config import cascade
from studio_runner.environments.images.provider import KeptImages
from studio_runner.environments.images.pull import Puller
from studio_runner.environments.images.reference import Reference
from studio_runner.environments.images.sources import RegistryImage
from studio_runner.environments.programs import Programs
from studio_runner.process.spawn import Spawner

async def main(cache, host, program, address="docker://{}/team/box:1"):
    settings = replace(cascade.load({"HOME": "/"}).settings.containers, plain_http=(host,))
    async with Spawner() as spawner:
        puller = Puller(Programs(spawner), lambda: program, os.environ, 0)
        async with KeptImages(Path(cache), 0, settings, puller) as images:
            source = RegistryImage(Reference.parse(*address.format(host).split("://")))
            async with images.obtain(source, lambda line: print(line, flush=True)) as image:
                print("image", image.kind, image.digest, image.path, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def another(tmp_path, registry, apptainer):
    return subprocess.Popen(
        [sys.executable, "-c", PULLER, str(tmp_path / "cache"), registry.host, str(apptainer)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_pull_an_image_once(registry, apptainer, tmp_path):
    runners = [another(tmp_path, registry, apptainer) for _ in range(2)]
    outputs = [runner.communicate(timeout=120)[0] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0]
    assert registry.pulls("team/box") == 1
    assert len({line for output in outputs for line in output.splitlines() if line.startswith("image ")}) == 1
    assert len(kept(tmp_path)) == 1


async def test_many_experiments_at_once_pull_an_image_once(opened, registry, tmp_path):
    said = []

    async def one(images):
        async with images.obtain(docker(registry), said.append) as image:
            return image.path

    async with opened() as images:
        assert len(set(await asyncio.gather(*(one(images) for _ in range(5))))) == 1
    assert registry.pulls("team/box") == 1
    assert sum("waiting for it" in line for line in said) == 4


async def test_progress_is_told(opened, registry):
    said = []
    registry.faults.released = threading.Event()

    def say(line):
        said.append(line)
        if line.endswith("so far"):
            registry.faults.released.set()

    async with opened() as images:
        images.getter.puller.progress = 0.05
        async with images.obtain(docker(registry), say):
            pass
    assert any(line.startswith(f"docker://{registry.host}/team/box:1: ") for line in said)


async def test_a_pull_has_its_time(opened, registry, tmp_path):
    registry.faults.released = threading.Event()
    async with opened(pull_timeout=1.5) as images:
        with pytest.raises(EnvironmentUnavailableError, match=r"was not here after 1\.5s"):
            async with images.obtain(docker(registry), print):
                pass
        assert left(tmp_path) == []


async def test_a_cancelled_pull_leaves_nothing_and_the_next_one_works(opened, registry, tmp_path):
    registry.faults.released = threading.Event()
    async with opened() as images:

        async def hold():
            async with images.obtain(docker(registry), print):
                pass

        task = asyncio.create_task(hold())
        await asyncio.to_thread(registry.serving.wait)
        assert left(tmp_path)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left(tmp_path) == []
        assert kept(tmp_path) == []
        registry.faults.released.set()
        async with images.obtain(docker(registry), print) as image:
            assert image.path.exists()


async def test_who_waits_for_a_cancelled_pull_does_it_instead(opened, registry):
    registry.faults.released = threading.Event()
    waiting = asyncio.Event()

    def say(line):
        if "waiting" in line:
            waiting.set()

    async def one(images):
        async with images.obtain(docker(registry), say) as image:
            return image.digest

    async with opened() as images:
        first = asyncio.create_task(one(images))
        await asyncio.to_thread(registry.serving.wait)
        second = asyncio.create_task(one(images))
        await waiting.wait()
        first.cancel()
        registry.faults.released.set()
        assert await second


async def test_a_runner_that_stands_still_is_not_waited_for_without_end(opened, registry, apptainer, tmp_path):
    registry.faults.released = threading.Event()
    runner = another(tmp_path, registry, apptainer)
    await asyncio.to_thread(registry.serving.wait)
    os.kill(runner.pid, signal.SIGSTOP)
    try:
        async with opened(pull_timeout=0.5) as images:
            with pytest.raises(EnvironmentUnavailableError, match="for another experiment for too long"):
                async with images.obtain(docker(registry), print):
                    pass
    finally:
        registry.faults.released.set()
        os.kill(runner.pid, signal.SIGCONT)
        output, _ = runner.communicate(timeout=120)
    assert "image " in output


async def test_a_killed_runner_leaves_what_the_next_one_clears_up(opened, registry, apptainer, tmp_path):
    registry.faults.released = threading.Event()
    runner = another(tmp_path, registry, apptainer)
    await asyncio.to_thread(registry.serving.wait)
    below = psutil.Process(runner.pid).children(recursive=True)
    os.kill(runner.pid, signal.SIGKILL)
    runner.communicate(timeout=60)
    for one in (await asyncio.to_thread(psutil.wait_procs, below, 30))[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert one.status() == psutil.STATUS_ZOMBIE
    registry.faults.released.set()
    assert left(tmp_path)
    async with opened() as images:
        assert left(tmp_path) == []
        async with images.obtain(docker(registry), print):
            assert len(kept(tmp_path)) == 1


async def test_no_such_image(opened, registry, tmp_path):
    async with opened() as images:
        for source in (docker(registry, "team/nothing:1"), oras(registry, "team/sif:nothing")):
            with pytest.raises(EnvironmentFailedError, match="There is no image") as raised:
                async with images.obtain(source, print):
                    pass
            assert not raised.value.transient
            assert source.name in str(raised.value)
    assert left(tmp_path) == []


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("make", [docker, oras])
async def test_a_registry_wants_a_login(opened, registry, tmp_path, auth, make):
    registry.auth = auth
    said = []
    wrong = Login(registry.user, "not-the-password")
    async with opened() as images:
        for login in (None, wrong):
            with pytest.raises(UnauthorisedError) as raised:
                async with images.obtain(make(registry, login=login), said.append):
                    pass
            assert wrong.password not in f"{raised.value}{raised.value.hint}{raised.value.__cause__}"
        async with images.obtain(
            make(registry, login=Login(registry.user, registry.password)), said.append
        ) as image:
            assert image.path.exists()
            commands = "\n".join(children())
        # what one sender may have is not another's
        with pytest.raises(UnauthorisedError):
            async with images.obtain(make(registry), said.append):
                pass
    written = "\n".join(
        [*said, commands, *(path.read_text() for path in (tmp_path / "cache/images/sources").iterdir())]
    )
    for secret in (registry.password, Login(registry.user, registry.password).basic):
        assert secret not in written


async def test_the_operators_logins(opened, registry, tmp_path):
    registry.auth = "bearer"
    file = tmp_path / "logins.json"
    basic = Login(registry.user, registry.password).basic
    file.write_text('{"auths": {"%s": {"auth": "%s"}}}' % (registry.host, basic))  # noqa: UP031
    async with opened(registry_auth=file) as images, images.obtain(docker(registry), print) as image:
        assert image.path.exists()


async def test_a_registry_that_is_down(opened, registry, tmp_path):
    registry.close()
    said = []
    async with opened() as images:
        with pytest.raises(EnvironmentUnavailableError, match="does not answer") as raised:
            async with images.obtain(docker(registry), said.append):
                pass
        assert registry.host in str(raised.value)
    assert any("trying again" in line for line in said)
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_registry_in_trouble(opened, registry, status):
    registry.faults.status = status
    async with opened() as images:
        with pytest.raises(EnvironmentUnavailableError, match=str(status)):
            async with images.obtain(docker(registry), print):
                pass


async def test_an_older_copy_serves_while_the_registry_is_down(opened, registry):
    said = []
    async with opened() as images, images.obtain(docker(registry), said.append) as image:
        first = image
    registry.close()
    said.clear()
    async with opened(recheck=0.0) as images, images.obtain(docker(registry), said.append) as image:
        assert image == first
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert "ago is used" in said[0]


async def test_an_older_copy_does_not_serve_those_who_may_not_have_it_any_more(opened, registry):
    async with opened() as images, images.obtain(docker(registry), print):
        pass
    registry.auth = "basic"
    async with opened(recheck=0.0) as images:
        with pytest.raises(UnauthorisedError):
            async with images.obtain(docker(registry), print):
                pass


async def test_a_tag_is_looked_at_again_when_its_time_has_come(opened, registry, small_sandbox, apptainer):
    async with opened() as images, images.obtain(docker(registry), print) as image:
        first = image
    registry.content.tags["team/box", "1"] = registry.add_image("team/box", "2", small_sandbox)
    async with opened() as images, images.obtain(docker(registry), print) as image:
        assert image == first
    async with opened(recheck=0.0) as images, images.obtain(docker(registry), print) as image:
        assert image.digest != first.digest
        assert await run(apptainer, image, "echo $TAG") == "2\n"
        assert first.path.exists()


async def test_a_tag_that_means_the_same_still_is_not_pulled_again(opened, registry):
    async with opened() as images, images.obtain(docker(registry), print) as image:
        first = image
    registry.asked.clear()
    async with opened(recheck=0.0) as images, images.obtain(docker(registry), print) as image:
        assert image == first
    assert {asked.kind for asked in registry.asked} == {"manifests"}


async def test_a_digest_is_never_looked_at_again(opened, registry):
    name = f"team/box@{registry.content.tags['team/box', '1']}"
    async with opened() as images, images.obtain(docker(registry, name), print) as image:
        first = image
    registry.close()
    said = []
    async with opened(recheck=0.0) as images, images.obtain(docker(registry, name), said.append) as image:
        assert image == first
    assert said == []


@pytest.mark.parametrize("make", [docker, oras])
async def test_a_damaged_layer(opened, registry, tmp_path, make):
    registry.faults.damaged = True
    async with opened() as images:
        with pytest.raises(ArtifactInvalidError, match="is damaged where it is stored"):
            async with images.obtain(make(registry), print):
                pass
    assert left(tmp_path) == []
    assert kept(tmp_path) == []


@pytest.mark.parametrize("make", [docker, oras])
async def test_a_connection_that_is_cut(opened, registry, tmp_path, make):
    registry.faults.cut_after = 100_000
    said = []

    def say(line):
        said.append(line)
        if "trying again" in line:
            registry.faults.cut_after = 0

    async with opened() as images, images.obtain(make(registry), say) as image:
        assert image.path.exists()
    assert any("trying again" in line for line in said)
    assert left(tmp_path) == []


@pytest.mark.parametrize("list_", [False, True])
async def test_an_image_for_another_machine(opened, registry, small_sandbox, tmp_path, list_):
    foreign = tmp_path / "foreign"
    subprocess.run(["cp", "-a", small_sandbox, foreign], check=True)
    program = bytearray((foreign / "usr/bin/dash").read_bytes())
    struct.pack_into("<H", program, 18, 243)
    (foreign / "usr/bin/dash").write_bytes(program)
    registry.add_image("team/foreign", "1", foreign, architecture="riscv64")
    if list_:
        registry.add_list("team/foreign", "1", "riscv64")
    async with opened() as images:
        with pytest.raises(ArtifactInvalidError, match=r"riscv64|not made for this kind of machine"):
            async with images.obtain(docker(registry, "team/foreign:1"), print):
                pass
    assert kept(tmp_path) == []


async def test_a_full_disk(opened, registry, tmp_path):
    """On a file system of its own that is too small for the image."""
    (tmp_path / "cache").mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path / "cache")]
    if subprocess.run(small, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        async with opened() as images:
            with pytest.raises(EnvironmentUnavailableError, match=r"no room|No space left") as raised:
                async with images.obtain(docker(registry), print):
                    pass
            assert "disk" in raised.value.hint
            assert left(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "cache")], check=True)


async def test_an_image_larger_than_the_cache(opened, registry, tmp_path):
    async with opened(budget=1_000_000) as images:
        with pytest.raises(EnvironmentFailedError, match="larger than 1 MB"):
            async with images.obtain(docker(registry), print):
                pass
    assert kept(tmp_path) == []


async def test_the_least_recently_used_image_goes_and_one_in_use_stays(opened, registry, small_sandbox, tmp_path):
    for tag in ("2", "3"):
        registry.add_image("team/box", tag, small_sandbox)
    async with opened() as images, images.obtain(docker(registry), print):
        size = (await images.usage()).size
    async with opened(budget=int(size * 1.5)) as images:
        async with images.obtain(docker(registry, "team/box:1"), print) as first:
            async with images.obtain(docker(registry, "team/box:2"), print) as second:
                await images.tidied()
                assert first.path.exists()
                assert second.path.exists()
            await images.tidied()
            assert not second.path.exists()
            assert first.path.exists()
        async with images.obtain(docker(registry, "team/box:3"), print) as third:
            await images.tidied()
            assert kept(tmp_path) == [third.digest]


async def test_an_image_that_is_unpacked(opened, registry, apptainer, tmp_path):
    async with opened(unpack="always") as images:
        async with images.obtain(oras(registry), print) as image:
            assert image.kind == "sandbox"
            assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"
        async with images.obtain(docker(registry), print) as image:
            assert image.kind == "sandbox"
            assert await run(apptainer, image, "echo $TAG") == "1\n"
            writable = [
                path for path in image.path.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o222
            ]
            assert writable == []


WITHOUT_FUSE = """
: >"$0" && chmod 600 "$0" || exit
[ ! -e /dev/fuse ] || mount --bind "$0" /dev/fuse || exit
user=$1 && shift && exec setpriv --reuid="$user" --regid="$user" --clear-groups sh -c 'exec "$@"' sh "$@"
"""


def as_nobody(argv, place):
    """Where /dev/fuse cannot be opened; the machine's own stays as it is."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(place)}
    with tempfile.NamedTemporaryFile() as closed:
        before = ["unshare", "--mount", "sh", "-c", WITHOUT_FUSE, closed.name, str(NOBODY)]
        return subprocess.run(
            [*before, *map(str, argv)], env=env, cwd=place, check=False, capture_output=True, text=True, timeout=120
        )


def nobodys_python(place):
    """What starts a program of this package for an account that may not look everywhere."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    begin = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    for path in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with contextlib.suppress(OSError):
            if as_nobody([path, "-I", "-c", f"{begin}import studio_runner"], place).returncode == 0:
                return [path, "-I", "-c", begin + PULLER]
    pytest.skip(f"SERVER MISSING: no {version} that user {NOBODY} may execute")


@pytest.mark.parametrize("address", ["oras://{}/team/sif:1", "docker://{}/team/box:1"])
def test_an_ordinary_users_image_files_are_unpacked_once(registry, apptainer, address):
    """Where nothing can mount them for this user, the runtime would do it at every start."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory(prefix="studio-runner-") as place:
        os.chown(place, NOBODY, NOBODY)
        argv = [place, registry.host, apptainer, address]
        done = as_nobody([*nobodys_python(place), *argv], place)
        assert done.returncode == 0, done.stderr
        assert "unpacking the image, once: here every start would do it again" in done.stdout
        _, kind, _, path = done.stdout.splitlines()[-1].split()
        assert kind == "sandbox"
        script = "echo $IN_TEST_IMAGE$TAG; id -u"
        ran = as_nobody([apptainer, "exec", "--containall", "--no-home", path, "/bin/sh", "-c", script], place)
        assert ran.stdout == f"1\n{NOBODY}\n", ran.stderr
        assert "temporary sandbox" not in ran.stderr


async def test_without_a_runtime(registry, spawner, tmp_path):
    def nowhere():
        raise EnvironmentFailedError("there is no container runtime")

    puller = Puller(Programs(spawner), nowhere, os.environ, 0)
    async with KeptImages(tmp_path / "cache", 0, settings_for(registry), puller) as images:
        with pytest.raises(EnvironmentFailedError, match="no container runtime"):
            async with images.obtain(docker(registry), print):
                pass
    assert left(tmp_path) == []
