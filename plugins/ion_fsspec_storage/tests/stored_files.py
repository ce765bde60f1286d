"""Files to be stored, and what is to be told of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ion_core.contracts.storage import BlobInfo

MIB = 1 << 20


def info(content: bytes) -> BlobInfo:
    return BlobInfo(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def file(directory: Path, content: bytes) -> Path:
    path = directory / f"source-{os.urandom(4).hex()}"
    path.write_bytes(content)
    return path
