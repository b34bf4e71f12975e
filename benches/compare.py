#!/usr/bin/env python3
"""Runs the load generator against etcd and kelson side by side and prints a Markdown table.

Both servers run at the same time, each with a fresh data directory on the same file system; each workload is run in
rounds, one server after the other, the first one alternating, and the medians are compared. What is compared is the
server's CPU time per operation, and latency. Every run is kept as JSON in benches/results/.

    benches/compare.py              about two minutes: the workloads that have a goal
    benches/compare.py --full       every workload, longer and in more rounds
    benches/compare.py --control    etcd against itself: how far equal servers differ on this machine

Needs only Python's standard library, cargo, and etcd 3.7.3.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benches" / "results"
ETCD_VERSION = "3.7.3"
START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 20
RUN_TIMEOUT_SECONDS = 900
SMALL_KEYS = "10000"
BIG_KEYS = "400000"
BIG = ["--prefix", "/big/", "--keys", BIG_KEYS]

NO_ETCD = f"""\
no etcd binary in {{directory}}
To compare, get etcd {ETCD_VERSION} in one of these ways:
  - download etcd-v{ETCD_VERSION}-linux-amd64.tar.gz from https://github.com/etcd-io/etcd/releases
  - git clone --branch v{ETCD_VERSION} https://github.com/etcd-io/etcd && make -C etcd build
then put the file `etcd` into ~/.cache/kelson-peers, or name its directory in KELSON_PEERS.
"""


@dataclass(frozen=True)
class Workload:
    """One line of the table."""

    name: str
    arguments: list[str]
    # The figure compared: "cpu" per operation, "delivery" (CPU per delivered event), "p50".
    metric: str = "cpu"
    # The goal: kelson's figure is at most this share of etcd's; None = no goal.
    goal: float | None = None
    # Needs the big prefix.
    big: bool = False
    # Part of the short run.
    quick: bool = False
    # Cannot be repeated: run once, without a time limit.
    once: bool = False


WORKLOADS = [
    Workload("put, 100 clients", ["put"], goal=1 / 3, quick=True),
    Workload("put, 1 client", ["put-one-client"], metric="p50", goal=1.0, quick=True),
    Workload("put, 16 clients", ["put", "--clients", "16", "--conns", "4"]),
    Workload("put, 1,000 clients", ["put", "--clients", "1000", "--conns", "100"]),
    Workload("put, 1,000 a second", ["put", "--rate", "1000"]),
    Workload("put, in txns of 10", ["put-ten"]),
    Workload("CAS txn, 100 clients", ["txn-cas"]),
    Workload("linearizable get, 100 clients", ["get"], goal=1 / 2.5, quick=True),
    Workload("serializable get, 100 clients", ["get", "--serializable"]),
    Workload("page of 500 of 10,000 keys", ["page"]),
    Workload("event to 1,000 watchers, each a stream",
             ["watch-fan-out", "--streams", "1000", "--value-bytes", "1024"], metric="delivery", goal=1 / 5, quick=True),
    Workload("event to 1,000 watchers on 10 streams",
             ["watch-fan-out", "--streams", "10", "--value-bytes", "1024"], metric="delivery"),
    Workload("the same with prev_kv",
             ["watch-fan-out", "--streams", "10", "--value-bytes", "1024", "--prev-kv"], metric="delivery"),
    Workload("put, 10,000 watched keys", ["put-watched"]),
    Workload("put, 10,000 watched prefixes", ["watch-prefixes"]),
    Workload("lease grant + revoke", ["lease-cycle"]),
    Workload("keep-alive", ["keep-alive"]),
    Workload("fill 400,000 keys", ["fill", *BIG], big=True, quick=True, once=True),
    Workload("page of 500 of 400,000 keys", ["page", *BIG], goal=1 / 50, big=True, quick=True),
    Workload("next page of 500 of 400,000 keys", ["page-next", *BIG], big=True),
    Workload("count of 400,000 keys", ["count", *BIG], goal=1 / 50, big=True, quick=True),
    Workload("range of 400,000 keys", ["range-full", *BIG, "--clients", "1"], big=True),
]


@dataclass
class Server:
    """A running server."""

    label: str
    binary: Path
    directory: Path
    process: subprocess.Popen | None = None
    port: int = 0
    runs: dict[str, list[dict]] = field(default_factory=dict)

    def start(self, load: Path) -> None:
        """Starts it, and returns once it has answered a put."""
        self.port, peer_port = free_ports(2)
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{peer_port}"
        log = open(self.directory / "server.log", "wb")
        self.process = subprocess.Popen(
            [str(self.binary), "--name", "bench", "--data-dir", str(self.directory / "data"),
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"bench={peer}", "--log-level", "warn",
             "--quota-backend-bytes", str(8 << 30)],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        log.close()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        probe = [str(load), "--endpoint", f"127.0.0.1:{self.port}", "--requests", "1", "--warm-up", "0", "put"]
        while subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode != 0:
            if self.process.poll() is not None:
                sys.exit(f"{self.label} ended with code {self.process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                sys.exit(f"{self.label} did not answer within {START_TIMEOUT_SECONDS} s:\n{self.log_tail()}")
            time.sleep(0.1)

    def log_tail(self) -> str:
        text = (self.directory / "server.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-15:])

    def stop(self) -> None:
        """Ends it, and waits."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, load: Path, workload: Workload, seconds: float, seed: int) -> dict:
        """One run of the load generator; keeps and returns its report."""
        command = [str(load), "--json", "--endpoint", f"127.0.0.1:{self.port}", "--pid", str(self.process.pid),
                   "--seed", str(seed), *arguments(workload)]
        if not workload.once:
            command += ["--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS, check=False)
        if done.returncode != 0:
            sys.exit(f"{workload.name} on {self.label} failed: {done.stdout.strip()} {done.stderr.strip()}\n"
                     f"{self.log_tail()}")
        report = json.loads(done.stdout)
        self.runs.setdefault(workload.name, []).append(report)
        return report


def arguments(workload: Workload) -> list[str]:
    if workload.arguments == ["put-ten"]:
        # As many keys as keep the run within a few seconds; the figure is per put.
        return ["fill", "--batch", "10", "--clients", "16", "--conns", "4", "--keys", "100000", "--prefix", "/ten/"]
    return workload.arguments


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def figure(workload: Workload, report: dict) -> float:
    """The compared figure of one run, in µs."""
    if workload.metric == "p50":
        return report["latency"]["p50"]
    if workload.metric == "delivery":
        return report["deliveries"]["server_cpu_per_delivery"]
    return report["server"]["cpu_per_operation"]


def cpu(workload: Workload, report: dict) -> float:
    if workload.metric == "delivery":
        return report["deliveries"]["server_cpu_per_delivery"]
    return report["server"]["cpu_per_operation"]


def latency(workload: Workload, reports: list[dict]) -> str:
    sources = [report["deliveries"] if workload.metric == "delivery" else report for report in reports]
    p50 = statistics.median(source["latency"]["p50"] for source in sources)
    p99 = statistics.median(source["latency"]["p99"] for source in sources)
    return f"{milliseconds(p50)} / {milliseconds(p99)}"


def milliseconds(micros: float) -> str:
    return f"{micros / 1000:.3g}"


def micros(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(value: float) -> str:
    return f"1/{1 / value:.3g}" if value < 1 else f"{value:.2f}"


def table(first: Server, second: Server, workloads: list[Workload], goals: bool) -> str:
    a, b = first.label, second.label
    lines = [
        f"| workload | {a} CPU µs | {b} CPU µs | ratio (rounds) | goal | {a} p50 / p99 ms | {b} p50 / p99 ms "
        f"| {a} MB | {b} MB |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for workload in workloads:
        if workload.name not in first.runs or workload.name not in second.runs:
            continue
        one, two = first.runs[workload.name], second.runs[workload.name]
        ratios = [figure(workload, y) / max(figure(workload, x), 1e-9) for x, y in zip(one, two)]
        medians = [statistics.median(figure(workload, report) for report in runs) for runs in (one, two)]
        ratio = medians[1] / max(medians[0], 1e-9)
        goal = ""
        if goals and workload.goal is not None:
            met = "met" if ratio <= workload.goal else "**missed**"
            goal = f"{'p50 ' if workload.metric == 'p50' else ''}≤ {share(workload.goal)}: {met}"
        memory = [max(report["server"]["memory_bytes"] for report in runs) / 1e6 for runs in (one, two)]
        cpus = [statistics.median(cpu(workload, report) for report in runs) for runs in (one, two)]
        lines.append(
            f"| {workload.name} | {micros(cpus[0])} | {micros(cpus[1])} "
            f"| {share(ratio)} ({share(min(ratios))} to {share(max(ratios))}) | {goal} "
            f"| {latency(workload, one)} | {latency(workload, two)} | {memory[0]:.0f} | {memory[1]:.0f} |")
    return "\n".join(lines)


def built(command: list[str], target: str) -> Path:
    """Runs cargo and returns the executable of a target."""
    done = subprocess.run(["cargo", *command, "--message-format=json-render-diagnostics"], cwd=REPOSITORY,
                          stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"cargo {' '.join(command)} failed")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("target", {}).get("name") == target:
            return Path(message["executable"])
    sys.exit(f"cargo built no {target}")


def etcd_binary() -> Path:
    directory = Path(os.environ.get("KELSON_PEERS") or Path.home() / ".cache" / "kelson-peers")
    binary = directory / "etcd"
    if not binary.is_file():
        sys.exit(NO_ETCD.format(directory=directory))
    return binary


def first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=30, check=False)
    except OSError:
        return ""
    return (done.stdout.splitlines() or [""])[0].strip()


def surroundings(etcd: Path) -> dict:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "")
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": first_line(["git", "rev-parse", "--short", "HEAD"]),
        "etcd": first_line([str(etcd), "--version"]),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every workload, 5 rounds of 5 s")
    parser.add_argument("--control", action="store_true", help="etcd against itself")
    parser.add_argument("--rounds", type=int, help="rounds of each workload (3; --full 5)")
    parser.add_argument("--seconds", type=float, help="length of one run (2; --full 5)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only workloads whose name has TEXT in it")
    parser.add_argument("--kelson", type=Path, help="a built kelson, instead of building it")
    parser.add_argument("--load", type=Path, help="a built load generator, instead of building it")
    parser.add_argument("--directory", type=Path, help="where data directories are made (target/)")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Workload]:
    workloads = [workload for workload in WORKLOADS if options.full or options.only or workload.quick]
    if options.only:
        named = [workload for workload in workloads if any(text in workload.name for text in options.only)]
        fill = [workload for workload in workloads if workload.once and any(one.big for one in named)]
        workloads = [workload for workload in workloads if workload in named or workload in fill]
    return workloads


def measure(options: argparse.Namespace, load: Path, servers: list[Server]) -> None:
    """All rounds of all workloads: first those on few keys, then those on the big prefix."""
    rounds = options.rounds or (5 if options.full else 3)
    seconds = options.seconds or (5 if options.full else 2)
    workloads = chosen(options)
    fill = Workload("fill", ["fill", "--keys", SMALL_KEYS], once=True)
    for server in servers:
        server.start(load)
        server.run(load, fill, seconds, seed=0)
    for big in (False, True):
        for turn in range(rounds):
            for workload in workloads:
                if workload.big != big or (workload.once and turn > 0):
                    continue
                order = servers if turn % 2 == 0 else servers[::-1]
                for server in order:
                    report = server.run(load, workload, seconds, seed=turn + 1)
                    print(f"round {turn + 1}/{1 if workload.once else rounds}: {workload.name}, {server.label}: "
                          f"{micros(figure(workload, report))} µs", file=sys.stderr)


def main() -> None:
    options = parse_arguments()
    etcd = etcd_binary()
    load = options.load or built(["bench", "--bench", "load", "--no-run"], "load")
    if options.control:
        candidate, label = etcd, "etcd again"
    else:
        candidate, label = options.kelson or built(["build", "--release", "--bin", "kelson"], "kelson"), "kelson"
    about = surroundings(etcd)
    parent = options.directory or REPOSITORY / "target"
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="compare-", dir=parent))
    servers = []
    for name, binary in (("etcd", etcd), (label, candidate)):
        own = directory / name.replace(" ", "-")
        own.mkdir()
        servers.append(Server(name, binary, own))
    try:
        measure(options, load, servers)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    about["load_average_after"] = os.getloadavg()[0]
    RESULTS.mkdir(exist_ok=True)
    kind = "control" if options.control else "full" if options.full else "quick"
    stamp = about["started"].replace("-", "").replace(":", "")
    result = RESULTS / f"{stamp}-{kind}.json"
    result.write_text(json.dumps(
        {"about": about, "servers": {server.label: server.runs for server in servers}}, indent=1) + "\n")
    print(f"{about['etcd']}; commit {about['commit']}; {about['cores']} cores, {about['cpu']}; "
          f"load average {about['load_average']:.1f} before, {about['load_average_after']:.1f} after\n")
    print(table(servers[0], servers[1], WORKLOADS, goals=not options.control))
    print(f"\nall runs: {result.relative_to(REPOSITORY)}", file=sys.stderr)


if __name__ == "__main__":
    main()
