"""Fixtures of plugins' tests: one real server of each kind for each test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.file_servers import FileServer, ssh_server, webdav_server
from tests.support.object_stores import ObjectStore, azurite_server, google_server, moto_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as store:
        yield store


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with azurite_server(tmp_path_factory.mktemp("azurite") / "log") as store:
        yield store


@pytest.fixture(scope="session")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with google_server(tmp_path_factory.mktemp("google") / "log") as store:
        yield store


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with ssh_server(tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="session")
def webdav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with webdav_server(tmp_path_factory.mktemp("webdav")) as server:
        yield server
