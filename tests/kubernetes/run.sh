#!/usr/bin/env bash
# Runs a real Kubernetes control plane (kube-apiserver, kube-controller-manager, kube-scheduler 1.37) on one kelson member with its data on
# disk: thousands of objects, a Deployment whose Pods are scheduled to nodes without kubelets, watches, paged lists, a custom resource, and a
# SIGKILL of the member in the middle of it. Every check is a line, `ok NAME` or `FAIL NAME: why`; figures come at the end.
#
# usage: tests/kubernetes/run.sh [--etcd] [--only-etcd] [--quick] [--members N] [--configmaps N] [--pods N] [--keep DIR]
#   --etcd        the same again with etcd, for comparison (--only-etcd: without kelson)
#   --quick       leaves out waiting for the API server's own consistency check, which comes five minutes after its start
#   --members N   members of the store, the leader of which is killed (default 1)
#   --configmaps  how many ConfigMaps are created (default 3000)     --pods  how many Pods (default 200)
#   --keep DIR    keeps the logs and data there
# environment:
#   KELSON     the binary (default target/release/kelson)
#   KUBE_BIN   folder of the control plane's binaries (default ~/.cache/kelson-kube/bin, filled by build.sh)
#   ETCD       etcd 3.7 (default from the PATH, then ~/.cache/kelson-peers/etcd)
#
# Needs python3 and openssl, no root and no containers. Listens on 127.0.0.1 only, on free ports. Stops what it started. Under 10 minutes a store.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export KELSON=${KELSON:-$(cd "$here/../.." && pwd)/target/release/kelson}
export KUBE_BIN=${KUBE_BIN:-$HOME/.cache/kelson-kube/bin}
export ETCD=${ETCD:-$(command -v etcd || echo "$HOME/.cache/kelson-peers/etcd")}
for program in kube-apiserver kube-controller-manager kube-scheduler; do
  [ -x "$KUBE_BIN/$program" ] || { "$here/build.sh" "$KUBE_BIN" && break; }
done
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
exec python3 "$here/scenario.py" "$@"
