"""Says by itself that it is done, where it has a handler to say it to, and runs its tool."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

base = Path(os.environ.get("HANDLER_BASE_DIR", "/ion"))
tool = base / "in/data/tool"
said = subprocess.run([str(tool)], capture_output=True, text=True, check=False) if os.access(tool, os.X_OK) else None
(base / "out/data/said.txt").write_text("it cannot be executed\n" if said is None else said.stdout)
(base / "out/insights.json").write_text('[{"key": "lent", "value": "once"}]')
if "HANDLER_PORT" in os.environ:
    for call in ("ready", "done"):
        url = f"http://localhost:{os.environ['HANDLER_PORT']}/{call}"
        request = urllib.request.Request(url, headers={"secret": os.environ["SHARED_SECRET"]})
        until = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request) as answer:
                    assert answer.status == 200
                break
            except urllib.error.URLError as error:  # a module may be quicker than its handler
                if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > until:
                    raise
                time.sleep(0.1)
print("lent", flush=True)
