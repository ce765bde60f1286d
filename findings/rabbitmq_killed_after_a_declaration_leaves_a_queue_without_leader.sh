#!/usr/bin/env bash
# RabbitMQ 3.10.8 (Debian 12), a single node: five quorum queues are declared, each declaration is answered, and the server is killed
# (SIGKILL, as by a power cut). Started again it lists all five, but the one that was declared last never has a leader: a basic.get of it is not
# answered. Killed five seconds later, all of them are there. Deleting that queue and declaring it anew helps.
#
# Seen: "killed at once: no answer from ['q4']; killed after 5 s: no answer from []". Fails if that is otherwise.
# It needs root, for mmdebstrap and namespaces, and downloads 100 MB.
set -euo pipefail
[ "$(id -u)" -eq 0 ] || { echo "It needs root." >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --mode=root --variant=minbase --include=rabbitmq-server bookworm "$work/tree"
echo '127.0.0.1 localhost' >"$work/tree/etc/hosts"
version=$(chroot "$work/tree" dpkg-query --show --showformat '${Version}' rabbitmq-server)
case $version in 3.10.8-*) ;; *) echo "Debian 12 has another RabbitMQ by now: $version" >&2; exit 1 ;; esac
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'pika==1.3.2'
cat >"$work/try.py" <<'PYTHON'
import contextlib, shutil, subprocess, sys, threading, time
from pathlib import Path

import pika

TREE = Path(sys.argv[1])
NAMES = [f"q{n}" for n in range(5)]


def connected():
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", heartbeat=0))


def start():
    subprocess.Popen(
        ["chroot", str(TREE), "env", "HOME=/root", "RABBITMQ_NODENAME=rabbit@localhost", "/usr/lib/rabbitmq/bin/rabbitmq-server"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 90
    while True:
        try:
            return connected()
        except pika.exceptions.AMQPError:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.2)


def killed():
    subprocess.run(["pkill", "-9", "beam.smp"], check=True)
    while subprocess.run(["pgrep", "beam.smp"], stdout=subprocess.DEVNULL).returncode == 0:
        time.sleep(0.1)


def without_an_answer(pause):
    channel = start().channel()
    for name in NAMES:
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    time.sleep(pause)
    killed()
    start().close()
    time.sleep(5)  # for elections, which take half a second
    answered = set()

    def ask(name):
        with contextlib.suppress(pika.exceptions.AMQPError):  # of the server that is killed in the end
            connected().channel().basic_get(name)
            answered.add(name)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    killed()
    shutil.rmtree(TREE / "var/lib/rabbitmq/mnesia")
    return [name for name in NAMES if name not in answered]


at_once, later = without_an_answer(0), without_an_answer(5)
print(f"killed at once: no answer from {at_once}; killed after 5 s: no answer from {later}", flush=True)
sys.exit(0 if (at_once, later) == (["q4"], []) else 1)
PYTHON
# shellcheck disable=SC2016 # expanded by that shell
unshare --net --mount --pid --fork --kill-child --mount-proc sh -euc '
    ip link set lo up
    mount -t proc proc "$1/tree/proc"
    mount --rbind /dev "$1/tree/dev"
    exec "$1/venv/bin/python" "$1/try.py" "$1/tree"' - "$work"
