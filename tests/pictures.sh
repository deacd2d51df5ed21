#!/usr/bin/env bash
# Takes the pictures of the README anew, of the program as it is now.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p docs/pictures
ZS_PICTURES=$PWD/docs/pictures cargo test --quiet --test it pictures::
