#!/usr/bin/env bash
# The terminal UI beside those of other agents, in one run on this machine: pi, Claude Code and Codex from npm (about
# 1 GB once), each set up for a server on loopback that answers with 20,000 pieces. By hand, it is not part of CI.
#   tests/peers/terminal.sh [--quick]
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${PEERS_CACHE:-/var/tmp/zerostack-peers}/terminal
mkdir -p "$cache"
cache=$(realpath "$cache")
port=8399
url=http://127.0.0.1:$port
modules=$cache/node_modules
if [ ! -d "$modules/@openai/codex" ]; then
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$cache" \
    @mariozechner/pi-coding-agent @anthropic-ai/claude-code @openai/codex
fi
home=$(mktemp -d /var/tmp/zerostack-peer.XXXXXX)
trap 'rm -rf "$home"' EXIT
mkdir -p "$home/project" "$home/.pi/agent" "$home/.codex"
git -C "$home/project" init -q
cat >"$home/.pi/agent/models.json" <<JSON
{"providers": {"fake": {"baseUrl": "$url/v1", "api": "openai-completions", "apiKey": "x", "models": [
  {"id": "m", "name": "m", "reasoning": false, "input": ["text"], "contextWindow": 128000, "maxTokens": 64000,
   "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}}]}}}
JSON
cat >"$home/.claude.json" <<JSON
{"hasCompletedOnboarding": true, "theme": "dark", "bypassPermissionsModeAccepted": true,
 "customApiKeyResponses": {"approved": ["0123456789abcdefghij"], "rejected": []},
 "projects": {"$home/project": {"hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true}}}
JSON
cat >"$home/.codex/config.toml" <<TOML
model_provider = "fake"
check_for_update_on_startup = false
[model_providers.fake]
name = "fake"
base_url = "$url/v1"
wire_api = "responses"
supports_websockets = false
[projects."$home/project"]
trust_level = "trusted"
TOML
codex=$(find "$modules/@openai" -name codex -type f -size +50M | head -1)
claude=$(find "$modules/@anthropic-ai" -type f -size +50M | head -1)
cat >"$home/agents" <<LINES
pi PI_OFFLINE=1 $(command -v node) $modules/@mariozechner/pi-coding-agent/dist/cli.js --provider fake --model m
claude ANTHROPIC_BASE_URL=$url ANTHROPIC_API_KEY=0123456789abcdefghij CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 IS_SANDBOX=1 $claude --dangerously-skip-permissions
codex RUST_LOG=off $codex --no-daemon --dangerously-bypass-approvals-and-sandbox
LINES
cargo bench --bench terminal -- "$@" --home "$home" --port $port --beside "$home/agents"
