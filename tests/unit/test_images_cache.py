"""The images that are kept: found, replaced, evicted, and those that a dead runner left half done."""

import asyncio
import itertools
import json
import os
import stat

import pytest

from studio_runner.environments.images import cache as module
from studio_runner.environments.images.base import SANDBOX, SIF
from studio_runner.environments.images.cache import ImageCache, Manifest, Record, key_of


@pytest.fixture
def opened(tmp_path):
    def opening(budget=0):
        cache = ImageCache(tmp_path / "images", budget)
        cache.begin()
        return cache

    return opening


@pytest.fixture
def add(tmp_path):
    """Publishes an image of some bytes."""
    used = iter(range(1000))

    def adding(cache, digest, size=100, kind=SIF):
        made = tmp_path / f"made-{next(used)}"
        made.mkdir()
        if kind == SIF:
            (made / "image.sif").write_bytes(os.urandom(size))
        else:
            (made / "root/bin").mkdir(parents=True)
            (made / "root/bin/sh").write_bytes(os.urandom(size))
        cache.publish(digest, made, Manifest.of(made, kind))
        os.utime(tmp_path / "images" / f"{digest}.lock", (next(used), next(used)))

    return adding


def kept(tmp_path):
    return sorted(path.parent.name for path in (tmp_path / "images").glob("*/manifest.json"))


@pytest.mark.parametrize(("kind", "name"), [(SIF, "image.sif"), (SANDBOX, "root")])
def test_what_is_published_is_found(opened, add, tmp_path, kind, name):
    cache = opened()
    add(cache, "a", kind=kind)
    slot = opened().find("a")
    image = slot.image("for people")
    assert (image.path, image.kind, image.digest) == (tmp_path / "images/a" / name, kind, "a")
    assert image.name == "for people"
    assert cache.find("b") is None


def test_only_its_owner_may_look_into_it(opened, tmp_path):
    opened()
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700


def test_nobody_can_write_to_an_image(opened, add, tmp_path):
    add(opened(), "a", kind=SANDBOX)
    for path in (tmp_path / "images/a/root").rglob("*"):
        assert not path.stat().st_mode & 0o222


def test_directories_that_are_closed_to_everybody_are_no_obstacle(opened, tmp_path):
    """Images have them. As root this would pass in any case; the modes are what is looked at."""
    made = tmp_path / "made"
    (made / "root/shut").mkdir(parents=True)
    (made / "root/shut/file").touch()
    (made / "root/shut").chmod(0o000)
    opened().publish("a", made, Manifest.of(made, SANDBOX))
    assert stat.S_IMODE((tmp_path / "images" / "a" / "root" / "shut").stat().st_mode) == 0o500


def test_whoever_publishes_second_uses_the_first(opened, add, tmp_path):
    cache = opened()
    add(cache, "a")
    before = (tmp_path / "images/a/image.sif").read_bytes()
    add(cache, "a")
    assert (tmp_path / "images/a/image.sif").read_bytes() == before


def test_the_least_recently_used_goes_first(opened, add, tmp_path):
    cache = opened(budget=250)
    for digest in "abc":
        add(cache, digest)
    cache.find("a").close()
    assert not cache.evict()
    assert kept(tmp_path) == ["a", "c"]
    assert cache.usage() == 200
    assert list((tmp_path / "images/trash").iterdir()) == []
    assert not (tmp_path / "images/b.lock").exists()


def test_what_is_in_use_stays(opened, add, tmp_path):
    cache = opened(budget=50)
    add(cache, "a")
    add(cache, "b")
    slot = opened().find("a")
    assert cache.evict()
    assert kept(tmp_path) == ["a"]
    slot.close()
    assert not cache.evict()
    assert kept(tmp_path) == []


def test_a_slot_that_nobody_holds_any_more_is_not_in_use(opened, add, tmp_path):
    cache = opened(budget=50)
    add(cache, "a")
    cache.find("a")
    assert not cache.evict()
    assert kept(tmp_path) == []


def test_without_a_budget_everything_stays(opened, add, tmp_path):
    cache = opened()
    for digest in "abc":
        add(cache, digest, 10_000)
    assert not cache.evict()
    assert kept(tmp_path) == ["a", "b", "c"]


def test_sources_of_images_that_are_gone_are_forgotten(opened, add):
    cache = opened(budget=150)
    for digest in "ab":
        add(cache, digest)
        cache.note(key_of(digest), Record(digest, "v", 1.0, 2.0))
    cache.evict()
    assert cache.record(key_of("a")) is None
    assert cache.record(key_of("b")) == Record("b", "v", 1.0, 2.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": "a"}', '{"what": 1}'])
def test_a_record_that_cannot_be_read_is_none(opened, tmp_path, text):
    cache = opened()
    (tmp_path / "images/sources/key").write_text(text)
    assert cache.record("key") is None


@pytest.mark.parametrize("change", ["format", "cut off", "gone"])
def test_a_manifest_of_another_release_is_none(opened, add, tmp_path, change):
    cache = opened()
    add(cache, "a")
    path = tmp_path / "images/a/manifest.json"
    text = path.read_text()
    path.unlink()
    if change == "format":
        path.write_text(json.dumps({**json.loads(text), "format": module.FORMAT + 1}))
    elif change == "cut off":
        path.write_text(text[:20])
    assert cache.find("a") is None
    add(cache, "a")
    assert cache.find("a") is not None


@pytest.mark.parametrize("case", list(itertools.product([SIF, SANDBOX], [None, "changed", "shorter", "gone"])))
def test_after_a_start_of_the_machine_an_image_is_looked_at_once(opened, add, tmp_path, monkeypatch, case):
    """Not everything may have reached the disk."""
    kind, damage = case
    cache = opened()
    add(cache, "a", kind=kind)
    file = tmp_path / "images/a" / ("image.sif" if kind == SIF else "root/bin/sh")
    if damage:
        content = file.read_bytes()
        file.parent.chmod(0o700)
        file.unlink()
        if damage != "gone":
            file.write_bytes(bytes(len(content)) if damage == "changed" else content[:-1])
    monkeypatch.setattr(module, "boot_id", lambda: "another")
    found = cache.find("a")
    # of a tree only what is there is counted: its content would have to be read in full
    whole = damage is None or (damage == "changed" and kind == SANDBOX)
    assert (found is not None) == whole
    if whole:
        assert json.loads((tmp_path / "images/a/manifest.json").read_text())["boot"] == "another"


async def test_a_workplace_is_gone_with_its_context(opened, tmp_path):
    cache = opened()
    async with cache.workplace() as work:
        (work / "half").write_bytes(b"x")
        opened()  # another runner that begins leaves it alone
        assert (work / "half").exists()
    assert list((tmp_path / "images/work").iterdir()) == []


def test_what_a_dead_runner_left_is_removed_by_the_next_one(opened, tmp_path):
    opened()
    work = tmp_path / "images/work"
    (work / "one").mkdir()
    (work / "one/layer").write_bytes(b"x")
    (work / "one").chmod(0o500)
    (work / "one.lock").touch()
    (work / "two.lock").touch()
    (tmp_path / "images/trash/old").mkdir()
    (tmp_path / "images/sources/key.lock").touch()
    opened()
    assert list(work.iterdir()) == []
    assert list((tmp_path / "images/trash").iterdir()) == []
    assert list((tmp_path / "images/sources").iterdir()) == []


async def test_one_at_a_time_gets_the_images_of_a_source(opened):
    said = []
    async with opened().claim("key", lambda: said.append("first")):
        assert said == []
        waiting = opened().claim("key", lambda: said.append("second"))
        task = asyncio.ensure_future(waiting.__aenter__())
        while not said:
            await asyncio.sleep(0)
        assert said == ["second"]
        assert not task.done()
    await task
    await waiting.__aexit__(None, None, None)


def test_keys_are_names_of_files():
    assert len({key_of(text) for text in ("a", "b", "../../x", "\udcff")}) == 4
    assert all(key_of(text).isalnum() for text in ("../../x", "a b"))
