#!/bin/sh
# Notes every face in the catalogue: an insight with what the event says about the face and the size of its crop.
# Reads in/eventmeta.json and the one crop in in/data, writes out/insights.json. Needs a POSIX system and nothing else.
set -eu
LC_ALL=C # count and escape bytes, whatever the language: UTF-8 passes through untouched
export LC_ALL
base=${HANDLER_BASE_DIR:-/ion}

fail() {
    printf 'catalogue: %s\n' "$1" >&2
    exit 1
}

# json_string TEXT: TEXT as a JSON string. What must be escaped is the quote, the backslash and the control characters.
# (The appended "." protects trailing newlines, which $(…) and awk would drop.)
json_string() {
    printf '%s.' "$1" | awk '
        BEGIN {
            for (i = 1; i < 32; i++) escaped[sprintf("%c", i)] = sprintf("\\u%04x", i)
            escaped["\""] = "\\\""
            escaped["\\"] = "\\\\"
        }
        { text = text (NR > 1 ? "\n" : "") $0 }
        END {
            printf "\""
            for (i = 1; i < length(text); i++) {
                c = substr(text, i, 1)
                printf "%s", (c in escaped) ? escaped[c] : c
            }
            printf "\""
        }'
}

# pairs_of FILE: the pairs of FILE, a JSON array, each followed by a comma, but for those that hold the address of a file:
# an address may be signed, and is of use for a while only. Pairs are JSON already: copying them as they stand cannot
# damage them, decoding and encoding them in shell could.
pairs_of() {
    [ -f "$1" ] || return 0
    awk '
        { text = text $0 "\n" }
        END {
            for (i = 1; i <= length(text); i++) {
                c = substr(text, i, 1)
                if (in_string && c == "\\") i++
                else if (c == "\"") in_string = !in_string
                else if (!in_string && c == "{") start = i
                else if (!in_string && c == "}") {
                    pair = substr(text, start, i - start + 1)
                    if (pair !~ /:\\?\/\\?\//) printf "%s,\n  ", pair
                }
            }
        }' "$1"
}

set -- "$base"/in/data/*
[ $# -eq 1 ] && [ -f "$1" ] || fail "$base/in/data: expected one crop, found something else. detect emits one per event."
name=$(json_string "${1##*/}")
bytes=$(wc -c <"$1" | tr -d ' ') # some systems pad the number

{
    printf '['
    pairs_of "$base/in/eventmeta.json"
    printf '{"key": "catalogued", "value": %s},\n' "$name"
    printf '  {"key": "bytes", "value": "%s"}]\n' "$bytes"
} >"$base/out/insights.json"

printf 'catalogued: %s bytes\n' "$bytes"
