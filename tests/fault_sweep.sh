#!/usr/bin/env bash
# Fails every system call of the commands that write indexes and reader positions, one at a time, and
# fills the disk under them. Usage: fault_sweep.sh [LOGD]
#
#   FAULT_CALLS  calls of one kind that are failed in one command   (12; by hand 1000, some minutes)
#
# 1. sweep: index, cat -g, groups commit, seek and reset, by strace (tests/faults/faultsweep.py).
# 2. full: the same commands on a filesystem without room: 74 and everything as it was, or done; with
#    room again they work.
# Without strace, and without root or loop devices for 2, that part is skipped, and it says so.
set -uo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
logd=${1:-${CARGO_TARGET_DIR:-$repo/target}/release/logd}
[ -x "$logd" ] || { echo "fault_sweep: no $logd; cargo build --release first" >&2; exit 2; }
if [ "$(id -u)" = 0 ] && [ -z "${FAULTS_PRIVATE:-}" ] && unshare -m true 2>/dev/null; then
  FAULTS_PRIVATE=1 exec unshare -m bash "$0" "$logd"
fi
scratch=$(mktemp -d) || exit 2
trap 'umount "$scratch"/*/fs 2>/dev/null; rm -rf "$scratch"' EXIT
failed=0
export LOGD_CONFIG=/dev/null

sweep() {
  command -v strace >/dev/null || { echo "fault_sweep: sweep: SKIPPED: no strace"; return; }
  strace -o /dev/null true 2>/dev/null || { echo "fault_sweep: sweep: SKIPPED: strace may not trace here"; return; }
  mkdir "$scratch/sweep"
  if python3 "$repo/tests/faults/faultsweep.py" --calls "${FAULT_CALLS:-12}" "$logd" "$scratch/sweep" >"$scratch/out" 2>&1
  then echo "fault_sweep: sweep: $(tail -n1 "$scratch/out")"
  else echo "fault_sweep: sweep: FAILED"; tail -n5 "$scratch/out"; failed=1
  fi
}

# expect WHAT COMMAND...: one check.
expect() {
  local what=$1; shift
  "$@" >"$scratch/said" 2>&1 && return
  echo "fault_sweep: $kind: FAILED: $what"; head -n3 "$scratch/said"; failed=1
}
# status CODE... -- COMMAND...: whether it ends with one of these.
status() {
  local codes=() code
  while [ "$1" != -- ]; do codes+=("$1"); shift; done
  shift
  "$@"; code=$?
  case " ${codes[*]} " in *" $code "*) ;; *) echo "status $code"; false;; esac
}
answers() { for k in 1 77 399; do "$logd" get -k k$k "$log"; done; "$logd" grep -c 'line 5' "$log"; }
same() { [ "$("$@" 2>&1)" = "$want" ]; }

full() {
  local kind=$1 w=$scratch/$1 log=$scratch/$1/fs/x-0 want at
  [ "${FAULTS_PRIVATE:-}" ] || { echo "fault_sweep: full disk: SKIPPED: not root, or no mount namespace"; return; }
  mkdir "$w"
  python3 "$repo/tests/faults/smallfs.py" mk "$w/fs" "$2" "$kind" 2>"$scratch/why" \
    || { echo "fault_sweep: $kind: SKIPPED: $(tail -n1 "$scratch/why")"; return; }
  "$logd" init --segment-size 256KiB "$log"
  seq 30000 | sed 's/.*/k&\tline & of many/' | "$logd" append -K '\t' "$log"
  "$logd" cat -g g -n 100 "$log" >/dev/null
  "$logd" cat -g m --no-commit -n 100 "$log" >/dev/null
  want=$(answers)
  python3 "$repo/tests/faults/smallfs.py" fill "$w/fs" 0 >/dev/null
  expect "index without room" status 74 -- "$logd" index --by key --bloom "$log"
  expect "answers without room" same answers
  # A position may still have room in a block that its name has already.
  for at in "groups seek $log g 200" "groups commit $log m" "cat -g g $log" "groups reset $log g"; do
    expect "$at" status 0 74 -- "$logd" $at
    expect "positions after $at" status 0 -- "$logd" groups ls "$log"
  done
  python3 "$repo/tests/faults/smallfs.py" unfill "$w/fs"
  expect "index with room" status 0 -- "$logd" index --by key --bloom "$log"
  expect "answers with room" same answers
  expect "cat -g with room" status 0 -- "$logd" cat -g m "$log"
  expect "verify" status 0 -- "$logd" verify "$log"
  "$logd" index --drop "$log"
  "$logd" index --by key "$log"
  python3 "$repo/tests/faults/smallfs.py" fill "$w/fs" 0 >/dev/null
  expect "rebuild without room" status 74 -- "$logd" index --rebuild --by key "$log"
  want=$(ls "$log/.logd/keys")
  "$logd" index --list "$log" >"$scratch/list"
  expect "the indexes that were there are sound" grep -qv void "$scratch/list"
  python3 "$repo/tests/faults/smallfs.py" rm "$w/fs"
  echo "fault_sweep: full disk on $kind: done"
}

sweep
full ext4 64M
full xfs 320M
[ $failed -eq 0 ] && echo "fault_sweep: ok"
exit $failed
