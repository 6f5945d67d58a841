"""Images of containers that are artifacts: as existing clients store them, from real stores, for the real runtime."""

import asyncio
import contextlib
import hashlib
import http.server
import io
import json
import os
import struct
import subprocess
import tarfile
import threading
from dataclasses import replace

import pytest

from studio_runner.config import cascade
from studio_runner.environments.images.provider import KeptImages
from studio_runner.environments.images.pull import Puller
from studio_runner.environments.programs import Programs
from studio_runner.errors import (
    ArtifactInvalidError,
    ArtifactMissingError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    StorageUnavailableError,
    UnauthorisedError,
)
from studio_runner.messages.request import parse_request
from studio_runner.process.spawn import Spawner
from studio_runner.runner.images import image_source
from studio_runner.storage.registry import Stores

HEADER = 2048
CODE_AT = 45
DATA_AT = 112


@pytest.fixture
async def obtained(tmp_path, apptainer):
    """Obtains the image of a request; keywords are settings."""
    async with Spawner() as spawner, contextlib.AsyncExitStack() as stack:

        async def obtaining(body, log=print, budget=0, progress=None, **settings):
            chosen = replace(cascade.load({"HOME": "/"}).settings.containers, **settings)
            puller = Puller(Programs(spawner), lambda: str(apptainer), os.environ, budget)
            puller.progress = progress or puller.progress
            images = await stack.enter_async_context(KeptImages(tmp_path / "cache", budget, chosen, puller))
            stores = await stack.enter_async_context(Stores())
            source = await image_source(parse_request(body), stores, budget)
            return await stack.enter_async_context(images.obtain(source, log))

        yield obtaining


def request(address, **artifact):
    artifact = {"qualified": address, "mutable": False, "unpack": True, **artifact}
    experiment = {"key": "1_a", "filename": "train.py", "artifacts": {"_singularity": artifact}}
    return json.dumps({"experiment": experiment, "config": {}}).encode()


def as_clients_pack_a_file(path):
    """One file becomes `./NAME`."""
    return packed([("./" + path.name, path)])


def as_clients_pack_a_directory(path):
    return packed([(name, path / name) for name in os.listdir(path)])


def packed(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, path in members:
            archive.add(path, name)
    return buffer.getvalue()


def written(directory, content, name=None):
    path = directory / (name or f"{hashlib.sha256(content).hexdigest()}.tar")
    path.write_bytes(content)
    return path


async def run(apptainer, image, script):
    process = await asyncio.create_subprocess_exec(
        apptainer, "exec", "--containall", image.path, "/bin/sh", "-c", script, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


def left(tmp_path):
    cache = tmp_path / "cache/images"
    return [*(cache / "work").iterdir(), *(cache / "trash").iterdir(), *(cache / "sources").glob("*.lock")]


def kept(tmp_path):
    return sorted(path.parent.name for path in (tmp_path / "cache/images").glob("*/manifest.json"))


async def test_the_file_of_an_image_as_clients_store_it(obtained, small_sif, apptainer, tmp_path):
    content = as_clients_pack_a_file(small_sif)
    path = written(tmp_path, content)
    image = await obtained(request(f"file://{path}", key=f"blobstore/{path.name}"))
    assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"
    assert image.digest == hashlib.sha256(content).hexdigest()
    assert image.name == f"file://{path}"
    assert left(tmp_path) == []


async def test_a_sandbox_as_clients_store_it(obtained, small_sandbox, apptainer, tmp_path):
    image = await obtained(request(f"file://{written(tmp_path, as_clients_pack_a_directory(small_sandbox))}"))
    assert image.kind == "sandbox"
    assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"
    assert left(tmp_path) == []


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
async def test_a_compressed_archive_whose_sandbox_is_in_a_directory(obtained, small_sandbox, tmp_path, mode):
    content = packed([("box", small_sandbox)], mode)
    image = await obtained(request(f"file://{written(tmp_path, content)}"))
    assert image.kind == "sandbox"
    assert (image.path / "usr/bin/dash").is_file()
    assert not (image.path / "box").exists()


async def test_the_file_itself(obtained, small_sif, apptainer):
    """Whatever the message says of unpacking it."""
    for unpack in (False, True):
        image = await obtained(request(f"file://{small_sif}", unpack=unpack))
        assert image.digest == hashlib.sha256(small_sif.read_bytes()).hexdigest()
    assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"


async def test_an_archive_that_is_not_to_be_unpacked_is(obtained, small_sandbox, tmp_path):
    path = written(tmp_path, as_clients_pack_a_directory(small_sandbox))
    assert (await obtained(request(f"file://{path}", unpack=False))).kind == "sandbox"


async def test_in_s3_it_is_fetched_once(obtained, small_sif, s3, bucket, tmp_path):
    content = as_clients_pack_a_file(small_sif)
    with contextlib.closing(s3.client()) as client:
        client.put_object(Bucket=bucket, Key="blobstore/image.tar", Body=content)
    keys = {"aws": {"access_key": s3.access_key, "secret_access_key": s3.secret_key}}
    body = request(f"s3://{s3.endpoint}/{bucket}/blobstore/image.tar", credentials=keys)
    said = []
    first = await obtained(body, said.append)
    assert said[0] == f"fetching the image s3://{s3.endpoint}/{bucket}/blobstore/image.tar"
    said.clear()
    assert await obtained(body, said.append) == first
    assert said == []
    wrong = {"aws": {"access_key": s3.access_key, "secret_access_key": "x" * 40}}
    with pytest.raises(UnauthorisedError, match="_singularity"):
        await obtained(request(f"s3://{s3.endpoint}/{bucket}/blobstore/image.tar", credentials=wrong))
    assert kept(tmp_path) == [first.digest]


@pytest.fixture
def web(tmp_path):
    """Serves a directory; of what is called `slow` the second half when `released` is set."""
    directory = tmp_path / "web"
    directory.mkdir()
    released = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(directory))

        def log_message(self, *_):
            pass

        def copyfile(self, source, outputfile):
            if "slow" in self.path:
                outputfile.write(source.read(1_000_000))
                released.wait(60)
            super().copyfile(source, outputfile)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_address[1]}", released
        released.set()
        server.shutdown()
        thread.join()


async def test_a_url_as_clients_name_it(obtained, small_sif, web):
    directory, address, _ = web
    (directory / "box.sif").write_bytes(small_sif.read_bytes())
    body = json.loads(request(""))
    body["experiment"]["artifacts"]["_singularity"] = {
        "url": f"{address}/box.sif", "mutable": False, "unpack": False,
    }  # fmt: skip
    image = await obtained(json.dumps(body).encode())
    assert image.digest == hashlib.sha256(small_sif.read_bytes()).hexdigest()


async def test_progress_is_told_and_time_is_limited(obtained, small_sif, web, tmp_path):
    directory, address, released = web
    (directory / "slow.sif").write_bytes(small_sif.read_bytes())
    body, said = request(f"{address}/slow.sif", unpack=False), []
    with pytest.raises(EnvironmentUnavailableError, match=r"slow\.sif was not here after 500ms"):
        await obtained(body, pull_timeout=0.5)
    assert left(tmp_path) == []

    def say(line):
        said.append(line)
        if line.endswith("so far"):
            released.set()

    assert (await obtained(body, say, progress=0.05)).path.exists()
    assert any(line.startswith(f"{address}/slow.sif: ") for line in said)
    assert left(tmp_path) == []


async def test_the_same_image_elsewhere_is_kept_once(obtained, small_sif, tmp_path):
    content = as_clients_pack_a_file(small_sif)
    first = await obtained(request(f"file://{written(tmp_path, content, 'one.tar')}"))
    second = await obtained(request(f"file://{written(tmp_path, content, 'two.tar')}"))
    assert second.path == first.path
    assert second.name.endswith("two.tar")
    assert kept(tmp_path) == [first.digest]


async def test_what_is_stored_anew_is_fetched_anew(obtained, small_sandbox, tmp_path):
    path = written(tmp_path, as_clients_pack_a_directory(small_sandbox), "image.tar")
    first = await obtained(request(f"file://{path}"))
    path.write_bytes(packed([("box", small_sandbox)]))
    second = await obtained(request(f"file://{path}"))
    assert second.digest != first.digest
    assert first.path.exists()


async def test_an_image_that_is_not_there(obtained, tmp_path):
    with pytest.raises(ArtifactMissingError, match=r"the image of the experiment is not at .*nothing\.sif"):
        await obtained(request(f"file://{tmp_path}/nothing.sif"))


async def test_a_store_that_is_down(obtained, tmp_path):
    body = json.loads(request("s3://127.0.0.1:9/bucket/image.sif"))
    body["experiment"]["artifacts"]["_singularity"]["credentials"] = {
        "aws": {"access_key": "a", "secret_access_key": "s"}
    }
    with pytest.raises(StorageUnavailableError, match=r"_singularity .*127\.0\.0\.1:9"):
        await obtained(json.dumps(body).encode())


async def test_a_directory_is_to_be_packed(obtained, small_sandbox):
    with pytest.raises(ArtifactInvalidError, match="is a directory") as raised:
        await obtained(request(f"file://{small_sandbox}"))
    assert "tar" in raised.value.hint


def no_image(sif):
    head = bytearray(sif[:HEADER])
    foreign, short = bytearray(sif), sif[: len(sif) - 5000]
    struct.pack_into("2s", foreign, CODE_AT, b"12")
    workspace = io.BytesIO()
    with tarfile.open(fileobj=workspace, mode="w") as archive:
        for name in ("train.py", "data.csv"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    ext3 = bytearray(4096)
    ext3[1080:1082] = b"\x53\xef"
    return {
        "text": (b"#!/bin/sh\necho no\n" * 100, "is no image"),
        "nothing": (b"", "is no image"),
        "a page about an error": (b"<!DOCTYPE html>" + b" " * 600, "starts with b'<!DOCTYP'"),
        "a workspace": (workspace.getvalue(), r"it holds data\.csv, train\.py"),
        "ext3": (bytes(ext3), "is an ext3 image"),
        "for another machine": (bytes(foreign), "is made for riscv64 machines, and this one is"),
        "cut off": (short, "is a damaged SIF image"),
        "a header alone": (bytes(head), "is a damaged SIF image"),
        "an archive that is cut off": (as_bytes_cut(sif), r"ends|damaged|cut|whole"),
    }


def as_bytes_cut(sif):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("./box.sif")
        member.size = len(sif)
        archive.addfile(member, io.BytesIO(sif))
    return buffer.getvalue()[: len(sif) // 2]


@pytest.mark.parametrize("what", list(no_image(bytes(8192))))
async def test_no_image_that_can_be_run(obtained, small_sif, tmp_path, what):
    content, words = no_image(small_sif.read_bytes())[what]
    path = written(tmp_path, content, "image")
    with pytest.raises(ArtifactInvalidError, match=words) as raised:
        await obtained(request(f"file://{path}"))
    assert str(path) in str(raised.value)
    assert raised.value.hint or what.startswith(("nothing", "an archive"))
    assert left(tmp_path) == []
    assert kept(tmp_path) == []


async def test_the_hash_in_the_message_is_checked(obtained, small_sif, tmp_path):
    right = hashlib.sha256(small_sif.read_bytes()).hexdigest()
    with pytest.raises(ArtifactInvalidError, match="is not what was sent"):
        await obtained(request(f"file://{small_sif}", unpack=False, hash="0" * 64))
    assert (await obtained(request(f"file://{small_sif}", unpack=False, hash=right))).digest == right


async def test_a_hostile_archive(obtained, small_sandbox, tmp_path):
    """Devices are left out, links stay text, setuid goes; nothing can be written afterwards."""
    target = tmp_path / "outside"
    target.mkdir()
    buffer = io.BytesIO(as_clients_pack_a_directory(small_sandbox))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for kind, name in (
            (tarfile.CHRTYPE, "dev/mem"),
            (tarfile.BLKTYPE, "dev/sda"),
            (tarfile.FIFOTYPE, "dev/pipe"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.devmajor, member.devminor, member.mode = kind, 1, 1, 0o666
            archive.addfile(member)
        link = tarfile.TarInfo("opt/way-out")
        link.type, link.linkname = tarfile.SYMTYPE, str(target)
        archive.addfile(link)
        root = tarfile.TarInfo("usr/bin/become-root")
        root.mode = 0o6755
        archive.addfile(root)
    image = await obtained(request(f"file://{written(tmp_path, buffer.getvalue())}"))
    assert list(target.iterdir()) == []
    assert list((image.path / "dev").iterdir()) == []
    assert (image.path / "usr/bin/become-root").stat().st_mode & 0o7777 == 0o555
    writable = [path for path in image.path.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o222]
    assert writable == []


async def test_an_archive_that_writes_through_its_own_link(obtained, small_sandbox, tmp_path):
    buffer = io.BytesIO(as_clients_pack_a_directory(small_sandbox))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        link = tarfile.TarInfo("opt/way-out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("opt/way-out/outside"))
    with pytest.raises(ArtifactInvalidError, match="leads through way-out"):
        await obtained(request(f"file://{written(tmp_path, buffer.getvalue())}"))
    assert not (tmp_path / "outside").exists()
    assert left(tmp_path) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
async def test_an_archive_with_names_outside_of_it(obtained, small_sandbox, tmp_path, name):
    buffer = io.BytesIO(as_clients_pack_a_directory(small_sandbox))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with contextlib.suppress(ArtifactInvalidError):
        await obtained(request(f"file://{written(tmp_path, buffer.getvalue())}"))
    found = subprocess.run(["find", tmp_path, "-name", "outside"], check=True, capture_output=True, text=True)
    inside = [line for line in found.stdout.splitlines() if "root/etc/" not in line]
    assert inside == []
    assert not os.path.lexists("/etc/outside")


async def test_an_image_larger_than_all_may_be(obtained, small_sif, tmp_path):
    with pytest.raises(EnvironmentFailedError, match="is larger than 100 KB"):
        await obtained(request(f"file://{small_sif}"), budget=100_000)
    assert left(tmp_path) == []
    assert kept(tmp_path) == []


async def test_a_file_that_is_to_be_unpacked_once(obtained, small_sif, apptainer, tmp_path):
    said = []
    image = await obtained(request(f"file://{small_sif}"), said.append, unpack="always")
    assert image.kind == "sandbox"
    assert any(line.startswith("unpacking the image, once") for line in said)
    assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"
    assert left(tmp_path) == []


@pytest.mark.parametrize("before", [b"", b"#!/usr/bin/env run-singularity\n"])
async def test_the_squashfs_image_of_an_old_singularity(obtained, small_sif, apptainer, tmp_path, before):
    """Releases before 3.0 built such ones: what is in a SIF file, by itself."""
    sif = small_sif.read_bytes()
    image = await obtained(request(f"file://{written(tmp_path, before + sif[sif.index(b'hsqs') :], 'old.simg')}"))
    assert image.kind == "sandbox"
    assert await run(apptainer, image, "echo $IN_TEST_IMAGE") == "1\n"


async def test_a_fetch_that_is_cancelled_leaves_nothing(obtained, small_sif, tmp_path):
    began = asyncio.Event()
    task = asyncio.create_task(obtained(request(f"file://{small_sif}"), lambda _: began.set()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(tmp_path) == []
    assert kept(tmp_path) == []
    assert (await obtained(request(f"file://{small_sif}"))).path.exists()
