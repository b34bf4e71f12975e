"""The program for aetcd, the asyncio client. Started by ../run.sh with ENDPOINT."""

import asyncio
import os
import tempfile

import aetcd
from checks import Checks, equal

PREFIX = b"/clients/aetcd/"


async def main():
    host, port = os.environ["ENDPOINT"].rsplit(":", 1)
    check = Checks("aetcd")
    async with aetcd.Client(host=host, port=int(port)) as client:
        await client.delete_prefix(PREFIX)
        with check("put, get, delete"):
            await client.put(PREFIX + b"a", b"1")
            put = await client.put(PREFIX + b"a", b"2", prev_kv=True)
            equal(put.prev_kv.value, b"1")
            got = await client.get(PREFIX + b"a")
            equal((got.value, got.version, got.mod_revision), (b"2", 2, put.header.revision))
            equal((await client.delete(PREFIX + b"a", prev_kv=True)).prev_kv.value, b"2")
            equal(await client.get(PREFIX + b"a"), None)

        with check("range with order"):
            for i in range(20):
                await client.put(PREFIX + b"list/%02d" % i, b"v")
            page = await client.get_prefix(PREFIX + b"list/", sort_order="descend")
            equal([int(kv.key[-2:]) for kv in page], list(range(19, -1, -1)))
            equal((page.count, page.more), (20, False))

        with check("transaction"):
            t, key = client.transactions, PREFIX + b"txn"
            for expected, success in ((b"1", True), (b"wrong", False)):
                await client.put(key, b"1")
                ok, answers = await client.transaction(
                    compare=[t.value(key) == expected, t.version(key) > 0],
                    success=[t.put(key, b"2"), t.get(key)],
                    failure=[t.get(key)],
                )
                equal(ok, success)
                equal(answers[-1][0][0], b"2" if success else b"1")

        with check("replace is atomic"):
            await client.put(PREFIX + b"cas", b"0")

            async def increment():
                for _ in range(5):
                    while True:
                        value = (await client.get(PREFIX + b"cas")).value
                        if await client.replace(PREFIX + b"cas", value, b"%d" % (int(value) + 1)):
                            break

            await asyncio.gather(*(increment() for _ in range(4)))
            equal((await client.get(PREFIX + b"cas")).value, b"20")

        with check("watch from history to live"):
            first = await client.put(PREFIX + b"w", b"0")
            await client.put(PREFIX + b"w", b"1")
            watch = await client.watch(PREFIX + b"w", start_revision=first.header.revision, prev_kv=True)
            await client.put(PREFIX + b"w", b"2")
            await client.delete(PREFIX + b"w")
            seen = []
            async with asyncio.timeout(10):
                async for event in watch:
                    seen.append((event.kind, event.kv.value))
                    if event.kind == aetcd.EventKind.DELETE:
                        equal(event.prev_kv.value, b"2")
                        break
            put = aetcd.EventKind.PUT
            equal(seen, [(put, b"0"), (put, b"1"), (put, b"2"), (aetcd.EventKind.DELETE, b"")])
            await watch.cancel()

        with check("lease: keep-alive, keys, expiry"):
            lease = await client.lease(2)
            await client.put(PREFIX + b"leased", b"1", lease=lease)
            for _ in range(3):
                await asyncio.sleep(1)
                await lease.refresh()
            equal(list(await lease.keys()), [PREFIX + b"leased"])
            async with asyncio.timeout(20):
                while await client.get(PREFIX + b"leased") is not None:
                    await asyncio.sleep(0.1)

        with check("lock"):
            async with client.lock(PREFIX + b"lock", ttl=10) as held:
                equal(await held.is_acquired(), True)
                other = client.lock(PREFIX + b"lock", ttl=10)
                equal(await other.acquire(timeout=1), False)
            equal(await other.acquire(timeout=5), True)
            await other.release()

        with check("status, members, hash, snapshot, compaction"):
            status = await client.status()
            equal(status.version[:3], "3.7")
            equal([member.id async for member in client.members()], [status.leader.id])
            await client.hash()
            with tempfile.TemporaryFile() as file:
                await client.snapshot(file)
                equal(file.tell() > 32, True)
            await client.compact((await client.put(PREFIX + b"a", b"1")).header.revision)


asyncio.run(main())
