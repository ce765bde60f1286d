"""Runs the faces pipeline on the three photographs and checks what comes out; `make demo` starts it.

Everything happens through the command line, as you would do it by hand (README.md). Nothing but Python's own library
is imported here.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "ion.yaml"
# Its own directory and not the default .ion/, so that every run starts from nothing and your own events are left alone.
STATE = HERE / ".ion-demo"
FACES = {"astronaut.jpg": 1, "cat.jpg": 0, "collage.jpg": 3}
# Long enough for the slowest machine, short enough to notice that something hangs.
TIMEOUT_SECONDS = 300

Document = dict[str, Any]


def main() -> None:
    if STATE.exists():
        shutil.rmtree(STATE)

    say("== Publishing three photographs: photo.received")
    correlation_ids = {photo: publish(photo) for photo in FACES}
    say("\n== Serving the pipeline until nothing is left to do")
    ion("serve", "--until-idle")

    results: list[Path] = []
    for photo, correlation_id in correlation_ids.items():
        say(f"\n== The flow of {photo}")
        ion("trace", "flow", correlation_id)
        documents = json.loads(ion("trace", "flow", correlation_id, "--json", capture=True))
        results += check(photo, documents)

    say("\n== As expected. The blurred faces:")
    for path in results:
        say(f"  {path}")
    say(f"\nAll events, documents and files: {STATE}\nTo look at them:")
    for words in ("trace list", f"trace flow {correlation_ids['collage.jpg']}", "files --get faces"):
        say(f"  {look(words)}")
    say(f"By hand, in five lines: {HERE / 'README.md'}")


def look(words: str) -> str:
    """A command as one would type it here. It names this state: without that it would be the one of your own events."""
    program = shutil.which("ion-core", path=search_path()) or "ion-core"
    places = (os.path.relpath(path) for path in (program, CONFIG, STATE))
    program, config, state = (shlex.quote(place) for place in places)
    return f"{program} {words} --config {config} --state-dir {state}"


def publish(photo: str) -> str:
    """Publishes one photograph; returns the correlation id under which everything that follows from it is found."""
    path = HERE / "photos" / photo
    event = json.loads(ion("event", "publish", "photo.received", "--file", str(path), "--json", capture=True))
    correlation_id: str = event["context"]["correlationId"]
    say(f"  {photo}: correlation id {correlation_id}")
    return correlation_id


def check(photo: str, documents: list[Document]) -> list[Path]:
    """Compares what the modules left with the number of faces in the photograph; returns the blurred crops."""
    metas = [document for document in documents if document["context"]["documentType"] == "eventMeta"]
    detected = [meta for meta in metas if meta["type"] == "face.detected"]
    blurred = [meta for meta in metas if meta["type"] == "face.blurred"]
    catalogued = [
        document
        for document in documents
        if (document["context"]["documentType"], document["context"]["name"]) == ("insight", "catalogue")
    ]
    for what, found in (("face.detected", detected), ("face.blurred", blurred), ("insight of catalogue", catalogued)):
        if len(found) != FACES[photo]:
            fail(f"{photo}: expected {FACES[photo]} x {what}, found {len(found)}. The logs above say why.")
    for meta in detected:
        stored_crop(meta)
    return [stored_crop(meta) for meta in blurred]


def stored_crop(meta: Document) -> Path:
    """The one file of an event in the embedded blob store, with the content that its document promises."""
    [blob] = meta["blobs"]
    path = STATE / "blobs" / "files" / str(blob["key"])
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != blob["sha256"]:
        fail(f"{path}: not there, or not what {meta['type']} {meta['context']['eventId']} says was stored.")
    return path


def ion(*arguments: str, capture: bool = False) -> str:
    """Runs ion-core with this pipeline and returns what it printed, if captured; its complaints go to the terminal."""
    program = shutil.which("ion-core", path=search_path())
    if program is None:
        fail("ion-core is not installed beside this Python. `make demo` installs it, or: pip install .")
    command = [program, *arguments, "--config", str(CONFIG), "--state-dir", str(STATE)]
    try:
        done = subprocess.run(
            command,
            check=True,
            env={**os.environ, "PATH": search_path()},
            stdout=subprocess.PIPE if capture else None,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        fail(f"`ion-core {' '.join(arguments)}` ended with exit code {error.returncode}.")
    except subprocess.TimeoutExpired:
        fail(f"`ion-core {' '.join(arguments)}` did not end within {TIMEOUT_SECONDS} seconds.")
    return done.stdout or ""


def search_path() -> str:
    """PATH with this Python's programs first: the modules' `python3` must be the one that has OpenCV."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def say(text: str) -> None:
    print(text, flush=True)  # at once, so that it stays in order with what ion-core prints


def fail(text: str) -> NoReturn:
    sys.exit(f"demo: {text}")


if __name__ == "__main__":
    main()
