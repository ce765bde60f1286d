#!/bin/sh
# Fails at each attempt, after it has left something that must not be kept.
set -eu
base=${HANDLER_BASE_DIR:-/ion}
echo left >"$base/out/data/left.txt"
printf '[{"key":"eventType","value":"never.seen"},{"key":"files","value":"left.txt"}]' >"$base/out/events/0"
echo broken >&2
exit 4
