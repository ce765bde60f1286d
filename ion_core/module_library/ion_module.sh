# What a module of Ion reads and writes, as functions for POSIX sh (dash, busybox, bash). Optional: a module may as well
# use the files themselves. Copy it beside your script and source it: . ./ion_module.sh
#
#   ion_inputs                       the input files, a path a line
#   ion_meta KEY                     the value of an input pair; of two with one key the last. Fails if there is none
#   ion_pairs                        all input pairs in order, a line each: key, tab, value; \ tab newline CR in them
#                                    are written \\ \t \n \r, which `printf %b` turns back
#   ion_traceparent                  the span that this module is below (W3C Trace Context); nothing where nobody traces
#   ion_gathered                     of a module that gathers: a line for each event, in order: its directory below
#                                    in/data, tab, type, tab, id
#   ion_gathered_meta DIRECTORY KEY  the value of a pair of the event with that directory, as ion_meta
#   ion_missing                      a line for each job that was given up: module, tab, event id, tab, reason
#   ion_output NAME                  where to write an output file; its directories are made
#   ion_emit TYPE FILES [KEY VALUE]… an event; FILES are names of outputs separated by commas, or ''
#   ion_insight KEY VALUE [KEY VALUE]…
#   ion_ready, ion_done              have the handler prepare and commit, for a module that does so itself
#   while ion_next; do … done        for `reuse: true`: one event after another; what was done for one is committed
#                                    when the loop comes for the next
#
# Needs awk and find; to call the handler curl or wget (with wget the secret is an argument, seen by who sees those).
# Names that start with ion__ are its own. Values cannot have NUL, and $(…) drops line ends at their end.

ion_base=${HANDLER_BASE_DIR:-/ion}

ion__say() { printf 'ion_module: %s\n' "$1" >&2; }

# ion__json TEXT: TEXT as a JSON string. (The "." protects line ends at the end, which awk would drop.)
ion__json() {
    printf '%s.' "$1" | LC_ALL=C awk '
        BEGIN {
            for (i = 1; i < 32; i++) escaped[sprintf("%c", i)] = sprintf("\\u%04x", i)
            escaped["\""] = "\\\""
            escaped["\\"] = "\\\\"
        }
        { text = NR > 1 ? text "\n" $0 : $0 }
        END {
            printf "\""
            for (i = 1; i < length(text); i++) {
                c = substr(text, i, 1)
                printf "%s", (c in escaped) ? escaped[c] : c
            }
            printf "\""
        }'
}

# ion__strings FILE: reads JSON. ION_MODE says what is printed: "pairs" as ion_pairs does, "meta" the last value of the
# key $ION_KEY, "message" that of an answer of the handler; of in/gathered.json "gathered", "missing", and "of" the last
# value of the key in the event with directory $ION_DIRECTORY. Exit 1: there was none, 2: it has a NUL, which no sh holds.
ion__strings() {
    LC_ALL=C awk '
        function code(hex,   n, i) {
            n = 0
            for (i = 1; i <= 4; i++) n = n * 16 + index("0123456789abcdef", tolower(substr(hex, i, 1))) - 1
            return n
        }
        function utf8(n) {
            if (n < 128) return sprintf("%c", n)
            if (n < 2048) return sprintf("%c%c", 192 + int(n / 64), 128 + n % 64)
            if (n < 65536) return sprintf("%c%c%c", 224 + int(n / 4096), 128 + int(n / 64) % 64, 128 + n % 64)
            return sprintf("%c%c", 240 + int(n / 262144), 128 + int(n / 4096) % 64) \
                sprintf("%c%c", 128 + int(n / 64) % 64, 128 + n % 64)
        }
        function plain(raw,   piece, count, text, i, c, n) {  # raw without the escapes of JSON
            if (index(raw, "\\") == 0) return raw
            count = split(raw, piece, "\\")
            text = piece[1]
            for (i = 2; i <= count; i++) {
                if (piece[i] == "") { text = text "\\" piece[++i]; continue }
                c = substr(piece[i], 1, 1)
                if (c != "u") { text = text ((c in short) ? short[c] : c) substr(piece[i], 2); continue }
                n = code(substr(piece[i], 2, 4))
                if (n == 0) exit (failed = 2)
                if (n >= 55296 && n < 56320 && length(piece[i]) == 5) {
                    n = 65536 + (n - 55296) * 1024 + code(substr(piece[++i], 2, 4)) - 56320
                }
                text = text utf8(n) substr(piece[i], 6)
            }
            return text
        }
        function in_a_line(text,   made, i, c) {
            if (text !~ /[\\\t\n\r]/) return text
            for (i = 1; i <= length(text); i++) {
                c = substr(text, i, 1)
                made = made ((c in line) ? line[c] : c)
            }
            return made
        }
        BEGIN {
            RS = "\001"  # none in JSON: all of it is one record
            short["n"] = "\n"; short["t"] = "\t"; short["r"] = "\r"; short["b"] = "\b"; short["f"] = "\f"
            line["\\"] = "\\\\"; line["\t"] = "\\t"; line["\n"] = "\\n"; line["\r"] = "\\r"
            mode = ENVIRON["ION_MODE"]
            wanted = ENVIRON["ION_KEY"]
        }
        {
            count = split($0, part, "\"")
            for (i = 2; i <= count; i += 2) {  # between quotes; one after an odd number of backslashes ends nothing
                text = part[i]
                while (match(text, /\\+$/) && RLENGTH % 2 && i < count) text = text "\"" part[++i]
                if (mode == "message") {
                    if (was == "message") { value = plain(text); found = 1 }
                    was = text
                    continue
                }
                if (mode ~ /^(gathered|missing|of)$/) {
                    if (part[i + 1] ~ /^[ \t\r\n]*:/) { at = text; if (at == "events" || at == "missing") within = at; continue }
                    told[at] = plain(text)
                    if (within == "events" && at == "type" && mode == "gathered")
                        print told["directory"] "\t" in_a_line(told["type"]) "\t" in_a_line(told["eventId"])
                    if (within == "missing" && at == "reason" && mode == "missing")
                        print in_a_line(told["module"]) "\t" in_a_line(told["eventId"]) "\t" in_a_line(told["reason"])
                    if (within == "events" && at == "value" && told["directory"] == ENVIRON["ION_DIRECTORY"] && told["key"] == wanted)
                        { value = told["value"]; found = 1 }
                    continue
                }
                if (name == "") { name = text; if (name == "key" || name == "value") continue; name = ""; continue }
                if (name == "key") key = plain(text); else value_of = plain(text)
                name = ""
                if (++halves % 2) continue
                if (mode == "pairs") print in_a_line(key) "\t" in_a_line(value_of)
                else if (key == wanted) { value = value_of; found = 1 }
            }
        }
        END {
            if (failed) exit failed
            if (mode !~ /^(pairs|gathered|missing)$/ && !found) exit 1
            printf "%s", value
        }' "$1"
}

ion_inputs() { find "$ion_base/in/data" -type f | LC_ALL=C sort; }

ion_pairs() {
    [ ! -f "$ion_base/in/eventmeta.json" ] || ION_MODE=pairs ion__strings "$ion_base/in/eventmeta.json"
}

ion_meta() {
    [ -f "$ion_base/in/eventmeta.json" ] || return 1
    ION_MODE=meta ION_KEY=$1 ion__strings "$ion_base/in/eventmeta.json"
}

ion_traceparent() { [ ! -f "$ion_base/in/traceparent" ] || cat "$ion_base/in/traceparent"; }

ion_gathered() { ION_MODE=gathered ion__strings "$ion_base/in/gathered.json"; }

ion_gathered_meta() { ION_MODE=of ION_DIRECTORY=$1 ION_KEY=$2 ion__strings "$ion_base/in/gathered.json"; }

ion_missing() { ION_MODE=missing ion__strings "$ion_base/in/gathered.json"; }

# ion__inside NAME: fails unless it is the name of a file below out/data.
ion__inside() {
    case /$1/ in
    *//* | */../* | */./*) ion__say "'$1' is no file below out/data. Use a name such as frames/1.png." && return 1 ;;
    esac
}

ion_output() {
    ion__inside "$1" || return 1
    case $1 in */*) mkdir -p "$ion_base/out/data/${1%/*}" || return 1 ;; esac
    printf '%s\n' "$ion_base/out/data/$1"
}

# ion__pairs KEY VALUE …: as JSON, each after a comma.
ion__pairs() {
    [ $(($# % 2)) -eq 0 ] || { ion__say "the key '$1' and what follows: every key needs one value" && return 1; }
    while [ $# -gt 0 ]; do
        printf ',\n {"key": %s, "value": %s}' "$(ion__json "$1")" "$(ion__json "$2")"
        shift 2
    done
}

ion_emit() {
    [ $# -ge 2 ] || { ion__say 'usage: ion_emit TYPE FILES [KEY VALUE]…; FILES may be empty' && return 2; }
    ion__event="[{\"key\": \"eventType\", \"value\": $(ion__json "$1")}"
    [ -z "$2" ] || ion__event="$ion__event,
 {\"key\": \"files\", \"value\": $(ion__json "$2")}"
    shift 2
    ion__more=$(ion__pairs "$@") || return 1
    mkdir -p "$ion_base/out/events" || return 1
    # Names are the same in every attempt: the ids of events are made of them. noclobber never writes over another's.
    ion__number=$(find "$ion_base/out/events" -type f | wc -l)
    while ion__file=$ion_base/out/events/$(printf %06d "$ion__number").json && [ -e "$ion__file" ]; do
        ion__number=$((ion__number + 1))
    done
    (set -C && printf '%s%s]\n' "$ion__event" "$ion__more" >"$ion__file")
}

ion_insight() {
    ion__more=$(ion__pairs "$@") || return 1
    ion__file=$ion_base/out/insights.json
    # What is there is JSON already: its last bracket is taken off, and the rest copied as it stands.
    ion__event=$([ ! -s "$ion__file" ] || LC_ALL=C awk '
        { text = NR > 1 ? text "\n" $0 : $0 }
        END {
            sub(/^[ \t\r\n]*null[ \t\r\n]*$/, "", text)
            sub(/[ \t\r\n]*\][ \t\r\n]*$/, "", text)
            sub(/^[ \t\r\n]*\[[ \t\r\n]*/, "", text)
            printf "%s", text
        }' "$ion__file")
    [ -n "$ion__event" ] || ion__more=${ion__more#,}
    printf '[%s%s]\n' "$ion__event" "$ion__more" >"$ion__file"
}

# ion__call PATH: 0 done, 1 refused by the handler or failed (ion__words says why), 2 nobody listens, 3 it hung up.
# After 1 ion__over is "410" when there will be no more events, "400" when the call does not fit the moment, else empty.
ion__call() {
    ion__over= ion__words="handler: GET $1: nobody answers on port ${HANDLER_PORT:-}"
    case ${HANDLER_PORT:-} in
    '' | *[!0-9]*)
        ion__words="HANDLER_PORT is not a port number (got '${HANDLER_PORT:-}'). Does this run under Ion?"
        return 1
        ;;
    esac
    ion__url=http://localhost:$HANDLER_PORT$1
    if command -v curl >/dev/null; then
        ion__answer=$(printf 'header = "secret: %s"\n' "${SHARED_SECRET:-}" |
            LC_ALL=C curl -sS --noproxy '*' -K - -w '\n%{http_code}' "$ion__url" 2>&1) && ion__code=0 || ion__code=$?
        case $ion__code in
        0)
            case ${ion__answer##*[!0-9]} in 200) return 0 ;; 400 | 410) ion__over=${ion__answer##*[!0-9]} ;; esac
            ;;
        7) return 2 ;;
        18 | 52 | 56) return 3 ;;
        esac
    else
        case $(wget --help 2>&1) in
        *--content-on-error*) ion__flags='-nv --no-proxy --tries=1 --content-on-error' ;;
        *) ion__flags='-Y off' ;; # busybox
        esac
        # shellcheck disable=SC2086 # a list of words
        ion__answer=$(LC_ALL=C wget $ion__flags -O - --header "secret: ${SHARED_SECRET:-}" "$ion__url" 2>&1) &&
            return 0 || ion__code=$?
        case $ion__code:$ion__answer in # GNU's 4: there was no connection, or no answer
        *'"statusCode"'*) ;; # it answered, whatever else is in its words
        *'error getting response'* | 4:*'No data received'* | 4:*reset*) return 3 ;;
        4:* | *refused*) return 2 ;;
        esac
        case $ion__answer in
        *'ERROR 410'* | *HTTP/1.?' 410'*) ion__over=410 ;;
        *'ERROR 400'* | *HTTP/1.?' 400'*) ion__over=400 ;;
        esac
        ion__answer=${ion__answer##*wget: }
    fi
    ion__words=$(printf %s "$ion__answer" | ION_MODE=message ion__strings -) || ion__words=
    ion__words="handler: GET $1: ${ion__words:-${ion__answer:-no message}}"
    return 1
}

ion__pause() { sleep 0.2 2>/dev/null || sleep 1; }

# ion__ready TRIES: ready, waiting for a handler that is not up so many times (5 a second). As ion__call.
ion__ready() {
    ion__tries=$1
    while :; do
        ion__call /ready && return 0 || ion__code=$?
        [ "$ion__code" -eq 2 ] && [ "$ion__tries" -gt 0 ] || return "$ion__code"
        ion__tries=$((ion__tries - 1))
        ion__pause
    done
}

ion_ready() {
    ion__ready "${ion__tries_at_first:-300}" || { ion__say "$ion__words" && return 1; }
}

ion_done() {
    ion__call /done || { ion__say "$ion__words" && return 1; }
}

# Fails, which ends the loop, when the handler says that there is no more, or is gone after it had answered; without
# `reuse: true` after the first event. When it refuses, fails or keeps hanging up the script ends, so that the
# attempt fails.
ion_next() {
    if [ -n "${ion__given:-}" ]; then
        ion_done || exit 1
        ion__ready 0 && return 0 || ion__code=$?
        for ion__again in 1 2 3 4 5; do
            [ "$ion__code" -eq 3 ] || break
            ion__pause
            ion__ready 0 && return 0 || ion__code=$?
        done
        case $ion__code$ion__over in 2 | 1410 | 1400) return 1 ;; esac
    else
        ion__given=1
        ion__ready "${ion__tries_at_first:-300}" && return 0 || ion__code=$?
        case $ion__code$ion__over in 1410) return 1 ;; esac
    fi
    ion__say "$ion__words"
    exit 1
}
