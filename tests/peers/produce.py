#!/usr/bin/env python3
"""Lets a broker on loopback append to a topic, with librdkafka's producer.

usage: produce.py PORT TOPIC HOW [COUNT [SEED]]

HOW is one of
  none gzip snappy lz4 zstd   COUNT records (10) in one batch, compressed so
  idempotent                  with a producer id and sequence numbers
  commit abort                in a transaction that ends so
  every                       all of these, one after the other
  random                      COUNT batches (10) in any of these ways by SEED, of a few keys; two
                              transactional producers have theirs open side by side
  large                       one record of some COUNT bytes that no codec makes smaller

Records carry what is easily lost: every third has no key, every fifth is a tombstone (and so has
a key), each has two headers of one name, one of them null. Prints one line a record that a
committed reader must see (rows.py), with its offset; aborted records, random and large print nothing.
"""

import random
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


def acknowledged(error, _):
    if error:
        fail(error)


def flushed(producer):
    if producer.flush(30):
        fail("not everything was acknowledged")


def random_batch(producer, topic, rnd, number):
    for i in range(rnd.randint(1, 25)):
        key = rnd.choice([None, *(f"k{k}".encode() for k in range(12))])
        value = f"{number}.{i} ".encode() * rnd.randint(0, 60)
        if key is not None and rnd.random() < 0.15:
            value = None
        headers = [("n", str(i).encode())] if rnd.random() < 0.3 else None
        stamp = BASE_TIME + number * 1000 + rnd.randint(-3000, 3000)
        producer.produce(
            topic, value, key, 0, on_delivery=acknowledged, timestamp=stamp, headers=headers
        )
    flushed(producer)


def produce_random(address, topic, count, seed):
    rnd = random.Random(seed)
    plain = {how: Producer(settings(address, how)) for how in (*CODECS, "idempotent")}
    names = [f"{topic}-{seed}-{i}" for i in range(2)]
    transactional = {n: Producer(settings(address, n) | {"compression.type": "lz4"}) for n in names}
    for producer in transactional.values():
        producer.init_transactions(30)
    begun = set()
    for number in range(count):
        name = rnd.choice([*plain, *transactional, *transactional])
        if name in plain:
            random_batch(plain[name], topic, rnd, number)
            continue
        producer = transactional[name]
        if name not in begun:
            producer.begin_transaction()
            begun.add(name)
        random_batch(producer, topic, rnd, number)
        if rnd.random() < 0.5:
            rnd.choice([producer.commit_transaction, producer.abort_transaction])(30)
            begun.remove(name)
    for name in sorted(begun):
        transactional[name].commit_transaction(30)


def produce_large(address, topic, count):
    producer = Producer(settings(address, "none"))
    value = random.Random(count).randbytes(count)
    producer.produce(topic, value, b"large", 0, on_delivery=acknowledged, timestamp=BASE_TIME)
    flushed(producer)


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[3] not in (*CODECS, *OTHERS, "every", "random", "large"):
        sys.exit(__doc__)
    number = int(sys.argv[4]) if len(sys.argv) > 4 else 10
    if sys.argv[3] == "random":
        produce_random(f"127.0.0.1:{sys.argv[1]}", sys.argv[2], number, int(sys.argv[5]))
        sys.exit()
    if sys.argv[3] == "large":
        produce_large(f"127.0.0.1:{sys.argv[1]}", sys.argv[2], number)
        sys.exit()
    for each in (*CODECS, *OTHERS) if sys.argv[3] == "every" else sys.argv[3:4]:
        produce(f"127.0.0.1:{sys.argv[1]}", sys.argv[2], each, number)
