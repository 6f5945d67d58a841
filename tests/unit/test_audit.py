"""The audit finds what it is there for."""

from pathlib import Path

import pytest
from packaging.version import Version

from audit import upstream
from audit.licences import accepted
from audit.pins import Pin, check_pins, read_pins
from audit.report import Report
from audit.upstream import check_vulnerabilities

HASH = f"--hash=sha256:{'0' * 64}"
PROJECT = """
[project]
dependencies = ["good>=1.0"]
[dependency-groups]
test = ["tool"]
dev = [{ include-group = "test" }]
"""


def project(root, run=f"good==1.1 \\\n    {HASH}\n", dev=f"good==1.1 \\\n    {HASH}\ntool==2.0 {HASH}\n"):
    (root / "requirements").mkdir()
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "requirements" / "run.txt").write_text(run)
    (root / "requirements" / "dev.txt").write_text(dev)
    return check_pins(root).problems


def test_what_is_pinned_hashed_and_agrees_is_well(tmp_path):
    assert project(tmp_path) == []


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"run": "good==1.1\n"}, "run.txt: good has no hash"),
        ({"run": f"good>=1.1 {HASH}\n"}, "run.txt: good is not pinned to one version"),
        ({"run": f"good==1.* {HASH}\n"}, "run.txt: good is not pinned to one version"),
        ({"run": f"good==0.9 {HASH}\n"}, "run.txt has 0.9 for what pyproject.toml declares: good>=1.0"),
        ({"run": f"good==1.2 {HASH}\n"}, "run.txt: good 1.2 is not what dev.txt has"),
        ({"run": f"other==1.1 {HASH}\n"}, "run.txt has nothing for what pyproject.toml declares: good>=1.0"),
        ({"dev": f"good==1.1 {HASH}\n"}, "dev.txt has nothing for what pyproject.toml declares: tool"),
        ({"run": f"--index-url file:///x\ngood==1.1 {HASH}\n"}, "run.txt line 1 names where to get it from"),
        ({"run": f"good @ file:///x {HASH}\n"}, "run.txt line 1 names where to get it from"),
    ],
)
def test_what_is_not_is_said(tmp_path, files, problem):
    assert problem in project(tmp_path, **files)


def test_a_requirement_may_differ_by_python(tmp_path):
    path = tmp_path / "run.txt"
    path.write_text(
        f'a==1.0 ; python_version < "3.12" \\\n    {HASH} \\\n    {HASH}\n# a comment\nb[x]==2 {HASH}\n'
    )
    assert read_pins(path) == [Pin("run.txt", "a", "1.0", 2), Pin("run.txt", "b", "2", 1)]


@pytest.mark.parametrize("licence", ["MIT", "Apache 2.0", "Apache-2.0 AND MIT", "GPL-3.0 OR MIT", "MPL-2.0"])
def test_licences_that_may_stand_beside_ours(licence):
    assert accepted(licence)


@pytest.mark.parametrize("licence", ["", "GPL-3.0", "AGPL-3.0-only", "MIT AND GPL-3.0", "UNKNOWN", "Proprietary"])
def test_licences_that_may_not(licence):
    assert not accepted(licence)


ADVISORY = """
id: PYSEC-2026-1
affected:
- package: {name: Flawed, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}, {fixed: 0123}]
  - type: ECOSYSTEM
    events: [{introduced: "1.0"}, {fixed: "1.5"}]
  versions: ["0.5rc1"]
"""


@pytest.mark.parametrize(
    ("version", "flawed"), [("0.9", False), ("1.0", True), ("1.4.9", True), ("1.5", False), ("0.5rc1", True)]
)
def test_an_advisory_database_is_asked(tmp_path, version, flawed):
    place = tmp_path / "vulns" / "flawed"
    place.mkdir(parents=True)
    (place / "PYSEC-2026-1.yaml").write_text(ADVISORY)
    (place / "PYSEC-2026-2.yaml").write_text(ADVISORY.replace("-1\n", "-2\nwithdrawn: 2026-01-01T00:00:00Z\n"))
    report = check_vulnerabilities(Path(), [Pin("dev.txt", "flawed", version, 1)], tmp_path)
    assert list(report.problems) == ([f"flawed {version}: PYSEC-2026-1"] if flawed else [])
    assert not report.missed


def test_what_was_not_audited_is_not_called_well(tmp_path):
    """Neither by a database that is not there nor by a service that knows nothing of the packages."""
    pins = [Pin("dev.txt", "flawed", "1.0", 1)]
    empty = check_vulnerabilities(Path(), pins, tmp_path)
    silent = upstream._judged(
        [{"name": "flawed", "skip_reason": "not found"}, {"name": "b", "version": "1", "vulns": []}]
    )
    assert empty.lines()[0].startswith("not done  vulnerabilities: audited 0 of 1")
    assert silent.lines()[0].startswith("not done  vulnerabilities: audited 1 of 2")


def test_what_a_service_knows_is_a_problem():
    flaw = {"id": "PYSEC-2026-1", "fix_versions": ["1.5"]}
    report = upstream._judged([{"name": "flawed", "version": "1.0", "vulns": [flaw]}])
    assert list(report.problems) == ["flawed 1.0: PYSEC-2026-1, mended in 1.5"]


def test_a_release_that_was_taken_back_is_recognised():
    said = 'warning: `attrs==21.1.0` is yanked (reason: "Not importable.")\nwarning: `b==1` is yanked\n'
    assert upstream._YANKED.findall(said) == [("attrs==21.1.0", '"Not importable."'), ("b==1", "")]


def test_ranges_end_with_their_last_version():
    events = [{"introduced": "0"}, {"last_affected": "1.2"}]
    assert upstream._in_range(Version("1.2"), events)
    assert not upstream._in_range(Version("1.3"), events)


def test_a_report_says_what_is_wrong_below():
    assert Report("pins", "2 of them", ["a is loose"]).lines() == [
        "problem   pins: 2 of them",
        f"{'':10}a is loose",
    ]
