#!/usr/bin/env python3
"""Decodes segments with the record classes of other people's clients, one line a record (rows.py).

usage: read.py kafka-python|aiokafka FILE.log...

Every CRC is checked first; a bad one, or bytes left behind the last batch that are not zeros, ends
with status 1. Control records are left out, as in every consumer.
"""

import sys

from rows import fail, row


def batches(peer, data):
    if peer == "kafka-python":
        from kafka.record import MemoryRecords
    else:
        from aiokafka.record import MemoryRecords
    # A preallocated tail of zeros is the end of data for a broker; these classes, made for network
    # buffers, would take its zero length for a record set.
    records = MemoryRecords(data[: end_of_data(data)])
    while records.has_next():
        yield records.next_batch()


def end_of_data(data):
    position = 0
    while position + 12 <= len(data):
        length = int.from_bytes(data[position + 8 : position + 12], "big", signed=True)
        if length <= 0 or position + 12 + length > len(data):
            break
        position += 12 + length
    if data[position:].strip(b"\0"):
        fail(f"{len(data) - position} bytes at {position} are no batch")
    return position


def main(peer, files):
    for name in files:
        with open(name, "rb") as file:
            data = file.read()
        for batch in batches(peer, data):
            if not batch.validate_crc():
                fail(f"{name}: a batch fails its CRC")
            if getattr(batch, "is_control_batch", False):
                continue
            for record in batch:
                print(row(record.offset, record.timestamp, record.key, record.value, record.headers))


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("kafka-python", "aiokafka"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
