#!/usr/bin/env bash
# From an answer that somebody passed on to a chat: deploy.sh REPORT PORT OPTIONS OF THE REQUEST...
set -euo pipefail
report=$1 port=$2
shift 2

key=$(autotune cache key "$@")
imported=$(autotune cache import "$report")
test "$imported" = "$key" || { echo "the answer is for $imported, not for $key" >&2; exit 1; }

# Exit code 5 where the answer does not hold on this machine now.
answer=$(mktemp)
autotune tune --cached-only --json "$@" > "$answer"
test "$(jq -r '.status, .cache.hit, .launches' "$answer" | paste -sd ' ')" = "stable true 0"

start=$(mktemp)
autotune render "$answer" -- --host 127.0.0.1 --port "$port" > "$start"
set -m # a group of its own, to be stopped as a whole
bash "$start" > "$answer.log" 2>&1 &
server=$!
trap 'kill -- "-$server"; wait "$server" || true' EXIT
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health"; do
  kill -0 "$server" || { cat "$answer.log" >&2; exit 1; }
  sleep 0.2
done

model=$(curl --silent --fail "http://127.0.0.1:$port/v1/models" | jq -r '.data[0].id')
jq -n --arg model "$model" \
  '{model: $model, max_tokens: 8, messages: [{role: "user", content: "Is anybody there?"}]}' |
  curl --silent --fail -H 'Content-Type: application/json' --data @- \
    "http://127.0.0.1:$port/v1/chat/completions" | jq -c '.choices[0].message'
