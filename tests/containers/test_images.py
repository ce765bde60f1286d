"""Images: found, pulled, built, or refused with what would do."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ion_core.contracts.runtime import ContainerRuntime
from ion_core.errors import ConfigError, ImageUnavailable, TransientError
from ion_core.testing.kit import refused
from ion_podman.testing import BUSYBOX
from tests.containers.image_registry import PASSWORD, USER, Registry, registry
from tests.containers.running import finished, run, spec, started
from tests.support.containers import RuntimeUnderTest


@pytest.fixture
def private(tested: RuntimeUnderTest, tmp_path: Path) -> Iterator[Registry]:
    """A registry that has the image and wants an account."""
    layout = tmp_path / "layout"
    tested.images.podman("save", "--quiet", "--format", "oci-dir", "--output", str(layout), BUSYBOX)
    with registry(layout) as served:
        yield served


def authfile(path: Path, place: str, password: str = PASSWORD) -> Path:
    secret = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {"other.example": {"auth": "eA=="}, place: {"auth": secret}}}))
    return path


@pytest.mark.parametrize("name", ["alpine", "acme/detect:1.2", "alpine@sha256:" + "0" * 64])
async def test_a_short_name_is_refused_with_a_full_one(runtime: ContainerRuntime, tmp_path: Path, name: str) -> None:
    with refused(ImageUnavailable, naming="docker.io/"):
        await runtime.create(spec(tmp_path, "true", image=name))


async def test_no_image_at_all_is_refused(runtime: ContainerRuntime, tmp_path: Path) -> None:
    with refused(ImageUnavailable, naming="image"):
        await runtime.create(spec(tmp_path, "true", image=None))


async def test_the_digest_is_told(runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path) -> None:
    ref = await runtime.create(spec(tmp_path, "true"))
    await runtime.remove(ref)
    (image,) = json.loads(await asyncio.to_thread(tested.images.podman, "image", "inspect", BUSYBOX))
    assert ref.image_digest == image["Digest"]


async def test_a_private_image_is_pulled_with_the_account_of_its_registry(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path
) -> None:
    auth = authfile(tmp_path / "auth.json", private.address)
    async with tested.open(authfile=auth) as runtime:
        first = await run(runtime, tmp_path, "echo pulled", image=private.image)
        assert first.stdout == ["pulled"]
        assert private.pulls > 0
        pulls = private.pulls
        await run(runtime, tmp_path, "true", image=private.image)
        assert private.pulls == pulls, "missing: what is there is not pulled again"
    async with tested.open(authfile=auth, pull="always") as runtime:
        await run(runtime, tmp_path, "true", image=private.image)
        assert private.pulls > pulls


async def test_many_that_need_an_image_pull_it_once(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path
) -> None:
    auth = authfile(tmp_path / "auth.json", private.address)
    async with tested.open(authfile=auth) as runtime:
        await run(runtime, tmp_path, "true", image=private.image)
    once = private.pulls
    await asyncio.to_thread(tested.images.podman, "untag", private.image, private.image)
    async with tested.open(authfile=auth) as runtime:
        await asyncio.gather(*(run(runtime, tmp_path, "true", image=private.image) for _ in range(3)))
        assert private.pulls == 2 * once


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_without_the_right_account_there_is_no_image(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path, password: str | None
) -> None:
    auth = authfile(tmp_path / "auth.json", private.address, password) if password else None
    async with tested.open(authfile=auth) as runtime:
        with refused(ImageUnavailable, naming=f"image unavailable: {private.image}"):
            await runtime.create(spec(tmp_path, "true", image=private.image))


async def test_what_a_registry_does_not_have_is_no_matter_of_time(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path
) -> None:
    auth = authfile(tmp_path / "auth.json", private.address)
    async with tested.open(authfile=auth) as runtime:
        with refused(ImageUnavailable, naming="manifest unknown"):
            await runtime.create(spec(tmp_path, "true", image=f"{private.address}/acme/tool:2"))


async def test_a_registry_that_is_down_may_be_back_later(runtime: ContainerRuntime, tmp_path: Path) -> None:
    with refused(TransientError, naming="cannot be pulled now"):
        await runtime.create(spec(tmp_path, "true", image="127.0.0.1:1/acme/tool:1"))


async def test_a_registry_that_is_ill_may_be_better_later(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path
) -> None:
    private.ill = True
    auth = authfile(tmp_path / "auth.json", private.address)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Containerfile").write_text(f"FROM {private.image}\n", encoding="utf-8")
    async with tested.open(authfile=auth) as runtime:
        with refused(TransientError, naming="cannot be pulled now"):
            await runtime.create(spec(tmp_path, "true", image=private.image))
        with refused(TransientError, naming="cannot be built"):
            await runtime.create(spec(tmp_path, "true", image=None, build=context))
        private.ill = False
        assert (await run(runtime, tmp_path, "echo better", image=None, build=context)).stdout == ["better"]


async def test_nothing_is_pulled_where_that_is_not_wanted(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path
) -> None:
    auth = authfile(tmp_path / "auth.json", private.address)
    async with tested.open(authfile=auth, pull="never") as runtime:
        with refused(ImageUnavailable, naming="is not pulled"):
            await runtime.create(spec(tmp_path, "true", image=private.image))
    assert private.pulls == 0


@pytest.mark.parametrize(
    "broken", ['{"auths": {"r.example": {"auth": "canary"', '{"auths": {"r.example": "canary"}}', "[]", "{}"]
)
async def test_a_file_of_accounts_that_cannot_be_read_is_named_without_what_is_in_it(
    tested: RuntimeUnderTest, tmp_path: Path, broken: str
) -> None:
    auth = tmp_path / "auth.json"
    auth.write_text(broken)
    with pytest.raises(ConfigError, match=r"auth\.json") as caught:
        async with tested.open(authfile=auth):
            raise AssertionError("it opened")
    assert "canary" not in str(caught.value)


async def test_a_file_of_accounts_that_breaks_later_fails_what_needs_it(
    tested: RuntimeUnderTest, private: Registry, tmp_path: Path
) -> None:
    auth = authfile(tmp_path / "auth.json", private.address)
    async with tested.open(authfile=auth) as runtime:
        auth.unlink()
        with refused(ImageUnavailable, naming="auth.json"):
            await runtime.create(spec(tmp_path, "true", image=private.image))


async def test_an_image_that_vanishes_is_looked_for_again(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_core.containers.images._FRESH", 0.0)
    (tmp_path / "Containerfile").write_text(f"FROM {BUSYBOX}\nCOPY greeting /\n", encoding="utf-8")
    (tmp_path / "greeting").write_text("hello\n", encoding="utf-8")
    name = "localhost/ion-test/vanishes:1"
    await asyncio.to_thread(tested.images.build, name, tmp_path)
    await asyncio.to_thread(tested.images.podman, "save", "--output", str(tmp_path / "saved"), name)
    for _ in range(2):
        assert (await run(runtime, tmp_path, "cat /greeting", image=name)).stdout == ["hello"]
        await asyncio.to_thread(tested.images.podman, "rmi", "--force", name)
        with refused(ImageUnavailable, naming=name):
            await runtime.create(spec(tmp_path, "true", image=name))
        await asyncio.to_thread(tested.images.podman, "load", "--input", str(tmp_path / "saved"))  # the very same
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", name)


async def test_a_name_stands_for_the_image_that_has_it_now(
    runtime: ContainerRuntime, tested: RuntimeUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ion_core.containers.images._FRESH", 0.0)
    name, digests = "localhost/ion-test/two:1", set()
    for word in ("one", "two"):
        (tmp_path / "Containerfile").write_text(f"FROM {BUSYBOX}\nENV WORD={word}\n", encoding="utf-8")
        await asyncio.to_thread(tested.images.build, name, tmp_path)
        job = spec(tmp_path, "echo $WORD", image=name)
        async with started(runtime, job) as ref:
            assert (await finished(runtime, ref, job.workspace)).stdout == [word]
            digests.add(ref.image_digest)
    assert len(digests) == 2
    await asyncio.to_thread(tested.images.podman, "rmi", "--force", name)
