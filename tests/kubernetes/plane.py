"""The processes: a store (kelson or etcd) and the control plane on it. Only processes started here are ever signalled."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request

from api import Api

TOKEN = "the-token-of-the-test"
START_SECONDS = 180
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Plane:
    """One control plane on one store, in a folder of its own."""

    def __init__(self, store, folder, members=1):
        self.store, self.folder = store, folder
        self.api_port, self.manager_port, self.scheduler_port, *ports = free_ports(3 + 2 * members)
        # The members of the store, by the name of their process.
        names = ["store"] + [f"store-{number}" for number in range(1, members)]
        self.members = dict(zip(names, zip(ports[:members], ports[members:])))
        self.api = Api(self.api_port, TOKEN)
        self.running = {}
        os.makedirs(folder, exist_ok=True)
        self.write("tokens.csv", f'{TOKEN},admin,admin,"system:masters"\n')
        self.write("kubeconfig", KUBECONFIG.format(port=self.api_port, token=TOKEN))
        key = self.path("service-accounts.key")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)

    def start(self, name, command, **environment):
        with open(self.path(f"{name}.log"), "ab") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)

    def start_store(self):
        for name in self.members:
            self.start_member(name)

    def start_member(self, name):
        client, peer = (f"http://127.0.0.1:{port}" for port in self.members[name])
        flags = {
            "name": name,
            "data-dir": self.path(f"data-{name}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(f"{one}=http://127.0.0.1:{port}" for one, (_, port) in self.members.items()),
            "watch-progress-notify-interval": "5s",  # as kubeadm sets it
            "log-level": "warn",
        }
        self.start(name, [os.environ[self.store.upper()]] + [f"--{flag}={value}" for flag, value in flags.items()])

    def leader(self):
        """The name of the member that leads the store."""
        while True:
            for name in self.members:
                with contextlib.suppress(OSError):
                    if "\netcd_server_is_leader 1\n" in self.ask_store("/metrics", name):
                        return name
            time.sleep(0.1)

    def start_apiserver(self):
        key = self.path("service-accounts.key")
        flags = {
            "etcd-servers": ",".join(f"http://127.0.0.1:{client}" for client, _ in self.members.values()),
            "etcd-compaction-interval": "60s",
            "bind-address": "127.0.0.1",
            "secure-port": self.api_port,
            "advertise-address": "192.0.2.1",  # only written down, as the address of the service `kubernetes`
            "cert-dir": self.path("certificates"),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-cluster-ip-range": "10.96.0.0/16",
            "token-auth-file": self.path("tokens.csv"),
            "authorization-mode": "RBAC",
            "event-ttl": "5m",
        }
        # The server compares its caches with the store, and ends if they differ.
        self.start_component("kube-apiserver", flags, KUBE_WATCHCACHE_CONSISTENCY_CHECKER="true")

    def start_controllers(self):
        """Starts what does not run: a controller that could not renew its lease ends, and is started again by whoever started it."""
        common = {"kubeconfig": self.path("kubeconfig"), "bind-address": "127.0.0.1", "kube-api-qps": 500, "kube-api-burst": 1000}
        flags = {
            "kube-controller-manager": {
                "secure-port": self.manager_port,
                "service-account-private-key-file": self.path("service-accounts.key"),
                "node-monitor-grace-period": "1h",  # nobody sends the nodes' heartbeats
                "concurrent-deployment-syncs": 10,
            },
            "kube-scheduler": {"secure-port": self.scheduler_port},
        }
        for name in CONTROLLERS:
            if name not in self.running or name in self.ended():
                self.start_component(name, common | flags[name])

    def start_component(self, name, flags, **environment):
        command = [os.path.join(os.environ["KUBE_BIN"], name)] + [f"--{flag}={value}" for flag, value in flags.items()]
        self.start(name, command, **environment)

    def wait_ready(self):
        """Seconds until the API server says that it is ready."""
        started = time.monotonic()
        while not self.api.is_ready():
            ended = {name: code for name, code in self.ended().items() if name not in CONTROLLERS}
            if ended or time.monotonic() - started > START_SECONDS:
                raise RuntimeError(f"the API server is not ready; ended: {ended}; see {self.folder}")
            time.sleep(0.1)
        return time.monotonic() - started

    def ended(self):
        """Processes that ended by themselves, with their exit codes."""
        return {name: process.returncode for name, process in self.running.items() if process.poll() is not None}

    def stop(self, name, how=signal.SIGTERM):
        """Ends a process by its id; by force if it does not go in half a minute."""
        process = self.running.pop(name)
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self):
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", *self.members):
            if name in self.running:
                self.stop(name)

    def ask_store(self, path, member="store"):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.members[member][0]}{path}", timeout=5) as answer:
            return answer.read().decode()

    def wait_store(self, member="store"):
        """Seconds until a member of the store says that it is healthy."""
        started = time.monotonic()
        while time.monotonic() - started < START_SECONDS:
            with contextlib.suppress(OSError):
                if '"health":"true"' in self.ask_store("/health", member):
                    break
            time.sleep(0.02)
        return time.monotonic() - started

    def store_calls(self):
        """How often each method of the store was called, as it counts them itself."""
        counts = {}
        for line in self.ask_store("/metrics").splitlines():
            if line.startswith("grpc_server_started_total{"):
                method, count = line.split('grpc_method="')[1].split('"')[0], int(float(line.split()[-1]))
                if count:
                    counts[method] = counts.get(method, 0) + count
        return dict(sorted(counts.items(), key=lambda entry: -entry[1]))

    def resident_megabytes(self, name):
        with open(f"/proc/{self.running[name].pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) // 1024

    def cpu_seconds(self, name):
        with open(f"/proc/{self.running[name].pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "https://127.0.0.1:{port}", insecure-skip-tls-verify: true}}}}]
users: [{{name: admin, user: {{token: {token}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]
current-context: test
"""
