"""One form for a record, whoever read it, so that two readings compare as text: an object a line
with offset, timestamp (ms), key and value (base64 or null) and headers ([key, base64 or null])."""

import base64
import json
import sys


def b64(data):
    """Base64 text of bytes; None stays None, so that a tombstone is not an empty value."""
    return None if data is None else base64.b64encode(bytes(data)).decode()


def row(offset, timestamp, key, value, headers):
    """The line of one record, without its newline."""
    pairs = [[k.decode() if isinstance(k, bytes) else k, b64(v)] for k, v in headers or ()]
    stamp = -1 if timestamp is None else timestamp  # magic 0 has none
    fields = {"offset": offset, "timestamp": stamp, "key": b64(key), "value": b64(value)}
    return json.dumps(fields | {"headers": pairs})


def fail(words):
    """Ends the script with a reason: 1, the peer does not agree to what it read."""
    print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {words}", file=sys.stderr)
    sys.exit(1)
