#!/usr/bin/env python3
"""A small private filesystem to fill up, to make read-only and to cut the power of (root, loop device).

usage: smallfs.py mk DIR SIZE [ext4|xfs|tmpfs] [MOUNTOPTS]   make DIR.img (sparse), mount it on DIR
       smallfs.py fill DIR LEAVE    write DIR/.ballast until only LEAVE bytes are free
       smallfs.py unfill DIR        remove the ballast
       smallfs.py inodes DIR LEAVE  use up inodes but LEAVE
       smallfs.py ro|rw DIR         remount read-only, read-write
       smallfs.py cut DIR           power cut: nothing cached reaches the image; journal recovery, mount
       smallfs.py rm DIR            unmount, remove DIR and its image

xfs takes 320M or more. `cut` (ext4, xfs) is the shutdown ioctl without a log flush: data, names and
sizes that were not synced are lost the way a power failure loses them, in about 0.1 s. It does not
reorder blocks inside the device. Stop the processes that write first, or the mount stays busy.
"""

import fcntl
import os
import struct
import subprocess
import sys
import time

SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), of xfs and taken over by ext4
NO_LOG_FLUSH = 2
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F", "-m0"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def size_of(text):
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1].upper())
    return int(text[:-1]) << shift if shift else int(text)


def mount(directory):
    with open(directory + ".opts") as file:
        options = file.read().split()[1:]
    run("mount", "-o", ",".join(["loop", *options]), directory + ".img", directory)


def mk(directory, size, kind="ext4", options=""):
    os.makedirs(directory, exist_ok=True)
    with open(directory + ".opts", "w") as file:
        file.write(f"{kind} {options}")
    if kind == "tmpfs":
        wanted = ",".join(filter(None, [f"size={size_of(size)}", options]))
        run("mount", "-t", "tmpfs", "-o", wanted, "tmpfs", directory)
        return
    with open(directory + ".img", "wb") as image:
        image.truncate(size_of(size))
    run(*MKFS[kind], directory + ".img")
    mount(directory)


def too_much(directory, leave):
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize - leave


def fill(directory, leave):
    with open(directory + "/.ballast", "ab", 0) as file:
        try:
            if too_much(directory, size_of(leave)) > 0:
                os.posix_fallocate(file.fileno(), file.tell(), too_much(directory, size_of(leave)))
        except OSError:
            pass  # xfs keeps some room for itself
        while (rest := too_much(directory, size_of(leave))) > 0:
            try:
                file.write(b"\0" * min(rest, 1 << 16))
            except OSError:
                break
        os.fsync(file.fileno())
    print("free", too_much(directory, 0))


def unfill(directory):
    os.unlink(directory + "/.ballast")


def inodes(directory, leave):
    os.makedirs(directory + "/.inodes", exist_ok=True)
    number = 0
    while os.statvfs(directory).f_favail > int(leave):
        with open(f"{directory}/.inodes/{number}", "w"):
            number += 1


def unmount(directory):
    for _ in range(50):  # a process that was killed may still be closing its files
        if subprocess.run(["umount", directory], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.1)
    run("umount", "-l", directory)
    sys.exit(f"{directory}: busy; stop what writes there before the cut")


def cut(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    os.close(descriptor)
    unmount(directory)
    mount(directory)


def rm(directory):
    subprocess.run(["umount", directory], stderr=subprocess.DEVNULL)
    for path in (directory + ".img", directory + ".opts"):
        if os.path.exists(path):
            os.unlink(path)
    os.rmdir(directory)


def remount(how):
    return lambda directory: run("mount", "-o", "remount," + how, directory)


VERBS = {"mk": mk, "fill": fill, "unfill": unfill, "inodes": inodes, "cut": cut, "rm": rm}
VERBS |= {"ro": remount("ro"), "rw": remount("rw")}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in VERBS:
        sys.exit(__doc__)
    VERBS[sys.argv[1]](os.path.abspath(sys.argv[2]), *sys.argv[3:])
