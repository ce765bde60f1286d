#!/bin/sh
# All signatures of a shelf as one file, and what it was told of them.
set -eu
base=${HANDLER_BASE_DIR:-/ion}
cat "$base"/in/data/*/* >"$base/out/data/all.txt"
cp "$base/in/gathered.json" "$base/out/data/told.json"
printf '[{"key":"eventType","value":"shelf.bound"},{"key":"files","value":"all.txt, told.json"}]' >"$base/out/events/bound"
printf '[{"key":"signatures","value":"%s"}]' "$(wc -l <"$base/out/data/all.txt" | tr -d ' ')" >"$base/out/insights.json"
