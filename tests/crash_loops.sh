#!/usr/bin/env bash
# kill -9 and power cuts against acknowledged records. Usage: crash_loops.sh [LOGD]
#
#   KILL_ROUNDS  rounds of SIGKILL to three appenders and two followers   (60; by hand 1000)
#   CARE_ROUNDS  rounds of SIGKILL to compact, retain, redact, repair, index (25; by hand 300)
#   CUT_ROUNDS   rounds with a power cut, on ext4 and on xfs each          (10; by hand 100)
#   LIVE_ROUNDS  rounds of appends beside compact and retain, killed       (100; by hand 500)
#   FAILOVER_ROUNDS  rounds of fail-over to a copy and back                (12; by hand 60)
#   SEED         for the times and sizes                                   (now)
#
# The long form, before a release:
#   KILL_ROUNDS=1000 CARE_ROUNDS=300 CUT_ROUNDS=100 LIVE_ROUNDS=500 FAILOVER_ROUNDS=60 \
#     tests/crash_loops.sh
#
# 1. kill: half of the rounds under --sync batch, half under never, which outlives a killed process.
# 2. care: the commands that look after a log, killed at random beside appenders (faults/careloop.py).
# 3. live: three appenders and three followers beside compact and retain in a loop (tests/live.rs).
# 4. failover: the primary is killed under load, its copy promoted, and comes back as a copy
#    (faults/failover.py).
# 5. groups, cut-FS-groups: readers with positions, and indexes being made, killed and cut (--groups).
# 6. cut, care-cut: the power goes under appenders alone, and under appenders and maintenance, on both
#    filesystems.
# 7. The counter-checks: the same loops with appenders under --sync never, and with every sync made to
#    do nothing (faults/nosync.c), must catch a loss, or they prove nothing.
# Power cuts need root and loop devices; without them they are skipped, and it says so.
set -uo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
appends=crashloop.py care=careloop.py
logd=${1:-${CARGO_TARGET_DIR:-$repo/target}/release/logd}
seed=(${SEED:+--seed "$SEED"})
[ -x "$logd" ] || { echo "crash_loops: no $logd; cargo build --release first" >&2; exit 2; }
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
failed=0

# stage NAME LOOP ARGS...: one loop in a directory of its own; only its last lines are shown.
stage() {
  local name=$1 work=$scratch/$1 loop=$2; shift 2
  mkdir -p "$work"
  if python3 "$repo/tests/faults/$loop" "${seed[@]}" "$@" "$logd" "$work" >"$scratch/out" 2>&1; then
    echo "crash_loops: $name: $(grep -E '^(PASS|LOST|WRONG)' "$scratch/out" | tail -n1) ($(grep -m1 seed "$scratch/out"))"
  else
    echo "crash_loops: $name: FAILED"; tail -n5 "$scratch/out"; failed=1
  fi
  rm -rf "$work" "$work".*
}

# Why this filesystem cannot be cut here, or nothing.
obstacle() {
  local probe=$scratch/probe
  [ "$(id -u)" = 0 ] || { echo "not root"; return; }
  command -v "mkfs.$1" >/dev/null || { echo "no mkfs.$1"; return; }
  if unshare -m python3 "$repo/tests/faults/smallfs.py" mk "$probe" 400M "$1" 2>"$scratch/why"; then :
  else tail -n1 "$scratch/why"; fi
  rm -rf "$probe" "$probe".*
}

stage kill $appends --rounds "${KILL_ROUNDS:-60}" --sync batch,never
stage groups $appends --groups --rounds "${KILL_ROUNDS:-60}" --sync batch,never
stage care $care --rounds "${CARE_ROUNDS:-25}" --fresh 5
if (cd "$repo" && LOGD_LIVE_ROUNDS="${LIVE_ROUNDS:-100}" LOGD_SEED="${SEED:-$(date +%s)}" cargo test -q --test live -- --nocapture) >"$scratch/out" 2>&1
then echo "crash_loops: live: $(grep -m1 rounds: "$scratch/out")"
else echo "crash_loops: live: FAILED"; tail -n20 "$scratch/out"; failed=1
fi
stage failover failover.py --rounds "${FAILOVER_ROUNDS:-12}"
nosync=$scratch/nosync
cc -O2 -o "$nosync" "$repo/tests/faults/nosync.c" 2>"$scratch/out" || nosync=
for fs in ext4 xfs; do
  why=$(obstacle $fs)
  [ -z "$why" ] || { echo "crash_loops: cut-$fs: SKIPPED: $why"; continue; }
  stage "cut-$fs" $appends --cut $fs --rounds "${CUT_ROUNDS:-10}" --sync batch
  stage "cut-$fs-groups" $appends --cut $fs --groups --rounds "${CUT_ROUNDS:-10}" --sync never --fresh 1
  stage "cut-$fs-must-lose" $appends --cut $fs --rounds 5 --sync never --expect-loss
  stage "care-cut-$fs" $care --cut $fs --rounds "${CUT_ROUNDS:-10}" --fresh 5
  [ -n "$nosync" ] || { echo "crash_loops: care-cut-$fs-must-lose: SKIPPED: no cc: $(tail -n1 "$scratch/out")"; continue; }
  stage "cut-$fs-groups-must-lose" $appends --cut $fs --groups --rounds 5 --sync never --fresh 1 --no-sync "$nosync" --expect-loss
  stage "care-cut-$fs-must-lose" $care --cut $fs --rounds 20 --no-sync "$nosync" all --expect-loss
done
exit $failed
