# Sourced by the scripts here: where the repository and the cache of peers are, and how words look.
# The cache is $LOGD_PEERS, else "peers" in cargo's target directory; nothing else is written to.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
peers=${LOGD_PEERS:-${CARGO_TARGET_DIR:-$repo/target}/peers}
kafka_libs=$peers/kafka-libs
venv=$peers/venv

# say WORDS...: one line on stderr, with the name of the script it comes from.
say() { echo "${0##*/}: $*" >&2; }

# die STATUS WORDS...: say it and exit.
die() { local status=$1; shift; say "$*"; exit "$status"; }
