#!/usr/bin/env bash
# Counts the o200k tokens of the first request (system prompt and all tool schemas) with the package
# js-tiktoken from npm, which carries the vocabulary.
#   tests/peers/tokens.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}/tokens
mkdir -p "$cache"
[ -d "$cache/node_modules/js-tiktoken" ] || npm install --silent --prefix "$cache" js-tiktoken >/dev/null
work=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/home/project"
cd "$work/home/project"
HOME=$work/home "$program" --provider demo --record "$work/tape" -p "hi" >/dev/null 2>&1
cd "$cache"
node -e '
const { Tiktoken } = require("js-tiktoken/lite");
const encoder = new Tiktoken(require("js-tiktoken/ranks/o200k_base"));
const first = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8").split("\n")[0]).request;
const count = (value) => encoder.encode(typeof value === "string" ? value : JSON.stringify(value)).length;
const system = count(first.messages[0].text);
const tools = count(first.tools.map((tool) => ({ type: "function", function: tool })));
console.log(`system prompt ${system}, ${first.tools.length} tools ${tools}, together ${system + tools} tokens`);
if (system + tools > 2000) process.exit(1);
' "$work/tape"
