#!/usr/bin/env python3
"""Kills compact, retain, redact, repair and index at random moments beside appenders, over and over,
and holds the log against what may have become of it.

usage: careloop.py [--rounds N] [--writers N] [--cut ext4|xfs] [--fresh N] [--seed N] [--codec NAME]
                   [--no-sync NOSYNC care|all] [--expect-loss] LOGD DIR

Each round starts appenders (`logd append --sync batch -T`: what it tees is acknowledged), each with
keys of its own, values, tombstones and records without a key; and two loops that start one command
of maintenance after the other, and kill most of them with SIGKILL after 0 to 60 ms. After 50 to 600
ms everything is killed, and with --cut the power of the filesystem is cut. Then, every round:

  - a reader finds the log before or after each change: offsets rise, no record is another than
    before, none that was gone is back;
  - each acknowledged record is there, unless a newer one of its key is, or it is older than what
    retain was told to keep, or redacted;
  - repair ends with 0 (1 if the cut tore the tail), readers see the same after it as before it, and
    run again it changes no byte;
  - verify finds nothing, but for redactions that were not finished;
  - after a redact that said 0, at once or run again, no byte of what was to go is in the directory,
    nor in what `logd dump` decompresses; before that, verify says that it is unfinished.

--cut       works on a filesystem of its own, mounted on DIR (smallfs.py), with a new boot id after
            each cut, as in crashloop.py.
--codec     none, gzip, snappy, lz4 or zstd; each new log takes the next one unless given.
--fresh     a new log every N rounds (default 20).
--no-sync   runs the commands of maintenance, or all, under NOSYNC (nosync.c), which makes every sync do
            nothing. The check that this loop can fail at all.
--expect-loss   turns the result around: exit 0 only if something was found wrong.

Prints the seed; the same seed gives the same times and sizes. Ends with "PASS rounds=N ...".
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

from crashloop import Child, Lost, Wrong, in_private_namespace, last_batch, new_boot_id, smallfs

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
KEYS = 7
# Records that a writer has in flight; of each five one has no key, of each six one is a tombstone.
WINDOW = 40
# Far more than all writers write in a round, so that what is not seen yet is never too old.
KEPT = 4000
FS_SIZE = "400M"
# A command of maintenance that was not killed may end so: done, and somebody else is at work.
ENDS = (0, 75)
UNFINISHED = "redaction"


def key_of(writer, sequence):
    return None if sequence % 5 == 4 else f"{writer}-{sequence % KEYS}"


def is_tombstone(writer, sequence):
    return key_of(writer, sequence) is not None and (sequence // KEYS) % 6 == 5


def line_of(writer, sequence, tag, padding):
    value = None if is_tombstone(writer, sequence) else f"<{tag}> {'x' * padding}"
    record = {"key": key_of(writer, sequence), "value": value, "headers": [["n", f"{writer} {sequence}"]]}
    return json.dumps(record) + "\n"


class Writer(Child):
    """An appender, fed with its own numbered records as fast as it acknowledges them."""

    def __init__(self, words, number, first, tag, rnd):
        self.number, self.first, self.tag, self.rnd = number, first, tag, rnd
        self.acked = first - 1
        self.room = threading.Semaphore(WINDOW)
        super().__init__(words, self.on_ack, subprocess.PIPE)
        self.feeder = threading.Thread(target=self.feed)
        self.feeder.start()

    def feed(self):
        sequence = self.first
        try:
            while sequence - self.first < KEPT // 4:
                burst = self.rnd.randint(1, WINDOW)
                lines = []
                for _ in range(burst):
                    self.room.acquire()
                    lines.append(line_of(self.number, sequence, self.tag, self.rnd.randint(0, 200)))
                    sequence += 1
                    if self.process.poll() is not None:
                        return
                self.process.stdin.write("".join(lines).encode())
                self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def on_ack(self, line):
        self.acked = int(json.loads(line)["headers"][0][1].split()[1])
        self.room.release()

    def join(self, early):
        self.process.wait()
        self.room.release(WINDOW)
        self.feeder.join()
        super().join(early)


class Record:
    """A record as it was read."""

    def __init__(self, line):
        record = json.loads(line)
        headers = record.get("headers") or []
        self.offset, self.key, self.value = record["offset"], record["key"], record["value"]
        self.writer, self.sequence = map(int, headers[0][1].split())
        self.is_redacted = any(name == "redacted" for name, _ in headers)
        if self.key != key_of(self.writer, self.sequence):
            raise Wrong(f"damaged record {line[:200]!r}")

    def is_same(self, older):
        """Whether this may be what became of `older`."""
        if (self.writer, self.sequence) != (older.writer, older.sequence):
            return False
        if self.is_redacted:
            return self.value is None
        return not older.is_redacted and self.value == older.value


class Redaction:
    """Something that is to go: the values of one writer in one round."""

    def __init__(self, tag, drop):
        self.tag, self.drop = tag, drop
        self.needle = f"<{tag}>"
        self.begun, self.done = False, False

    def words(self, path):
        action = ["--drop"] if self.drop else []
        return ["redact", "--match", self.needle, *action, "--reason", "test", "--yes", path]


class Log:
    """One log, and what is known of it: what was acknowledged, read, and told to go."""

    def __init__(self, options, path, codec):
        self.options, self.path, self.codec = options, path, codec
        self.acked = [-1] * options.writers
        self.next = [0] * options.writers
        self.tags = {}
        self.present = {}
        self.end, self.before = 0, 0
        self.redactions = []
        self.logd("init", "--segment-size", "32KiB", "-z", codec, path)

    def logd(self, *words, allowed=(0,)):
        done = subprocess.run([*self.options.care, *words], capture_output=True)
        if done.returncode not in allowed:
            raise Wrong(f"logd {' '.join(words)} ended with {done.returncode}: {(done.stdout + done.stderr).decode()}")
        return done

    def read(self):
        out = self.logd("cat", "-o", "0", "--clamp", "-F", "json", self.path).stdout
        return [Record(line) for line in out.splitlines()]

    def check(self):
        """Reads everything and holds it against what was there before and what was acknowledged."""
        found = {}
        end, newest, last = -1, {}, [-1] * self.options.writers
        for record in self.read():
            if record.offset <= end:
                raise Wrong(f"offset {record.offset} after {end}")
            end = record.offset
            if record.offset >= self.end and record.sequence <= last[record.writer]:
                raise Wrong(f"writer {record.writer}: {record.sequence} after {last[record.writer]}")
            last[record.writer] = record.sequence
            if record.key is not None:
                newest[record.key] = record.sequence
            self.check_one(record)
            found[record.offset] = record
        self.check_gone(found, newest)
        self.check_acked(found, newest, last)
        self.present = found
        self.end = max(self.end, end + 1)
        self.next = [n + 1 for n in last]

    def check_one(self, record):
        if record.offset < self.end:
            older = self.present.get(record.offset)
            if older is None:
                raise Wrong(f"offset {record.offset} was gone and is back")
            if not record.is_same(older):
                raise Wrong(f"offset {record.offset} is another record now")
        for redaction in self.redactions:
            if redaction.done and record.value and redaction.needle in record.value:
                raise Wrong(f"offset {record.offset} still has {redaction.needle}")

    def may_be_dropped(self, writer, sequence):
        tag = self.tags.get((writer, sequence))
        return any(r.begun and r.drop and r.tag == tag for r in self.redactions)

    def check_gone(self, found, newest):
        for offset, older in self.present.items():
            if offset in found or offset < self.before:
                continue
            superseded = older.key is not None and newest.get(older.key, -1) > older.sequence
            if not superseded and not self.may_be_dropped(older.writer, older.sequence):
                raise Lost(f"offset {offset} is gone: writer {older.writer}, {older.sequence}")

    def check_acked(self, found, newest, last):
        there = {(r.writer, r.sequence) for r in found.values()}
        for writer, acked in enumerate(self.acked):
            if last[writer] < acked and not self.may_be_dropped(writer, acked):
                raise Lost(f"writer {writer}: acknowledged up to {acked}, the log ends at {last[writer]}")
            for sequence in range(self.next[writer], acked + 1):
                key = key_of(writer, sequence)
                if (writer, sequence) not in there and (key is None or newest.get(key, -1) <= sequence):
                    raise Lost(f"writer {writer}: acknowledged {sequence} is gone")

    def remember_tags(self, writer, tag, first, last):
        """Which records have which tag, acknowledged or perhaps written."""
        for sequence in range(first, last + WINDOW + 1):
            self.tags[writer, sequence] = tag

    def tear(self, rnd):
        """Leaves the beginning of another batch behind the last one."""
        path = max(f"{self.path}/{name}" for name in os.listdir(self.path) if name.endswith(".log"))
        with open(path, "r+b") as file:
            batch, end = last_batch(file.read())
            if batch:
                torn = self.end.to_bytes(8, "big") + batch[8:]
                file.seek(end)
                file.write(torn[: rnd.randint(1, len(torn) - 1)])

    def tree(self):
        """Every byte of the directory, but for the notes in lock files."""
        out = {}
        for place, _, names in os.walk(self.path):
            for name in names:
                if not name.endswith(".lock"):
                    with open(f"{place}/{name}", "rb") as file:
                        out[os.path.relpath(f"{place}/{name}", self.path)] = hashlib.sha256(file.read()).digest()
        return out

    def repair(self, torn):
        """Repairs twice: readers see no difference, and the second time nothing is done."""
        seen = [(r.offset, r.value) for r in self.present.values()]
        said = self.logd("repair", self.path, allowed=(0, 1) if torn else (0,))
        now = [(r.offset, r.value) for r in self.read()]
        if now != seen:
            raise Wrong(f"repair changed what readers see: {len(seen)} records, now {len(now)}; {said.stdout.decode()}")
        before = self.tree()
        said = self.logd("repair", self.path)
        after = self.tree()
        if before != after or said.stdout or said.stderr:
            names = [n for n in before.keys() | after.keys() if before.get(n) != after.get(n)]
            raise Wrong(f"a second repair changed {names}: {said.stdout.decode()}")

    def verify(self):
        said = self.logd("verify", self.path, allowed=(0, 1))
        lines = said.stdout.decode().splitlines()
        other = [line for line in lines if UNFINISHED not in line]
        if other or (said.returncode == 1) != bool(lines):
            raise Wrong(f"verify: {said.returncode}, {other}")
        return len(lines)

    def finish(self, redaction):
        """Runs it again to its end, and searches."""
        self.logd(*redaction.words(self.path))
        redaction.done = True
        self.search(redaction)

    def search(self, redaction):
        needle = redaction.needle.encode()
        if needle in self.logd("dump", self.path).stdout:
            raise Wrong(f"{redaction.needle} is left in what dump shows")
        for place, _, names in os.walk(self.path):
            for name in names:
                with open(f"{place}/{name}", "rb") as file:
                    if needle in file.read():
                        raise Wrong(f"{redaction.needle} is left in {place}/{name}")


class Care(threading.Thread):
    """Starts one command of maintenance after the other; kills most of them."""

    def __init__(self, log, rnd, stop, counts):
        super().__init__()
        self.log, self.rnd, self.stop, self.counts = log, rnd, stop, counts
        self.wrong = None

    def run(self):
        try:
            while not self.stop.is_set():
                self.one()
        except Wrong as wrong:
            self.wrong = wrong

    def choose(self):
        log, path = self.log, self.log.path
        before = str(log.before)
        choices = [
            (["compact", path], None),
            (["compact", "--memory", "1MiB", "--keep", "2", path], None),
            (["retain", "--before", before, path], None),
            (["retain", "--before", before, "--exact", path], None),
            (["repair", path], None),
            (["index", "--by", "key", "--bloom", path], None),
        ]
        due = [r for r in log.redactions if r.begun and not r.done]
        choices += [(r.words(path), r) for r in due for _ in range(2)]
        return self.rnd.choice(choices)

    def one(self):
        words, redaction = self.choose()
        child = Child([*self.log.options.care, *words], lambda line: None)
        limit = 5.0 if self.rnd.random() < 0.3 else self.rnd.uniform(0, 0.06)
        until = time.monotonic() + limit
        while child.process.poll() is None and time.monotonic() < until and not self.stop.is_set():
            time.sleep(0.001)
        early = child.kill()
        child.process.wait()
        child.join(None)
        if early is None:
            self.counts["killed"] += 1
            return
        # A repair that met the torn batch of a killed appender tells what was lost.
        if early not in ENDS and not (words[0] == "repair" and early == 1):
            raise Wrong(f"logd {' '.join(words)} ended with {early}: {child.errors.decode()}")
        if early == 0:
            self.counts[words[0]] = self.counts.get(words[0], 0) + 1
            if redaction:
                redaction.done = True


def round_of(options, log, rnd, number, counts):
    """Starts everybody, kills everybody."""
    log.before = max(log.before, log.end - KEPT)
    append = [*options.appender, "append", "--sync", "batch", "--batch-records", "9", "-F", "json", "-T", log.path]
    stop = threading.Event()
    care = [Care(log, random.Random(rnd.random()), stop, counts) for _ in range(2)]
    writers = []
    for w in range(options.writers):
        tag = f"t{number}w{w}"
        writers.append(Writer(append, w, log.next[w], tag, random.Random(rnd.random())))
    for thread in care:
        thread.start()
    time.sleep(rnd.uniform(0.05, 0.6))
    stop.set()
    everybody = writers[:]
    rnd.shuffle(everybody)
    ends = [(w, w.kill()) for w in everybody]
    for thread in care:
        thread.join()
    for writer, early in ends:
        writer.join(early)
    for w in writers:
        log.acked[w.number] = max(log.acked[w.number], w.acked)
        log.remember_tags(w.number, w.tag, w.first, w.acked)
    for thread in care:
        if thread.wrong:
            raise thread.wrong


def redact_next(log, rnd, number):
    """Now and then the values of a writer in the round before are to go."""
    if number % 3 == 1:
        redaction = Redaction(f"t{number - 1}w{rnd.randrange(log.options.writers)}", rnd.random() < 0.3)
        redaction.begun = True
        log.redactions.append(redaction)


def after(options, log, rnd, number, counts):
    """What is looked at when everything is still."""
    if options.cut:
        smallfs("cut", options.dir)
        new_boot_id(options.dir)
    log.check()
    if rnd.random() < 0.3:
        log.logd("compact", log.path)
        log.check()
    torn = bool(options.cut)
    if not options.cut and rnd.random() < 0.3:
        log.tear(rnd)
        log.check()
        torn = True
    if rnd.random() < 0.7:
        log.repair(torn)
        if log.verify():
            counts["unfinished"] = counts.get("unfinished", 0) + 1
    for redaction in log.redactions:
        if redaction.done or rnd.random() < 0.5:
            log.finish(redaction)
    log.redactions = log.redactions[-4:] if all(r.done for r in log.redactions) else log.redactions


def loop(options, rnd):
    log, total, counts = None, 0, {"killed": 0}
    for number in range(options.rounds):
        if number % options.fresh == 0:
            total += close(log)
            codec = options.codec or CODECS[number // options.fresh % len(CODECS)]
            log = Log(options, f"{options.dir}/x{number // options.fresh}-0", codec)
        else:
            redact_next(log, rnd, number)
        round_of(options, log, rnd, number, counts)
        after(options, log, rnd, number, counts)
        if options.verbose:
            print(f"round {number} ok: {log.codec}, acked {log.acked}, {len(log.present)} of {log.end}", flush=True)
    return total + close(log), counts


def close(log):
    """The last look at a log: everything is finished, and it is sound."""
    if log is None:
        return 0
    for redaction in log.redactions:
        log.finish(redaction)
    log.logd("compact", log.path)
    log.logd("retain", "--before", str(log.before), "--exact", log.path)
    log.check()
    if any(r.offset < log.before for r in log.present.values()):
        raise Wrong("retain --exact left what was to go")
    log.repair(torn=False)
    if log.verify():
        raise Wrong("verify tells of redactions that are finished")
    shutil.rmtree(log.path)
    return log.end


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--cut", choices=["ext4", "xfs"])
    parser.add_argument("--codec", choices=CODECS)
    parser.add_argument("--fresh", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--no-sync", nargs=2, metavar=("NOSYNC", "WHO"))
    parser.add_argument("--expect-loss", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("logd")
    parser.add_argument("dir")
    options = parser.parse_args()
    options.dir = os.path.abspath(options.dir)
    options.appender = options.care = [options.logd]
    if options.no_sync:
        nosync, who = options.no_sync
        options.care = [os.path.abspath(nosync), options.logd]
        options.appender = options.care if who == "all" else options.appender
    return options


def main():
    options = arguments()
    if options.cut:
        in_private_namespace(options.dir)
        smallfs("mk", options.dir, FS_SIZE, options.cut)
    print("seed", options.seed, flush=True)
    try:
        total, counts = loop(options, random.Random(options.seed))
    except (Lost, Wrong) as found:
        print(f"{type(found).__name__.upper()}: {found}", flush=True)
        sys.exit(0 if options.expect_loss else 1)
    if options.expect_loss:
        sys.exit("nothing was found wrong: this loop would not have caught it")
    told = " ".join(f"{name}={counts[name]}" for name in sorted(counts))
    print(f"PASS rounds={options.rounds} records={total} {told}")


if __name__ == "__main__":
    main()
