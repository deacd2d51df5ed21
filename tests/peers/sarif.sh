#!/usr/bin/env bash
# Checks that the findings of a security review are a SARIF 2.1.0 log: the compiler checks the output against the
# published types of the format (npm: @types/sarif, typescript; about 5 MB), which it can also refuse.
#   tests/peers/sarif.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}/sarif
mkdir -p "$cache"
[ -d "$cache/node_modules/@types/sarif" ] || npm install --silent --prefix "$cache" typescript@5 @types/sarif >/dev/null
work=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/home/project"
findings='[{\"title\":\"Injection\",\"severity\":\"critical\",\"file\":\"src/a b.rs\",\"line\":3,\"description\":\"d\",\"exploit\":\"e\",\"fix\":\"f\",\"cwe\":\"CWE-78\"},{\"title\":\"Weak\",\"severity\":\"low\",\"file\":\"b.rs\",\"description\":\"d\"}]'
usage='"usage":{"input_tokens":1,"output_tokens":1,"cached_tokens":0}'
cat >"$work/tape" <<TAPE
{"request":{"model":"m","messages":[{"role":"system","text":""},{"role":"user","text":""}],"tools":[]},"answer":{"Ok":{"text":"Looked.\n\`\`\`findings\n$findings\n\`\`\`","calls":[],$usage}}}
TAPE
cd "$work/home/project"
HOME=$work/home "$program" --load-prompt review-security --output-format sarif --replay "$work/tape" -p "audit" \
  >"$work/log.json" 2>/dev/null
check() {
  { echo 'import type { Log } from "sarif";'; echo "export const log: Log = $(cat "$1");"; } >"$cache/check.ts"
  (cd "$cache" && npx tsc --noEmit --strict --skipLibCheck --types sarif check.ts)
}
check "$work/log.json"
sed 's/"level": "error"/"level": "dreadful"/' "$work/log.json" >"$work/wrong.json"
if check "$work/wrong.json" >/dev/null; then echo "a wrong level was not refused" >&2; exit 1; fi
echo "ok: the log is SARIF 2.1.0"
