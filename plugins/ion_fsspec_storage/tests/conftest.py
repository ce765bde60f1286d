"""One real server of each object store for each test process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Its other class asks by gRPC what kind of bucket it has, for a minute if the emulator does not know that protocol.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
sys.path.insert(0, str(Path(__file__).parent))

from object_stores import ObjectStore, azurite_server, google_server, moto_server


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
