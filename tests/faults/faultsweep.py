#!/usr/bin/env python3
"""Fails every system call of the commands that write indexes and reader positions, one at a time.

usage: faultsweep.py [--calls N] LOGD DIR

For each command the calls of a clean run are counted by strace. Then, from the same log every time,
each call is failed in turn, with each error that fits it, and those that change something are killed
(SIGKILL) in turn. After each run:

  - it ended with a status of its own, never by a panic or a bug (70), and not with 0 if the disk was
    full or broken while it wrote;
  - a position is the one from before or the one from after, and `cat -g` delivers from there;
  - keys and text are found as before, whatever is left of the indexes, and the next `index` makes all
    of them sound, with nothing half made left over.

Calls that a command makes more than --calls times (default 40) are failed up to that many times.
Needs strace. Ends with "PASS ..." and how many calls were failed.
"""

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys

# Which errors are injected into which calls, and whether being killed there is of interest.
CALLS = {
    "openat": (["EACCES", "EMFILE", "EIO"], True),
    "read": (["EIO"], False),
    "pread64": (["EIO"], False),
    "getdents64": (["EIO"], False),
    "fstat": (["EIO"], False),
    "newfstatat": (["EIO"], False),
    "statx": (["EIO"], False),
    "write": (["ENOSPC", "EIO"], True),
    "pwrite64": (["ENOSPC", "EIO"], True),
    "ftruncate": (["EIO"], True),
    "fallocate": (["ENOSPC"], True),
    "fsync": (["EIO"], True),
    "fdatasync": (["EIO"], True),
    "syncfs": (["EIO"], True),
    "rename": (["EIO", "ENOSPC"], True),
    "renameat": (["EIO", "ENOSPC"], True),
    "renameat2": (["EIO", "ENOSPC"], True),
    "unlink": (["EIO"], True),
    "unlinkat": (["EIO"], True),
    "mkdirat": (["EIO", "ENOSPC"], True),
    "fcntl": (["ENOLCK"], False),
    "flock": (["ENOLCK"], False),
}
# Those that put bytes where they must stay: a command that met an error here, in one of these
# directories, has not done its work. What a lock file says of its holder, and the end pair, are hints.
MUST_TELL = {"pwrite64", "fsync", "fdatasync", "syncfs", "rename", "renameat", "renameat2"}
PLACES = re.compile(r"/\.logd/(keys|tmp|groups)\b(?!.*\.(lock|member-\d+)>)")
RECORDS = 300


class Wrong(Exception):
    pass


class Sweep:
    def __init__(self, logd, work, calls):
        self.logd, self.calls = logd, calls
        self.base, self.dir = work + "/base", work + "/now"
        self.trace = work + "/trace"
        self.failed = collections.Counter()

    def run(self, *words, check=True):
        env = dict(os.environ, LOGD_CONFIG="/dev/null", LOGD_DIR=self.dir)
        done = subprocess.run([self.logd, *words], capture_output=True, env=env)
        if check and done.returncode:
            raise Wrong(f"{words}: {done.returncode}: {done.stderr.decode()}")
        return done

    def prepare(self):
        """Four segments with an index of the first two, and a group that is halfway."""
        self.dir = self.base
        self.run("init", "--segment-size", "4KiB", "t-0")
        for part in range(3):
            lines = "".join(f"k{n % 40}\tvalue {n} of {part}\n" for n in range(RECORDS // 3))
            words = [self.logd, "append", "-K", r"\t", "--batch-records", "10", "t-0"]
            env = dict(os.environ, LOGD_CONFIG="/dev/null", LOGD_DIR=self.dir)
            subprocess.run(words, input=lines.encode(), check=True, env=env)
            if part == 1:
                self.run("index", "--by", "key", "--bloom", "t-0")
                self.run("cat", "-g", "g", "-n", "50", "t-0")
        self.run("cat", "-g", "m", "--no-commit", "-n", "70", "t-0")
        self.dir = self.base[: -len("base")] + "now"

    def fresh(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.copytree(self.base, self.dir, symlinks=True)

    def strace(self, words, *more):
        env = dict(os.environ, LOGD_CONFIG="/dev/null", LOGD_DIR=self.dir, RAYON_NUM_THREADS="1")
        command = ["strace", "-f", "-qq", "-y", "-o", self.trace, *more, self.logd, *words]
        return subprocess.run(command, capture_output=True, env=env)

    def position(self, group):
        done = self.run("groups", "ls", "--json", "t-0", group, check=False)
        if done.returncode == 66:
            return None
        if done.returncode:
            raise Wrong(f"groups ls {group}: {done.returncode}: {done.stderr.decode()}")
        return json.loads(done.stdout.splitlines()[0])["position"]

    def answers(self):
        said = [self.run("get", "-k", f"k{n}", "t-0").stdout for n in (0, 7, 39)]
        said += [self.run("get", "-k", "k7", "--all", "t-0").stdout]
        for words in (["value 17 of 1"], ["-i", "VALUE 99"], ["--in", "key", "^k3"], ["nowhere"]):
            said.append(self.run("grep", "-c", *words, "t-0", check=False).stdout)
        return said

    def count(self, words):
        """Calls of a clean run by name: the most that one thread makes."""
        self.fresh()
        done = self.strace(words, "-e", "trace=" + ",".join(CALLS))
        if done.returncode:
            raise Wrong(f"{words} alone: {done.returncode}: {done.stderr.decode()}")
        each = collections.Counter()
        with open(self.trace, errors="replace") as lines:
            for line in lines:
                if found := re.match(r"(\d+) +(\w+)\(", line):
                    each[found.groups()] += 1
        most = collections.Counter()
        for (_, name), n in each.items():
            most[name] = max(most[name], n)
        return most

    def sweep(self, words, check):
        for name, count in self.count(words).items():
            errors, kill = CALLS[name]
            faults = [f"error={e}" for e in errors] + ["signal=KILL"] * kill
            for fault in faults:
                for n in range(1, min(count, self.calls) + 1):
                    self.fresh()
                    done = self.strace(words, "-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={n}")
                    with open(self.trace, errors="replace") as trace:
                        hits = [line for line in trace if "(INJECTED)" in line or "+++ killed" in line]
                    if not hits:
                        continue
                    self.failed[words[0]] += 1
                    try:
                        self.judge(done, name, fault, hits[0])
                        check(done)
                    except Wrong as wrong:
                        raise Wrong(f"{' '.join(words)}: {name} {n} {fault}: {wrong}\n{hits[0]}") from None

    def judge(self, done, name, fault, hit):
        code = done.returncode
        if "KILL" in fault:
            if code not in (-9, 137):
                raise Wrong(f"killed, but ended with {code}")
            return
        if code < 0 or code in (70, 101, 134, 139):
            raise Wrong(f"ended with {code}: {done.stderr.decode()}")
        if code == 0 and name in MUST_TELL and PLACES.search(hit):
            raise Wrong(f"ended with 0: {hit}")
        if code and not done.stderr.startswith(b"logd "):
            raise Wrong(f"ended with {code} and said {done.stderr!r}")

    def position_check(self, group, before, after):
        def check(done):
            now = self.position(group)
            if now not in (before, after) or (done.returncode == 0 and now != after):
                raise Wrong(f"position {now}, not {before} or {after}; status {done.returncode}")
            rest = self.run("cat", "-g", group, "-F", r"%o\n", "t-0").stdout.split()
            if rest != [b"%d" % o for o in range(now or 0, RECORDS)]:
                raise Wrong(f"cat -g at {now} delivered {rest[:1]}..{rest[-1:]}")

        return check

    def read_check(self, before, after):
        """A read that was killed or failed has delivered what it commits."""

        def check(done):
            shown = [int(o) for o in done.stdout.split(b"\n")[:-1]]
            now = self.position("g")
            if now != before and now != after:
                raise Wrong(f"position {now}, not {before} or {after}")
            if now == after and shown != list(range(before, after)):
                raise Wrong(f"committed {after}, delivered {shown[:1]}..{shown[-1:]}")
            if shown != list(range(before, before + len(shown))):
                raise Wrong(f"delivered {shown}")

        return check

    def index_check(self, expected):
        def check(_):
            if self.answers() != expected:
                raise Wrong("answers changed")
            if self.run("index", "--by", "key", "--bloom", "t-0").stderr:
                raise Wrong("the next index complains")
            for row in self.run("info", "--json", "--indexes", "t-0").stdout.splitlines():
                if json.loads(row).get("state", "sound") != "sound":
                    raise Wrong(f"left after the next index: {row.decode()}")
            if left := os.listdir(self.dir + "/t-0/.logd/tmp"):
                raise Wrong(f"left over: {left}")
            if self.answers() != expected:
                raise Wrong("answers changed with new indexes")

        return check

    def all(self):
        self.prepare()
        self.fresh()
        expected = self.answers()
        self.sweep(["index", "--by", "key", "--bloom", "t-0"], self.index_check(expected))
        self.sweep(["cat", "-g", "g", "-F", r"%o\n", "t-0"], self.read_check(50, RECORDS))
        self.sweep(["groups", "commit", "t-0", "m"], self.position_check("m", 0, 70))
        self.sweep(["groups", "seek", "t-0", "g", "200"], self.position_check("g", 50, 200))
        self.sweep(["groups", "reset", "t-0", "g"], self.position_check("g", 50, None))


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("logd")
    parser.add_argument("dir")
    options = parser.parse_args()
    sweep = Sweep(os.path.abspath(options.logd), os.path.abspath(options.dir), options.calls)
    try:
        sweep.all()
    except Wrong as wrong:
        sys.exit(f"WRONG: {wrong}")
    each = ", ".join(f"{name} {n}" for name, n in sweep.failed.items())
    print(f"PASS calls-failed={sum(sweep.failed.values())} ({each})")


if __name__ == "__main__":
    main()
