#!/usr/bin/env bash
# Gemini's own format against a server that others wrote: LiteLLM's proxy (PyPI: litellm[proxy]; about 180 MB once,
# 760 MB on disk). What is behind it must not leave the machine: first its own mock, then a tool call that
# @copilotkit/aimock asks for (npm, about 2 MB), which LiteLLM translates to and from Gemini's format in its own way.
#   tests/peers/litellm.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
version=1.108.7
mock_version=1.43.0
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}
mkdir -p "$cache/aimock-$mock_version"
cache=$(realpath "$cache")
python=$cache/litellm-$version
mock=$cache/aimock-$mock_version/node_modules/.bin/llmock
if [ ! -x "$python/bin/litellm" ]; then
  python3 -m venv "$python"
  "$python/bin/pip" install -q "litellm[proxy]==$version"
fi
if [ ! -x "$mock" ]; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$cache/aimock-$mock_version" \
    "@copilotkit/aimock@$mock_version"
fi
work=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" && wait "$pid" || true; done; rm -rf "$work"' EXIT
fail() { echo "failed: $1" >&2; tail -n 20 "$work"/*.log >&2 || true; exit 1; }
listening() { # LOG : the address that a server says it is at; both pick a free port
  for _ in $(seq 600); do
    grep -om1 'http://127\.0\.0\.1:[0-9]*' "$1" && return
    sleep 0.1
  done
}
mkdir "$work/home" "$work/project"
export HOME=$work/home
echo "# A cake shop" >"$work/project/README.md"
cat >"$work/fixtures.json" <<'JSON'
{"fixtures": [
  {"match": {"userMessage": "README", "toolName": "read", "hasToolResult": false},
   "response": {"toolCalls": [{"name": "read", "arguments": {"path": "README.md"}}]}},
  {"match": {"hasToolResult": true, "toolResultContains": "# A cake shop"},
   "response": {"content": "It is about a shop in Ghent."}}
]}
JSON
"$mock" --host 127.0.0.1 --port 0 --strict --fixtures "$work/fixtures.json" >"$work/mock.log" 2>&1 &
pids+=($!)
behind=$(listening "$work/mock.log")
cat >"$work/config.yaml" <<YAML
model_list:
  - model_name: words
    litellm_params: {model: openai/any, api_key: none, api_base: "$behind/v1", mock_response: "A shop in Ghent."}
  - model_name: tool
    litellm_params: {model: openai/any, api_key: none, api_base: "$behind/v1"}
YAML
# It will not start without a key, which must come in Gemini's header. It would fetch a list of prices, and whatever
# else it may want from outside ends at a port where nobody is.
key=sk-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
LITELLM_MASTER_KEY=$key LITELLM_LOCAL_MODEL_COST_MAP=True NO_PROXY=127.0.0.1 HTTP_PROXY=http://127.0.0.1:9 \
  HTTPS_PROXY=http://127.0.0.1:9 "$python/bin/litellm" --config "$work/config.yaml" --host 127.0.0.1 --port 0 \
  >"$work/litellm.log" 2>&1 &
pids+=($!)
address=$(listening "$work/litellm.log")
[ -n "$behind" ] && [ -n "$address" ] || fail "a server did not start"
cd "$work/project"
check() { # MODEL EXPECTED : the answer, and what became of the tools
  GEMINI_API_KEY=$key timeout 60 "$program" --provider gemini --base-url "$address/v1beta" --model "$1" \
    --output-format json -p "What is in README.md?" >"$work/result" 2>"$work/error.log" \
    || fail "$1: $(cat "$work/result")"
  python3 - "$work/result" "$2" <<'PYTHON' || fail "$1: $(cat "$work/result")"
import json, sys
result = json.load(open(sys.argv[1]))
assert result["status"] == "done" and result["usage"]["input_tokens"] and result["usage"]["output_tokens"]
assert "; ".join([call["status"] for call in result["tool_calls"]] + [result["answer"]]) == sys.argv[2]
PYTHON
  echo "ok: gemini by LiteLLM, $1: $2"
}
check words "A shop in Ghent."
check tool "ok; It is about a shop in Ghent."
grep -q 'POST /v1beta/models/tool.*streamGenerateContent' "$work/litellm.log" || fail "the path is not Gemini's"
