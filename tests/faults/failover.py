#!/usr/bin/env python3
"""Fails over from a killed primary to its copy and back, over and over.

usage: failover.py [--rounds N] [--carrier local,tcp] [--seed N] LOGD DIR

Two logs in DIR, a/orders-0 and b/orders-0; one is the primary, the other its copy. Each round:

  1. `logd replicate -f` keeps the copy, `logd append --once JOB` writes to the primary.
  2. At a random moment everything that runs on the primary's host is killed with SIGKILL, in random
     order, and the copy's end of the link is killed or told to end.
  3. In some rounds a writer that has not heard of it goes on at the old primary.
  4. The copy is promoted (in some rounds the promotion is killed and run again) and the job is run
     again there with the same name and the same input.
  5. The old primary is told by its first attempt to replicate: both that and appends are refused (65).
  6. It comes back as a copy, cut to what both have (`--truncate-divergent`). The roles are swapped.

Checked: what the copy holds when it takes over is a prefix of what the primary had; after the job was
run again each of its records is there once and in order; the logs are equal byte for byte at the end
of a round, and what earlier rounds wrote is still there. The primary alone acknowledges here, so that
what it had not sent yet is written by the second run of the job.

Prints the seed. Ends with "PASS rounds=N ...".
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time


def need(condition, what):
    if not condition:
        raise AssertionError(what)


class Drill:
    def __init__(self, args):
        self.logd, self.dir, self.rng = args.logd, args.dir, random.Random(args.seed)
        self.copied = self.cut = self.killed_promotions = self.zombies = 0
        self.running = []
        self.history = []  # every record of the log, in order

    def path(self, host):
        return os.path.join(self.dir, host, "orders-0")

    def run(self, *words, status=0, **kw):
        done = subprocess.run([self.logd, *words], capture_output=True, timeout=60, **kw)
        said = done.stderr.decode(errors="replace").strip()
        need(done.returncode == status, f"logd {' '.join(words)}: {done.returncode}, not {status}: {said}")
        return done.stdout

    def start(self, *words, **kw):
        log = open(os.path.join(self.dir, "stderr"), "ab")
        process = subprocess.Popen([self.logd, *words], stderr=log, **kw)
        self.running.append(process)
        return process

    def records(self, host):
        return self.run("cat", "--clamp", self.path(host)).decode().splitlines()

    def link(self, carrier, primary, copy):
        """Starts replication; returns the processes of the primary's host and of the copy's."""
        options = ["-f", "--sync", "batch", "--retry-for", "20s"]
        if carrier == "local":
            return [self.start("replicate", *options, self.path(primary), self.path(copy))], []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        listen = self.start("replicate", "--sync", "batch", "--listen", f"127.0.0.1:{port}", self.path(copy))
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        peer = f"tcp://127.0.0.1:{port}/orders-0"
        return [self.start("replicate", *options, self.path(primary), peer)], [listen]

    def feed(self, pipe, lines):
        """Writes the input in pieces with pauses, until it is all written or the reader is gone."""
        rng, at = random.Random(self.rng.random()), 0
        try:
            while at < len(lines):
                piece = lines[at : at + rng.choice([1, 1, 5, 200])]
                pipe.write(("\n".join(piece) + "\n").encode())
                pipe.flush()
                at += len(piece)
                time.sleep(rng.choice([0, 0, 0.001, 0.005]))
            pipe.close()
        except (BrokenPipeError, OSError):
            pass

    def write_until_killed(self, job, lines, primary, senders, receivers):
        words = ["append", "--once", job, "--sync", "batch", self.path(primary)]
        writer = self.start(*words, stdin=subprocess.PIPE)
        feeder = threading.Thread(target=self.feed, args=(writer.stdin, lines))
        feeder.start()
        time.sleep(self.rng.uniform(0.05, 0.6))
        doomed = [writer, *senders]
        self.rng.shuffle(doomed)
        for process in doomed:
            process.kill()
            time.sleep(self.rng.choice([0, 0, 0.001, 0.02]))
        for process in receivers:
            process.send_signal(self.rng.choice([signal.SIGKILL, signal.SIGTERM]))
        for process in [*doomed, *receivers]:
            process.wait(timeout=30)
        feeder.join()

    def zombie(self, primary, number):
        """A writer that has not heard of the fail-over."""
        self.run("append", self.path(primary), input=f"zombie {number}\n".encode())
        self.zombies += 1

    def promote(self, copy):
        if self.rng.random() < 0.4:
            process = self.start("promote", self.path(copy))
            time.sleep(self.rng.uniform(0, 0.006))
            process.kill()
            process.wait()
            self.killed_promotions += 1
        # Killed after its work was done, the second run finds a log that is no copy.
        done = subprocess.run([self.logd, "promote", self.path(copy)], capture_output=True, timeout=60)
        need(done.returncode in (0, 1), f"promote: {done.returncode} {done.stderr.decode()}")

    def same_bytes(self):
        def logs(host):
            names = sorted(n for n in os.listdir(self.path(host)) if n.endswith(".log"))
            return [(n, open(os.path.join(self.path(host), n), "rb").read().rstrip(b"\0")) for n in names]

        need(logs("a") == logs("b"), "segment files differ")

    def round(self, number, carrier, primary, copy):
        job = f"job-{number}"
        lines = [f"{number} {i} {'x' * self.rng.randint(0, 300)}" for i in range(20000)]
        senders, receivers = self.link(carrier, primary, copy)
        self.write_until_killed(job, lines, primary, senders, receivers)
        if not os.path.exists(os.path.join(self.path(copy), ".logd", "replica")):
            # Killed before the copy was one: the primary goes on.
            text = "".join(f"{line}\n" for line in lines).encode()
            self.run("append", "--once", job, "--sync", "batch", self.path(primary), input=text)
            self.history += lines
            return False
        if self.rng.random() < 0.5:
            self.zombie(primary, number)
        self.promote(copy)
        there = self.records(copy)
        need(there[: len(self.history)] == self.history, "an earlier round's records changed")
        mine = there[len(self.history) :]
        need(mine == lines[: len(mine)], "the copy holds something else")
        self.copied += len(mine)
        text = "".join(f"{line}\n" for line in lines).encode()
        self.run("append", "--once", job, "--sync", "batch", self.path(copy), input=text)
        self.history += lines
        need(self.records(copy) == self.history, "after the second run: lost, repeated or out of order")
        # The old primary.
        self.run("replicate", self.path(primary), self.path(copy), status=65)
        self.run("append", self.path(primary), input=b"late\n", status=65)
        more = len(self.records(primary)) > len(there)
        self.run("replicate", "--truncate-divergent", self.path(copy), self.path(primary))
        self.cut += more
        self.run("append", self.path(primary), input=b"late\n", status=77)
        self.same_bytes()
        return True


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--carrier", default="local,tcp")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("logd")
    parser.add_argument("dir")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    shutil.rmtree(args.dir, ignore_errors=True)
    for host in ("a", "b"):
        os.makedirs(os.path.join(args.dir, host))
    drill = Drill(args)
    drill.run("init", "--segment-size", "1MiB", drill.path("a"))
    primary, copy = "a", "b"
    began, swaps = time.monotonic(), 0
    try:
        for number in range(args.rounds):
            carrier = drill.rng.choice(args.carrier.split(","))
            if drill.round(number, carrier, primary, copy):
                primary, copy, swaps = copy, primary, swaps + 1
    finally:
        for process in drill.running:
            process.kill()
            process.wait()
    print(
        f"PASS rounds={args.rounds} failovers={swaps} copied-before={drill.copied} repeated=0"
        f" old-primaries-cut={drill.cut} promotions-killed={drill.killed_promotions}"
        f" late-writers={drill.zombies} seconds={time.monotonic() - began:.0f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
