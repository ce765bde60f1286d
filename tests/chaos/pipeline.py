"""The pipeline that goes through it, and every job that must have come out of it in the end."""

from __future__ import annotations

from typing import Any

PARTS = 2
TAKES_SECONDS = 2
"""Each job takes that long, so that there is something to hit."""
SPLIT = f"""
sleep {TAKES_SECONDS}
for n in $(seq {PARTS}); do
    mkdir /ion/out/data/part$n
    echo $n > /ion/out/data/part$n/piece.txt
    printf '[{{"key":"eventType","value":"part.made"}},{{"key":"files","value":"part%s/piece.txt"}}]' $n \\
        > /ion/out/events/$n
done
"""
JOIN = f"""
sleep {TAKES_SECONDS}
cat /ion/in/data/*/piece.txt > /ion/out/data/joined.txt
printf '[{{"key":"eventType","value":"part.joined"}},{{"key":"files","value":"joined.txt"}}]' > /ion/out/events/0
printf '[{{"key":"joined","value":"1"}}]' > /ion/out/insights.json
"""
BIND = f"sleep {TAKES_SECONDS}; cat /ion/in/data/*/joined.txt > /ion/out/data/all.txt"
DOOMED = f"sleep {TAKES_SECONDS}; echo never >&2; exit 3"

TAKES = {"whole.received": ("split", "doomed"), "part.made": ("join",), "ion.gathered.bind": ("bind",)}
"""The modules that have a job for an event of each type; the others end a flow."""
DIES = "doomed"
"""The module of which each job becomes a dead letter."""


def modules(image: str, mark: str) -> dict[str, Any]:
    """``mark`` is in the environment of all their processes."""

    def module(script: str, **said: Any) -> dict[str, Any]:
        # killed ones count as failed, and are to be tried until one comes through
        patient = {"retries": 200, "retry": {"initial": "200ms", "factor": 1}, "timeout": "1m"}
        return {
            "image": image,
            "command": ["sh", "-c", script],
            "env": {"MARK": mark},
            **patient,
            **said,
        }

    return {
        "split": module(SPLIT, subscribes=["whole.received"], publishes=["part.made"], warm=1),
        "join": module(JOIN, subscribes=["part.made"], publishes=["part.joined"], concurrency=2),
        "bind": module(BIND, gather={"events": ["part.joined"], "within": "whole.received"}),
        "doomed": module(DOOMED, subscribes=["whole.received"], retries=1, concurrency=2),
    }
