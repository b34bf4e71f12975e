"""Stands in for the kubelets: says that scheduled Pods run, and lets go of Pods that are being deleted."""

import concurrent.futures
import http.client
import threading

from api import Refused, Watch

PODS = "/api/v1/pods"


def node(name):
    """A node as a kubelet registers it: ready, and large enough for the whole test."""
    room = {"cpu": "64", "memory": "256Gi", "pods": "1000"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "there is no kubelet"}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": room, "allocatable": room, "conditions": [ready]},
    }


class Kubelet:
    """Serves every node."""

    def __init__(self, api):
        self.api = api
        self.workers = concurrent.futures.ThreadPoolExecutor(4)
        self.ended = threading.Event()
        self.watch = Watch(api, PODS, self.take_all(), self.take, self.take_all)

    def take_all(self):
        pods = self.api.get(PODS)
        for pod in pods["items"]:
            self.take("ADDED", pod)
        return pods["metadata"]["resourceVersion"]

    def take(self, kind, pod):
        if kind == "DELETED" or not pod["spec"].get("nodeName"):
            return
        if pod["metadata"].get("deletionTimestamp"):
            self.workers.submit(self.until_done, self.remove, pod)
        elif pod["status"].get("phase") == "Pending":
            self.workers.submit(self.until_done, self.run, pod)

    def until_done(self, act, pod):
        """A Pod that changed or went meanwhile comes again by the watch; an API server that is away is waited for."""
        while not self.ended.is_set():
            try:
                return act(pod)
            except Refused as refused:
                if refused.status < 500 and refused.status != 429:
                    return None
            except (OSError, http.client.HTTPException):
                pass
            self.ended.wait(0.5)
        return None

    def path(self, pod):
        return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"

    def run(self, pod):
        conditions = [{"type": kind, "status": "True"} for kind in ("Initialized", "ContainersReady", "Ready", "PodScheduled")]
        self.api.patch(f"{self.path(pod)}/status", {"status": {"phase": "Running", "conditions": conditions}})

    def remove(self, pod):
        self.api.delete(self.path(pod), grace=0)

    def stop(self):
        self.ended.set()
        self.watch.stop()
        self.workers.shutdown(cancel_futures=True)
