#!/usr/bin/env bash
# Gets the peers our tests compare logd with. Usage: setup.sh [kafka|python|all]
#
#   kafka   the Kafka broker and its tools, from Maven Central, by pom.xml      (needs java, mvn)
#   python  kafka-python, aiokafka, confluent-kafka and their codecs, from PyPI (needs python3, venv)
#
# Takes about ten seconds the first time and none when the cache is complete. Only the ordinary
# clients are used, configured as they are. Exit 0: all asked for is there. Exit 3: something could
# not be had; stderr says what and why, in one line that a test can print as its reason to skip.
set -uo pipefail
. "$(dirname "$0")/env.sh"

# One mark per kind of peer, holding a digest of what it was made from: no mark, or another one,
# means a half-made or outdated cache, which is made again from nothing.
digest() { cat "$@" | sha256sum | cut -c1-16; }
done_already() { [ "$(cat "$peers/$1.done" 2>/dev/null)" = "$2" ]; }

missing=()
lacks() { missing+=("$1: $2"); }
reason() { grep -v '^[[:space:]]*$' "$1" | grep -m1 -iE 'error|could not|no matching' || tail -n1 "$1"; }

setup_kafka() {
  local mark; mark=$(digest "$here/pom.xml")
  command -v java >/dev/null || { lacks kafka "no java command"; return; }
  done_already kafka "$mark" && return
  command -v mvn >/dev/null || { lacks kafka "no mvn command"; return; }
  rm -rf "$kafka_libs" "$peers/kafka.done"
  mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -DoutputDirectory="$kafka_libs" >"$peers/kafka.out" 2>&1 \
    || { lacks kafka "Maven: $(reason "$peers/kafka.out")"; return; }
  echo "$mark" >"$peers/kafka.done"
}

setup_python() {
  local mark; mark=$(digest "$here/requirements.txt")
  done_already python "$mark" && return
  command -v python3 >/dev/null || { lacks python "no python3 command"; return; }
  rm -rf "$venv" "$peers/python.done"
  python3 -m venv "$venv" >"$peers/python.out" 2>&1 \
    || { lacks python "python3 -m venv: $(reason "$peers/python.out")"; return; }
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt" \
    >"$peers/python.out" 2>&1 || { lacks python "pip: $(reason "$peers/python.out")"; return; }
  echo "$mark" >"$peers/python.done"
}

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$peers"
exec 9>"$peers/lock" && flock 9 # tests may start us side by side
case ${1:-all} in
  kafka) setup_kafka ;;
  python) setup_python ;;
  all) setup_kafka; setup_python ;;
  *) die 2 "usage: setup.sh [kafka|python|all]" ;;
esac
for what in "${missing[@]}"; do say "not to be had: $what"; done
[ ${#missing[@]} -eq 0 ] || exit 3
