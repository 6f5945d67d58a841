"""What of the runner's own environment an experiment inherits.

An allowlist: the runner's environment holds its credentials under names nobody can enumerate (`AWS_*`, broker
URLs, tokens of the service manager) and its interpreter's settings (`PYTHON*`, `VIRTUAL_ENV`, `CONDA_*`, `PIP_*`,
`UV_*`), which would make the experiment's Python import the runner's packages. A name that is missing here is
missed at once, with a clear symptom, and the sender can set it (`config.env`, `%NAME%`); a secret that leaks is
never noticed at all.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from studio_runner.config.options import PREFIX
from studio_runner.messages.secrets import is_secret

ATTEMPT_VARIABLE = "STUDIO_RUNNER_ATTEMPT"
"""Set in every experiment to the attempt's id, so that `sweep` finds its processes again."""

_PERSON = ("HOME", "USER", "LOGNAME", "SHELL", "TERM", "PATH", "TMPDIR", "LANG", "LANGUAGE", "TZ")
_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH")
_NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_INHERITED = frozenset((*_PERSON, *_LIBRARIES, *_NETWORK, *(name.lower() for name in _NETWORK), *_CERTIFICATES))
_INHERITED_PREFIXES = ("LC_", "CUDA_", "CUDNN_", "NVIDIA_", "NCCL_", "ROCM_", "HIP_")

_CONTAINED = frozenset(("TZ", *_NETWORK, *(name.lower() for name in _NETWORK)))


def public_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The part of `own` that a message may ask for (`%NAME%`): no secrets, and none of the runner's settings (the
    address of a webhook opens it, and looks like any other)."""
    return {
        name: value for name, value in own.items() if not name.startswith(PREFIX) and not is_secret(name, value)
    }


def contained_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The part of what experiments inherit that means the same inside a container: no path, no file, no person."""
    return {name: value for name, value in inherited.items() if name in _CONTAINED or name.startswith("NCCL_")}


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The part of `own` that an experiment inherits, PATH without the runner's virtual environment."""
    kept = {
        name: value for name, value in own.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    kept["PATH"] = _system_path(kept.get("PATH", os.defpath))
    return kept


def _system_path(path: str) -> str:
    """Without directories that are a virtual or conda environment's: their `python` is not the experiment's."""
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if entry and not _of_environment(Path(entry)))


def _of_environment(directory: Path) -> bool:
    # unlike Path.exists, os.path's is False for what this user may not look at
    return any(os.path.exists(directory.parent / name) for name in ("pyvenv.cfg", "conda-meta"))  # noqa: PTH110
