#!/bin/sh
# Signs a page: how many bytes and characters other than blanks awk finds in it, as a file and an event.
set -eu
LC_ALL=C # bytes, whatever the language
export LC_ALL
base=${HANDLER_BASE_DIR:-/ion}
page=$(awk 'match($0, /"page", *"value": *"[0-9]+"/) { split(substr($0, RSTART, RLENGTH), part, "\""); print part[6] }' \
    "$base/in/eventmeta.json")
find "$base/in/data" -type f -exec cat {} + | awk -v page="$page" '
    { bytes += length($0) + 1; gsub(/[ \t]/, ""); dark += length($0) }
    END { printf "%s: %d bytes, %d dark\n", page, bytes, dark }' >"$base/out/data/signature-$page.txt"
printf '[{"key":"eventType","value":"page.signed"},{"key":"files","value":"signature-%s.txt"},{"key":"page","value":"%s"}]' \
    "$page" "$page" >"$base/out/events/0"
echo "signed $page"
