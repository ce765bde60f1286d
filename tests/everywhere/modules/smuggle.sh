#!/bin/sh
# Leaves what is no file, which is refused.
set -eu
base=${HANDLER_BASE_DIR:-/ion}
mkdir -p "$base/out/data/deep"
ln -s /etc/passwd "$base/out/data/deep/link"
