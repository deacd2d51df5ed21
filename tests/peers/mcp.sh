#!/usr/bin/env bash
# MCP servers that others wrote, each called by a scripted model: the protocol's own reference server (npm,
# 40 MB once), as a program in a cell and over streamable HTTP.
#   tests/peers/mcp.sh target/release/zerostack
set -euo pipefail
program=$(realpath "$1")
here=$(realpath "$(dirname "$0")")
version=2026.8.31 # what its tools say changes
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}/mcp-$version
mkdir -p "$cache"
cache=$(realpath "$cache")
server=$cache/node_modules/@modelcontextprotocol/server-everything/dist/index.js
if [ ! -e "$server" ]; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$cache" \
    "@modelcontextprotocol/server-everything@$version"
fi
work=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
fail() { echo "failed: $1" >&2; cat "$work/error" >&2 || true; exit 1; }
mkdir -p "$work/home/.config/zerostack" "$work/project"
chmod 700 "$work/home/.config/zerostack"
# A model that calls a tool of each, then says what came of it.
node "$here/mcp.js" >"$work/model" &
pids+=($!)
port=$((20000 + RANDOM % 20000))
PORT=$port node "$server" streamableHttp >"$work/web" 2>&1 &
pids+=($!)
for _ in $(seq 100); do
  [ -s "$work/model" ] && curl -s -o "$work/up" "http://127.0.0.1:$port/mcp" && break
  sleep 0.1
done
cat >"$work/home/.config/zerostack/config.toml" <<TOML
[mcp_servers.cell]
command = "node"
args = ["$server", "stdio"]
paths = ["$cache"]
[mcp_servers.web]
url = "http://127.0.0.1:$port/mcp"
TOML
cd "$work/project"
HOME=$work/home OPENAI_API_KEY=none timeout 60 "$program" --provider openai --model any \
  --base-url "$(cat "$work/model")" --allow 'mcp__*' --output-format json -p "go" \
  >"$work/result" 2>"$work/error" || fail "$(cat "$work/result")"
node - "$work/result" <<'JS' || fail "$(cat "$work/result")"
const result = JSON.parse(require("fs").readFileSync(process.argv[2]));
const same = require("assert").strictEqual;
const of = (name) => result.tool_calls.find((call) => call.name === name);
for (const server of ["cell", "web"]) {
  same(of(`mcp__${server}__echo`).output, "Echo: hello");
  same(of(`mcp__${server}__get-sum`).output, "The sum of 2 and 3 is 5.");
}
// In its cell it sees no key.
same(of("mcp__cell__get-env").output.includes("OPENAI_API_KEY"), false);
same(result.status, "done");
JS
echo "ok: the reference server, in a cell and over HTTP: offered, called, understood"
