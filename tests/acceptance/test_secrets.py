"""Canaries: secrets of configuration and slots must not come out anywhere but in the module's own environment."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.pipeline import Pipeline

CANARY = "canary-3f9c1d7e"
CONFIG = """
modules:
  split:
    command: [sh, split.sh]
    source: modules
    subscribes: [whole.received]
    retries: 0
    env: {{RUNS: "{runs}", TOKEN: "${{env:CANARY}}"}}
"""
# Leaves its secret where only the test looks, and prints it where everybody does.
TELLING = """
printf '%s' "$SHARED_SECRET" > "$RUNS.secret"
printf '%s' "$TOKEN" > "$RUNS.token"
echo "my secret is $SHARED_SECRET"
echo "my token is $TOKEN"
exit 1
"""


def test_no_secret_comes_out(tmp_path: Path) -> None:
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"split": TELLING})
    environ = {"CANARY": CANARY, "CANARY_OF_OURS": "canary-of-ours"}
    printed = ""
    for arguments in (
        ("check",),
        ("config", "show"),
        ("config", "show", "--json"),
        ("module", "list", "--json"),
        ("event", "publish", "whole.received", "--json"),
        ("serve", "--until-idle", "--verbose"),
        ("dlq", "list", "--json"),
        ("trace", "list", "--json"),
    ):
        done = pipeline.ion(*arguments, code=None, **environ)
        assert done.returncode == (1 if arguments[0] == "serve" else 0), done.stderr
        printed += done.stdout + done.stderr
    secret = (pipeline.home / "runs.secret").read_text()
    assert len(secret) >= 32
    assert (pipeline.home / "runs.token").read_text() == CANARY, "the module has it"
    [log] = pipeline.documents("modulelogs")
    assert "my secret is ********" in log["logs"]
    assert "my token is ********" in log["logs"]
    for canary in (CANARY, secret, "canary-of-ours"):
        assert canary not in printed
        for path in pipeline.state.rglob("*"):
            if path.is_file():
                assert canary.encode() not in path.read_bytes(), path


def test_each_slot_has_a_secret_of_its_own(tmp_path: Path) -> None:
    note = 'echo "$SHARED_SECRET" >> "$RUNS"'
    pipeline = Pipeline.make(tmp_path / "pipeline", modules={"split": note, "join": ""})
    for _ in range(3):
        pipeline.publish()

    pipeline.ion("serve", "--until-idle")

    assert len(pipeline.runs()) == 3
