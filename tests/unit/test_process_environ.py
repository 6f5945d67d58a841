import os
from pathlib import Path

from studio_runner.process.environ import clean_environment, public_environment


def test_what_people_and_programs_need_is_inherited():
    own = {
        "HOME": "/home/me",
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C",
        "https_proxy": "http://proxy:3128",
        "CUDA_HOME": "/opt/cuda",
        "LD_LIBRARY_PATH": "/opt/lib",
    }
    assert clean_environment(own) == own


def test_neither_the_runners_interpreter_nor_its_secrets_leak():
    own = {
        "PYTHONPATH": "/runner",
        "PYTHONHOME": "/runner",
        "VIRTUAL_ENV": "/runner/.venv",
        "CONDA_PREFIX": "/conda",
        "__PYVENV_LAUNCHER__": "/x",
        "PIP_INDEX_URL": "https://user:secret@index",
        "UV_INDEX": "https://user:secret@index",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "GITHUB_TOKEN": "secret",
        "AMQP_URL": "amqp://user:secret@host",
        "STUDIO_RUNNER_TOKEN": "secret",
        "INVOCATION_ID": "x",
    }
    assert clean_environment({**own, "PATH": "/bin"}) == {"PATH": "/bin"}


def test_the_runners_virtual_environment_is_not_on_the_path(tmp_path: Path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "conda" / "bin").mkdir(parents=True)
    (tmp_path / "conda" / "conda-meta").mkdir()
    path = os.pathsep.join(
        [str(tmp_path / "venv" / "bin"), "/usr/bin", str(tmp_path / "conda" / "bin"), "", "/bin"]
    )
    assert clean_environment({"PATH": path})["PATH"] == "/usr/bin:/bin"


def test_there_is_always_a_path():
    assert clean_environment({})["PATH"]


def test_directories_that_this_user_may_not_look_into_are_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)

    assert (
        clean_environment({"PATH": "/home/person/.cargo/bin:/usr/bin"})["PATH"]
        == "/home/person/.cargo/bin:/usr/bin"
    )


def test_a_message_cannot_ask_for_what_opens_something():
    own = {
        "HOME": "/home/runner",
        "DATA_URL": "http://files.example/x",
        "AMQP_URL": "amqp://runner:canary@broker/",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "STUDIO_RUNNER_REPORTS_SLACK_URL": "https://hooks.example/services/canary",
        "SIGNED": "https://files.example/x?X-Amz-Signature=canary",
    }
    assert public_environment(own) == {"HOME": "/home/runner", "DATA_URL": "http://files.example/x"}
