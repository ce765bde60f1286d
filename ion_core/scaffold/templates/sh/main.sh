#!/bin/sh
# @NAME@: passes on every file it is given, with its size. Put your own work here.
# Takes @SUBSCRIBES@, publishes @PUBLISHES@. Reads in/data, writes out/data, out/events and out/insights.json.
set -eu
. ./ion_module.sh

count=0
while IFS= read -r path; do
    [ -n "$path" ] || continue # there are no inputs
    name=${path#"$ion_base"/in/data/}
    cp "$path" "$(ion_output "$name")"
    bytes=$(wc -c <"$path" | tr -d ' ') # some systems pad the number
    ion_emit @PUBLISHES@ "$name" bytes "$bytes"
    printf '%s: %s bytes\n' "$name" "$bytes"
    count=$((count + 1))
done <<END
$(ion_inputs)
END
ion_insight files "$count"
