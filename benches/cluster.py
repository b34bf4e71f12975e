#!/usr/bin/env python3
"""Three members of etcd and three of kelson side by side, on one machine, in one run.

    benches/cluster.py              puts and reads on the leader and over all members, and a fail-over
    benches/cluster.py --full       longer, with p99 at half of etcd's rate, a follower's catch-up and a large snapshot
    benches/cluster.py --only put   only what has `put` in its name

Each workload runs in rounds, one cluster after the other, the first one alternating; medians are compared. What is
compared is the CPU time of all three servers per operation, latencies at a fixed rate, and waiting times. Every run is
kept as JSON in benches/results/. Needs Python's standard library, cargo, and etcd 3.7.3 (see benches/compare.py).
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import compare

TICKS = os.sysconf("SC_CLK_TCK")
MEMBERS = 3
START_TIMEOUT_SECONDS = 60


class Cluster:
    """Three processes."""

    def __init__(self, label: str, binary: Path, directory: Path, load: Path, flags: list[str]):
        self.label, self.binary, self.directory, self.load, self.flags = label, binary, directory, load, flags
        self.ports = compare.free_ports(2 * MEMBERS)
        self.processes: list[subprocess.Popen | None] = [None] * MEMBERS
        self.figures: dict[str, list[dict]] = {}

    def client(self, member: int) -> str:
        return f"127.0.0.1:{self.ports[member]}"

    def peer(self, member: int) -> str:
        return f"http://127.0.0.1:{self.ports[MEMBERS + member]}"

    def start(self, member: int) -> None:
        names = ",".join(f"m{n}={self.peer(n)}" for n in range(MEMBERS))
        client = f"http://{self.client(member)}"
        with open(self.directory / f"m{member}.log", "ab") as log:
            self.processes[member] = subprocess.Popen(
                [str(self.binary), "--name", f"m{member}", "--data-dir", str(self.directory / f"m{member}"),
                 "--listen-client-urls", client, "--advertise-client-urls", client,
                 "--listen-peer-urls", self.peer(member), "--initial-advertise-peer-urls", self.peer(member),
                 "--initial-cluster", names, "--log-level", "warn", "--quota-backend-bytes", str(8 << 30),
                 *self.flags],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def start_all(self) -> None:
        for member in range(MEMBERS):
            self.start(member)
        for member in range(MEMBERS):
            self.await_put(member)

    def put(self, member: int, timeout: float = 10) -> bool:
        probe = [str(self.load), "--endpoint", self.client(member), "--requests", "1", "--warm-up", "0", "put"]
        try:
            return subprocess.run(probe, capture_output=True, timeout=timeout, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def await_put(self, member: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self.put(member):
            if time.monotonic() > deadline:
                text = (self.directory / f"m{member}.log").read_text(errors="replace")
                sys.exit(f"{self.label} member {member} did not answer:\n{text[-2000:]}")
            time.sleep(0.1)

    def status(self, member: int) -> dict:
        """What the member's metrics say of it."""
        with urllib.request.urlopen(f"http://{self.client(member)}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        values = {}
        for line in lines:
            name, _, value = line.rpartition(" ")
            if name and not name.startswith("#"):
                values[name] = value
        return values

    def leader(self) -> int:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for member in range(MEMBERS):
                try:
                    if self.processes[member] and float(self.status(member).get("etcd_server_is_leader", 0)) == 1:
                        return member
                except OSError:
                    pass
            time.sleep(0.02)
        sys.exit(f"{self.label} has no leader")

    def cpu_seconds(self) -> float:
        total = 0
        for process in self.processes:
            if process and process.poll() is None:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory_bytes(self) -> int:
        pages = [int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) for p in self.processes if p]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def run(self, name: str, member: int, arguments: list[str], seconds: float | None, seed: int) -> dict:
        """One run of the load generator against one member; keeps and returns its report with the CPU of all."""
        command = [str(self.load), "--json", "--endpoint", self.client(member),
                   "--pid", str(self.processes[member].pid), "--seed", str(seed), *arguments]
        if seconds:
            command += ["--seconds", str(seconds), "--warm-up", "0"]
        before = self.cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        spent = self.cpu_seconds() - before
        if done.returncode != 0:
            sys.exit(f"{name} on {self.label} failed: {done.stdout.strip()} {done.stderr.strip()}")
        report = json.loads(done.stdout)
        report["cpu_of_all_per_operation"] = spent * 1e6 / max(report["operations"], 1)
        report["memory_of_all_bytes"] = self.memory_bytes()
        self.figures.setdefault(name, []).append(report)
        return report

    def kill(self, member: int) -> None:
        self.processes[member].send_signal(signal.SIGKILL)
        self.processes[member].wait()
        self.processes[member] = None

    def stop(self) -> None:
        for process in self.processes:
            if process and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            if process:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


WORKLOADS = [
    ("put, 100 clients, on the leader", "leader", ["put"], 1 / 5),
    ("put, 100 clients, on a follower", "follower", ["put"], None),
    ("put, 1 client, on the leader", "leader", ["put-one-client"], None),
    ("linearizable get, 100 clients, on the leader", "leader", ["get"], 1 / 4),
    ("linearizable get, 100 clients, on a follower", "follower", ["get"], 1 / 4),
    ("serializable get, 100 clients, on a follower", "follower", ["get", "--serializable"], None),
    ("CAS txn, 100 clients, on the leader", "leader", ["txn-cas"], None),
]


def median(values: list[float]) -> float:
    return statistics.median(values)


def steady(clusters: list[Cluster], rounds: int, seconds: float, only: list[str]) -> list[str]:
    lines = ["| workload | etcd CPU µs | kelson CPU µs | ratio (rounds) | goal | etcd p50 / p99 ms | kelson p50 / p99 ms |",
             "|---|---:|---:|---:|---|---:|---:|"]
    for name, where, arguments, goal in WORKLOADS:
        if only and not any(text in name for text in only):
            continue
        for turn in range(rounds):
            for cluster in clusters if turn % 2 == 0 else clusters[::-1]:
                leader = cluster.leader()
                member = leader if where == "leader" else (leader + 1) % MEMBERS
                report = cluster.run(name, member, arguments, seconds, turn + 1)
                print(f"round {turn + 1}/{rounds}: {name}, {cluster.label}: "
                      f"{report['cpu_of_all_per_operation']:.0f} µs, p99 {report['latency']['p99'] / 1000:.2f} ms",
                      file=sys.stderr)
        one, two = (cluster.figures[name] for cluster in clusters)
        cpus = [[report["cpu_of_all_per_operation"] for report in reports] for reports in (one, two)]
        ratio = median(cpus[1]) / median(cpus[0])
        ratios = [b / a for a, b in zip(*cpus)]
        met = "" if goal is None else f"≤ {compare.share(goal)}: {'met' if ratio <= goal else '**missed**'}"
        latencies = [f"{median([r['latency']['p50'] for r in reports]) / 1000:.3g} / "
                     f"{median([r['latency']['p99'] for r in reports]) / 1000:.3g}" for reports in (one, two)]
        lines.append(f"| {name} | {median(cpus[0]):.0f} | {median(cpus[1]):.0f} | {compare.share(ratio)} "
                     f"({compare.share(min(ratios))} to {compare.share(max(ratios))}) | {met} "
                     f"| {latencies[0]} | {latencies[1]} |")
    return lines


def half_rate(clusters: list[Cluster], rounds: int, seconds: float) -> list[str]:
    """Latency of puts at half of the rate that etcd reaches with 100 clients."""
    etcd = clusters[0]
    top = [etcd.run("etcd's highest rate", etcd.leader(), ["put"], seconds, turn + 1) for turn in range(rounds)]
    rate = int(median([report["operations"] / report["seconds"] for report in top]) / 2)
    lines = [f"Puts at {rate} a second, half of etcd's highest rate:", ""]
    name = "put at half of etcd's rate"
    for turn in range(rounds):
        for cluster in clusters if turn % 2 == 0 else clusters[::-1]:
            cluster.run(name, cluster.leader(), ["put", "--rate", str(rate)], seconds, turn + 1)
    for cluster in clusters:
        reports = cluster.figures[name]
        lines.append(f"- {cluster.label}: p50 {median([r['latency']['p50'] for r in reports]) / 1000:.3g} ms, "
                     f"p99 {median([r['latency']['p99'] for r in reports]) / 1000:.3g} ms "
                     f"(rounds: {', '.join(format(r['latency']['p99'] / 1000, '.3g') for r in reports)}), "
                     f"CPU {median([r['cpu_of_all_per_operation'] for r in reports]):.0f} µs a put")
    return lines


def fail_over(clusters: list[Cluster], rounds: int) -> list[str]:
    """From `kill -9` of the leader to the first put that another member accepts."""
    lines = ["From `kill -9` of the leader to the first accepted put on another member, ms:", ""]
    waits: dict[str, list[float]] = {cluster.label: [] for cluster in clusters}
    for turn in range(rounds):
        for cluster in clusters if turn % 2 == 0 else clusters[::-1]:
            leader = cluster.leader()
            other = (leader + 1) % MEMBERS
            cluster.put(other)
            cluster.kill(leader)
            started = time.monotonic()
            # A put that was under way when the leader died may never be answered, so each attempt is short.
            while not cluster.put(other, timeout=0.4):
                pass
            waits[cluster.label].append((time.monotonic() - started) * 1000)
            print(f"fail-over {turn + 1}/{rounds}, {cluster.label}: {waits[cluster.label][-1]:.0f} ms", file=sys.stderr)
            cluster.start(leader)
            cluster.await_put(leader)
    for label, values in waits.items():
        lines.append(f"- {label}: median {median(values):.0f}, worst {max(values):.0f} of {len(values)} "
                     f"({', '.join(format(value, '.0f') for value in values)})")
    for cluster in clusters:
        cluster.figures["fail-over ms"] = waits[cluster.label]
    return lines


def applied(cluster: Cluster, member: int) -> float:
    return float(cluster.status(member)["etcd_debugging_mvcc_current_revision"])


def catch_up(clusters: list[Cluster], writes: int) -> list[str]:
    """How long a follower that missed writes takes to have them, and by what."""
    lines = [f"A follower that missed {writes:,} puts of 256 B has them again after its start:", ""]
    for cluster in clusters:
        leader = cluster.leader()
        follower = (leader + 1) % MEMBERS
        cluster.kill(follower)
        fill = ["fill", "--prefix", "/missed/", "--keys", str(writes)]
        cluster.run("missed writes", leader, fill, None, 7)
        goal = applied(cluster, leader)
        sent = cluster.status(leader)
        snapshots = {name: value for name, value in sent.items() if name.startswith("etcd_network_snapshot_send_success")}
        started = time.monotonic()
        cluster.start(follower)
        while True:
            try:
                if applied(cluster, follower) >= goal:
                    break
            except OSError:
                pass
            if time.monotonic() - started > 300:
                sys.exit(f"{cluster.label}: the follower does not catch up")
            time.sleep(0.02)
        took = time.monotonic() - started
        after = {name: value for name, value in cluster.status(leader).items()
                 if name.startswith("etcd_network_snapshot_send_success")}
        by = "a snapshot" if after != snapshots else "the log"
        cluster.figures["catch-up"] = [{"seconds": took, "by": by}]
        lines.append(f"- {cluster.label}: {took:.2f} s, from {by}")
        print(lines[-1], file=sys.stderr)
        cluster.await_put(follower)
    return lines


def large_snapshot(cluster: Cluster, keys: int, seconds: float) -> list[str]:
    """Latency of puts while a member without data is given a state of `keys` values of 1 KiB."""
    leader = cluster.leader()
    newcomer = (leader + 1) % MEMBERS
    etcdctl = [str(compare.etcd_binary().parent / "etcdctl"), "--endpoints", f"http://{cluster.client(leader)}"]
    cluster.run("filling", leader, ["fill", "--prefix", "/large/", "--keys", str(keys), "--value-bytes", "1024",
                                    "--clients", "64", "--conns", "8"], None, 9)
    listed = json.loads(subprocess.run([*etcdctl, "member", "list", "-w", "json"], capture_output=True, check=True).stdout)
    gone = next(m for m in listed["members"] if m["name"] == f"m{newcomer}")
    usual = cluster.run("usual", leader, ["put", "--rate", "500"], seconds, 1)
    cluster.kill(newcomer)
    subprocess.run([*etcdctl, "member", "remove", f"{gone['ID']:x}"], check=True, capture_output=True)
    shutil.rmtree(cluster.directory / f"m{newcomer}")
    time.sleep(6)
    subprocess.run([*etcdctl, "member", "add", f"m{newcomer}", "--learner", f"--peer-urls={cluster.peer(newcomer)}"],
                   check=True, capture_output=True)
    goal = applied(cluster, leader)
    reports: list[dict] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            reports.append(cluster.run("while a snapshot is sent", leader, ["put", "--rate", "500"], seconds, 2))

    cluster.flags = [*cluster.flags, "--initial-cluster-state", "existing"]
    writer = threading.Thread(target=write)
    writer.start()
    started = time.monotonic()
    cluster.start(newcomer)
    while True:
        try:
            # etcd's metrics of a learner are served as well.
            if applied(cluster, newcomer) >= goal:
                break
        except (OSError, KeyError):
            pass
        if time.monotonic() - started > 600 or cluster.processes[newcomer].poll() is not None:
            ended.set()
            writer.join()
            log = (cluster.directory / f"m{newcomer}.log").read_text(errors="replace")
            sys.exit(f"{cluster.label}: the new member has no data after {time.monotonic() - started:.0f} s\n{log[-2000:]}")
        time.sleep(0.05)
    took = time.monotonic() - started
    ended.set()
    writer.join()
    during = max(report["latency"]["p99"] for report in reports)
    cluster.figures["snapshot"] = [{"seconds": took, "usual": usual["latency"], "during": [r["latency"] for r in reports]}]
    return [f"- {cluster.label}: a new member has {keys:,} keys of 1 KiB after {took:.1f} s; puts at 500 a second meanwhile "
            f"p99 {during / 1000:.3g} ms (worst of {len(reports)} runs), usually {usual['latency']['p99'] / 1000:.3g} ms"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="everything, 5 rounds of 5 s")
    parser.add_argument("--rounds", type=int, help="rounds of each workload (3; --full 5)")
    parser.add_argument("--seconds", type=float, help="length of one run (2; --full 5)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only what has TEXT in its name")
    parser.add_argument("--skip", action="append", default=[], metavar="TEXT", help="not these parts: "
                        "steady, half-rate, fail-over, catch-up, snapshot")
    parser.add_argument("--large-keys", type=int, default=900_000, help="keys of the large state (900,000)")
    parser.add_argument("--kelson", type=Path, help="a built kelson, instead of building it")
    parser.add_argument("--load", type=Path, help="a built load generator, instead of building it")
    parser.add_argument("--directory", type=Path, help="where data directories are made (target/)")
    options = parser.parse_args()
    etcd = compare.etcd_binary()
    load = options.load or compare.built(["bench", "--bench", "load", "--no-run"], "load")
    kelson = options.kelson or compare.built(["build", "--release", "--bin", "kelson"], "kelson")
    rounds = options.rounds or (5 if options.full else 3)
    seconds = options.seconds or (5 if options.full else 2)
    parent = options.directory or compare.REPOSITORY / "target"
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="cluster-", dir=parent))
    clusters = []
    for label, binary in (("etcd", etcd), ("kelson", kelson)):
        (work / label).mkdir()
        clusters.append(Cluster(label, binary, work / label, load, []))
    about = compare.surroundings(etcd)
    try:
        for cluster in clusters:
            cluster.start_all()
            cluster.run("fill", cluster.leader(), ["fill", "--keys", compare.SMALL_KEYS], None, 0)
        text = []
        if "steady" not in options.skip:
            text += steady(clusters, rounds, seconds, options.only) + [""]
        if not options.only or options.full:
            if "half-rate" not in options.skip:
                text += half_rate(clusters, rounds, seconds) + [""]
            if "fail-over" not in options.skip:
                text += fail_over(clusters, rounds) + [""]
            if options.full and "catch-up" not in options.skip:
                text += catch_up(clusters, 100_000) + [""]
            if options.full and "snapshot" not in options.skip:
                text += ["A state of about 1 GB sent to a new member while puts go on:", ""]
                for cluster in clusters:
                    text += large_snapshot(cluster, options.large_keys, seconds)
                    print(text[-1], file=sys.stderr)
                text.append("")
        memory = ", ".join(f"{cluster.label} {cluster.memory_bytes() / 1e6:.0f} MB" for cluster in clusters)
        text.append(f"Memory of all three at the end: {memory}.")
        print("\n".join(text))
    finally:
        for cluster in clusters:
            cluster.stop()
        shutil.rmtree(work, ignore_errors=True)
    compare.RESULTS.mkdir(exist_ok=True)
    kept = compare.RESULTS / time.strftime("%Y%m%dT%H%M%SZ-cluster.json", time.gmtime())
    kept.write_text(json.dumps({"about": about, "text": text, "runs": {c.label: c.figures for c in clusters}}, indent=1))
    print(f"kept as {kept.relative_to(compare.REPOSITORY)}", file=sys.stderr)


if __name__ == "__main__":
    main()
