"""A small client of the Kubernetes API: requests, paged lists and watches over connections that are kept, one a thread."""

import http.client
import json
import ssl
import threading
import time

TIMEOUT_SECONDS = 90  # longer than the API server's own limit of 60 s, so that its answer is seen


class Refused(Exception):
    """An answer that is not 2xx. `status` is HTTP's code."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text[:300]}")
        self.status = status


class Api:
    """`host:port` and the token of a user who may do everything."""

    def __init__(self, port, token):
        self.port = port
        self.token = token
        self.context = ssl._create_unverified_context()  # the server makes its own certificate, on 127.0.0.1
        self.local = threading.local()

    def connect(self, timeout=TIMEOUT_SECONDS):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=self.context)

    def headers(self, kind="application/json"):
        return {"Authorization": f"Bearer {self.token}", "Content-Type": kind, "Accept": "application/json"}

    def call(self, verb, path, body=None, kind="application/json"):
        """The answer as JSON; raises Refused, or OSError/HTTPException if there was none (the outcome is unknown then)."""
        text = self.raw(verb, path, json.dumps(body) if body is not None else None, kind)
        return json.loads(text)

    def raw(self, verb, path, body=None, kind="application/json"):
        connection = getattr(self.local, "connection", None) or self.connect()
        self.local.connection = None
        connection.request(verb, path, body, self.headers(kind))
        response = connection.getresponse()
        text = response.read()
        self.local.connection = connection  # kept only after a whole answer
        if response.status >= 300:
            raise Refused(response.status, text.decode(errors="replace"))
        return text

    def get(self, path):
        return self.call("GET", path)

    def create(self, path, body):
        return self.call("POST", path, body)

    def patch(self, path, body):
        return self.call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path, grace=None):
        return self.call("DELETE", path if grace is None else f"{path}?gracePeriodSeconds={grace}")

    def pages(self, path, limit):
        """Each page of a list, all at one revision."""
        token = ""
        while True:
            page = self.get(f"{path}?limit={limit}&continue={token}")
            yield page
            token = page["metadata"].get("continue", "")
            if not token:
                return

    def items(self, path, limit=500):
        return [item for page in self.pages(path, limit) for item in page["items"]]

    def is_ready(self):
        try:
            return self.raw("GET", "/readyz") == b"ok"
        except (Refused, OSError, http.client.HTTPException):
            return False


class Watch(threading.Thread):
    """Follows a collection from a revision, taking the watch up again where it ended, and holds the API to its word: revisions rise, an object
    is added once."""

    def __init__(self, api, path, revision, on_event=None, on_gone=None):
        """`on_gone` answers, when the history after `revision` is gone (an API server that starts anew has none), where to go on."""
        super().__init__(daemon=True)
        self.api, self.path, self.revision, self.on_event, self.on_gone = api, path, revision, on_event, on_gone
        self.added, self.deleted = {}, set()  # name -> when its event came
        self.broken = []
        self.events = self.restarts = 0
        self.ended = threading.Event()
        self.start()

    def run(self):
        while not self.ended.is_set():
            try:
                self.follow()
            except (OSError, http.client.HTTPException):
                pass
            except Refused as refused:
                if refused.status == 410:
                    self.gone()
            self.restarts += 1
            self.ended.wait(0.2)

    def gone(self):
        if self.on_gone:
            self.revision = self.on_gone()
        else:
            self.broken.append(f"the history after {self.revision} is gone")
            self.stop()

    def follow(self):
        connection = self.api.connect(timeout=30)
        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={self.revision}&timeoutSeconds=600"
        connection.request("GET", f"{self.path}?{query}", headers=self.api.headers())
        response = connection.getresponse()
        if response.status != 200:
            raise Refused(response.status, response.read().decode(errors="replace"))
        while not self.ended.is_set():
            try:
                line = response.readline()
            except TimeoutError:
                return
            if not line:
                return
            self.take(json.loads(line))

    def take(self, event):
        kind, meta = event["type"], event["object"].get("metadata", {})
        if kind == "ERROR":
            raise Refused(event["object"].get("code", 500), json.dumps(event["object"]))
        revision = int(meta["resourceVersion"])
        if revision < int(self.revision) or kind != "BOOKMARK" and revision == int(self.revision):
            self.broken.append(f"{kind} at {revision} after {self.revision}")
        self.revision = meta["resourceVersion"]
        if kind == "BOOKMARK":
            return
        self.events += 1
        name = f"{meta.get('namespace', '')}/{meta['name']}"
        if kind == "ADDED":
            if name in self.added and name not in self.deleted:
                self.broken.append(f"{name} was added twice")
            self.added[name] = time.monotonic()
            self.deleted.discard(name)
        elif kind == "DELETED":
            self.deleted.add(name)
        if self.on_event:
            self.on_event(kind, event["object"])

    def stop(self):
        self.ended.set()
