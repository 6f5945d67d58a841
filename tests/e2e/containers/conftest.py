"""Runners of root and of an ordinary user, and experiments in containers on them."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from studio_runner.testing import Installation, artifact, command_path, installation

NOBODY = 65534
SECRET = "a secret of the runner"
PROGRAMS = Path(__file__).parent / "programs"
AS_ACCOUNT = PROGRAMS / "as_account.py"
AS_MOUNTER = PROGRAMS / "as_mounter.py"
AS_CONFINED = PROGRAMS / "as_confined.py"
STRANGER = 54321
COMMAND = "import site; site.addsitedir({!r}); from studio_runner.cli.main import main; main()"
LIMITS = {"cpus": 1, "ram": "400mb", "hdd": "200mb", "gpus": 0}


@dataclass(frozen=True)
class Account:
    """Who runs the runner; `become` is the program that becomes that user."""

    name: str
    uid: int
    become: Path = AS_ACCOUNT

    def start(self, home):
        """The daemon's program, less its options."""
        if self.uid == os.geteuid():
            return (command_path(), "start")
        return (*self.command(home), "start")

    def command(self, home):
        """The `studio-runner` command of this user."""
        if self.uid == os.geteuid():
            return (command_path(),)
        code = COMMAND.format(sysconfig.get_path("purelib"))
        return (sys.executable, str(self.become), str(self.uid), str(home), readable_python(), "-I", "-c", code)


def readable_python():
    """An interpreter of this version that every account may execute."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        if os.path.exists(path) and able(path):
            return path
    pytest.skip(f"SERVER MISSING: no {version} that user {NOBODY} may execute")


def able(path):
    done = subprocess.run([sys.executable, str(AS_ACCOUNT), str(NOBODY), "/", path, "-c", ""],
                          capture_output=True, check=False, timeout=30)  # fmt: skip
    return done.returncode == 0


def mounting_account():
    """An ordinary user who may mount images with FUSE."""
    if os.geteuid() != 0:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("SERVER MISSING: /dev/fuse cannot be opened, and only root can change that for a test")
        return Account("mounter", os.geteuid())
    program = [sys.executable, str(AS_MOUNTER), str(NOBODY), "/", "/bin/sh", "-c", "exec 3<>/dev/fuse"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"SERVER MISSING: nobody can use FUSE here: {done.stderr.strip()}")
    return Account("mounter", NOBODY, AS_MOUNTER)


def unable_account(name):
    if os.geteuid() != 0:
        pytest.skip("SERVER MISSING: only root can become a user who is not able to do what others are")
    account = Account(name, NOBODY, AS_CONFINED) if name == "confined" else Account(name, STRANGER)
    program = [sys.executable, str(account.become), str(account.uid), "/", "/bin/true"]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        pytest.skip(f"SERVER MISSING: there is no such user here: {done.stderr.strip()}")
    return account


@pytest.fixture(scope="session", params=["root", "user"])
def account(request, apptainer):
    """Root and an ordinary user. For tests that ask for them by name: "mounter" may use FUSE, "confined" can make no
    user namespace, "stranger" is not in /etc/passwd."""
    if request.param in ("confined", "stranger"):
        return unable_account(request.param)
    if request.param == "mounter":
        request.getfixturevalue("squashfuse")
        return mounting_account()
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("SERVER MISSING: the tests are not run by root, so no runner of root can be tested")
        return Account("root", 0)
    return Account("user", NOBODY if os.geteuid() == 0 else os.geteuid())


@dataclass(frozen=True)
class Site(Installation):
    """An installation of one account, with a container image."""

    account: Account
    image: Path

    def contained(self, files, *, image=None, config=None, **experiment):
        """Queue a request that runs `main.py` among these files in a container; its key."""
        if isinstance(files, str):
            files = {"main.py": files}
        artifacts = experiment.pop("artifacts", {})
        key, body = self.request(
            self.workspace(files), config=config, **{"resources_needed": LIMITS, "max_duration": "2m", **experiment}
        )
        document = json.loads(body)
        path = Path(image or self.image)
        image_artifact = {**artifact(path, mutable=False), "unpack": path.suffix == ".tar"}
        changed = {**document["experiment"]["artifacts"], "_singularity": image_artifact, **artifacts}
        document["experiment"]["artifacts"] = {label: one for label, one in changed.items() if one}
        self.publish(json.dumps(document).encode())
        return key

    def said(self, key, patience=120.0):
        """What the script printed last, as JSON."""
        results = self.wait(key, patience)
        assert results.ok, (results, self.output(key))
        return json.loads(self.output(key).splitlines()[-1])

    def give(self):
        """What the tests made belongs to the account."""
        for path in (self.home, *self.home.rglob("*")):
            shutil.chown(path, self.account.uid, self.account.uid)

    def studio_runner(self, *words, **options):
        """Run a command of the account's."""
        command = [*self.account.command(self.home / "person"), *words]
        return subprocess.run(command, env=self.environment(), check=False, timeout=100, **options)

    def begin(self, *options, environ=None):
        program = self.account.start(self.home / "person")
        if environ:
            program = ("/usr/bin/env", *(f"{name}={value}" for name, value in environ.items()), *program)
        return self.start(*options, program=program)


@pytest.fixture(scope="session")
def image_archive(image_sandbox, image_place):
    """The image as clients send a sandbox: a directory in an archive."""
    path = image_place / "box.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(image_sandbox, ".")
    path.chmod(0o644)
    return path


@pytest.fixture(scope="session")
def account_cache(account, image_place):
    """Where the account keeps images, so that each is brought once."""
    path = image_place / f"cache-{account.name}"
    path.mkdir(exist_ok=True)
    shutil.chown(path, account.uid, account.uid)
    return path


@contextmanager
def site_of(account, image, cache):
    """An installation of the account."""
    with installation(cache) as place:
        found = Site(place.home, place.cache, account, image)
        for folder in ("person", "store/blobstore", "queue/local_test/.incoming"):
            (found.home / folder).mkdir(parents=True, exist_ok=True)
        found.give()
        yield found


@contextmanager
def serving(place, *options, environ=None):
    """While a runner of the account serves the installation."""
    process = place.begin(*options, environ=environ)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def served():
    """While a runner of the account serves an installation."""
    return serving


@pytest.fixture
def site(account, image_archive, account_cache):
    """An installation of the account, without a runner."""
    with site_of(account, image_archive, account_cache) as place:
        yield place


@pytest.fixture(scope="module")
def den(account, image_archive, account_cache):
    """An installation of the account with a runner that runs all the while and has a secret in its environment."""
    with (
        site_of(account, image_archive, account_cache) as place,
        serving(place, environ={"SECRET_OF_RUNNER": SECRET}) as runner,
    ):
        yield place
        assert runner.poll() is None, place.log()


@pytest.fixture
def until():
    """Wait for something to be true; what it comes to."""

    def wait(true, patience=120):
        deadline = time.monotonic() + patience
        while not (found := true()):
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)
        return found

    return wait


STUBBORN = """
import os, signal, time
if os.environ["STUDIOML_EXPERIMENT"].endswith(".2"):
    print("second attempt")
    raise SystemExit
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
open("../modeldir/ready", "w").close()
while True:
    time.sleep(1)
"""


@pytest.fixture
def stubborn():
    """A script that wants to outlive everything."""
    return STUBBORN


@pytest.fixture
def begun(site, until):
    """Start an experiment that is `ready`, by default a stubborn one; its key once it runs."""

    def begin(image, script=STUBBORN, **experiment):
        key = site.contained(script, image=image, **experiment)
        until(lambda: next(site.attempts.glob(f"{key}.1/modeldir/ready"), None))
        return key

    return begin


@pytest.fixture
def nothing_left(until):
    """Call it with a site: no process, mount, loop device or directory of its experiments is left on this machine."""

    def look(place):
        until(lambda: not place.leftovers())
        until(lambda: not traces(place))

    look.traces = traces
    return look


def traces(place):
    """What its containers left on this machine; other runners may be at work beside it."""
    home, cache = str(place.home), place.cache / "studio-runner"
    mounts = [line for line in mounted_somewhere() if home in line]
    loops = [path for path in Path("/sys/block").glob("loop*/loop/backing_file") if home in path.read_text()]
    runtimes = [
        process
        for process in psutil.process_iter()
        if keeps_things_in(process, f"{cache}/containers") or has_open(process, f"{cache}/images")
    ]
    work = [path for path in cache.glob("containers/run-*/*") if path.is_dir()]
    homes = [path for top in (place.home, place.cache) for path in top.rglob(".apptainer")]
    return mounts + loops + runtimes + work + homes


def has_open(process, directory):
    """What mounts an image says nothing else about itself."""
    try:
        return any(file.path.startswith(directory) for file in process.open_files())
    except (psutil.Error, OSError):
        return False


def mounted_somewhere():
    """The mounts of every mount namespace that a process lives in."""
    lines = set()
    for process in psutil.pids():
        with suppress(OSError):
            lines.update(Path(f"/proc/{process}/mounts").read_text().splitlines())
    return lines


def keeps_things_in(process, directory):
    """A runtime's environment names the directory where it may write."""
    try:
        return any(value.startswith(directory) for value in process.environ().values())
    except psutil.Error:
        return False
