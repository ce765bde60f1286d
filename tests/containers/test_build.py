"""Images built from a module's directory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ion_core.containers.builds import failure
from ion_core.containers.content import content
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.errors import ImageUnavailable, StorageFull, TransientError
from ion_core.testing.kit import refused
from ion_podman.testing import BUSYBOX, PodmanService
from tests.containers.image_registry import Registry, registry
from tests.containers.running import PATIENCE, run, spec
from tests.containers.test_images import authfile
from tests.support.containers import RuntimeUnderTest

NAME = "localhost/ion-test/detect:latest"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A module whose image has a greeting and a user."""
    directory = tmp_path / "detect"
    directory.mkdir()
    recipe = f"FROM {BUSYBOX}\nCOPY . /module\nUSER 1234:1234\n"
    (directory / "Containerfile").write_text(recipe, encoding="utf-8")
    (directory / "greeting").write_text("built\n", encoding="utf-8")
    return directory


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image stands for is looked at anew for each container."""
    monkeypatch.setattr("ion_core.containers.images._FRESH", 0.0)


def names(images: PodmanService) -> set[str]:
    listed = json.loads(images.podman("images", "--format", "json"))
    return {name for image in listed for name in image.get("Names") or () if "/ion" in name}


async def greeting(runtime: ContainerRuntime, tmp_path: Path, **changes: Any) -> list[str]:
    return (await run(runtime, tmp_path, "cat /module/greeting", **changes)).stdout


async def test_an_image_is_built_once_by_many_that_need_it_and_gets_its_name(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, context: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ion_core.containers")
    given = {"image": NAME, "build": context}
    ran = await asyncio.gather(*(run(runtime, tmp_path, "cat /module/greeting; id -u", **given) for _ in range(3)))
    assert [it.stdout for it in ran] == [["built", "1234"]] * 3, "the image's own user, if that is not root"
    assert [it.getMessage() for it in caplog.records].count("building an image") == 1
    ref = await runtime.create(spec(tmp_path, "true", **given))
    await runtime.remove(ref)
    (image,) = json.loads(await asyncio.to_thread(tested.images.podman, "image", "inspect", NAME))
    assert ref.image_digest == image["Digest"]
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", NAME)


async def test_without_a_name_it_has_one_of_its_module_and_its_content(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, context: Path, tmp_path: Path
) -> None:
    before = names(tested.images)
    assert await greeting(runtime, tmp_path, image=None, build=context) == ["built"]
    (name,) = names(tested.images) - before
    assert re.fullmatch(r"localhost/ion/probe:[0-9a-f]{16}", name)
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", name)


@pytest.mark.usefixtures("at_once")
async def test_what_changes_in_the_directory_is_in_the_next_container(
    tested: RuntimeUnderTest, context: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ion_core.containers")
    before = names(tested.images)
    (context / "sub").mkdir()
    changes = [
        lambda: (context / "greeting").write_text("other\n", encoding="utf-8"),
        lambda: (context / "greeting").chmod(0o755),
        lambda: (context / "sub/link").symlink_to("../greeting"),
        lambda: (context / "greeting").rename(context / "sub/greeting"),
        lambda: (context / "sub/greeting").rename(context / "greeting"),
    ]
    async with tested.open() as runtime:
        for count, change in enumerate(changes, start=1):
            change()
            for _ in range(2):
                await run(runtime, tmp_path, "true", image=None, build=context)
            assert [it.getMessage() for it in caplog.records].count("building an image") == count
        assert await greeting(runtime, tmp_path, image=None, build=context) == ["other"]
    made = names(tested.images) - before
    assert len(made) == len(changes) - 1, "the last change brings back what was there before"
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", *made)


def test_the_name_of_an_image_is_that_of_its_content_wherever_it_lies(context: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in context.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert content(copy) == content(context)
    (copy / "greeting").rename(copy / "greetin")
    assert content(copy) != content(context)


async def test_an_ignore_file_keeps_what_it_names_out_of_the_image(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, context: Path, tmp_path: Path
) -> None:
    (context / ".containerignore").write_text("*.secret\n!kept.secret\n", encoding="utf-8")
    for name in ("kept.secret", "other.secret"):
        (context / name).touch()
    ran = await run(runtime, tmp_path, "ls /module", image=NAME, build=context)
    assert "kept.secret" in ran.stdout
    assert "other.secret" not in ran.stdout
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", NAME)


@pytest.mark.usefixtures("at_once")
async def test_an_image_that_was_removed_meanwhile_is_built_again(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, context: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert await greeting(runtime, tmp_path, image=NAME, build=context) == ["built"]
        await asyncio.to_thread(tested.images.podman, "rmi", "--force", NAME)


async def test_an_image_that_was_removed_a_moment_ago_is_built_again(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, context: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # the second one still believes that it is there
        assert await greeting(runtime, tmp_path, image=NAME, build=context) == ["built"]
        await asyncio.to_thread(tested.images.podman, "rmi", "--force", NAME)


async def test_a_failed_build_shows_what_it_printed_last_and_is_not_tried_again_at_once(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, context: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ion_core.containers")
    recipe = f"FROM {BUSYBOX}\nRUN for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; echo no such thing >&2; exit 3\n"
    (context / "Containerfile").write_text(recipe, encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ImageUnavailable) as caught:
            await runtime.create(spec(tmp_path, "true", image=None, build=context))
        assert re.match(
            r"image unavailable: localhost/ion/probe:\w+: .*detect/Containerfile cannot be built: .*3",
            str(caught.value),
        )
        assert "line 9" in str(caught.value)
        assert "no such thing" in str(caught.value)
        assert "line 2" not in str(caught.value)
    assert [it.getMessage() for it in caplog.records].count("building an image") == 1
    (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY . /module\n", encoding="utf-8")
    assert await greeting(runtime, tmp_path, image=NAME, build=context) == ["built"]
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", NAME)


@pytest.mark.parametrize(
    ("content", "named"), [(None, "no Containerfile"), (f"FROM {BUSYBOX}\nCOPY absent /\n", "absent")]
)
async def test_what_cannot_be_built_is_unavailable(
    runtime: ContainerRuntime, context: Path, tmp_path: Path, content: str | None, named: str
) -> None:
    (context / "Containerfile").unlink()
    if content is not None:
        (context / "Containerfile").write_text(content, encoding="utf-8")
    with refused(ImageUnavailable, naming=named):
        await runtime.create(spec(tmp_path, "true", image=BUSYBOX.replace("busybox", "broken"), build=context))


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("copying /m: write /m/f: no space left on device", StorageFull),
        (
            "initializing source docker://r.example/x: received unexpected HTTP status: 503 Service Unavailable",
            TransientError,
        ),
        ("pinging r.example: invalid status code from registry 502 (Bad Gateway)", TransientError),
        ("reading manifest 1 in r.example/x: StatusCode: 500, oops", TransientError),
        ("reading manifest 1 in r.example/x: StatusCode: 403, no", ImageUnavailable),
        ("reading manifest 1 in r.example/x: toomanyrequests: slow down", TransientError),
        ("pinging container registry r.example: dial tcp: connect: connection refused", TransientError),
        (
            "initializing source docker://localhost/base:1: pinging container registry localhost: connection refused",
            TransientError,
        ),
        ("dial tcp: lookup r.example on 10.0.0.1:53: connection refused", ImageUnavailable),
        ("building at STEP RUN x: exit status 1\nconnection refused\nno space left on device", ImageUnavailable),
    ],
)
def test_what_stopped_a_build_says_whether_to_try_again(problem: str, kind: type[Exception]) -> None:
    error = failure("localhost/x:1", Path("x/Containerfile"), problem)
    assert type(error) is kind
    assert problem.splitlines()[-1] in str(error)
    assert ("Build localhost/base:1 on this machine first" in str(error)) is ("//localhost/" in problem)


async def test_a_directory_that_is_gone_is_named(runtime: ContainerRuntime, tmp_path: Path) -> None:
    with refused(ImageUnavailable, naming="absent"):
        await runtime.create(spec(tmp_path, "true", build=tmp_path / "absent"))


@pytest.fixture
def private(tested: RuntimeUnderTest, tmp_path: Path) -> Iterator[Registry]:
    layout = tmp_path / "layout"
    tested.images.podman("save", "--quiet", "--format", "oci-dir", "--output", str(layout), BUSYBOX)
    with registry(layout) as served:
        yield served


async def test_the_image_it_begins_with_is_pulled_with_the_account_of_its_registry(
    tested: RuntimeUnderTest, private: Registry, context: Path, tmp_path: Path
) -> None:
    (context / "Containerfile").write_text(f"FROM {private.image}\nCOPY . /module\n", encoding="utf-8")
    given: dict[str, Any] = {"authfile": authfile(tmp_path / "auth.json", private.address)}
    async with tested.open(**given, pull="never") as runtime:
        with refused(ImageUnavailable, naming="cannot be built"):
            await runtime.create(spec(tmp_path, "true", image=NAME, build=context))
    assert private.pulls == 0
    async with tested.open(**given) as runtime:
        assert await greeting(runtime, tmp_path, image=NAME, build=context) == ["built"]
    assert private.pulls > 0
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", NAME)


async def test_a_registry_that_is_down_may_be_back_later(
    runtime: ContainerRuntime, context: Path, tmp_path: Path
) -> None:
    (context / "Containerfile").write_text("FROM 127.0.0.1:1/acme/tool:1\n", encoding="utf-8")
    with refused(TransientError, naming="cannot be built"):
        await runtime.create(spec(tmp_path, "true", image=NAME, build=context))


async def test_a_build_holds_nobody_up_who_does_not_wait_for_it_any_more(
    tested: RuntimeUnderTest, context: Path, tmp_path: Path
) -> None:
    (context / "Containerfile").write_text(f"FROM {BUSYBOX}\nRUN sleep 25.111\n", encoding="utf-8")
    try:
        async with tested.open() as runtime:
            creating = asyncio.create_task(runtime.create(spec(tmp_path, "true", image=NAME, build=context)))
            async with asyncio.timeout(PATIENCE):
                while not await asyncio.to_thread(sleeping):  # noqa: ASYNC110 - a process tells nobody
                    await asyncio.sleep(0.05)
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
        assert sleeping(), "Podman ends a step that it has begun"
    finally:
        for process in sleeping():
            os.kill(process, signal.SIGKILL)


def sleeping() -> list[int]:
    """The step of the test above, by the numbers of its processes."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if process.read_bytes().startswith(b"sleep\x0025.111"):
                found.append(int(process.parent.name))
    return found
