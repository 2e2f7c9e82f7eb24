#!/usr/bin/env bash
# Sourced by each peer's `start`, which is given a folder of its own in $RUN. What it launches is written to $RUN/pids
# ("GROUP PID" lines) and ended by benches/beside.
set -euo pipefail
# shellcheck disable=SC2034 # for those who source this
HERE=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

# launch GROUP LOG COMMAND...
launch() {
  local group=$1 log=$2
  shift 2
  setsid "$@" >"$RUN/$log" 2>&1 </dev/null &
  echo "$group $!" >>"$RUN/pids"
}

# wait_for_port PORT
wait_for_port() {
  local deadline=$((SECONDS + 20))
  until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
    [ $SECONDS -lt $deadline ] || { echo "$RUN: nothing listens on port $1 after 20 s" >&2; exit 1; }
    sleep 0.1
  done
}
