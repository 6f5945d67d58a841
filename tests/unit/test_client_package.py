"""The working directory as an archive."""

import io
import os
import tarfile

import pytest

from studio_runner.client import package
from studio_runner.errors import UsageError


def members(found, notes=None):
    packed = package.archive(found, (notes if notes is not None else []).append)
    with packed.file, tarfile.open(fileobj=io.BytesIO(packed.file.read())) as archive:
        return {
            member.name: (archive.extractfile(member).read() if member.isfile() else None) for member in archive
        }


def digest(root):
    packed = package.archive(package.workspace(root), [].append)
    packed.file.close()
    return packed.digest


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "train.py").write_text("print('hi')\n")
    (root / "pkg" / "model.py").write_text("X = 1\n")
    return root


def test_everything_that_is_not_ignored_travels(project):
    (project / "__pycache__").mkdir()
    (project / "__pycache__" / "x.pyc").touch()
    (project / "empty").mkdir()
    found = members(package.workspace(project))
    assert found == {"train.py": b"print('hi')\n", "pkg": None, "pkg/model.py": b"X = 1\n", "empty": None}


def test_the_same_content_has_the_same_hash_whatever_its_history(project, tmp_path):
    before = digest(project)
    os.utime(project / "train.py", (1, 1))
    (project / "train.py").chmod(0o600)
    (project / "pkg").chmod(0o700)
    assert digest(project) == before
    copy = tmp_path / "copy"
    (copy / "pkg").mkdir(parents=True)
    (copy / "pkg" / "model.py").write_text("X = 1\n")
    (copy / "train.py").write_text("print('hi')\n")
    assert digest(copy) == before


@pytest.mark.parametrize("change", ["content", "name", "executable"])
def test_another_content_has_another_hash(project, change):
    before = digest(project)
    if change == "content":
        (project / "train.py").write_text("print('ho')\n")
    elif change == "name":
        (project / "train.py").rename(project / "main.py")
    else:
        (project / "train.py").chmod(0o755)
    assert digest(project) != before


def test_a_link_that_leads_out_is_left_behind_and_said(project):
    (project / "inside").symlink_to("train.py")
    (project / "outside").symlink_to("/etc/hostname")
    notes = []
    found = members(package.workspace(project), notes)
    assert "inside" in found
    assert "outside" not in found
    assert len(notes) == 1
    assert "outside" in notes[0]


def test_files_that_are_to_stay_do_not_travel_whatever_the_rules_say(project, tmp_path):
    (project / "key").write_text("private")
    (project / "words").symlink_to("pkg/words")
    (project / "pkg" / "words").write_text("passphrase")
    (project / ".studioml_ignore").write_text("!key\n")
    (tmp_path / "door").symlink_to(project)
    own = [tmp_path / "door" / "key", project / "words", tmp_path / "elsewhere", project / "absent"]

    found = members(package.workspace(project).without(own))
    assert found.keys() == {"train.py", "pkg", "pkg/model.py", "words"}
    assert found["words"] is None  # the link alone
    assert members(package.data(project / "key").without(own)) == {}


def test_too_large_a_directory_is_refused_with_its_largest_parts(project):
    (project / "data").mkdir()
    (project / "data" / "big.bin").write_bytes(bytes(5000))
    (project / "model.ckpt").write_bytes(bytes(3000))
    with pytest.raises(UsageError) as refusal:
        package.workspace(project, limit=6000)
    message = str(refusal.value)
    assert message.index("data/ 5 KB") < message.index("model.ckpt 3 KB") < message.index("pkg/")
    assert ".studioml_ignore" in refusal.value.hint


def test_a_limit_of_nothing_is_none(project):
    (project / "big.bin").write_bytes(bytes(5000))
    assert package.workspace(project, limit=0).size > 5000


def test_ignored_files_do_not_count_against_the_limit(project):
    (project / "data.bin").write_bytes(bytes(5000))
    (project / ".studioml_ignore").write_text("*.bin\n")
    assert package.workspace(project, limit=1000).size < 1000


@pytest.mark.parametrize("name", ["train.py", "./train.py", "pkg/model.py", "pkg/../train.py"])
def test_the_script_is_found_in_the_package(project, name):
    assert package.script_in(package.workspace(project), name) == os.path.normpath(name)


def test_a_script_by_its_absolute_path_is_found(project):
    assert package.script_in(package.workspace(project), str(project / "train.py")) == "train.py"


def test_a_missing_script_is_refused_with_what_comes_near(project):
    with pytest.raises(UsageError, match=r"no script trian\.py") as refusal:
        package.script_in(package.workspace(project), "trian.py")
    assert "train.py" in refusal.value.hint


def test_a_script_elsewhere_is_refused(project):
    with pytest.raises(UsageError, match="outside the working directory"):
        package.script_in(package.workspace(project), "../other.py")


def test_an_ignored_script_is_refused_with_the_remedy(project):
    (project / ".studioml_ignore").write_text("train.py\n")
    with pytest.raises(UsageError, match="ignore rules") as refusal:
        package.script_in(package.workspace(project), "train.py")
    assert "!train.py" in refusal.value.hint


def test_a_directory_is_no_script(project):
    with pytest.raises(UsageError, match="no script pkg"):
        package.script_in(package.workspace(project), "pkg")


def test_a_replaced_file_travels_with_its_other_content_once(project):
    found = package.workspace(project).with_content("pkg/model.py", b"X = 2\n")
    packed = package.archive(found, [].append)
    with packed.file, tarfile.open(fileobj=io.BytesIO(packed.file.read())) as archive:
        assert [member.name for member in archive].count("pkg/model.py") == 1
        assert archive.extractfile("pkg/model.py").read() == b"X = 2\n"
        assert archive.extractfile("train.py").read() == b"print('hi')\n"
    assert (project / "pkg" / "model.py").read_text() == "X = 1\n"


def test_a_single_file_can_be_captured(project):
    assert members(package.data(project / "train.py")) == {"train.py": b"print('hi')\n"}


def test_what_does_not_exist_cannot_be_captured(project):
    with pytest.raises(UsageError, match="nothing at"):
        package.data(project / "absent")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(project):
    (project / "secret").write_text("x")
    (project / "secret").chmod(0)
    with pytest.raises(UsageError, match="secret"):
        package.archive(package.workspace(project), [].append)
