#!/usr/bin/env python3
"""Lets a broker on loopback append to a topic, with librdkafka's producer.

usage: produce.py PORT TOPIC HOW [COUNT]

HOW is one of
  none gzip snappy lz4 zstd   COUNT records (10) in one batch, compressed so
  idempotent                  with a producer id and sequence numbers
  commit abort                in a transaction that ends so
  every                       all of these, one after the other

Records carry what is easily lost: every third has no key, every fifth is a tombstone (and so has
a key), each has two headers of one name, one of them null. Prints one line a record that a
committed reader must see (rows.py), with its offset; aborted records print nothing.
"""

import sys

from confluent_kafka import Producer

from rows import fail, row

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
OTHERS = ("idempotent", "commit", "abort")
BASE_TIME = 1_763_600_000_000


def records(how, count):
    for i in range(count):
        tombstone = i % 5 == 4
        key = None if i % 3 == 0 and not tombstone else f"{how}-{i % 7}".encode()
        value = None if tombstone else f"{how} record {i} ".encode() * 8
        yield key, value, [("n", str(i).encode()), ("n", None)], BASE_TIME + i


def settings(address, how):
    chosen = {"bootstrap.servers": address, "linger.ms": 50, "log_level": 3}
    if how in CODECS:
        chosen["compression.type"] = how
    elif how == "idempotent":
        chosen["enable.idempotence"] = True
    else:
        chosen["transactional.id"] = f"peers-{how}"
    return chosen


def produce(address, topic, how, count):
    producer = Producer(settings(address, how))
    rows = []

    def delivered(error, message):
        if error:
            fail(f"{how}: {error}")
        rows.append((message.offset(), sent[len(rows)]))

    sent = list(records(how, count))
    transactional = how in ("commit", "abort")
    if transactional:
        producer.init_transactions(30)
        producer.begin_transaction()
    for key, value, headers, timestamp in sent:
        producer.produce(
            topic, value, key, 0, on_delivery=delivered, timestamp=timestamp, headers=headers
        )
    if producer.flush(30):
        fail(f"{how}: not everything was acknowledged")
    if transactional:
        (producer.commit_transaction if how == "commit" else producer.abort_transaction)(30)
    if how != "abort":
        for offset, (key, value, headers, timestamp) in rows:
            print(row(offset, timestamp, key, value, headers))


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[3] not in (*CODECS, *OTHERS, "every"):
        sys.exit(__doc__)
    number = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    for each in (*CODECS, *OTHERS) if sys.argv[3] == "every" else sys.argv[3:4]:
        produce(f"127.0.0.1:{sys.argv[1]}", sys.argv[2], each, number)
