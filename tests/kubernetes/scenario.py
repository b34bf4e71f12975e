"""What the control plane is put through, and what must hold. Started by run.sh; the processes are in plane.py."""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time

from api import Refused, Watch
from kubelet import PODS, Kubelet, node
from plane import Plane

NODES = 10
THREADS = 8
OUTAGE_SECONDS = 2  # between the SIGKILL of the store and its new start
CONSISTENCY_CHECK_SECONDS = 330  # the API server's first check of its caches, and some
WAIT_SECONDS = 240
PANICS = ("panic: ", "Observed a panic", "panicked at", "Cache consistency check failed")
NO_ANSWER = (OSError, http.client.HTTPException)


def namespace_path(name, resource):
    return f"/api/v1/namespaces/{name}/{resource}"


def config_map(name, text="x" * 512):
    return {"metadata": {"name": name}, "data": {"text": text}}


def wait_for(what, condition):
    """Asks twice a second until the condition holds; refusals while something starts are not final."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        with contextlib.suppress(Refused, *NO_ANSWER):
            if condition():
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not in {WAIT_SECONDS} s")
        time.sleep(0.5)


def equal(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what} got {got}, wanted {wanted}")


def median_milliseconds(action, count=5):
    times = []
    for _ in range(count):
        started = time.monotonic()
        action()
        times.append((time.monotonic() - started) * 1000)
    return round(statistics.median(times), 1)


class Scenario:
    def __init__(self, plane, options):
        self.plane, self.api, self.options = plane, plane.api, options
        self.figures, self.passed, self.failed = {}, 0, 0

    @contextlib.contextmanager
    def check(self, name):
        try:
            yield
        except (AssertionError, Refused, RuntimeError, *NO_ANSWER) as error:
            print(f"FAIL {self.plane.store} {name}: {type(error).__name__}: {error}")
            self.failed += 1
        else:
            print(f"ok {self.plane.store} {name}")
            self.passed += 1

    def run(self):
        self.plane.start_store()
        self.start_apiserver()
        self.figures["API server: start to ready, s"] = round(self.plane.wait_ready(), 1)
        self.plane.start_controllers()
        with self.check("nodes become ready for Pods"):
            self.register_nodes()
        kubelet = Kubelet(self.api)
        try:
            for name, step in (
                ("ConfigMaps: created, each seen once by a watch", self.config_maps),
                ("lists: paged, limited, at one revision, under writes", self.lists),
                ("a Deployment's Pods are created, scheduled and run", self.deployment),
                ("events arrive", self.events),
                ("a custom resource", self.custom_resource),
                ("nothing acknowledged is lost by a SIGKILL of the store", self.crash),
                ("the control plane goes on after it", self.scale),
                ("an API server that is killed and starts anew reads it all", self.restart_apiserver),
                ("deleting: a Deployment's Pods, a namespace's objects", self.delete),
                ("history that was compacted is refused with 410", self.compacted),
            ):
                with self.check(name):
                    step()
            with self.check("the API server finds its caches equal to the store"):
                self.consistency()
            with self.check("everything still runs, ready and without panic"):
                self.health()
        finally:
            kubelet.stop()

    def start_apiserver(self):
        self.plane.start_apiserver()
        self.apiserver_started = time.monotonic()

    def register_nodes(self):
        for i in range(NODES):
            self.api.create("/api/v1/nodes", node(f"node-{i}"))
        wait_for("untainted nodes", lambda: not any(one["spec"].get("taints") for one in self.api.items("/api/v1/nodes")))
        for name in ("load", "apps", "crash"):
            self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
            account = namespace_path(name, "serviceaccounts/default")
            wait_for("service account", lambda account=account: self.api.get(account))

    def config_maps(self):
        path, count = namespace_path("load", "configmaps"), self.options.configmaps
        before = len(self.api.items(path))  # the authority's certificate is in every namespace
        watch = Watch(self.api, path, self.api.get(f"{path}?limit=1")["metadata"]["resourceVersion"])
        answered = {}

        def create(i):
            asked = time.monotonic()
            self.api.create(path, config_map(f"map-{i:05}"))
            answered[f"load/map-{i:05}"] = asked, time.monotonic()

        started = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(create, range(count)))
        self.figures["ConfigMaps created, per s"] = round(count / (time.monotonic() - started))
        times = [(end - begin) * 1000 for begin, end in answered.values()]
        self.figures["  request p50, ms"] = round(statistics.median(times), 1)
        self.figures["  request p99, ms"] = round(statistics.quantiles(times, n=100)[98], 1)
        wait_for("all events", lambda: len(watch.added) >= count)
        delays = [(watch.added[name] - begin) * 1000 for name, (begin, _) in answered.items()]
        self.figures["  request to event p50, ms"] = round(statistics.median(delays), 1)
        equal(watch.broken, [])
        equal(len(self.api.items(path)), count + before)
        watch.stop()

    def lists(self):
        path = namespace_path("load", "configmaps")
        whole = self.api.get(path)
        names = [item["metadata"]["name"] for item in whole["items"]]
        pages = self.api.pages(path, 500)
        first = next(pages)
        self.api.create(path, config_map("zz-later"))  # not part of a list that began before
        self.api.delete(f"{path}/map-{self.options.configmaps - 1:05}")  # still part of it
        equal(first["metadata"]["remainingItemCount"], len(names) - 500)
        paged = [item["metadata"]["name"] for page in (first, *pages) for item in page["items"]]
        equal(paged == names, True, "pages are the list as it was")
        exact = f"resourceVersion={whole['metadata']['resourceVersion']}&resourceVersionMatch=Exact"
        equal([item["metadata"]["name"] for item in self.api.get(f"{path}?{exact}")["items"]] == names, True, "the list at its revision")
        equal(len(self.api.get(f"{path}?{exact}&limit=7")["items"]), 7)
        rest = self.api.get(f"{path}?fieldSelector=metadata.name%3Dzz-later")["items"]
        equal([item["metadata"]["name"] for item in rest], ["zz-later"])
        raw = self.api.raw
        self.figures["list of all ConfigMaps, ms"] = median_milliseconds(lambda: raw("GET", path))
        self.figures["  from the cache as it is, ms"] = median_milliseconds(lambda: raw("GET", f"{path}?resourceVersion=0"))
        self.figures["  a page of 500, ms"] = median_milliseconds(lambda: raw("GET", f"{path}?limit=500"))

    def deployment(self):
        template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
        spec = {"replicas": self.options.pods, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        started = time.monotonic()
        self.api.create("/apis/apps/v1/namespaces/apps/deployments", {"metadata": {"name": "web"}, "spec": spec})
        self.wait_available(self.options.pods)
        self.figures[f"{self.options.pods} Pods created and running, s"] = round(time.monotonic() - started, 1)
        nodes = {pod["spec"]["nodeName"] for pod in self.api.items(namespace_path("apps", "pods"))}
        equal(len(nodes), NODES, "nodes used:")

    def wait_available(self, count):
        path = "/apis/apps/v1/namespaces/apps/deployments/web"
        wait_for(f"{count} available", lambda: self.api.get(path)["status"].get("availableReplicas", 0) == count)
        pods = self.api.items(namespace_path("apps", "pods"))
        alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        equal(len(alive), count, "Pods:")

    def events(self):
        wait_for("an event for each Pod", lambda: self.count_events("Scheduled") >= self.options.pods)
        self.figures["Events kept"] = len(self.api.items(namespace_path("apps", "events")))
        equal(self.count_events("SuccessfulCreate") > 0, True)

    def count_events(self, reason):
        return sum(event["reason"] == reason for event in self.api.items(namespace_path("apps", "events")))

    def custom_resource(self):
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
        spec = {"group": "test.invalid", "scope": "Namespaced", "names": names, "versions": [version]}
        definition = {"metadata": {"name": "widgets.test.invalid"}, "spec": spec}
        self.api.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        path = "/apis/test.invalid/v1/namespaces/load/widgets"
        wait_for("the resource", lambda: self.api.get(path)["kind"] == "WidgetList")
        for i in range(20):
            widget = {"apiVersion": "test.invalid/v1", "kind": "Widget", "metadata": {"name": f"w-{i}"}, "size": i}
            wait_for("its first object", lambda widget=widget: self.api.create(path, widget))
        equal(len(self.api.items(path, limit=6)), 20)
        self.api.delete(path)
        equal(self.api.items(path), [])

    def crash(self):
        """Creates objects and raises counters, each of these only if nobody else did (the API's resourceVersion), over a SIGKILL of the store."""
        path = namespace_path("crash", "configmaps")
        start = self.api.get(f"{path}?limit=1")["metadata"]["resourceVersion"]
        watch = Watch(self.api, path, start)
        ended, created, unknown, counters, first_after = threading.Event(), set(), set(), {}, []
        killed = [None]

        def acknowledged(asked):
            if killed[0] and asked > killed[0] and not first_after:
                first_after.append(time.monotonic() - killed[0])

        def create(thread):
            for i in range(1_000_000):
                if ended.is_set():
                    return
                name, asked = f"made-{thread}-{i:06}", time.monotonic()
                try:
                    self.api.create(path, config_map(name, "small"))
                    created.add(name)
                    acknowledged(asked)
                except (Refused, *NO_ANSWER):
                    unknown.add(name)
                    ended.wait(0.05)

        def count(thread):
            name, value = f"{path}/counter-{thread}", 0
            while not ended.is_set():
                try:
                    counter = self.api.get(name)
                    value = int(counter["data"]["text"]) + 1
                    counter["data"]["text"] = str(value)
                    self.api.call("PUT", name, counter)
                    counters[thread] = value
                except (Refused, *NO_ANSWER):
                    ended.wait(0.05)

        for thread in range(2):
            self.api.create(path, config_map(f"counter-{thread}", "0"))
        threads = [threading.Thread(target=work, args=(i,)) for work in (create, count) for i in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        victim = self.plane.leader()
        self.plane.stop(victim, signal.SIGKILL)
        killed[0] = time.monotonic()
        before = len(created)
        time.sleep(OUTAGE_SECONDS)
        self.plane.start_member(victim)
        self.figures["store: restart to healthy, s"] = round(self.plane.wait_store(victim), 2)
        try:
            wait_for("writes after the restart", lambda: len(created) > before + 50)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        self.figures[f"store's leader killed (and {OUTAGE_SECONDS} s down) to first write, s"] = round(first_after[0], 1)
        print(f"     {len(created)} creations acknowledged ({before} before the kill), {len(unknown)} unknown, counters at {counters}")
        found = {item["metadata"]["name"]: item["data"].get("text") for item in self.api.items(path)}
        made = {name for name in found if name.startswith("made-")}
        equal(created - made, set(), "acknowledged but gone:")
        equal(made - created - unknown, set(), "there, but nobody made it:")
        for thread, value in counters.items():
            if int(found[f"counter-{thread}"]) < value:
                raise AssertionError(f"a counter went back to {found[f'counter-{thread}']} from {value}")
        wait_for("the watch", lambda: {f"crash/{name}" for name in made} <= set(watch.added))
        equal(watch.broken, [])
        watch.stop()

    def scale(self):
        equal(self.plane.ended(), {}, "processes that ended:")
        count = self.options.pods + 50
        deployment = "/apis/apps/v1/namespaces/apps/deployments/web"
        self.api.patch(deployment, {"spec": {"replicas": count}})
        self.wait_available(count)

    def restart_apiserver(self):
        before = {path: len(self.api.items(path)) for path in (PODS, namespace_path("load", "configmaps"))}
        self.plane.stop("kube-apiserver", signal.SIGKILL)
        self.start_apiserver()
        self.figures["API server: restart to ready, s"] = round(self.plane.wait_ready(), 1)
        for path, count in before.items():
            equal(len(self.api.items(path)), count, path)
        self.plane.start_controllers()

    def delete(self):
        started = time.monotonic()
        self.api.delete("/apis/apps/v1/namespaces/apps/deployments/web")
        wait_for("no Pods", lambda: not self.api.items(namespace_path("apps", "pods")))
        self.figures["Deployment deleted to last Pod gone, s"] = round(time.monotonic() - started, 1)
        started = time.monotonic()
        self.api.delete("/api/v1/namespaces/load")
        names = lambda: [item["metadata"]["name"] for item in self.api.items("/api/v1/namespaces")]  # noqa: E731
        wait_for("no namespace", lambda: "load" not in names())
        self.figures["namespace with all ConfigMaps gone, s"] = round(time.monotonic() - started, 1)
        equal(self.api.items(namespace_path("load", "configmaps")), [])

    def compacted(self):
        """The API server compacts every minute what is a minute old."""
        path = namespace_path("crash", "configmaps")
        old = self.api.get(f"{path}?limit=1")["metadata"]
        pages = f"{path}?limit=1&continue={old['continue']}"

        def is_refused():
            self.api.create(path, config_map(f"churn-{time.monotonic_ns()}"))
            try:
                self.api.get(pages)
            except Refused as refused:
                equal(refused.status, 410)
                return True
            time.sleep(2)
            return False

        wait_for("compaction", is_refused)
        equal(len(self.api.items(path, limit=50)) > 100, True, "a new list works:")

    def consistency(self):
        wanted = 0 if self.options.quick else 1
        path = namespace_path("crash", "configmaps")

        def checks(status):
            metric = "apiserver_storage_consistency_checks_total"
            lines = self.api.raw("GET", "/metrics").decode().splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith(metric) and f'status="{status}"' in line)

        deadline = self.apiserver_started + CONSISTENCY_CHECK_SECONDS if wanted else 0
        while checks("success") < wanted and time.monotonic() < deadline:
            for i in range(10):
                name = f"busy-{i}"
                with contextlib.suppress(Refused):
                    self.api.create(path, config_map(name))
                self.api.patch(f"{path}/{name}", {"data": {"text": str(time.monotonic())}})
            time.sleep(1)
        self.figures["caches compared with the store: equal"] = int(checks("success"))
        equal(checks("failure"), 0, "checks that failed:")
        equal(checks("success") >= wanted, True, "a check was made:")

    def health(self):
        equal(self.api.is_ready(), True)
        equal(self.plane.ended(), {}, "processes that ended:")
        for name in ("kube-apiserver", *self.plane.members):
            with open(self.plane.path(f"{name}.log"), errors="replace") as log:
                bad = [line for line in log if any(word in line for word in PANICS)]
            equal(bad[:1], [], f"{name}:")
        for method, count in self.plane.store_calls().items():
            self.figures[f"calls since the restart: {method}"] = count
        self.figures["store: resident MB"] = self.plane.resident_megabytes("store")
        self.figures["store: CPU s since its restart"] = round(self.plane.cpu_seconds("store"), 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--etcd", action="store_true")
    parser.add_argument("--only-etcd", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--configmaps", type=int, default=3000)
    parser.add_argument("--pods", type=int, default=200)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--keep")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    stores = ["etcd"] if options.only_etcd else ["kelson", "etcd"] if options.etcd else ["kelson"]
    done = []
    with tempfile.TemporaryDirectory(prefix="kelson-kubernetes-") as scratch:
        for store in stores:
            plane = Plane(store, os.path.join(options.keep or scratch, store), options.members)
            scenario = Scenario(plane, options)
            done.append(scenario)
            try:
                scenario.run()
            except RuntimeError as error:
                print(f"FAIL {store}: {error}")
                scenario.failed += 1
            finally:
                plane.stop_all()
    for figure in dict.fromkeys(figure for scenario in done for figure in scenario.figures):
        print(f"{figure:52}" + "".join(f"{scenario.figures.get(figure, '-'):>10}" for scenario in done))
    print(json.dumps({scenario.plane.store: scenario.figures for scenario in done}))
    failed = sum(scenario.failed for scenario in done)
    print(f"{sum(scenario.passed for scenario in done)} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
