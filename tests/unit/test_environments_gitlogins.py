"""Logins of git's addresses go by variables."""

import base64

from studio_runner.environments.gitlogins import without_logins


def basic(login):
    return f"Authorization: Basic {base64.b64encode(login.encode()).decode()}"


def test_logins_leave_the_lines_and_reach_git():
    lines = [
        "one==1.0",
        "-e git+https://me:p%40ss@git.example/team/one.git@v1#egg=one",
        "two @ git+http://canary-token@git.example:8080/two",
        "three @ git+https://git.example/three@main",
        "four @ git+ssh://git@git.example/four",
        "five @ https://me:secret@files.example/five.whl",
    ]

    bare, variables = without_logins(lines, {})

    assert bare == [
        "one==1.0",
        "-e git+https://git.example/team/one.git@v1#egg=one",
        "two @ git+http://git.example:8080/two",
        *lines[3:],  # git asks ssh, and no program is handed the address of a file
    ]
    assert variables == {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "http.https://git.example/team/one.git.extraHeader",
        "GIT_CONFIG_VALUE_0": basic("me:p@ss"),
        "GIT_CONFIG_KEY_1": "http.http://git.example:8080/two.extraHeader",
        "GIT_CONFIG_VALUE_1": basic("canary-token:"),
    }


def test_settings_of_the_operator_stay():
    _, variables = without_logins(["a @ git+https://x:y@h/a"], {"GIT_CONFIG_COUNT": "3"})
    assert variables["GIT_CONFIG_COUNT"] == "4"
    assert "GIT_CONFIG_KEY_3" in variables


def test_nothing_is_set_for_nothing():
    assert without_logins(["a==1", "b @ git+https://h/b"], {})[1] == {}
