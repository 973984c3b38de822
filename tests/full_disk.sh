#!/usr/bin/env bash
# A disk that fills up under an appender, on small filesystems of its own. Usage: full_disk.sh [LOGD]
#
# Checked on ext4, xfs and tmpfs, for --sync batch and 1s:
#   - the append ends with 74, not with less and not by a signal;
#   - what it acknowledged (-T), what it spilled (--spill, elsewhere) and what it left unread are
#     together the input, byte for byte, and the log holds exactly the acknowledged part;
#   - cat works on the full disk and on a read-only mount;
#   - --on-full wait sits it out: once there is room, everything is written and it ends with 0;
#   - split and merge --to end with 74 and leave nothing, and work once there is room.
# The same, but for the mounts, with a limit on the size of a file (ulimit -f) in place of a full disk.
# Needs root and loop devices; without them it is skipped, and says so.
set -uo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
logd=${1:-${CARGO_TARGET_DIR:-$repo/target}/release/logd}
[ -x "$logd" ] || { echo "full_disk: no $logd; cargo build --release first" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "full_disk: SKIPPED: not root"; exit 0; }

# Mounts made from here on are seen by nobody else and go with this process.
if [ -z "${FULL_DISK_PRIVATE:-}" ]; then
  unshare -m true 2>/dev/null || { echo "full_disk: SKIPPED: no mount namespace"; exit 0; }
  FULL_DISK_PRIVATE=1 exec unshare -m bash "$0" "$logd"
fi
scratch=$(mktemp -d) || exit 2
trap 'umount "$scratch"/*/fs 2>/dev/null; rm -rf "$scratch"' EXIT
failed=0
smallfs() { python3 "$repo/tests/faults/smallfs.py" "$@"; }

# expect WHAT COMMAND...: one check.
expect() {
  local what=$1; shift
  "$@" >"$scratch/said" 2>&1 && return
  echo "full_disk: $name: FAILED: $what"; head -n3 "$scratch/said"; failed=1
}
same() { cmp "$1" "$2"; }
has_status() { [ "$1" = "$2" ] || { echo "status $1, not $2"; cat "$w/err"; false; }; }

# overflow [KIB]: appends until there is no room, or a file has this size, in the $log, $w, $policy and
# $name of the caller.
overflow() {
  {
    (ulimit -S -f "${1:-unlimited}"; exec "$logd" append --sync "$policy" -T --spill "$w/spill" "$log") >"$w/acked" 2>"$w/err"
    expect "no room: exit 74" has_status $? 74
    cat >"$w/unread"
  } <"$scratch/input"
  cat "$w/spill" "$w/unread" >"$w/rest"
  cat "$w/acked" "$w/rest" >"$w/all"
  expect "acknowledged, spilled and unread are the input" same "$w/all" "$scratch/input"
  expect "something was acknowledged" test -s "$w/acked"
  "$logd" cat "$log" >"$w/read" 2>"$w/err"
  expect "cat without room" has_status $? 0
  expect "the log is what was acknowledged" same "$w/read" "$w/acked"
}

# limited POLICY: files may not grow past 4 MiB, and the segment wants to.
limited() {
  local policy=$1 name=limit-$1 w=$scratch/limit-$1 log=$scratch/limit-$1/x-0
  mkdir "$w"
  "$logd" init --segment-size 1GiB "$log" || { failed=1; return; }
  overflow 4096
  "$logd" append --sync "$policy" "$log" <"$w/rest" 2>"$w/err"
  expect "append without the limit" has_status $? 0
  "$logd" cat "$log" >"$w/read" 2>"$w/err"
  expect "the log is the input" same "$w/read" "$scratch/input"
}

# under NAME WORK POLICY: all checks on the filesystem mounted on WORK/fs.
under() {
  local name=$1 w=$2 policy=$3 log=$2/fs/x-0 waiter
  "$logd" init --segment-size 1MiB "$log" || { failed=1; return; }
  smallfs fill "$w/fs" 3M >/dev/null
  overflow
  [ "$name" = "tmpfs-$policy" ] || {
    smallfs ro "$w/fs"
    expect "cat on a read-only mount" "$logd" cat "$log"
    smallfs rw "$w/fs"
  }
  "$logd" append --sync "$policy" --on-full wait "$log" <"$w/rest" 2>"$w/err" &
  waiter=$!
  sleep 1
  expect "--on-full wait waits" kill -0 $waiter
  smallfs unfill "$w/fs"
  wait $waiter
  expect "--on-full wait ends well once there is room" has_status $? 0
  expect "cat at the end" "$logd" cat "$log"
  "$logd" cat "$log" >"$w/read" 2>"$w/err"
  expect "the log is the input" same "$w/read" "$scratch/input"
}

# parts NAME WORK: split and merge on the filesystem mounted on WORK/fs, which has no room for the result.
parts() {
  local name=$1-parts w=$2 log=$2/fs/y mode
  "$logd" init --segment-size 1MiB --partitions 2 "$log" || { failed=1; return; }
  "$logd" append --sync never "$log" <"$scratch/input" 2>"$w/err"
  ls -A "$w/fs" | grep -v '^.ballast$' >"$w/before"
  for mode in "split --partitions 3" "split --max-records 7000" "merge --to $w/fs/z"; do
    smallfs fill "$w/fs" 1M >/dev/null
    case $mode in
      split*) "$logd" $mode "$log" "$w/fs/z" >"$w/out" 2>"$w/err" ;;
      *) "$logd" $mode "$log" >"$w/out" 2>"$w/err" ;;
    esac
    expect "$mode without room: exit 74" has_status $? 74
    smallfs unfill "$w/fs"
    ls -A "$w/fs" | grep -v '^.ballast$' >"$w/after"
    expect "$mode without room: nothing is left" same "$w/before" "$w/after"
  done
  "$logd" split --partitions 3 "$log" "$w/fs/z" 2>"$w/err"
  expect "split with room" has_status $? 0
  "$logd" cat "$w/fs/z" 2>"$w/err" | sort >"$w/read"
  expect "the parts are the input" same "$w/read" <(sort "$scratch/input")
}

seq -f 'record %.0f of those that fill the disk, which takes a few megabytes of them' 100000 >"$scratch/input"
for policy in batch 1s; do limited $policy; done
for kind in ext4:64M xfs:320M tmpfs:64M; do
  for policy in batch 1s; do
    work=$scratch/${kind%:*}-$policy
    mkdir -p "$work"
    smallfs mk "$work/fs" "${kind#*:}" "${kind%:*}" 2>"$scratch/why" \
      || { echo "full_disk: ${kind%:*}: SKIPPED: $(tail -n1 "$scratch/why")"; continue; }
    under "${kind%:*}-$policy" "$work" "$policy"
    [ "$policy" = 1s ] || parts "${kind%:*}" "$work"
    smallfs rm "$work/fs"
  done
done
[ $failed -eq 0 ] && echo "full_disk: ok"
exit $failed
