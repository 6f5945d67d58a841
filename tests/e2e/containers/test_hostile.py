"""What a script in a container tries, and does not get: one test each, with a runner of root and of a user."""

import ctypes
import json
import os
import sys
from pathlib import Path

import pytest

from servers.process import free_ports

SECRET = "a secret of the runner"

READ = """
import json, os
found = {}
for path in json.loads(os.environ["TARGETS"]):
    try:
        found[path] = sorted(os.listdir(path)) if os.path.isdir(path) else open(path, errors="replace").read()
    except OSError as error:
        found[path] = None
print(json.dumps(found))
"""


beside = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two experiments side by side need two cores")


def environ(targets):
    return {"env": {"TARGETS": json.dumps([str(path) for path in targets])}}


def read_in_a_container(den, targets):
    """What a script found at these paths, those where it found nothing left out."""
    key = den.contained(READ, config=environ(targets))
    return {path: found for path, found in den.said(key).items() if found}


INIT = "/proc/1/root"
"""What the first process that a script sees has for its root."""


def test_it_reads_no_files_of_the_host(den):
    own = den.home / "person" / "secret"
    own.write_text(SECRET)
    own.chmod(0o644)
    targets = [own, "/etc/shadow", "/etc/machine-id", "/root", "/home", "/var/lib", "/boot", den.home / "person",
               Path.cwd(), f"{INIT}/root", "/proc/1/cwd", "/proc/kcore", "/dev/mem"]  # fmt: skip
    free = den.submit({"main.py": READ}, config=environ([own]))

    found = read_in_a_container(den, targets)

    assert den.said(free) == {str(own): SECRET}  # without a container
    # /proc/1 is a process of the container's own
    assert not any("main.py" not in names for path, names in found.items() if path != f"{INIT}/root"), found
    assert str(own) not in found


@beside
def test_it_reads_nothing_of_other_experiments(den, until):
    neighbour = den.contained(
        "import os, time\nopen('../modeldir/private', 'w').write('mine')\nprint('ready', flush=True)\n"
        "while not os.path.exists('../modeldir/enough'): time.sleep(0.01)"
    )
    private = until(lambda: next(den.attempts.glob(f"{neighbour}.*/modeldir/private"), None))
    targets = [private, private.parent, private.parent.parent, den.attempts, den.attempts.parent]

    found = read_in_a_container(den, targets)

    (private.parent / "enough").touch()
    assert den.wait(neighbour).ok
    assert neighbour not in json.dumps(found), found
    assert "mine" not in json.dumps(found)
    assert set(found) <= {
        str(den.attempts),
        str(den.attempts.parent),
    }  # where its own directory is, and nothing else
    assert len(found[str(den.attempts)]) == 1


def test_it_reads_neither_store_nor_queue(den):
    other = den.contained("print('written by another')")
    assert den.wait(other).ok
    targets = [den.store, den.stored(other, "output"), den.store / "db", den.queue_root, den.queue_root / "local_test",
               den.cache, den.home / "daemon.log", den.home]  # fmt: skip
    assert all(path.exists() for path in targets)

    found = read_in_a_container(den, targets)

    assert set(found) <= {str(den.home)}
    assert found.get(str(den.home), ["runner"]) == ["runner"]  # the way to its own directory


ENVIRONMENTS = """
import glob, json, os
mine, texts, names = os.environ.copy(), [], []
for path in glob.glob("/proc/[0-9]*"):
    for name in ("environ", "cmdline", "comm"):
        try:
            texts.append(open(f"{path}/{name}", errors="replace").read())
        except OSError:
            pass
    names.append(open(f"{path}/comm").read().strip())
print(json.dumps({"text": " ".join(texts), "own": mine, "names": names}))
"""


def test_it_sees_nothing_of_the_runners_environment(den):
    found = den.said(den.contained(ENVIRONMENTS, config={"env": {"GIVEN": '$(id) `id` "two\\\\ \nlines'}}))

    assert SECRET not in json.dumps(found)
    assert found["own"]["GIVEN"] == '$(id) `id` "two\\\\ \nlines'
    assert str(Path(sys.executable).parent) not in found["own"]["PATH"]
    assert found["own"]["HOME"].startswith(str(den.attempts))
    assert not {"LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} & {
        name for name, value in found["own"].items() if value and not value.startswith("/.singularity.d")
    }


def test_it_sees_no_processes_but_its_own(den):
    names = den.said(den.contained(ENVIRONMENTS))["names"]

    assert len(names) < 10
    assert not any("studio" in name for name in names)


def test_its_variables_are_on_no_command_line(den, until):
    key = den.contained(
        "import os, time\nopen('../modeldir/ready', 'w').close()\n"
        "while not os.path.exists('../modeldir/enough'): time.sleep(0.01)",
        config={"env": {"TOKEN": "on no command line"}},
    )
    directory = until(lambda: next(den.attempts.glob(f"{key}.*/modeldir/ready"), None)).parent
    lines = [" ".join(process.cmdline()) for process in den.processes()]
    (directory / "enough").touch()

    assert den.wait(key).ok
    assert any("main.py" in line for line in lines)
    assert not any("on no command line" in line for line in lines)


@beside
def test_its_signals_reach_nothing_outside(den, until):
    neighbour = den.contained("import os, time\nwhile not os.path.exists('../modeldir/enough'): time.sleep(0.01)")
    pids = until(lambda: [process.pid for process in den.processes()])
    code = f"""
import json, os, signal
reached = []
for pid in range(1, {max(pids) + 100}):
    try:
        os.kill(pid, 0)
        reached.append(pid)
    except OSError:
        pass
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    os.kill(-1, signal.SIGTERM)
except ProcessLookupError:
    pass  # there is nobody else
print(json.dumps(reached), flush=True)
"""
    listed = den.said(den.contained(code))
    (next(den.attempts.glob(f"{neighbour}.*")) / "modeldir" / "enough").touch()

    assert not {pid for pid in pids if pid > 100} & set(listed)  # it counts its own from 1, threads included
    assert len(listed) < 50
    assert den.wait(neighbour).ok  # nor was it told to end


WRITE = """
import json, os
opened = []
def attempt(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return
    opened.append(path)
for top in json.loads(os.environ["TARGETS"]):
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not (folder == "/proc" and (name.isdecimal() or "self" in name))]
        for name in files:
            attempt(os.path.join(folder, name))
print(json.dumps(opened))
"""


def test_it_writes_to_nothing_of_the_kernels(den):
    """Among it /proc/sys/kernel/core_pattern, by which root would run a program of its own outside."""
    opened = den.said(den.contained(WRITE, config=environ(["/proc", "/sys"])), patience=200)

    assert opened == []


def test_it_has_no_control_groups_and_no_debugging_interfaces(den):
    found = read_in_a_container(den, ["/sys/fs", "/sys/fs/cgroup", "/sys/kernel/debug", "/sys/kernel/tracing",
                                      "/sys/kernel/security", "/sys/firmware"])  # fmt: skip

    assert found == {}


CHANGE = """
import json, os, sys
done = []
def attempt(what, change):
    try:
        change()
    except OSError:
        return
    done.append(what)
for path in ("/etc/hosts", "/etc/localtime", "/usr/bin/env", "/.singularity.d/runscript"):
    attempt("write " + path, lambda: open(path, "r+b").close())
    attempt("chmod " + path, lambda: os.chmod(path, 0o777))
for path in ("/new", "/usr/new", "/etc/new", "/opt/new", "/proc/new", "/sys/new"):
    attempt("make " + path, lambda: open(path, "w").close())
for name in os.listdir("/dev"):
    path = "/dev/" + name
    if not os.path.islink(path) and not os.path.isdir(path):
        attempt("chmod " + path, lambda: os.chmod(path, os.stat(path).st_mode & 0o7777))
        attempt("date " + path, lambda: os.utime(path, (1, 1)))
        attempt("remove " + path, lambda: os.unlink(path))
attempt("write data", lambda: open("../data/part", "w"))
attempt("new data", lambda: open("../data/other", "w"))
attempt("remove data", lambda: os.unlink("../data/part"))
attempt("move data", lambda: os.rename("../data", "../elsewhere"))
attempt("mode of data", lambda: os.chmod("../data/part", 0o777))
with open("/dev/null", "w") as file:
    file.write("still works")
print(json.dumps(done))
"""


def test_it_changes_nothing_of_the_host_its_image_or_its_immutable_artifacts(den, account):
    before = {name: (os.stat(name).st_mode, os.stat(name).st_mtime_ns) for name in ("/etc/hosts", "/dev/zero")}
    data = {"qualified": f"file://{den.workspace({'part': 'of the data'})}", "mutable": False, "unpack": True}

    done = den.said(den.contained(CHANGE, artifacts={"data": data}))

    # nodes of the container's own /dev may be taken away from there
    assert [what for what in done if not what.startswith("remove /dev/")] == []
    after = {name: (os.stat(name).st_mode, os.stat(name).st_mtime_ns) for name in before}
    assert after["/etc/hosts"] == before["/etc/hosts"]
    assert after["/dev/zero"][0] == before["/dev/zero"][0]
    assert os.path.exists("/dev/tty")


def test_it_has_no_devices_and_makes_none(den):
    code = """
import json, os, stat
done = []
for kind, number in ((stat.S_IFBLK, os.makedev(254, 0)), (stat.S_IFBLK, os.makedev(8, 0)), (stat.S_IFCHR, os.makedev(1, 1))):
    for path in ("/dev/made", "/tmp/made", "made", "/dev/shm/made"):
        try:
            os.mknod(path, kind | 0o600, number)
            open(path, "rb").read(1)
            done.append(path)
        except OSError:
            pass
nodes = [name for name in os.listdir("/dev") if stat.S_ISBLK(os.stat("/dev/" + name).st_mode)]
print(json.dumps([done, nodes, sorted(os.listdir("/dev"))]))
"""
    done, blocks, names = den.said(den.contained(code))

    assert done == []
    assert blocks == []
    assert not {"mem", "kmsg", "fuse", "loop-control", "kvm", "sda", "vda"} & set(names)


PRIVILEGES = """
import ctypes, json, os, shutil, subprocess
done = []
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNS, NEWPID = 0x10000000, 0x00020000, 0x20000000
def status(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name + ":"))
facts = {"NoNewPrivs": status("NoNewPrivs"), "CapEff": int(status("CapEff"), 16), "CapBnd": int(status("CapBnd"), 16)}
shutil.copy("/usr/bin/id", "/tmp/id")
os.chmod("/tmp/id", 0o6755)
facts["setuid"] = subprocess.run(["/tmp/id", "-u"], capture_output=True, text=True).stdout.strip() == str(os.getuid())
uid = os.getuid()
if libc.unshare(NEWUSER | NEWNS | NEWPID) == 0:
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {os.getgid()} 1")):
        try:
            open(f"/proc/self/{name}", "w").write(text)
        except OSError:
            pass
for what, call in (
    ("umount proc/sys", lambda: libc.umount2(b"/proc/sys", 2)),
    ("umount hosts", lambda: libc.umount2(b"/etc/hosts", 2)),
    ("remount", lambda: libc.mount(b"none", b"/proc/sys", None, 4096 | 32, None)),
    ("mount proc", lambda: libc.mount(b"proc", b"/tmp", b"proc", 0, None)),
    ("mount sysfs", lambda: libc.mount(b"sysfs", b"/tmp", b"sysfs", 0, None)),
    ("mount tmpfs", lambda: libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)),
    ("bind", lambda: libc.mount(b"/proc", b"/tmp", None, 4096, None)),
    ("fsopen", lambda: -1 if libc.syscall(430, b"proc", 0) < 0 else 0),
    ("open_tree", lambda: -1 if libc.syscall(428, -100, b"/proc", 1) < 0 else 0),
    ("pivot_root", lambda: libc.pivot_root(b"/tmp", b"/tmp") if hasattr(libc, "pivot_root") else -1),
    ("setns", lambda: libc.setns(os.open("/proc/self/ns/mnt", os.O_RDONLY), 0)),
    ("bpf", lambda: -1 if libc.syscall(321, 0, None, 0) < 0 else 0),
):
    if call() == 0:
        done.append(what)
for path in ("/proc/sys/kernel/core_pattern", "/etc/hosts"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        done.append("write " + path)
    except OSError:
        pass
print(json.dumps([facts, done]))
"""


def test_it_gets_no_new_privileges(den):
    """Neither by a program with the setuid bit nor as the root of a user namespace of its own."""
    facts, done = den.said(den.contained(PRIVILEGES))

    assert (facts["NoNewPrivs"], facts["CapEff"], facts["setuid"]) == ("1", 0, True)
    assert done == []


def test_it_reads_no_keys_that_the_kernel_keeps_for_the_user(den, account):
    if os.geteuid() != account.uid:
        pytest.skip("the key must belong to the runner's user, who is another one than the test's")
    libc = ctypes.CDLL(None, use_errno=True)
    user_keyring = -4
    assert libc.syscall(248, b"user", b"studio-test", b"of the host", 11, user_keyring) > 0, os.strerror(
        ctypes.get_errno()
    )
    code = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
found = libc.syscall(250, 10, -4, b"user", b"studio-test", 0)
print(json.dumps([found, libc.syscall(250, 0, -4, 1), libc.syscall(249, b"user", b"studio-test", None, 0)]))
"""
    try:
        assert den.said(den.contained(code)) == [-1, -1, -1]
    finally:
        libc.syscall(250, 7, user_keyring)


SURVIVE = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def daemon(stopped):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.environ.clear()
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(1)
daemon(False)
daemon(True)
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def test_it_does_not_survive_the_stop(site, served, until, nothing_left):
    with served(site, "--grace", "1s"):
        key = site.contained(SURVIVE)
        until(lambda: "ready" in "".join(path.read_text() for path in site.attempts.glob("*/output/output")))
        names = {process.pid for process in site.processes()}
        site.studio_runner("stop", key)
        assert site.wait(key).reason == "stopped"
        nothing_left(site)

    assert names
    assert not any(Path(f"/proc/{pid}").exists() for pid in names)


PLANT = """
import json, os, shutil, sys, time
host = os.environ["HOST"]
def link(path, target):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.move(path, path + ".moved")
    elif os.path.lexists(path):
        os.unlink(path)
    os.symlink(target, path)
print("before", flush=True)
link("../modeldir/linked", host + "/secret")
link("../tb/folder", host)
link("../retval", host)
link("../_metrics/attempt-1.jsonl", host + "/secret")
link("../_metadata", host)
link("../_results", host)
link("../_status", host)
link("../.output.new", host + "/secret")
link("../output/output", host + "/secret")
time.sleep(1)
link("../output", host)
link("../data", host) if os.access("..", os.W_OK) and not os.path.ismount("../data") else None
sys.stdout.write("x" * 79 + "\\n")
for number in range(3000):
    sys.stdout.write("y" * 79 + "\\n")
sys.stdout.flush()
time.sleep(2)
"""


def test_links_that_it_plants_lead_nobody_out(site, served, nothing_left):
    """The runner reads and writes in the same directories: nothing of the host is stored, shown, changed or removed."""
    host = site.home / "person" / "host"
    host.mkdir()
    (host / "secret").write_text(SECRET)
    (host / "secret").chmod(0o666)
    host.chmod(0o777)
    followed = site.home / "followed"
    with served(site, "--output-limit", "64kB", "--stop-poll", "100ms"):
        key = site.contained(
            PLANT,
            config={"env": {"HOST": str(host)}, "saveWorkspaceFrequency": "200ms", "saveMetricsFrequency": "100ms"},
        )
        with followed.open("wb") as file:
            site.studio_runner("logs", "-f", key, stdout=file)
        site.wait(key)
        nothing_left(site)

    assert (host / "secret").read_text() == SECRET
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert SECRET not in followed.read_text(errors="replace")
    stored = [path for path in site.store.rglob("*") if path.is_file()]
    assert stored
    assert not any(SECRET.encode() in path.read_bytes() for path in stored)


def test_it_reads_nothing_over_http_where_the_operator_wants_that(site, served, until):
    """A container has this machine's network, and the runner answers whoever is on this machine."""
    code = """
import json, os, urllib.error, urllib.request
found = []
for path in ("/api/v1/experiments", "/", "/metrics"):
    try:
        found.append(urllib.request.urlopen(os.environ["ADDRESS"] + path, timeout=60).status)
    except urllib.error.HTTPError as error:
        found.append(error.code)
print(json.dumps(found))
"""
    (port,) = free_ports(1)
    config = {"env": {"ADDRESS": f"http://127.0.0.1:{port}"}}
    token = {"STUDIO_RUNNER_HTTP_TOKEN": SECRET}
    with served(site, "--http-address", f"127.0.0.1:{port}", environ=token):
        assert site.said(site.contained(code, config=config)) == [200, 200, 200]
    with served(site, "--http-address", f"127.0.0.1:{port}", "--http-private", environ=token):
        assert site.said(site.contained(code, config=config)) == [401, 401, 401]


def test_a_link_in_the_place_of_its_private_directories_does_nobody_harm(den):
    """What is removed at the end is what is in the attempt's directory, whatever it looks like then."""
    host = den.home / "person" / "kept"
    host.mkdir()
    (host / "file").write_text(SECRET)
    host.chmod(0o777)
    code = """
import os
for name in ("home", "tmp", "var_tmp"):
    try:
        os.rename("../.container/" + name, "../" + name + ".moved")
        os.symlink(os.environ["HOST"], "../.container/" + name)
    except OSError:
        pass
os.rename("../.container", "../moved")
os.symlink(os.environ["HOST"], "../.container")
os.symlink(os.environ["HOST"], "../another")
print("planted")
"""
    key = den.contained(code, config={"env": {"HOST": str(host)}})

    results = den.wait(key)

    assert results.ok, den.output(key)
    assert (host / "file").read_text() == SECRET
