#!/usr/bin/env python3
"""Kills appenders and followers at random moments, over and over, and compares the log with what was
acknowledged.

usage: crashloop.py [--rounds N] [--writers N] [--followers N] [--sync POLICY,...]
                    [--cut ext4|xfs] [--fresh N] [--seed N] [--expect-loss] [--groups] [--no-sync PROGRAM]
                    LOGD DIR

Each round starts appenders (`logd append --sync POLICY -T`: what it tees is acknowledged) and
followers (`logd tail -f`) on one log in DIR, kills them all with SIGKILL after 20 to 300 ms, and
reads the log. The records are "WRITER SEQUENCE PADDING". Checked every round:

  - every acknowledged record is there;
  - offsets have no gap, and a writer's sequence numbers none either, no repeat, and keep order;
  - what a follower printed is in the log at that offset, and it skipped nothing.

A kill seldom hits the few microseconds inside a write. So after every third round without a cut,
half a batch is put behind the last one, as an interrupted write leaves it: its offset is the next
one, its end is missing.

--cut       works on a filesystem of its own, mounted on DIR (smallfs.py), whose power is cut after
            the kill, and gives the host a new boot id, so that logd takes the next round for
            another boot. Both are mounted in a private namespace: nobody else sees them, and they
            go with this process.
--sync      policies, used in turn (default batch).
--groups    each follower reads as a group of its own (`-g`), committing all the time, and `logd index`
            runs in a loop. A follower must start where its group stood, and afterwards no position
            may lie past the end, nor fall; `verify` must call the indexes sound, and `grep` with
            them must count what is there. With --cut and the policy `never` records may be lost, but
            none that a group has passed; give every round a log of its own then (--fresh 1), since what is
            appended after a loss goes on behind the offsets that were lost.
--no-sync   runs the followers with this program (nosync.c) before them: their syncs do nothing.
--fresh     a new log every N rounds (default 25), so that reading it stays cheap.
--expect-loss   turns the result around: exit 0 only if an acknowledged record was lost. That is
            the check that the loop can fail at all (--cut FS --sync never).

Prints the seed; the same seed gives the same times and sizes. Ends with "PASS rounds=N ...".
"""

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Records sent ahead of their acknowledgement, and the longest padding. Most rounds are of many
# small batches, about a megabyte in all; every BULK_EVERY-th is of batches as large as they get,
# short, and likely to be killed inside a write.
SMALL = (64, 300)
BULK = (2000, 2000)
BULK_EVERY = 4
BULK_PIPE_BYTES = 1 << 20
TEAR_EVERY = 3
# What verify says of a log whose appender was killed, until the next append.
LEFT_BY_A_KILL = (b"the file ends inside a batch; nothing intact follows", b"an index without a log")
# Holds the logs of --fresh rounds; xfs takes no less than 300M.
FS_SIZE = "400M"


class Lost(Exception):
    """An acknowledged record, or what a group stands on, is gone."""


class Wrong(Exception):
    """Anything else that must not be."""


class Child:
    """A process in a group of its own, whose output lines go to a callback until it is killed."""

    def __init__(self, words, on_line, stdin=None):
        self.words = words
        self.process = subprocess.Popen(
            words,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.errors, self.wrong = b"", None
        self.threads = [
            threading.Thread(target=self.drain, args=(on_line,)),
            threading.Thread(target=self.listen),
        ]
        for thread in self.threads:
            thread.start()

    def drain(self, on_line):
        try:
            for line in self.process.stdout:
                if line.endswith(b"\n"):  # a line cut off by the kill says nothing
                    on_line(line[:-1])
        except Wrong as wrong:
            self.wrong = wrong

    def listen(self):
        self.errors = self.process.stderr.read()

    def kill(self):
        """SIGKILL to the group; a child that ended by itself before that is an error."""
        early = self.process.poll()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return early

    def join(self, early):
        self.process.wait()
        for thread in self.threads:
            thread.join()
        if self.wrong:
            raise self.wrong
        if early is not None:
            raise Wrong(f"{' '.join(self.words)} ended by itself with {early}: {self.errors.decode()}")


class Writer(Child):
    """An appender, fed with its own numbered records as fast as it acknowledges them."""

    def __init__(self, words, number, first, rnd, bulk):
        self.number, self.first, self.rnd = number, first, rnd
        self.window, self.padding = BULK if bulk else SMALL
        self.acked = first - 1
        self.room = threading.Semaphore(self.window)
        super().__init__(words, self.on_ack, subprocess.PIPE)
        if bulk:
            fcntl.fcntl(self.process.stdin, fcntl.F_SETPIPE_SZ, BULK_PIPE_BYTES)
        self.feeder = threading.Thread(target=self.feed)
        self.feeder.start()

    def feed(self):
        sequence = self.first
        try:
            while True:
                burst = self.rnd.randint(1, self.window)
                lines = []
                for _ in range(burst):
                    self.room.acquire()
                    lines.append(f"{self.number} {sequence} {'x' * self.rnd.randint(0, self.padding)}\n")
                    sequence += 1
                    if self.process.poll() is not None:
                        return
                self.process.stdin.write("".join(lines).encode())
                self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def on_ack(self, line):
        self.acked = int(line.split()[1])
        self.room.release()

    def join(self, early):
        self.process.wait()
        self.room.release(self.window)
        self.feeder.join()
        super().join(early)


class Follower(Child):
    """A `tail -f`; remembers what it was shown."""

    def __init__(self, words):
        self.seen = []
        super().__init__(words, lambda line: self.seen.append(parse(line)))


def parse(line):
    """(offset, writer, sequence, length of the padding) of a line "OFFSET WRITER SEQUENCE PADDING"."""
    fields = line.split(b" ")
    if len(fields) != 4 or fields[3].strip(b"x"):
        raise Wrong(f"damaged record {line[:80]!r}")
    return int(fields[0]), int(fields[1]), int(fields[2]), len(fields[3])


def last_batch(data):
    """The last whole batch and where it ends; zeros behind it were filled ahead."""
    batch, position = b"", 0
    while position + 12 <= len(data):
        size = 12 + int.from_bytes(data[position + 8 : position + 12], "big", signed=True)
        if size <= 12 or position + size > len(data):
            break
        batch, position = data[position : position + size], position + size
    return batch, position


class Log:
    """One log, and what is known of it: records read so far and acknowledgements."""

    def __init__(self, logd, path, writers):
        self.logd, self.path = logd, path
        self.acked = [-1] * writers
        self.next = [0] * writers
        self.records = []
        self.positions = {}
        subprocess.run([logd, "init", "--segment-size", "256KiB", path], check=True)

    def read(self, start):
        words = [self.logd, "cat", "-o", f"{start}..", "-F", r"%o %s\n", self.path]
        result = subprocess.run(words, capture_output=True)
        if result.returncode:
            raise Wrong(f"{' '.join(words)} exited {result.returncode}: {result.stderr.decode()}")
        return [parse(line) for line in result.stdout.split(b"\n")[:-1]]

    def check(self, whole, may_lose=False):
        """Reads what is new (or all) and holds it against what must be there."""
        known = 0 if whole else len(self.records)
        found = self.records[:known] + self.read(known)
        if found[: len(self.records)] != self.records[: len(found)]:
            raise Wrong("a record read before is another one now")
        seen = [0] * len(self.next)
        for place, (offset, writer, sequence, _) in enumerate(found):
            if offset != place:
                raise Wrong(f"offset {offset} where {place} was due")
            if sequence != seen[writer]:
                raise Wrong(f"writer {writer}: record {sequence} where {seen[writer]} was due, offset {offset}")
            seen[writer] += 1
        if may_lose:
            self.acked = [min(acked, n - 1) for acked, n in zip(self.acked, seen)]
            del self.records[len(found) :]
        for writer, acked in enumerate(self.acked):
            if seen[writer] <= acked:
                raise Lost(f"writer {writer}: acknowledged up to {acked}, the log ends at {seen[writer] - 1}")
        if len(found) < len(self.records):
            raise Lost(f"{len(self.records)} records were read before, now {len(found)}")
        self.records, self.next = found, seen

    def position(self, group):
        """Where a group stands."""
        words = [self.logd, "groups", "ls", "--json", self.path, group]
        result = subprocess.run(words, capture_output=True)
        if result.returncode == 66 and b"no such group" in result.stderr:
            return 0
        if result.returncode:
            raise Lost(f"{' '.join(words)} exited {result.returncode}: {result.stderr.decode()}")
        return json.loads(result.stdout)["position"]

    def check_groups(self, seen):
        """What the followers saw began where their groups stood, and where those stand now is there."""
        for number, lines in enumerate(seen):
            group = f"g{number}"
            before, now = self.positions.get(group, 0), self.position(group)
            if lines and lines[0][0] != before:
                raise Wrong(f"group {group} stood at {before}, and was shown {lines[0][0]}")
            shown = lines[-1][0] + 1 if lines else before
            if not before <= now <= shown:
                raise Wrong(f"group {group} went from {before} to {now}; it was shown {shown}")
            if now > len(self.records):
                raise Lost(f"group {group} stands at {now}, the log ends at {len(self.records)}")
            self.positions[group] = now

    def check_indexes(self, after_cut):
        """Indexes are sound, and change no answer."""
        result = subprocess.run([self.logd, "verify", self.path], capture_output=True)
        # Of time indexes and, until the next append, of segments above the durable end, any may be gone
        # after a cut. A kill may leave a batch half written, or a new segment's index without its log:
        # the next append mends that.
        told = [line for line in result.stdout.splitlines() if not any(w in line for w in LEFT_BY_A_KILL)]
        if b".lookup" in result.stdout or (told and not after_cut) or (result.returncode > 1):
            raise Wrong(f"verify exited {result.returncode}: {result.stdout} {result.stderr}")
        for word in ("0 1", "2 3x", "x x", "1 77 "):
            found = subprocess.run([self.logd, "grep", "-c", "-Q", word, self.path], capture_output=True)
            want = sum(word in f"{w} {s} " + "x" * p for _, w, s, p in self.records)
            if found.stdout != b"%d\n" % want:
                raise Wrong(f"grep -c '{word}' said {found.stdout}, {want} are there: {found.stderr}")

    def tear(self, rnd):
        """Leaves the beginning of another batch behind the last one."""
        path = max(f"{self.path}/{name}" for name in os.listdir(self.path) if name.endswith(".log"))
        with open(path, "r+b") as file:
            data = file.read()
            batch, end = last_batch(data)
            if not batch:
                return
            torn = len(self.records).to_bytes(8, "big") + batch[8:]
            file.seek(end)
            file.write(torn[: rnd.randint(1, len(torn) - 1)])

    def check_follower(self, seen):
        for before, after in zip(seen, seen[1:]):
            if after[0] != before[0] + 1:
                raise Wrong(f"a follower went from offset {before[0]} to {after[0]}")
        for record in seen:
            # Past the end: shown before it was durable, then lost with the power. Without a cut
            # that cannot be.
            if record[0] < len(self.records) and self.records[record[0]] != record:
                raise Wrong(f"a follower was shown {record}, the log holds {self.records[record[0]]}")


def round_of(options, log, rnd, policy, bulk):
    """Starts everybody, kills everybody; returns what the followers saw."""
    append = [options.logd, "append", "--sync", policy, "-T", log.path]
    # Without -n the last ten come first; 0 shows only what is new.
    tail = [options.logd, "tail", "-f", "-n", "0", "-F", r"%o %s\n", log.path]
    if options.groups:
        tail[3:5] = ["--commit-every", "20ms"]
        tail[:0] = [options.no_sync] if options.no_sync else []
        followers = [Follower(tail + ["-g", f"g{n}"]) for n in range(options.followers)]
        # 75: an appender that recovers the log after a power cut has it.
        index = f"while '{options.logd}' index --by value --bloom --rebuild '{log.path}' || [ $? = 75 ]"
        index += "; do sleep 0.02; done; exit 1"
        indexer = [Child(["sh", "-c", index], print)]
    else:
        followers, indexer = [Follower(tail) for _ in range(options.followers)], []
    writers = [
        Writer(append, number, log.next[number], random.Random(rnd.random()), bulk)
        for number in range(options.writers)
    ]
    time.sleep(rnd.uniform(0.02, 0.1 if bulk else 0.3))
    everybody = writers + followers + indexer
    rnd.shuffle(everybody)
    ends = [(child, child.kill()) for child in everybody]
    for child, early in ends:
        child.join(early)
    log.acked = [max(log.acked[w.number], w.acked) for w in writers]
    return [f.seen for f in followers]


def loop(options, rnd):
    policies = options.sync.split(",")
    log, shown, total = None, 0, 0
    for number in range(options.rounds):
        if number % options.fresh == 0:
            if log:
                log.check(whole=True)
                total += len(log.records)
                shutil.rmtree(log.path)
            log = Log(options.logd, f"{options.dir}/x{number // options.fresh}-0", options.writers)
        policy = policies[number % len(policies)]
        seen = round_of(options, log, rnd, policy, number % BULK_EVERY == BULK_EVERY - 1)
        if options.cut:
            smallfs("cut", options.dir)
            new_boot_id(options.dir)
        may_lose = options.groups and options.cut is not None and policy == "never"
        log.check(whole=options.cut is not None, may_lose=may_lose)
        if options.groups:
            log.check_groups(seen)
            log.check_indexes(options.cut is not None)
        for lines in seen:
            if lines and not options.cut and lines[-1][0] >= len(log.records):
                raise Wrong(f"a follower was shown offset {lines[-1][0]}, the log ends at {len(log.records)}")
            log.check_follower(lines)
            shown += len(lines)
        if not options.cut and number % TEAR_EVERY == TEAR_EVERY - 1:
            log.tear(rnd)
            log.check(whole=False)
        if options.verbose:
            print(f"round {number} ok: {policy}, acked {log.acked}, records {len(log.records)}", flush=True)
    log.check(whole=True)
    total += len(log.records)
    if options.groups and not any(log.positions.values()):
        raise Wrong("no group ever committed anything")
    if options.followers and not shown:
        raise Wrong("no follower was ever shown a record")
    return total, shown


def smallfs(*words):
    subprocess.run([sys.executable, HERE + "/smallfs.py", *words], check=True)


def new_boot_id(directory):
    with open(directory + ".boot_id", "w") as file:
        file.write(f"{uuid.uuid4()}\n")


def in_private_namespace(directory):
    """Starts the running script again in a mount namespace where BOOT_ID is ours to change."""
    if os.environ.get("CRASHLOOP_BOOT_ID") == directory:
        return
    new_boot_id(directory)
    os.environ["CRASHLOOP_BOOT_ID"] = directory
    bind = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
    ours = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "-m", "sh", "-c", bind, directory + ".boot_id", *ours])


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--followers", type=int, default=2)
    parser.add_argument("--sync", default="batch")
    parser.add_argument("--cut", choices=["ext4", "xfs"])
    parser.add_argument("--fresh", type=int, default=25)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--groups", action="store_true")
    parser.add_argument("--no-sync")
    parser.add_argument("--expect-loss", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("logd")
    parser.add_argument("dir")
    options = parser.parse_args()
    options.dir = os.path.abspath(options.dir)
    return options


def main():
    options = arguments()
    if options.cut:
        in_private_namespace(options.dir)
        smallfs("mk", options.dir, FS_SIZE, options.cut)
    print("seed", options.seed, flush=True)
    try:
        total, shown = loop(options, random.Random(options.seed))
    except Lost as loss:
        print(f"LOST: {loss}", flush=True)
        sys.exit(0 if options.expect_loss else 1)
    except Wrong as wrong:
        sys.exit(f"WRONG: {wrong}")
    if options.expect_loss:
        sys.exit("nothing acknowledged was lost: this loop would not have caught it")
    print(f"PASS rounds={options.rounds} records={total} shown-to-followers={shown}")


if __name__ == "__main__":
    main()
