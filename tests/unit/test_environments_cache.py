import asyncio
import os
from pathlib import Path

import pytest

from studio_runner.environments import cache as module
from studio_runner.environments.cache import EnvironmentCache, Manifest, Slot, guards
from studio_runner.environments.files import make_read_only, remove_tree, write_atomically
from studio_runner.environments.packages import Package
from studio_runner.environments.uninterrupted import uninterrupted
from studio_runner.environments.uvcache import surplus


def package(name: str, size: int, identity: str | None = None) -> Package:
    return Package(name, "1", (), size, identity or name)


class Kept:
    """A cache and what tests do with it."""

    def __init__(self, root: Path, budget: int = 0) -> None:
        self.root = root / "environments"
        self.budget = budget
        self.told: list[str] = []

    def open(self) -> EnvironmentCache:
        return EnvironmentCache(self.root, self.budget)

    async def build(self, key: str, *packages: Package, cache: EnvironmentCache | None = None) -> Slot:
        async with (cache or self.open()).build(key, lambda: self.told.append(key)) as slot:
            if not slot.published:
                (slot.prefix / "bin").mkdir(parents=True)
                (slot.prefix / "bin/python").write_text("#!")
                make_read_only(slot.prefix)
                slot.publish(
                    Manifest("python 3", "python", packages, guards(slot.prefix, ("bin",)), module.boot_id())
                )
            slot.share()
        return slot

    async def used(self, key: str, *packages: Package, at: float) -> None:
        """Built, and last used at that time."""
        (await self.build(key, *packages)).close()
        os.utime(self.root / f"{key}.lock", (at, at))

    def names(self) -> set[str]:
        return {path.name for path in self.root.iterdir() if path.is_dir()} - {"trash"}


@pytest.fixture
def kept(tmp_path) -> Kept:
    return Kept(tmp_path)


class TestPublishing:
    async def test_nothing_is_found_before_it_is_published(self, kept):
        async with kept.open().build("k", lambda: None) as slot:
            assert not slot.published
            assert kept.open().find("k") is None
            slot.close()

        assert kept.open().find("k") is None

    async def test_what_is_published_is_found_by_everybody(self, kept):
        (await kept.build("k", package("six", 1))).close()

        found = kept.open().find("k")

        assert found is not None
        assert found.manifest.packages == (package("six", 1),)
        found.close()

    async def test_a_build_that_died_is_cleared_by_the_next_one(self, kept):
        (kept.root / "k/env").mkdir(parents=True)
        (kept.root / "k/env/half").touch()

        slot = await kept.build("k")

        assert not (slot.prefix / "half").exists()
        slot.close()

    async def test_a_failed_build_gives_its_lock_back(self, kept):
        with pytest.raises(RuntimeError):
            async with kept.open().build("k", lambda: None):
                raise RuntimeError

        (await kept.build("k")).close()
        assert kept.told == []

    async def test_a_manifest_of_another_format_is_none(self, kept):
        (await kept.build("k")).close()
        (kept.root / "k/manifest.json").write_text('{"format": 0}')

        assert kept.open().find("k") is None


class TestTogether:
    async def test_the_second_waits_says_so_once_and_uses_what_the_first_built(self, kept):
        async with kept.open().build("k", lambda: None) as first:
            waiting = asyncio.create_task(kept.build("k"))
            while not kept.told:
                await asyncio.sleep(0)
            (first.prefix / "bin").mkdir(parents=True)
            first.publish(Manifest("the first", "python", (), guards(first.prefix, ("bin",)), module.boot_id()))
            first.share()

        second = await waiting

        assert second.manifest.python == "the first"
        assert kept.told == ["k"]
        first.close()
        second.close()

    async def test_a_cancelled_wait_leaves_no_lock_behind(self, kept):
        async with kept.open().build("k", lambda: None) as first:
            waiting = asyncio.create_task(kept.build("k"))
            while not kept.told:
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            first.close()

        (await kept.build("k")).close()
        assert kept.told == ["k"]


class TestChangedByAnExperiment:
    """Only an experiment that may (root) can do it."""

    async def spoil(self, kept: Kept, slot: Slot) -> None:
        (slot.prefix / "bin").chmod(0o755)
        (slot.prefix / "bin/added").touch()
        os.utime(slot.prefix / "bin", ns=(1, 1))

    async def test_it_is_not_used_again_but_built_anew(self, kept):
        slot = await kept.build("k")
        await self.spoil(kept, slot)
        slot.close()

        assert kept.open().find("k") is None
        again = await kept.build("k")
        assert again.directory == slot.directory
        assert not (again.prefix / "bin/added").exists()
        again.close()

    async def test_beside_the_old_one_while_that_is_in_use(self, kept):
        slot = await kept.build("k")
        await self.spoil(kept, slot)

        again = await kept.build("k")

        assert again.directory != slot.directory
        assert (slot.prefix / "bin/added").exists()
        found = kept.open().find("k")
        assert found is not None
        assert found.directory == again.directory
        for one in (slot, again, found):
            one.close()


async def test_after_a_restart_of_the_machine_only_what_was_flushed_counts(kept, monkeypatch):
    (await kept.build("flushed")).close()
    (await kept.build("not")).close()
    slot = kept.open().find("flushed")
    slot.set_compiled(10)
    slot.close()

    monkeypatch.setattr(module, "boot_id", lambda: "another start")

    found = kept.open().find("flushed")
    assert found is not None
    found.close()
    assert kept.open().find("not") is None


class TestEviction:
    async def test_the_least_recently_used_goes_first_until_the_rest_fits(self, kept):
        for number, key in enumerate(("old", "middle", "new")):
            await kept.used(key, package(key, 100), at=1000 + number)
        kept.budget = 200

        kept.open().evict()

        assert kept.names() == {"middle", "new"}

    async def test_using_one_makes_it_recent(self, kept):
        await kept.used("a", package("a", 100), at=1000)
        await kept.used("b", package("b", 100), at=2000)
        kept.open().find("a").close()
        kept.budget = 100

        kept.open().evict()

        assert kept.names() == {"a"}

    async def test_what_is_in_use_stays(self, kept):
        await kept.used("used", package("used", 100), at=1000)
        await kept.used("idle", package("idle", 100), at=2000)
        slot = kept.open().find("used")
        os.utime(kept.root / "used.lock", (1000, 1000))
        kept.budget = 1

        kept.open().evict()
        assert kept.names() == {"used"}

        slot.close()
        kept.open().evict()
        assert kept.names() == set()

    async def test_shared_files_count_once(self, kept):
        for number in range(3):
            await kept.used(f"k{number}", package("torch", 100, "the same inode"), at=1000 + number)
        kept.budget = 150

        kept.open().evict()

        assert len(kept.names()) == 3

    async def test_bytecode_counts(self, kept):
        (await kept.build("k", package("six", 10))).close()
        slot = kept.open().find("k")
        slot.set_compiled(5)
        slot.close()

        assert kept.open().usage() == 15

    async def test_without_a_budget_everything_stays(self, kept):
        await kept.used("k", package("k", 1 << 60), at=1000)

        kept.open().evict()

        assert kept.names() == {"k"}

    async def test_leftovers_go_and_builds_under_way_stay(self, kept):
        (kept.root / "dead/env").mkdir(parents=True)
        (kept.root / "trash/x/y").mkdir(parents=True)
        async with kept.open().build("alive", lambda: None) as slot:
            kept.open().evict()
            assert kept.names() == {"alive"}
            slot.close()

        assert not any((kept.root / "trash").iterdir())

    async def test_it_can_be_built_again(self, kept):
        await kept.used("k", package("k", 100), at=1000)
        kept.budget = 1
        kept.open().evict()

        (await kept.build("k")).close()


def test_of_uvs_own_only_what_nothing_links_to_is_surplus(tmp_path):
    for number, name in enumerate(("oldest", "newer", "linked")):
        info = tmp_path / f"archive-v0/{number}/{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").touch()
        (info / "RECORD").write_text(f"{name}.py,sha256=x,100\n")
    (tmp_path / "elsewhere").hardlink_to(tmp_path / "archive-v0/2/linked-1.dist-info/METADATA")
    os.utime(tmp_path / "archive-v0/0", (1000, 1000))

    assert surplus(tmp_path, 200) == ()
    assert surplus(tmp_path, 150) == ("oldest",)
    assert surplus(tmp_path, 0) == ("oldest", "newer")
    assert surplus(tmp_path / "nowhere", 0) == ()


class TestFiles:
    def test_read_only_but_for_bytecode(self, tmp_path):
        top = tmp_path / "env"
        (top / "package/data").mkdir(parents=True)
        (top / "package/module.py").touch()
        (top / "link").symlink_to(tmp_path)

        make_read_only(top)

        writable = {str(path.relative_to(top)) for path in top.rglob("*") if path.lstat().st_mode & 0o222}
        assert writable - {"link"} == {"package/__pycache__"}
        assert tmp_path.stat().st_mode & 0o200
        remove_tree(top)
        assert not top.exists()

    def test_removing_what_is_not_there_is_no_error(self, tmp_path):
        remove_tree(tmp_path / "nothing")

    def test_removing_does_not_follow_links(self, tmp_path):
        (tmp_path / "outside/file").parent.mkdir()
        (tmp_path / "outside/file").touch()
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/link").symlink_to(tmp_path / "outside")

        remove_tree(tmp_path / "tree")

        assert (tmp_path / "outside/file").exists()

    def test_writing_replaces_and_leaves_nothing_else(self, tmp_path):
        write_atomically(tmp_path / "file", "one")
        write_atomically(tmp_path / "file", "two")

        assert (tmp_path / "file").read_text() == "two"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestUninterrupted:
    async def test_a_cancellation_waits_for_the_work(self):
        go, done = asyncio.Event(), []

        async def work() -> None:
            await go.wait()
            done.append(True)

        task = asyncio.create_task(uninterrupted(work()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]

    async def test_results_and_errors_pass_through(self):
        async def fail() -> None:
            raise ValueError

        assert await uninterrupted(asyncio.sleep(0, "result")) == "result"
        with pytest.raises(ValueError):
            await uninterrupted(fail())
