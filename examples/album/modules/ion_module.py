"""What a module of Ion reads and writes, as functions. Optional: a module may as well use the files themselves.

One file, Python 3.8 or newer, no dependencies: copy it beside your program. A module that runs once for each event:

    import ion_module

    for path in ion_module.inputs():
        ion_module.output(path.name).write_bytes(path.read_bytes())
        ion_module.emit("thing.copied", files=[path.name])

and one that stays and is given one event after another (`reuse: true`):

    for event in ion_module.events():
        for path in event.inputs: ...
"""

from __future__ import annotations

import http.client
import json
import os
import time
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

Value = Union[str, int, float, bool]
Pairs = Union[Mapping[str, Value], Iterable[Tuple[str, Value]]]

_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between tries while the handler is not up; the last one again and again."""


class HandlerError(Exception):
    """The handler refused a call, or failed. ``status`` is that of HTTP, None when there was no answer."""

    def __init__(self, text: str, status: Optional[int] = None) -> None:
        super().__init__(text)
        self.status = status


class HandlerGone(HandlerError):
    """Nobody listens on the handler's port, or it ``hung_up`` without an answer."""

    def __init__(self, text: str, hung_up: bool = False) -> None:
        super().__init__(text)
        self.hung_up = hung_up


class Event(NamedTuple):
    """What a module was given: ``inputs`` are files, ``metadata`` the pairs as a map, ``pairs`` all in order."""

    inputs: List[Path]
    metadata: Mapping[str, str]
    pairs: List[Tuple[str, str]]


class GatheredEvent(NamedTuple):
    """One of the events that a gatherer was given: its id and type, who made it, and the rest as of Event."""

    id: str
    type: str
    name: str
    inputs: List[Path]
    metadata: Mapping[str, str]
    pairs: List[Tuple[str, str]]


class Missing(NamedTuple):
    """A job that was given up before the gatherer ran: the ``module``, its event, and why."""

    event_id: str
    type: str
    module: str
    reason: str


class Gathered(NamedTuple):
    """What a gatherer was given: events in the order of the flow, what is missing, and its ``key`` if it has ``by``."""

    events: List[GatheredEvent]
    missing: List[Missing]
    key: Optional[str]


def base() -> Path:
    """The directory that a module sees: $HANDLER_BASE_DIR, or /ion."""
    return Path(os.environ.get("HANDLER_BASE_DIR") or "/ion")


def inputs() -> List[Path]:
    """Every file in in/data, also in sub-directories, sorted by name."""
    return sorted(path for path in (base() / "in" / "data").rglob("*") if path.is_file())


def name_of(path: Path) -> str:
    """The name under which the event has an input file: its path below in/data."""
    return path.relative_to(base() / "in" / "data").as_posix()


def pairs() -> List[Tuple[str, str]]:
    """The pairs of in/eventmeta.json in their order; a key may be there more than once. None without the file."""
    try:
        text = (base() / "in" / "eventmeta.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [(pair["key"], pair["value"]) for pair in json.loads(text)]


def metadata() -> Mapping[str, str]:
    """The pairs of in/eventmeta.json as a map: of two with one key the last wins."""
    return dict(pairs())


def traceparent() -> str:
    """The span that this module is below, as W3C Trace Context writes it; "" where nobody traces the flow."""
    try:
        return (base() / "in" / "traceparent").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def gathered() -> Gathered:
    """What this module was given, which gathers: events, each with its files and pairs, and what is missing.

    Raises FileNotFoundError in a module that does not.
    """
    told = json.loads((base() / "in" / "gathered.json").read_text(encoding="utf-8"))
    events = []
    for event in told["events"]:
        found = [(pair["key"], pair["value"]) for pair in event["data"]]
        files = [base() / "in" / "data" / name for name in event["files"]]
        events.append(GatheredEvent(event["eventId"], event["type"], event["name"], files, dict(found), found))
    missing = [Missing(it["eventId"], it["type"], it["module"], it["reason"]) for it in told["missing"]]
    return Gathered(events, missing, told["by"]["value"] if told["by"] else None)


def output(name: Union[str, "os.PathLike[str]"]) -> Path:
    """Where to write the output file ``name``, such as "frames/1.png"; its directories are made.

    Raises ValueError for an absolute name, or one that leads out of out/data.
    """
    path = _data() / _inside(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def emit(event_type: str, files: Iterable[Union[str, "os.PathLike[str]"]] = (), pairs: Pairs = ()) -> Path:
    """Write an event: its type, the output files it passes on, and pairs for whoever takes it. Returns its file.

    ``files`` are names as given to ``output``, or the paths that it returned. Events are published in the order of
    these calls, if the module commits. Raises ValueError for a name with a comma, and TypeError for a value that is
    neither text nor a number.
    """
    names = [_inside(file) for file in files]
    for name in names:
        if "," in name:
            raise ValueError(
                f"ion_module.emit: {name!r}: a file of an event cannot have a comma in its name. Rename it."
            )
    given = _items(pairs)
    for key, _ in given:
        if key in ("eventType", "files"):
            raise ValueError(f"ion_module.emit: the key {key!r} is taken. Choose another one.")
    event = [("eventType", event_type), *([("files", ",".join(names))] if names else []), *given]
    directory = base() / "out" / "events"
    directory.mkdir(parents=True, exist_ok=True)
    # Names are the same in every attempt: the ids of events are made of them. "x" never writes over another's.
    number = len(list(directory.iterdir()))
    while True:
        path = directory / f"{number:06}.json"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(_to_json(event))
            return path
        except FileExistsError:
            number += 1


def insight(key: str, value: Value) -> None:
    """Add one pair to out/insights.json: a fact for later analysis, not passed on."""
    insights([(key, value)])


def insights(pairs: Pairs) -> None:
    """Add pairs to out/insights.json. Raises TypeError for a value that is neither text nor a number."""
    path = base() / "out" / "insights.json"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    known = [(pair["key"], pair["value"]) for pair in (json.loads(text) if text.strip() else None) or []]
    path.write_text(_to_json([*known, *_items(pairs)]), encoding="utf-8")


def ready(timeout: float = 60.0) -> None:
    """Have the handler prepare: returns once in/ is filled. A handler that is not up yet is waited for.

    ``timeout`` is in seconds, and only for the handler to be up: the next event may take as long as it likes.
    Raises HandlerGone after that, and HandlerError with the handler's own words when it refuses or fails.
    """
    started = time.monotonic()
    for number in range(1 << 30):
        try:
            _call("/ready")
            return
        except ConnectionRefusedError:
            pause = _PAUSES[min(number, len(_PAUSES) - 1)]
            if time.monotonic() + pause - started > timeout:
                raise HandlerGone(f"handler: nobody listens on port {_port()} after {timeout:g} s") from None
            time.sleep(pause)


def done() -> None:
    """Have the handler commit what is in out/. Raises HandlerGone, or HandlerError when it refuses or fails."""
    try:
        _call("/done")
    except ConnectionRefusedError:
        raise HandlerGone(f"handler: nobody listens on port {_port()}. Was this committed before?") from None


def events(timeout: float = 60.0) -> Iterator[Event]:
    """For `reuse: true`: one event after another. What the loop did for one is committed when it comes for the next.

    Ends when the handler says that there is no more (410), or is gone after it had answered; without `reuse: true`
    after the first event. An exception in the loop commits nothing: let it end the program, so that the
    attempt fails. Raises as ``ready`` and ``done`` do.
    """
    worked = False
    while _is_given_another(worked, timeout):
        worked = True
        found = pairs()
        yield Event(inputs(), dict(found), found)
        done()


def _is_given_another(worked: bool, timeout: float) -> bool:
    """Whether there is an event. A handler that hangs up is asked again: if it goes on to, something is wrong."""
    hung_up = 0
    while True:
        try:
            ready(0.0 if worked else timeout)
            return True
        except HandlerGone as error:
            if not worked or hung_up == len(_PAUSES):
                raise
            if not error.hung_up:
                return False
            time.sleep(_PAUSES[hung_up])
            hung_up += 1
        except HandlerError as error:
            if error.status == 410 or (worked and error.status == 400):
                return False
            raise


def _call(path: str) -> None:
    """One call. ConnectionRefusedError is for the caller: it alone means that the handler saw nothing of it."""
    # Not urllib: that would ask a proxy of the environment for our own machine.
    connection = http.client.HTTPConnection("localhost", _port())
    try:
        connection.request("GET", path, headers={"secret": os.environ.get("SHARED_SECRET", "")})
        response = connection.getresponse()
        body = response.read()
    except ConnectionRefusedError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise HandlerGone(f"handler: GET {path}: no answer ({str(error) or type(error).__name__})", True) from error
    finally:
        connection.close()
    if response.status != 200:
        raise HandlerError(f"handler: GET {path}: {response.status}: {_message(body)}", response.status)


def _port() -> int:
    text = os.environ.get("HANDLER_PORT", "")
    if not text.isdigit():
        raise HandlerError(f"HANDLER_PORT is not a port number (got {text!r}). Does this run under Ion?")
    return int(text)


def _message(body: bytes) -> str:
    """What {"statusCode": 401, "message": "…"} says; of another body its beginning."""
    try:
        return str(json.loads(body.decode("utf-8"))["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "backslashreplace") or "no message"


def _data() -> Path:
    return base() / "out" / "data"


def _inside(name: Union[str, "os.PathLike[str]"]) -> str:
    """``name`` relative to out/data, separated by "/"."""
    path = Path(os.fspath(name))
    if path.is_absolute():
        try:
            path = path.relative_to(_data())
        except ValueError:
            raise ValueError(f"ion_module: {str(name)!r} is not in {_data()}. Write outputs there.") from None
    if not path.parts or ".." in path.parts:
        raise ValueError(f"ion_module: {str(name)!r} is no file below out/data. Use a name such as frames/1.png.")
    return path.as_posix()


def _items(pairs: Pairs) -> List[Tuple[str, str]]:
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return [(_text(key), _text(value)) for key, value in items]


def _text(value: Any) -> str:
    """Pairs hold text only: numbers as Python writes them, and true and false as JSON does."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    raise TypeError(f"ion_module: {value!r} is neither text nor a number. Make text of it, such as json.dumps(…).")


def _to_json(pairs: Iterable[Tuple[str, str]]) -> str:
    return json.dumps([{"key": key, "value": value} for key, value in pairs], ensure_ascii=False, indent=1) + "\n"
