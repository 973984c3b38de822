#!/usr/bin/env python3
"""Reads a whole topic from a broker on loopback, one line a record (rows.py), in offset order.

usage: consume.py confluent|kafka-python PORT TOPIC [FROM_OFFSET]

Stops at the end of partition 0 as it was at the start. By hand, kcat prints the same records:

    kcat -b 127.0.0.1:PORT -C -t TOPIC -p 0 -o beginning -e -q -f '%o %T %K %S %k %s\\n'
"""

import sys
import time

from rows import fail, row

SECONDS = 30


def confluent(address, topic, start):
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "peers",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "check.crcs": True,
        }
    )
    place = TopicPartition(topic, 0, start)
    low, end = consumer.get_watermark_offsets(place, timeout=SECONDS)
    place.offset = start = max(start, low)
    consumer.assign([place])
    deadline = time.monotonic() + SECONDS
    # The position, not the last record, tells the end: control records and aborted ones at the
    # end of a log move it without being delivered.
    while (consumer.position([place])[0].offset if start < end else end) < end:
        message = consumer.poll(0.2)
        if message is not None and message.error():
            fail(message.error())
        if message is not None:
            yield row(
                message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers()
            )
        elif time.monotonic() > deadline:
            fail(f"no end of {topic} within {SECONDS} s")
    consumer.close()


def kafka_python(address, topic, start):
    from kafka import KafkaConsumer, TopicPartition

    place = TopicPartition(topic, 0)
    consumer = KafkaConsumer(
        bootstrap_servers=address,
        enable_auto_commit=False,
        isolation_level="read_committed",
        check_crcs=True,
    )
    consumer.assign([place])
    consumer.seek(place, max(start, consumer.beginning_offsets([place])[place]))
    end = consumer.end_offsets([place])[place]
    deadline = time.monotonic() + SECONDS
    while consumer.position(place) < end:
        for records in consumer.poll(timeout_ms=200).values():
            for r in records:
                yield row(r.offset, r.timestamp, r.key, r.value, r.headers)
        if time.monotonic() > deadline:
            fail(f"no end of {topic} within {SECONDS} s")
    consumer.close()


if __name__ == "__main__":
    clients = {"confluent": confluent, "kafka-python": kafka_python}
    if len(sys.argv) < 4 or sys.argv[1] not in clients:
        sys.exit(__doc__)
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    for line in clients[sys.argv[1]](f"127.0.0.1:{sys.argv[2]}", sys.argv[3], first):
        print(line)
