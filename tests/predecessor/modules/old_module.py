#!/usr/bin/env python
# A module as they were written in 2018, for the Go handler that ran beside each. Nothing in it knows of this Ion.

import json
import os
import time

try:
    from http.client import HTTPConnection
except ImportError:
    from httplib import HTTPConnection

BASE = os.environ.get("HANDLER_BASE_DIR", "/ion/")
SECRET = os.environ["SHARED_SECRET"]
PORT = int(os.environ["HANDLER_PORT"])


def call(path):
    for attempt in range(20):
        try:
            connection = HTTPConnection("localhost", PORT)
            connection.request("GET", path, headers={"secret": SECRET})
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            print("handler is not up yet:", error)
            time.sleep(0.5)
            continue
        if response.status != 200:
            raise Exception("%s: %s %s" % (path, response.status, body))
        return
    raise Exception("no handler")


call("/ready")

meta = {}
if os.path.exists(os.path.join(BASE, "in/eventmeta.json")):
    with open(os.path.join(BASE, "in/eventmeta.json")) as f:
        for pair in json.load(f):
            meta[pair["key"]] = pair["value"]

names = sorted(os.listdir(os.path.join(BASE, "in/data")))
with open(os.path.join(BASE, "out/data/listing.txt"), "w") as f:
    f.write("\n".join(names))
with open(os.path.join(BASE, "out/insights.json"), "w") as f:
    json.dump([{"key": "files", "value": str(len(names))}], f)
with open(os.path.join(BASE, "out/events/event0.json"), "w") as f:
    json.dump(
        [
            {"key": "eventType", "value": "files.listed"},
            {"key": "files", "value": "listing.txt"},
            {"key": "url", "value": meta.get("url", "")},
        ],
        f,
    )

call("/done")
print("done", len(names), "files")
