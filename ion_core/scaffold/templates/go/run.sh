#!/bin/sh
# What ion.yaml runs: in the image the built program, on a machine with Go the source as it is.
[ ! -x ./module ] || exec ./module
exec go run .
