"""Dead letters: grouped by what they died of; one, a group or all put back or deleted, once that was asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal

from aiohttp import web

from ion_console.answers import mistaken
from ion_console.pages.shell import DID, Shell, done, form, letter_name, letter_of, to
from ion_console.pages.sign_in import own
from ion_console.pages.words import asking
from ion_console.routing import AFTER, LETTERS, LONGEST, MOST, Operation, moment, one_of
from ion_core.contracts.looking import LetterFilter, LetterId
from ion_core.contracts.messaging import DeadLetter
from ion_core.listening.refusals import Refused

LISTED = 50
GROUPS = 100
"""Rows of groups, the largest first: of reasons that name a file each there are as many as dead letters."""
CONDITIONS = ("module", "type", "reason", "containing")


class Letters:
    source = "The broker"
    operations = (
        Operation(
            name="letters",
            path="/dead-letters",
            gives="",
            what="Dead letters",
            parameters=(
                one_of("by", "By what they are grouped.", ("reason", "module", "type")),
                *LETTERS,
                AFTER,
                *DID,
            ),
        ),
        Operation(name="redrive", path="/dead-letters/redrive", method="POST", role="mend", gives="", what="Put back"),
        Operation(name="purge", path="/dead-letters/purge", method="POST", role="mend", gives="", what="Delete"),
    )

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._host = shell.host

    async def letters(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        which = LetterFilter(**{name: asked[name] for name in CONDITIONS})
        by: Literal["reason", "module", "type"] = asked["by"] or "reason"
        groups = await self._host.dead_letter_groups(by)
        listed = await self._host.dead_letters(which, after=asked["after"], limit=LISTED)
        given = {name: asked[name] for name in CONDITIONS if asked[name] is not None}
        return await self._shell.page(
            request,
            "letters.html",
            at="letters",
            by=by,
            groups=groups,
            most_groups=GROUPS,
            longest=LONGEST,
            listed=listed,
            given=given,
            did=done(asked),
            name=letter_name,
            of=lambda key: f"/dead-letters?{asking({'by': by, by: key})}",
            further=f"/dead-letters?{asking({'by': by, **given, 'after': listed.cursor})}" if listed.cursor else "",
        )

    async def redrive(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return await self._mend(request, "redrive")

    async def purge(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.Response:
        return await self._mend(request, "purge")

    async def _mend(self, request: web.BaseRequest, verb: str) -> web.Response:
        """Asks at first, with how many that are; does it once that was answered.

        Those that died since are not meant by a purge: nobody has seen them. So it may be asked and answered while
        others come, and those that are deleted are those that were counted.
        """
        given = await form(request)
        which, then = _which(given), own(next(iter(given.get("then", [])), ""), "/dead-letters")
        sure, typed = "sure" in given, next(iter(given.get("typed", [])), "").strip()
        meant, until = await self._meant(which, _until(given))
        count = len(meant)
        right = verb == "redrive" or typed == str(count)
        done = await self._do(verb, which if verb == "redrive" else meant) if count and sure and right else 0
        if not done:
            if not right:
                meant, until = await self._meant(which, None)
                count = len(meant)
            asked = {"until": [until.isoformat()]} if until else {}
            kept = {name: some for name, some in given.items() if name not in ("sure", "typed", "until")} | asked
            return await self._shell.page(
                request,
                "sure.html",
                at="letters",
                verb=verb,
                count=0 if sure and right else count,
                given=[(name, it) for name, some in kept.items() for it in some],
                wrong=sure and not right,
                which=which,
                then=then,
            )
        return to(f"{then}{'&' if '?' in then else '?'}{asking({'did': verb, 'count': done})}")

    async def _do(self, verb: str, which: LetterFilter | Sequence[LetterId]) -> int:
        try:
            if isinstance(which, LetterFilter):
                return await self._host.redrive_all(which)
            return await (self._host.redrive(which) if verb == "redrive" else self._host.purge(which))
        finally:
            self._shell.mended()

    async def _meant(
        self, which: LetterFilter | list[LetterId], until: datetime | None
    ) -> tuple[list[LetterId], datetime | None]:
        """Those that had died by then, and when the last of them did, where they are not named one by one."""
        if isinstance(which, list):
            return which, None
        found: list[DeadLetter] = []
        cursor: str | None = None
        while True:
            page = await self._host.dead_letters(which, after=cursor, limit=MOST)
            found += [it.letter for it in page.items if it.taken or which.module is not None]
            if (cursor := page.cursor) is None:
                break
        if until is not None:
            found = [it for it in found if it.died_at <= until]
        return [LetterId(it.queue, it.id) for it in found], max((it.died_at for it in found), default=None)


def _until(given: Mapping[str, list[str]]) -> datetime | None:
    """What the page said of those that it asked about. Raises Refused."""
    try:
        return moment(given["until"][0]) if "until" in given else None
    except ValueError as error:
        raise mistaken(f"until: {error}") from None


def _which(given: Mapping[str, list[str]]) -> LetterFilter | list[LetterId]:
    """Which dead letters are meant. Raises Refused."""
    if ids := given.get("id"):
        if len(ids) > MOST:
            raise mistaken(f"id: at most {MOST:,} at a time; choose a group")
        return [letter_of(it) for it in dict.fromkeys(ids)]
    found = {name: given[name][0] for name in CONDITIONS if given.get(name)}
    if not found and "all" not in given:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "Nothing was chosen.")
    return LetterFilter(**found)
