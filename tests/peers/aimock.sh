#!/usr/bin/env bash
# A whole tool call, from the model's wish to read a file to its answer, in every protocol, against a server that
# others wrote: @copilotkit/aimock (npm, no dependencies, about 3 MB, once). It wants the key in each protocol's own
# header, answers what no fixture names with an error, and answers the second request only if that request holds
# what the tool has read.
#   tests/peers/aimock.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
version=1.43.0 # fixtures change with it
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}
mkdir -p "$cache/aimock"
cache=$(realpath "$cache")
server=$cache/aimock/node_modules/.bin/llmock
if [ ! -x "$server" ]; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$cache/aimock" "@copilotkit/aimock@$version"
fi
work=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
pid=
trap '[ -z "$pid" ] || { kill "$pid" && wait "$pid"; } || true; rm -rf "$work"' EXIT
fail() { echo "failed: $1" >&2; tail -n 20 "$work/log" >&2 || true; exit 1; }
mkdir "$work/home" "$work/project"
echo "# A cake shop" >"$work/project/README.md"
cat >"$work/fixtures.json" <<'JSON'
{"fixtures": [
  {"match": {"userMessage": "README", "toolName": "read", "hasToolResult": false},
   "response": {"toolCalls": [{"name": "read", "arguments": {"path": "README.md"}}],
                "usage": {"prompt_tokens": 40, "completion_tokens": 5}}},
  {"match": {"hasToolResult": true, "toolResultContains": "# A cake shop"},
   "response": {"content": "It is about a shop in Ghent.", "usage": {"prompt_tokens": 50, "completion_tokens": 7}}}
]}
JSON
AIMOCK_API_KEYS=right HOME=$work/home "$server" --host 127.0.0.1 --port 0 --strict --validate-on-load \
  --fixtures "$work/fixtures.json" >"$work/log" 2>&1 &
pid=$!
address=
for _ in $(seq 100); do
  address=$(grep -om1 'http://127\.0\.0\.1:[0-9]*' "$work/log") && break
  sleep 0.1
done
[ -n "$address" ] || fail "aimock did not start"
cd "$work/project"
ask() { # KEY OPTION...
  local key=$1
  shift
  HOME=$work/home timeout 60 "$program" --api-key "$key" --model any --output-format json "$@" \
    -p "What is in README.md?" 2>"$work/error"
}
check() { # NAME PATH USAGE OPTION... : PATH is where both requests must have gone
  local name=$1 path=$2 usage=$3
  shift 3
  ask right "$@" >"$work/result" || fail "$name: $(cat "$work/result" "$work/error")"
  curl -fs -H "x-api-key: right" "$address/__aimock/journal?limit=1000" >"$work/journal"
  node - "$work/result" "$work/journal" "$path" "$usage" <<'JS' || fail "$name: $(cat "$work/result")"
const [result, journal] = process.argv.slice(2, 4).map((file) => JSON.parse(require("fs").readFileSync(file)));
const [path, usage] = process.argv.slice(4);
const same = require("assert").strictEqual;
same(result.status, "done");
same(result.answer, "It is about a shop in Ghent.");
same(result.tool_calls.length, 1);
same(result.tool_calls[0].status, "ok");
same(`${result.usage.input_tokens}+${result.usage.output_tokens}`, usage);
same(journal.slice(-2).map((request) => request.path).join(" "), `${path} ${path}`);
JS
  echo "ok: $name: read called, its result understood, $path"
}
