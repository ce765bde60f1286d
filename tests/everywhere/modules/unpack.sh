#!/bin/sh
# A page for each text of the shelf, where it lies; then a tool that can be executed.
set -eu
base=${HANDLER_BASE_DIR:-/ion}
out=$base/out
pages=0
cd "$base/in/data"
find . -type f | LC_ALL=C sort >/tmp/pages-$$
while read -r path; do
    pages=$((pages + 1))
    name=${path#./}
    mkdir -p "$out/data/pages/$(dirname "$name")"
    cp "$path" "$out/data/pages/$name"
    printf '[{"key": "eventType", "value": "page.found"}, {"key": "files", "value": "pages/%s"},
        {"key": "page", "value": "%s"}, {"key": "again", "value": "1"}, {"key": "again", "value": "2"}]' \
        "$name" "$pages" >"$out/events/$pages.json"
done </tmp/pages-$$
rm /tmp/pages-$$
printf '#!/bin/sh\necho a tool\n' >"$out/data/tool"
chmod 755 "$out/data/tool"
printf '[{"key": "eventType", "value": "tool.made"}, {"key": "files", "value": "tool"}]' >"$out/events/tool.json"
printf '[{"key": "pages", "value": "%s"}]' "$pages" >"$out/insights.json"
printf 'unpacked %s pages\n' "$pages"
