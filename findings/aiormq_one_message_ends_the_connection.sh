#!/usr/bin/env bash
# aiormq (7.2.4) with pamqp (4.0.1): a message whose `timestamp` is in microseconds, or whose properties hold text that is no UTF-8,
# cannot be decoded, and the exception ends the reader of its connection: every channel of it is lost, not only that of the
# consumer. RabbitMQ takes such a message from any client, and delivers it again once that consumer is back: the connection ends again.
# Ion decodes nothing that others wrote (plugins/ion_rabbitmq/ion_rabbitmq/closed_frames.py).
#
# Seen: "the connection has ended: UnmarshalingException: Could not unmarshal ContentHeader frame: year 58692 is out of range; the other
# channel is closed: True", for one delivery to one of its two channels. Fails if connection or channel live on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'aiormq==7.2.4' 'pamqp==4.0.1'
"$work/venv/bin/python" - <<'PYTHON'
import asyncio, logging, struct, sys

import aiormq
from pamqp import commands, frame

logging.disable()
MICROSECONDS = 1_790_000_000_000_000
HEADER = struct.pack(">HHQHQ", 60, 0, 1, 1 << 6, MICROSECONDS)  # basic, weight, size of the body, flags: timestamp alone


def raw(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


async def broker(reader, writer):
    """As much of one as is needed: it answers, and delivers that one message to whoever consumes."""
    answers = {
        "Connection.StartOk": lambda it: commands.Connection.Tune(10, 131072, 0),
        "Connection.Open": lambda it: commands.Connection.OpenOk(),
        "Connection.Close": lambda it: commands.Connection.CloseOk(),
        "Channel.Open": lambda it: commands.Channel.OpenOk(),
        "Confirm.Select": lambda it: commands.Confirm.SelectOk(),
        "Basic.Consume": lambda it: commands.Basic.ConsumeOk(it.consumer_tag),
    }
    await reader.readexactly(8)
    about = {"capabilities": {"publisher_confirms": True}}
    writer.write(frame.marshal(commands.Connection.Start(server_properties=about, mechanisms="PLAIN", locales="en_US"), 0))
    try:
        while True:
            head = await reader.readexactly(7)
            rest = await reader.readexactly(int.from_bytes(head[3:], "big") + 1)
            _, channel, asked = frame.unmarshal(head + rest)
            if asked.name in answers:
                writer.write(frame.marshal(answers[asked.name](asked), channel))
            if asked.name == "Basic.Consume":
                writer.write(frame.marshal(commands.Basic.Deliver(asked.consumer_tag, 1, False, "", "q"), channel))
                writer.write(raw(2, channel, HEADER) + raw(3, channel, b"x"))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
    consuming, other = await connection.channel(), await connection.channel()

    async def received(message):
        print("received")

    await consuming.basic_consume("q", received, consumer_tag="one")
    try:
        await asyncio.wait_for(asyncio.shield(connection.closing), 10)
    except TimeoutError:
        sys.exit("the connection lives: this has changed")
    except Exception as error:
        why = error.__cause__ or error
        print(f"the connection has ended: {type(why).__name__}: {why}; the other channel is closed: {other.is_closed}")
        if not other.is_closed:
            sys.exit("the other channel lives: this has changed")


asyncio.run(asyncio.wait_for(main(), 60))
PYTHON
