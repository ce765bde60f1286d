"""Collecting a workspace beside a plain model of it: whatever a module leaves is taken or refused as its contract says.

What runs is the core's own committer, on the blob store of a test. The model is ``docs/module-contract.md``, section 1.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ion_core.commits import Commit
from ion_core.contracts.storage import BlobInfo, BlobStore
from ion_core.errors import OutputRefused, TransientError
from ion_core.events import Context, Event
from ion_core.handler.committer import Committer, attempt_prefix
from ion_core.handler.workspace import Workspace
from ion_core.jobs import Attempt, Job
from ion_core.modules import Module, OutputLimits
from ion_core.testing.kit import in_brief, refused

T = TypeVar("T")
LIMITS = OutputLimits(max_files=8, max_depth=4, max_output=8_000, max_events=6, max_insights=300)
MODULE = Module(name="worker", publishes=("thing.made", "thing.found"), limits=LIMITS)
LONGEST_NAME = 768
"""Bytes of a file's name, with its directories."""
LARGEST_EVENT = 256 * 1024
SECRET = b"of somebody else"

PLAIN = ("a", "b.txt", ".hidden", "two words", "ü", "日本.json", "-x", "~", "a,b", " c", "x" * 255, "ü" * 127)
WRONG = ("back\\slash", "new\nline", "tab\t", "\x7f", os.fsdecode(b"\xff"))
plain_names = (
    st.sampled_from(PLAIN)
    | st.sampled_from(PLAIN)
    | st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), min_size=1, max_size=5).filter(
        lambda name: name not in (".", "..")
    )
)
names = plain_names | st.sampled_from(WRONG)
places = st.integers(0, 7)
contents = st.binary(max_size=40) | st.just(b"much " * 200)
pairs = st.lists(st.tuples(st.sampled_from(["x", "y", "ü", ""]), st.text(max_size=5)), max_size=3)
UNREADABLE = (
    b"",
    b"null",
    b"{}",
    b"[",
    b'[{"key": "eventType", "value": 1}]',
    b'[{"key": "eventType", "key": "x", "value": "thing.made"}]',
    b'[{"key": "eventType", "value": "thing.made"}, NaN]',
    b'\xef\xbb\xbf[{"key": "eventType", "value": "thing.made"}]',
    b'[{"key": "eventType", "value": "\xff"}]',
    b"[" * 65 + b"]" * 65,
    json.dumps([{"key": "eventType", "value": "thing.made"}, {"key": "x", "value": "x" * LARGEST_EVENT}]).encode(),
)
OTHERS = ("a link", "a FIFO", "a socket")
RIGHT_FORMS = ("{}", " ./{} ", "{},")
right_forms = st.sampled_from(RIGHT_FORMS)
modes = st.sampled_from([0o644, 0o755, 0o000])
LED_TO = ("secret", "nowhere", ".", "..", "a", "/")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What lies under a name: a file with ``content``, a directory, or one of ``OTHERS``."""

    kind: str = "a file"
    content: bytes = b""
    executable: bool = False


FRESH = {"data": Entry(kind="a directory"), "events": Entry(kind="a directory"), "insights.json": Entry()}


def is_plain(name: str) -> bool:
    """Whether a name, of one or several segments, may be that of a file to keep."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    segments = name.split("/")
    return (
        all(it not in ("", ".", "..") and len(it.encode()) <= 255 for it in segments)
        and not any(it == "\\" or it < " " or it == "\x7f" for it in name)
        and size <= 1024
    )


@dataclass
class Left:
    """The model: what a module has left below ``out/``, by names. ``over`` and ``wrong`` are what is refused of it."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def below(self, directory: str) -> Mapping[str, Entry]:
        """By names relative to it."""
        begin = f"{directory}/"
        return {name.removeprefix(begin): it for name, it in self.entries.items() if name.startswith(begin)}

    def directories(self) -> Sequence[str]:
        """``data`` and what is below, as far as there are any."""
        found = [name for name, it in self.entries.items() if it.kind == "a directory"]
        return [name for name in found if name == "data" or name.startswith("data/")]

    @property
    def files(self) -> Mapping[str, Entry]:
        return {name: it for name, it in self.below("data").items() if it.kind == "a file"}

    @property
    def insights(self) -> list[tuple[str, str]]:
        found = self.entries.get("insights.json", Entry())
        return _pairs(found.content) if found.content.strip() not in (b"", b"null") else []

    @property
    def events(self) -> list[tuple[str, str, list[tuple[str, str]], list[str]]]:
        """Of each its file, its type, what is passed on, and the files that it names; in lexical order."""
        found = []
        for name, entry in sorted(self.below("events").items()):
            said = _pairs(entry.content)
            known = dict(said)
            passed = [it for it in said if it[0] not in ("eventType", "files")]
            found.append((name, known["eventType"], passed, list(dict.fromkeys(named(known.get("files", ""))))))
        return found

    def over(self) -> Iterator[str]:
        """The limits that are broken: what else is wrong need not be told then."""
        below, files = self.below("data"), self.files
        if any(name.count("/") >= LIMITS.max_depth for name in below):
            yield "max_depth"
        inside = [sum(it.rpartition("/")[0] == directory for it in below) for directory in {"", *below}]
        if len(files) > LIMITS.max_files or max(inside) > 2 * LIMITS.max_files:
            yield "max_files"
        if sum(len(it.content) for it in files.values()) > LIMITS.max_output:
            yield "max_output"
        if len(self.below("events")) > LIMITS.max_events:
            yield "max_events"

    def wrong(self) -> Iterator[str]:
        """What has to be named, of all that is refused."""
        for name in ("data", "events"):
            if self.entries.get(name, Entry(kind="a directory")).kind != "a directory":
                yield f"out/{name}"
        for name, entry in self.below("data").items():
            segments = name.split("/")
            if any(not is_plain("/".join(segments[:count])) for count in range(1, len(segments))):
                continue  # its directory is named, and not entered
            if not is_plain(name) or len(os.fsencode(name)) > LONGEST_NAME:
                if not any(len(os.fsencode(it)) > LONGEST_NAME for it in _above(name)):
                    yield name
            elif entry.kind in OTHERS:
                yield name
        insights = self.entries.get("insights.json", Entry())
        if insights.kind != "a file" or len(insights.content) > LIMITS.max_insights or self._no_insights(insights):
            yield "out/insights.json"
        for name, entry in self.below("events").items():
            if "/" not in name and (not is_plain(name) or entry.kind != "a file" or not self._is_event(entry.content)):
                yield name

    def _no_insights(self, entry: Entry) -> bool:
        return entry.content.strip() not in (b"", b"null") and entry.content in UNREADABLE

    def _is_event(self, content: bytes) -> bool:
        if content in UNREADABLE:
            return False
        known = dict(_pairs(content))
        files = named(known.get("files", ""))
        return known.get("eventType") in MODULE.publishes and all(it in self.files for it in files)


def named(text: str) -> list[str]:
    """The entries of ``files``."""
    entries = text.split(",")
    if not entries[-1].strip():
        entries.pop()
    found = []
    for entry in (it.strip() for it in entries):
        while entry.startswith("./"):
            entry = entry[2:]
        found.append(entry)
    return found


def _above(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _pairs(content: bytes) -> list[tuple[str, str]]:
    return [(pair["key"], pair["value"]) for pair in json.loads(content)]


def _encoded(some: Sequence[tuple[str, str]]) -> bytes:
    return json.dumps([{"key": key, "value": value} for key, value in some]).encode()


class _Failing:
    """The store, whose puts go wrong from the one that is number ``good`` on."""

    def __init__(self, blobs: BlobStore, good: int) -> None:
        self._blobs, self._good = blobs, good

    async def put(self, key: str, source: Path, *, consume: bool = False, told: BlobInfo | None = None) -> BlobInfo:
        self._good -= 1
        if self._good < 0:
            raise TransientError(f"blob {key}: is not put, as the test has it.")
        return await self._blobs.put(key, source, consume=consume, told=told)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)


class _Outputs:
    """What committing needs of a data plane, without documents: ``record`` is what was committed."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.record: Commit | None = None

    async def committed(self, job_id: str) -> tuple[Commit, bool] | None:
        return None if self.record is None else (self.record, True)

    async def commit(self, commit: Commit) -> bool:
        self.record = commit
        return True

    async def discard(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.blobs.delete(key)


class WorkspaceMachine(RuleBasedStateMachine):
    """``opened`` opens the store, which takes ``patience`` seconds at most for a workspace.

    Keys are unlike those of any other example.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[BlobStore]], *, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self._directory = tempfile.TemporaryDirectory(prefix="ion-model-")
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self.flow = f"model-{uuid.uuid4().hex[:12]}"
        self.blobs = self.done(self._stack.enter_async_context(opened()))

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(self._patience):
                return await call

        return self._runner.run(bounded())

    @initialize(
        tidy=st.booleans(),
        files=st.lists(st.tuples(plain_names, contents, modes), max_size=4),
        more=st.lists(st.tuples(plain_names, contents, modes), max_size=2),
        events=st.lists(st.tuples(pairs, st.lists(places, max_size=3), right_forms), max_size=2),
    )
    def begin(
        self,
        tidy: bool,
        files: list[tuple[str, bytes, int]],
        more: list[tuple[str, bytes, int]],
        events: list[tuple[list[tuple[str, str]], list[int], str]],
    ) -> None:
        """A module that has left something. One that is ``tidy`` leaves nothing that is wrong by itself."""
        self.tidy = tidy
        self._make_workspace()
        self.write(0, files)
        if more:
            self.make_directory(0, "sub")
            self.write(1, more)
        for n, (said, which, form) in enumerate(events):
            self.emit(f"{n}.json", MODULE.publishes[0], said, which, form)

    def _make_workspace(self) -> None:
        """A fresh one, as a module finds it."""
        self.number = getattr(self, "number", 0) + 1
        context = Context(name="test", event_id=str(self.number), correlation_id=self.flow)
        self.job = Job(event=Event(context=context, type="thing.wanted"), module=MODULE.name)
        self.workspace = Workspace.make(Path(self._directory.name), str(self.number))
        (Path(self._directory.name) / "secret").write_bytes(SECRET)
        self.left = Left(dict(FRESH))

    # What a module may leave

    def _place(self, n: int) -> str | None:
        """A directory below ``data``, or itself."""
        found = self.left.directories()
        return found[n % len(found)] if found else None

    def _make(self, name: str, entry: Entry, mode: int = 0o644, led_to: str = "") -> None:
        """In the place of what is there, unless that is a directory."""
        path, there = self.workspace.out / name, self.left.entries.get(name)
        if self.tidy and (not is_plain(name) or entry.kind in OTHERS):
            return
        if there is not None and "a directory" in (there.kind, entry.kind):
            return
        path.unlink(missing_ok=True)
        if entry.kind == "a directory":
            path.mkdir()
        elif entry.kind == "a link":
            path.symlink_to(Path(self._directory.name) / "secret" if led_to == "secret" else led_to)
        elif entry.kind == "a FIFO":
            os.mkfifo(path)
        elif entry.kind == "a socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        else:
            path.write_bytes(entry.content)
            path.chmod(mode)
        self.left.entries[name] = entry

    @rule(place=places, files=st.lists(st.tuples(names, contents, modes), min_size=1, max_size=3))
    def write(self, place: int, files: list[tuple[str, bytes, int]]) -> None:
        if (directory := self._place(place)) is not None:
            for name, content, mode in files:
                entry = Entry(content=content, executable=bool(mode & stat.S_IXUSR))
                self._make(f"{directory}/{name}", entry, mode)

    @rule(place=places, name=names)
    def make_directory(self, place: int, name: str) -> None:
        if (directory := self._place(place)) is not None:
            self._make(f"{directory}/{name}", Entry(kind="a directory"))

    @rule(place=places, name=names, kind=st.sampled_from(OTHERS), led_to=st.sampled_from(LED_TO))
    def make_what_is_no_file(self, place: int, name: str, kind: str, led_to: str) -> None:
        if (directory := self._place(place)) is not None:
            self._make(f"{directory}/{name}", Entry(kind=kind), led_to=led_to)

    @rule(
        name=names,
        type=st.sampled_from([*MODULE.publishes, "thing.mode", "", None]),
        said=pairs,
        which=st.none() | st.lists(places, max_size=3),
        form=right_forms | st.sampled_from(["../{}", "/{}", "no{}where", "{},,x"]),
    )
    def emit(
        self, name: str, type: str | None, said: list[tuple[str, str]], which: list[int] | None, form: str
    ) -> None:
        """An event, perhaps with files in it that are there: the first one in a form of its own."""
        if self.tidy:
            type = type if type in MODULE.publishes else MODULE.publishes[0]
            form = form if form in RIGHT_FORMS else RIGHT_FORMS[0]
        known = [("eventType", type)] if type is not None else []
        there = sorted(it for it in self.left.files if is_plain(it) and named(it) == [it])
        if which is not None and there:
            files = [there[n % len(there)] for n in which]
            known.append(("files", ",".join(form.format(it) if n == 0 else it for n, it in enumerate(files))))
        self._put_event(name, Entry(content=_encoded([*said, *known])))

    @rule(name=names, raw=st.sampled_from(UNREADABLE), kind=st.sampled_from(["a file", "a directory", *OTHERS]))
    def emit_what_is_no_event(self, name: str, raw: bytes, kind: str) -> None:
        if not self.tidy:
            self._put_event(name, Entry(content=raw) if kind == "a file" else Entry(kind=kind))

    def _put_event(self, name: str, entry: Entry) -> None:
        if self.left.entries.get("events", Entry()).kind == "a directory":
            self._make(f"events/{name}", entry, led_to="secret")

    @rule(said=pairs, raw=st.none() | st.sampled_from([b" \n", b"null", b"[]", *UNREADABLE[2:]]))
    def tell(self, said: list[tuple[str, str]], raw: bytes | None) -> None:
        if self.tidy and raw in UNREADABLE:
            raw = None
        self._make("insights.json", Entry(content=_encoded(said) if raw is None else raw))

    @rule(name=names)
    def leave_it_beside(self, name: str) -> None:
        if name not in ("data", "events"):
            self._make(name, Entry(content=b"nobody asks for it"))

    @rule(name=st.sampled_from(["data", "events", "insights.json"]), kind=st.none() | st.sampled_from(OTHERS))
    def remove(self, name: str, kind: str | None) -> None:
        """Of a directory only where it is empty; and perhaps something else is there."""
        entry = self.left.entries.get(name)
        if entry is None or self.left.below(name):
            return
        path = self.workspace.out / name
        if entry.kind == "a directory":
            path.rmdir()
        else:
            path.unlink()
        del self.left.entries[name]
        if kind is not None:
            self._make(name, Entry(kind=kind), led_to=".")

    # And what becomes of it

    @rule(consume=st.booleans(), good=st.integers(0, 3))
    def collect(self, consume: bool, good: int) -> None:
        """What is to be taken is, also where a store failed before that; the next module finds a fresh workspace."""
        if self.left.entries == FRESH:
            return
        if [*self.left.over(), *self.left.wrong()]:
            self._is_refused(self._tried(_Outputs(self.blobs), consume=consume))
        else:
            if good < len(self.left.files):
                failing = self._tried(_Outputs(_Failing(self.blobs, good)), consume=False)
                with refused(TransientError, of="a put that fails"):
                    self.done(failing)
                assert self.done(self._keys()) == [], "nothing is left of what was put before that"
            self._is_taken(consume)
        self.workspace.remove()
        self.done(self._clean())
        self._make_workspace()

    async def _tried(self, outputs: _Outputs, *, consume: bool) -> list[str]:
        committer, attempt = Committer(outputs, consume=consume), Attempt(job=self.job, number=1)
        self.attempt = attempt
        committed = await committer.commit(attempt, MODULE, self.workspace, image=None, started_at="")
        return committed.lines

    def _is_refused(self, trying: Coroutine[Any, Any, object]) -> None:
        try:
            self.done(trying)
        except OutputRefused as error:
            said = str(error)
        else:
            raise AssertionError(f"is to be refused: {[*self.left.over(), *self.left.wrong()]}")
        over, wrong = [*self.left.over()], [*self.left.wrong()]
        if over:
            assert any(limit in said for limit in over) or wrong, f"names a limit of {over}: {said}"
        elif len(wrong) < 10:
            for name in wrong:
                forms = {name[:60], repr(name)[1:50], ascii(name)[1:50]}
                assert any(form in said for form in forms), f"names {name!r}: {said}"
        assert self.done(self._keys()) == [], "nothing is kept of what is refused"

    def _is_taken(self, consume: bool) -> None:
        outputs = _Outputs(self.blobs)
        lines = self.done(self._tried(outputs, consume=consume))
        record = outputs.record
        assert record is not None
        assert {it.name: (it.size, it.sha256, it.executable) for it in record.files} == {
            name: (len(it.content), hashlib.sha256(it.content).hexdigest(), it.executable)
            for name, it in self.left.files.items()
        }
        assert list(record.insights) == self.left.insights
        assert [(it.context.event_id, it.type, [*it.data], [*it.files]) for it in record.events] == [
            (self.job.child_id(name), *rest) for name, *rest in self.left.events
        ]
        beside = [it for it in self.left.entries if "/" not in it and it not in ("data", "events", "insights.json")]
        assert any("not kept" in line for line in lines) == bool(beside), "what is beside is told of"
        prefix = attempt_prefix(self.attempt)
        assert self.done(self._keys()) == sorted(f"{prefix}/{name}" for name in self.left.files)
        for it in record.files:
            self.done(self._is_stored(it.key, self.left.files[it.name].content))
            if not consume:
                source = self.workspace.out / "data" / it.name
                assert in_brief(source.read_bytes()) == in_brief(self.left.files[it.name].content), "it was left there"

    async def _is_stored(self, key: str, content: bytes) -> None:
        target = Path(self._directory.name) / "got"
        await self.blobs.get(key, target)
        assert in_brief(target.read_bytes()) == in_brief(content)
        target.unlink()

    async def _keys(self) -> list[str]:
        return [key async for key in self.blobs.list(self.flow)]

    async def _clean(self) -> None:
        for key in await self._keys():
            await self.blobs.delete(key)

    def teardown(self) -> None:
        try:
            self.collect(consume=True, good=0)
        finally:
            try:
                self.done(self._clean())
                self.done(self._stack.aclose())
            finally:
                self._runner.close()
                self._directory.cleanup()
