#!/usr/bin/env bash
# A whole tool call, from the model's wish to read a file to its answer, in every protocol, against a server that
# others wrote: @copilotkit/aimock (npm, no dependencies, about 2 MB once). It wants the key in each protocol's own
# header, answers what no fixture names with an error, and answers the second request only if that request holds
# what the tool has read.
#   tests/peers/aimock.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
version=1.43.0 # the form of its fixtures changes
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}/aimock-$version
mkdir -p "$cache"
cache=$(realpath "$cache")
server=$cache/node_modules/.bin/llmock
if [ ! -x "$server" ]; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$cache" "@copilotkit/aimock@$version"
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
check() { # NAME PATH HEADER USAGE OPTION... : both requests must have gone to PATH with the key in HEADER alone
  local name=$1 path=$2 header=$3 usage=$4
  shift 4
  ask right "$@" >"$work/result" || fail "$name: $(cat "$work/result" "$work/error")"
  curl -fs -H "x-api-key: right" "$address/__aimock/journal?limit=1000" >"$work/journal"
  node - "$work/result" "$work/journal" "$path" "$header" "$usage" <<'JS' || fail "$name: $(cat "$work/result")"
const [result, journal] = process.argv.slice(2, 4).map((file) => JSON.parse(require("fs").readFileSync(file)));
const [path, header, usage] = process.argv.slice(4);
const same = require("assert").strictEqual;
same(result.status, "done");
same(result.answer, "It is about a shop in Ghent.");
same(result.tool_calls.length, 1);
same(result.tool_calls[0].status, "ok");
same(`${result.usage.input_tokens}+${result.usage.output_tokens}`, usage);
for (const request of journal.slice(-2)) {
  same(request.path, path);
  same(Object.keys(request.headers).filter((name) => /key|auth/.test(name)).join(), header);
}
JS
  echo "ok: $name: read called, its result understood, $path, $header"
}
# aimock counts no tokens where it is Ollama.
check ollama /api/chat authorization 0+0 --provider ollama --base-url "$address"
check openrouter /api/v1/chat/completions authorization 90+12 --provider openrouter --base-url "$address/api/v1"
check responses /v1/responses authorization 90+12 --provider openai --api-style responses --base-url "$address/v1"
check messages /v1/messages x-api-key 90+12 --provider anthropic --base-url "$address/v1"
check gemini "/v1beta/models/any:streamGenerateContent?alt=sse" x-goog-api-key 90+12 \
  --provider gemini --base-url "$address/v1beta"
# Without this, the key that the checks above have sent would prove nothing.
code=0
ask wrong --provider gemini --base-url "$address/v1beta" >"$work/result" || code=$?
[ "$code" = 3 ] && grep -q '"error":"401 ' "$work/result" || fail "wrong key: exit code $code, $(cat "$work/result")"
echo "ok: a wrong key is an error of the model, exit code 3"
