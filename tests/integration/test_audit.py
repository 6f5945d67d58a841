"""Secrets are found wherever they are, also where nobody looks any more."""

import base64
import subprocess

import pytest

from audit.secrets import ALLOWED, Allowed, check_secrets, read_allowed

KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----"
PLANTED = {
    "a key of AWS": "AKIA" + "QWERTYUIOPASDFGH",
    "a private key": KEY,
    "a token of GitHub": "ghp_" + "canary" * 6,
    "a password in an address": "amqp://user:" + "Tr0ub4dor-3@broker/",
    "a password": "db_password = '" + "Tr0ub4dor-and-3'",
    "random text": "key = '" + base64.b64encode(bytes(range(7, 247, 5))).decode() + "'",
}


@pytest.fixture
def git(tmp_path):
    """Runs git in a fresh repository."""

    def run(*arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    run("init", "--quiet")
    (tmp_path / "README").write_text("nothing to see\n")
    run("add", ".")
    run("commit", "--quiet", "-m", "first")
    return run


def found(root, allowed=()):
    return list(check_secrets(root, list(allowed)).problems)


@pytest.mark.parametrize("secret", PLANTED.values(), ids=PLANTED)
def test_a_planted_secret_is_found_and_not_printed(git, tmp_path, secret):
    assert found(tmp_path) == []
    (tmp_path / "settings.py").write_text(f"import os\n{secret}\n")
    problems = found(tmp_path)
    assert problems
    assert all(problem.startswith("settings.py: ") for problem in problems)
    assert not any(secret in problem for problem in problems)


def test_a_secret_that_was_removed_again_is_still_known_to_everybody(git, tmp_path):
    for content in (PLANTED["a key of AWS"], "gone"):
        (tmp_path / "notes").write_text(content)
        git("add", ".")
        git("commit", "--quiet", "-m", "notes")
    assert found(tmp_path)


def test_a_secret_in_what_a_commit_says(git, tmp_path):
    git("commit", "--quiet", "--allow-empty", "-m", f"Use {PLANTED['a key of AWS']}")
    assert found(tmp_path)


def test_what_is_allowed_is_allowed_there_and_nowhere_else(git, tmp_path):
    allowed = [Allowed("keys/*", "BEGIN*")]
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "throw-away").write_text(KEY)
    assert found(tmp_path, allowed) == []
    (tmp_path / "id_ed25519").write_text(KEY)  # the same line, at a newer place
    git("add", ".")
    git("commit", "--quiet", "-m", "keys")
    assert found(tmp_path, allowed)


@pytest.mark.parametrize("secret", PLANTED.values(), ids=PLANTED)
def test_what_this_project_allows_is_none_of_these(git, tmp_path, secret):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "settings.py").write_text(secret)
    assert found(tmp_path, read_allowed(ALLOWED))
