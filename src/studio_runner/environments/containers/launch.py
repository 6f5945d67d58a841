"""The command that starts a container."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from studio_runner.environments.containers.isolation import Box, launcher, options, variables
from studio_runner.environments.containers.runtime import Runtime
from studio_runner.process.base import Command
from studio_runner.process.environ import ATTEMPT_VARIABLE, clean_environment

_MARKS = (ATTEMPT_VARIABLE, "STUDIOML_HOME")
"""By which a runner finds the processes of a dead one's experiments; those of the runtime are among them."""

MOUNTERS = ("squashfuse", "squashfuse_ll", "fuse-overlayfs", "fuse2fs", "gocryptfs")
"""What an ordinary user's runtime mounts images with. They end by themselves, or are killed, after the container:
while it saves its work it needs its file system."""


class Launch:
    """Makes contained commands for one user. `scratch` is a directory that containers do not see, `environ` the
    runner's own environment: the runtime gets its PATH and nothing else of it. EnvironmentFailedError when this
    runtime could not keep a container of this user in."""

    def __init__(self, runtime: Runtime, scratch: Path, environ: Mapping[str, str], user: int) -> None:
        self._runtime = runtime
        self._before = launcher(runtime, user)
        self._empty = scratch / "empty"
        self._empty.touch(mode=0o444)
        own = {"TMPDIR": str(scratch), "CACHEDIR": str(scratch), "CONFIGDIR": str(scratch)}
        self._env = {
            "PATH": clean_environment(environ)["PATH"],
            "HOME": str(scratch),
            "LC_ALL": "C",
            **{f"{runtime.prefix}_{name}": value for name, value in own.items()},
        }

    def command(self, action: Sequence[str], box: Box, env: Mapping[str, str], cwd: Path) -> Command:
        """`action` is `exec` or `run`, the image, and what it is to run; `env` the variables it sees besides the
        image's own."""
        for path in (box.private, box.private / "home"):
            path.mkdir(mode=0o700, exist_ok=True)
        verb, *rest = action
        before = (*self._before, self._runtime.path, "--silent", verb)
        argv = (*before, *options(self._runtime, box, self._empty), "--pwd", str(cwd), *rest)
        marks = {name: env[name] for name in _MARKS if name in env}
        inside = variables(self._runtime, {"LANG": "C.UTF-8", **env})
        return Command(argv, {**self._env, **marks, **inside}, Path("/"), MOUNTERS)
