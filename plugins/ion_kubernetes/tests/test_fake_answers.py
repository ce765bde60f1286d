"""The fake API server answers 63 pods and Jobs as a real one did."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from plugins.ion_kubernetes.tests.fake.server import fake_kubernetes

ANSWERS: dict[str, Any] = json.loads((Path(__file__).parent / "data/answers.json").read_text("utf-8"))
CUT = 240
"""Recorded messages are cut there."""


def as_sent(value: Any) -> Any:
    """With ``<262145 bytes>`` as that many bytes."""
    if isinstance(value, dict):
        return {key: as_sent(it) for key, it in value.items()}
    if isinstance(value, list):
        return [as_sent(it) for it in value]
    if isinstance(value, str) and (found := re.fullmatch(r"<(\d+) bytes>", value)):
        return "x" * int(found[1])
    return copy.deepcopy(value)


def fields_of(message: str) -> list[str]:
    """The fields that a message of 422 names, which are those of its causes."""
    _, _, problems = message.partition(" is invalid: ")
    kinds = r"(?:Invalid value|Required value|Unsupported value|Duplicate value|Not found|Forbidden|Too long)"
    return re.findall(rf"(?:^\[?|, )([\w.\[\]/]+): {kinds}", problems)


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_object_is_answered_as_the_real_server_did(name: str) -> None:
    recorded = ANSWERS[name]
    group = "apis/batch/v1" if recorded["object"]["kind"] == "Job" else "api/v1"
    plural = "jobs" if recorded["object"]["kind"] == "Job" else "pods"
    async with fake_kubernetes() as cluster, aiohttp.ClientSession(cluster.url) as session:
        await session.post("/api/v1/namespaces", json={"metadata": {"name": "e2"}})
        url = f"/{group}/namespaces/e2/{plural}?dryRun=All&fieldValidation=Strict"
        async with session.post(url, json=as_sent(recorded["object"])) as response:
            answer = await response.json()
        stored = list(cluster.store.listed(plural if plural == "pods" else "jobs.batch", "e2"))
    assert stored == [], "it was a dry run"
    assert response.status == recorded["status"], answer
    if recorded["status"] == 201:
        assert answer["metadata"]["uid"]
        return
    assert (answer["kind"], answer["code"], answer["reason"]) == ("Status", recorded["status"], recorded["reason"])
    assert answer["message"][:CUT] == recorded["message"]
    causes = [cause["field"] for cause in answer.get("details", {}).get("causes", [])]
    if recorded["status"] == 422:
        assert causes
        assert set(causes) >= set(fields_of(recorded["message"]))
        assert len(causes) == len(fields_of(answer["message"]))
    else:
        assert causes == []


def test_most_of_the_recorded_objects_are_refused_ones() -> None:
    codes = [it["status"] for it in ANSWERS.values()]
    assert {code: codes.count(code) for code in set(codes)} == {201: 7, 400: 7, 403: 2, 422: 47}
