import shutil
import subprocess

import pytest

from studio_runner.runner.scatter import scatter


def test_makes_the_directory_and_keeps_what_is_in_it(tmp_path):
    place = tmp_path / "a" / "experiments"
    scatter(place)
    (place / "kept").write_text("x")
    scatter(place)
    assert (place / "kept").read_text() == "x"


def test_the_hint_is_there_where_the_file_system_knows_it(tmp_path):
    if not shutil.which("lsattr") or subprocess.run(["chattr", "+T", tmp_path], check=False).returncode:
        pytest.skip("this file system knows no such hint")
    place = tmp_path / "experiments"
    scatter(place)
    flags = subprocess.run(["lsattr", "-d", place], check=True, capture_output=True, text=True).stdout.split()[0]
    assert "T" in flags
