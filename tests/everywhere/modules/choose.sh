#!/bin/sh
# Long pages go one way, short ones another.
set -eu
base=${HANDLER_BASE_DIR:-/ion}
words=$(sed -n 's/.*"words", *"value": *"\([0-9]*\)".*/\1/p' "$base/in/eventmeta.json")
page=$(sed -n 's/.*"page", *"value": *"\([0-9]*\)".*/\1/p' "$base/in/eventmeta.json")
if [ "$words" -gt 3 ]; then length=long; else length=short; fi
printf '[{"key":"eventType","value":"page.%s"},{"key":"page","value":"%s"}]' "$length" "$page" >"$base/out/events/$page"
