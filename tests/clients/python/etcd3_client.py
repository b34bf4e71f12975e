"""The program for etcd3 (python-etcd3), the synchronous client. Started by ../run.sh with ENDPOINT."""

import os
import tempfile
import threading
import time

# Its generated messages are older than protobuf's C implementation accepts.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

import etcd3  # noqa: E402
from checks import Checks, equal  # noqa: E402

PREFIX = "/clients/etcd3/"

host, port = os.environ["ENDPOINT"].rsplit(":", 1)
check = Checks("etcd3")
client = etcd3.client(host=host, port=int(port), timeout=20)
client.delete_prefix(PREFIX)

with check("put, get, delete"):
    client.put(PREFIX + "a", "1")
    revision = client.put(PREFIX + "a", "2").header.revision
    value, meta = client.get(PREFIX + "a")
    equal((value, meta.version, meta.mod_revision), (b"2", 2, revision))
    equal(client.put_if_not_exists(PREFIX + "a", "3"), False)
    equal(client.replace(PREFIX + "a", "2", "3"), True)
    equal(client.delete(PREFIX + "a"), True)
    equal(client.get(PREFIX + "a"), (None, None))

with check("range with order"):
    for i in range(20):
        client.put(f"{PREFIX}list/{i:02}", f"v{i}")
    values = [value for value, _ in client.get_prefix(PREFIX + "list/", sort_order="descend")]
    equal(values, [f"v{i}".encode() for i in range(19, -1, -1)])
    equal(len(list(client.get_range(PREFIX + "list/05", PREFIX + "list/10"))), 5)

with check("transaction"):
    t, key = client.transactions, PREFIX + "txn"
    client.put(key, "1")
    for expected, success in (("1", True), ("1", False)):
        ok, answers = client.transaction(
            compare=[t.value(key) == expected, t.create(key) > 0], success=[t.put(key, "2")], failure=[t.get(key)]
        )
        equal(ok, success)
    equal(answers[0][0][0], b"2")

with check("watch from history to live"):
    first = client.put(PREFIX + "w", "0").header.revision
    client.put(PREFIX + "w", "1")
    events, cancel = client.watch(PREFIX + "w", start_revision=first)
    client.put(PREFIX + "w", "2")
    client.delete(PREFIX + "w")
    timer = threading.Timer(10, cancel)
    timer.start()
    seen = []
    for event in events:
        seen.append((type(event).__name__, event.value))
        if isinstance(event, etcd3.events.DeleteEvent):
            break
    timer.cancel()
    cancel()
    equal(seen, [("PutEvent", b"0"), ("PutEvent", b"1"), ("PutEvent", b"2"), ("DeleteEvent", b"")])

with check("watch of a compacted revision"):
    revision = client.put(PREFIX + "a", "1").header.revision
    client.compact(revision)
    try:
        events, cancel = client.watch(PREFIX + "a", start_revision=1)
        next(events)
        raise AssertionError("it was not refused")
    except etcd3.exceptions.RevisionCompactedError as error:
        equal(error.compacted_revision, revision)

with check("lease: keep-alive, keys, expiry"):
    lease = client.lease(2)
    client.put(PREFIX + "leased", "1", lease=lease)
    for _ in range(3):
        time.sleep(1)
        equal(lease.refresh()[0].TTL, 2)
    equal(list(lease.keys), [(PREFIX + "leased").encode()])
    deadline = time.monotonic() + 20
    while client.get(PREFIX + "leased")[0] is not None:
        equal(time.monotonic() < deadline, True)
        time.sleep(0.1)

with check("lock"):
    with client.lock(PREFIX + "lock", ttl=10) as held:
        equal(held.is_acquired(), True)
        other = client.lock(PREFIX + "lock", ttl=10)
        equal(other.acquire(timeout=1), False)
    equal(other.acquire(timeout=5), True)
    other.release()

with check("status, members, hash, snapshot, alarms, defragment"):
    status = client.status()
    equal(status.version[:3], "3.7")
    equal([member.id for member in client.members], [status.leader.id])
    client.hash()
    with tempfile.TemporaryFile() as file:
        client.snapshot(file)
        equal(file.tell() > 32, True)
    equal(list(client.list_alarms()), [])
    client.defragment()

client.close()
