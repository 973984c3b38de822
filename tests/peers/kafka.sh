#!/usr/bin/env bash
# A Kafka broker and its tools for tests; loopback only, one node that is broker and controller.
#
#   kafka.sh dump [--data|--indexes] FILE...   kafka-dump-log: batches and records (--data: with keys
#                                              and values; --indexes: sanity check against the log)
#   kafka.sh start DATADIR [PORT]              start on log.dirs=DATADIR, wait until it answers
#   kafka.sh port DATADIR                      its port (a free one unless given at the first start)
#   kafka.sh stop|kill DATADIR                 clean stop (leaves .kafka_cleanshutdown) | SIGKILL
#   kafka.sh create DATADIR TOPIC [NAME=VALUE...]   one partition, topic settings as given
#   kafka.sh adopt [--unclean] LOGDIR TOPIC DATADIR   see below; topic known, broker stopped
#   kafka.sh log DATADIR                       what the broker said since its last start
#   kafka.sh verdicts DATADIR [TOPIC]          its lines that tell of recovery, rebuilding, damage;
#                                              none: it took every file as it found it
#
# Settings, log and pid of the broker lie beside DATADIR, in DATADIR.broker, and so does the
# metadata log of KRaft: DATADIR holds partitions and Kafka's own checkpoints, nothing else.
#
# How a KRaft broker comes to open a directory it did not write (found by trying, Kafka 3.9.1)
#
# At start the broker asks of every directory in log.dirs whether the cluster knows it. The answer
# hangs on partition.metadata alone: no such file, or a topic_id the metadata log does not hold,
# and the directory is loaded, called a stray and renamed to NAME.<32 hex digits>-stray; if the
# topic does exist, a new and empty NAME is made in its place. The name of the topic is not enough.
# So: (1) create the topic on the running broker; (2) stop the broker; (3) put our files into
# TOPIC-0 in place of its own, keeping its partition.metadata; (4) start. That is `adopt`.
# A subdirectory such as .logd, and what lies in it, is not looked at.
#
# What the broker then does hangs on .kafka_cleanshutdown in DATADIR:
#
#   there      No file of the log is checked. A missing .index is rebuilt and said ("Could not find
#              offset index file ..., recovering segment and rebuilding index files"); a missing
#              .timeindex becomes an empty one without a word; an index of wrong content or of a
#              size that is no multiple of an entry is taken as it is, a torn tail too. Silence
#              here proves that the files are there; that they are right, `dump --indexes` shows.
#   missing    "Recovering N logs from DATADIR since no clean shutdown file was found", then
#              "Recovering unflushed segment BASE. I/N recovered" for each segment that ends above
#              the topic's line in recovery-point-offset-checkpoint (no line: all) and always for
#              the active one: its indexes are rebuilt, a bad tail cut ("Corruption found in segment
#              BASE, truncating to offset N"). What it rebuilds has the bytes of a right index, so
#              equal bytes before and after are the stronger test of ours. Segments below the
#              recovery point keep index files untouched, mtime included.
#
# Leader epochs go up by two with every start (the partition goes offline and comes back), so
# what the broker appends has a higher epoch than ours, and leader-epoch-checkpoint says so. A
# checkpoint of ours that is ahead of the broker loses those entries ("New epoch entry ... caused
# truncation of conflicting entries"); the records stay as they are.
set -uo pipefail
. "$(dirname "$0")/env.sh"

cluster=bG9nZC1wZWVyLWNsdXN0ZQ # any 16 bytes in base64url
node=1

usage() { sed -n '2,/^# Settings/{/^# Settings/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

# Small and quick to start: SerialGC and the first compiler are enough for a test.
jvm=(java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx384m -cp "$kafka_libs/*")
tool() { "${jvm[@]}" -Dlog4j.configuration="file:$repo/tests/peers/quiet.properties" "$@"; }

dump() {
  local flags=(--deep-iteration) files
  case ${1:-} in
    --data) flags+=(--print-data-log); shift ;;
    --indexes) flags=(--index-sanity-check); shift ;;
  esac
  [ $# -gt 0 ] || usage
  files=$(IFS=,; echo "$*")
  tool kafka.tools.DumpLogSegments "${flags[@]}" --files "$files"
}

side() { echo "${1%/}.broker"; }

# Two free ports in a row, the second for the controller; the kernel may give them away again
# before the broker binds them, which then says so and the start fails plainly.
free_ports() {
  python3 - <<'PY'
import socket
while True:
    a = socket.socket(); a.bind(("127.0.0.1", 0)); port = a.getsockname()[1]
    b = socket.socket()
    try: b.bind(("127.0.0.1", port + 1))
    except OSError: continue
    print(port); break
PY
}

# Retention is off, or records with old timestamps were deleted half a minute after the start.
# Topics are made by name only, the cleaner's map of 128 MiB would not fit the small heap, it looks
# for work four times a second, and the session of a killed broker must not keep its successor
# waiting for nine seconds.
configure() {
  local data=$1 side=$2 port=$3
  cat >"$side/server.properties" <<PROPS
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$node@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$data
metadata.log.dir=$side/metadata
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.backoff.ms=250
PROPS
  cat >"$side/log4j.properties" <<PROPS
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.FileAppender
log4j.appender.file.File=$side/server.log
log4j.appender.file.Append=false
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=[%d] %p %m (%c)%n
PROPS
}

start() {
  local data side port
  mkdir -p "$1"; data=$(cd "$1" && pwd); side=$(side "$data"); mkdir -p "$side/metadata"
  running "$side" && die 1 "a broker already runs on $data"
  port=${2:-$(cat "$side/port" 2>/dev/null || free_ports)}
  echo "$port" >"$side/port"
  configure "$data" "$side" "$port"
  if [ ! -e "$side/metadata/meta.properties" ]; then
    tool kafka.tools.StorageTool format --ignore-formatted -t "$cluster" -c "$side/server.properties" >"$side/format.log" 2>&1 \
      || die 1 "cannot format the storage: $(tail -n3 "$side/format.log")"
  fi
  : >"$side/server.log"
  "${jvm[@]}" -Dlog4j.configuration="file:$side/log4j.properties" kafka.Kafka "$side/server.properties" \
    </dev/null >"$side/stdout.log" 2>&1 &
  echo $! >"$side/pid"
  await "$side" "$port"
}

running() { [ -s "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2>/dev/null; }

# The line in the log comes after recovery and registration; the port answers a little earlier.
await() {
  local tick
  for tick in $(seq 1 "${KAFKA_START_TICKS:-600}"); do
    grep -q 'Kafka Server started' "$1/server.log" && (: <>"/dev/tcp/127.0.0.1/$2") 2>/dev/null && return
    running "$1" || die 1 "the broker ended: $(grep -m3 -hE 'ERROR|FATAL|Exception' "$1/server.log" "$1/stdout.log")"
    sleep 0.1
  done
  die 1 "the broker did not answer in $((tick / 10)) s: $(tail -n3 "$1/server.log")"
}

# halt SIGNAL DATADIR: signal our broker, by the pid we noted, and wait until it is gone.
halt() {
  local side pid; side=$(side "$2"); running "$side" || return 0
  pid=$(cat "$side/pid"); kill "-$1" "$pid"
  for _ in $(seq 1 600); do
    kill -0 "$pid" 2>/dev/null || { rm -f "$side/pid"; return 0; }
    sleep 0.1
  done
  die 1 "the broker (pid $pid) did not end on SIG$1"
}

create() {
  local data=$1 topic=$2 setting config=(); shift 2
  for setting; do config+=(--config "$setting"); done
  tool org.apache.kafka.tools.TopicCommand \
    --bootstrap-server "127.0.0.1:$(cat "$(side "$data")/port")" --create --topic "$topic" \
    --partitions 1 --replication-factor 1 "${config[@]}"
}

# Checkpoints name topics; what they say of this one was true of the files that go.
adopt() {
  local unclean=
  [ "${1:-}" = --unclean ] && { unclean=1; shift; }
  [ $# -eq 3 ] || usage
  local from=$1 topic=$2 data=$3 to=$3/$2-0 file
  running "$(side "$data")" && die 1 "stop the broker on $data first"
  [ -s "$to/partition.metadata" ] || die 1 "$to: not a partition of this broker (create the topic first)"
  find "$to" -mindepth 1 -maxdepth 1 ! -name partition.metadata -exec rm -rf {} +
  find "$from" -mindepth 1 -maxdepth 1 ! -name partition.metadata -exec cp -a -t "$to" {} +
  for file in recovery-point-offset log-start-offset replication-offset cleaner-offset; do
    forget "$data/$file-checkpoint" "$topic"
  done
  [ -z "$unclean" ] || rm -f "$data/.kafka_cleanshutdown"
}

# A checkpoint is a version, a count of lines, and lines "TOPIC PARTITION OFFSET".
forget() {
  [ -s "$1" ] || return 0
  awk -v topic="$2" 'NR > 2 && $1 != topic { line[n++] = $0 }
    END { print 0; print n + 0; for (i = 0; i < n; i++) print line[i] }' "$1" >"$1.new" && mv "$1.new" "$1"
}

verdicts() {
  local of=${2:-}
  grep -E 'no clean shutdown file|rebuilding index files|Recovering unflushed segment|Corruption found|stray|(WARN|ERROR) .*(Log|Segment|Epoch|Producer|Index)' \
    "$(side "$1")/server.log" | grep -v __cluster_metadata | grep -F -- "${of:+$of-0}" | sed 's/^\[[^]]*\] //'
  return 0
}

[ $# -ge 2 ] || usage
verb=$1; shift
[ "$verb" = log ] || [ "$verb" = verdicts ] || [ -d "$kafka_libs" ] || die 3 "no Kafka in the cache: run setup.sh kafka"
case $verb in
  dump | start | create | adopt | verdicts) "$verb" "$@" ;;
  stop) halt TERM "$1" ;;
  kill) halt KILL "$1" ;;
  port) cat "$(side "$1")/port" ;;
  log) cat "$(side "$1")/server.log" ;;
  *) usage ;;
esac
