"""What tests of this plugin share lies beside them; the servers that they ask are those of all plugins' tests."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.servers import azure as azure
from tests.support.servers import google as google
from tests.support.servers import s3 as s3
from tests.support.servers import sftp as sftp
from tests.support.servers import webdav as webdav

sys.path.insert(0, str(Path(__file__).parent))
