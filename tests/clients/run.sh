#!/usr/bin/env bash
# Runs real clients against one member: etcdctl and etcdutl, Go's clientv3, two Python clients, Node's etcd3 and Rust's etcd-client. Each has a
# small program in its folder here; a program prints `ok NAME` or `FAIL NAME: why` for each thing it checks.
#
# usage: tests/clients/run.sh [--endpoint HOST:PORT] [--perf] [CLIENT...]
#   CLIENT          etcdctl go aetcd etcd3 node rust; without any, all of them
#   --endpoint      a running server, whose keys under /clients/ are written over and whose history is compacted; without it the script
#                   starts `kelson dev` and stops it at the end
#   --perf          also `etcdctl check perf` (a minute) and `etcdctl check datascale`, whose verdicts are printed, not judged
# environment:
#   KELSON          the binary (default target/release/kelson, then target/debug/kelson)
#   ETCDCTL         etcdctl 3.7 (default from the PATH, then ~/.cache/kelson-peers/etcdctl); etcdutl is looked for beside it
#   CLIENTS_CACHE   where packages and builds go (default ~/.cache/kelson-clients)
#
# A client whose toolchain is missing is skipped and says so. Ends with `N passed, N failed`; exit code 1 if anything failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${CLIENTS_CACHE:-$HOME/.cache/kelson-clients}
scratch=$(mktemp -d)
server=
export PERF= ENDPOINT=

finish() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
  fi
  rm -rf "$scratch"
}
trap finish EXIT

chosen=()
while [ $# -gt 0 ]; do
  case $1 in
    --endpoint) ENDPOINT=${2#http://} && shift ;;
    --perf) PERF=1 ;;
    -*) echo "unknown flag: $1" >&2 && exit 2 ;;
    *) chosen+=("$1") ;;
  esac
  shift
done
[ ${#chosen[@]} -gt 0 ] || chosen=(etcdctl go aetcd etcd3 node rust)

start_member() {
  local kelson=${KELSON:-$root/target/release/kelson}
  [ -x "$kelson" ] || kelson=$root/target/debug/kelson
  "$kelson" dev >"$scratch/endpoint" 2>"$scratch/log" &
  server=$!
  for _ in $(seq 100); do
    ENDPOINT=$(sed -n 's|.*"endpoint":"http://\([^"]*\)".*|\1|p' "$scratch/endpoint")
    [ -z "$ENDPOINT" ] || return 0
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  echo "the member did not start: $kelson" >&2
  cat "$scratch/log" >&2
  exit 1
}

have() { # have PROGRAM...: whether all are there; what is missing is the reason of the skip
  for program in "$@"; do
    command -v "$program" >/dev/null || { reason="$program is not installed" && return 1; }
  done
}

# The clients. Each function prepares its toolchain quietly, fails with `reason` set if there is none, and leaves the command in `program`.
prepare_etcdctl() {
  ETCDCTL=${ETCDCTL:-$(command -v etcdctl || echo "$HOME/.cache/kelson-peers/etcdctl")}
  have "$ETCDCTL" || return
  export ETCDCTL
  program=("$here/etcdctl/commands.sh")
}

prepare_go() {
  have go || return
  mkdir -p "$cache/go"
  (cd "$here/go" && CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false" go build -o "$cache/go/client" .) || { reason="its build failed" && return 1; }
  program=("$cache/go/client")
}

prepare_python() { # prepare_python NAME: a virtual environment from NAME.txt, kept until that file changes
  local venv=$cache/python-$1
  have python3 || return
  if ! cmp -s "$here/python/$1.txt" "$venv/installed.txt"; then
    python3 -m venv --clear "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/python/$1.txt" &&
      cp "$here/python/$1.txt" "$venv/installed.txt" || { reason="pip could not install $1.txt" && return 1; }
  fi
  program=("$venv/bin/python" "$here/python/$1_client.py")
}
prepare_aetcd() { prepare_python aetcd; }
prepare_etcd3() { prepare_python etcd3; }

prepare_node() {
  have node npm || return
  mkdir -p "$cache/node"
  if ! cmp -s "$here/node/package-lock.json" "$cache/node/installed.json"; then
    cp "$here/node/"package*.json "$cache/node/" && (cd "$cache/node" && npm ci --silent --ignore-scripts) &&
      cp "$here/node/package-lock.json" "$cache/node/installed.json" || { reason="npm ci failed" && return 1; }
  fi
  export NODE_PATH=$cache/node/node_modules
  program=(node "$here/node/client.js")
}

prepare_rust() {
  have cargo python3 || return
  if [ -z "${PROTOC:-}" ] && ! command -v protoc >/dev/null; then
    # etcd-client's build generates its messages; the compiler comes from a Python package, so that no root is needed.
    if [ ! -x "$cache/protoc" ]; then
      python3 -m venv "$cache/python-protoc" && "$cache/python-protoc/bin/pip" install -q --disable-pip-version-check grpcio-tools &&
        printf '#!/bin/sh\nexec "%s" -m grpc_tools.protoc "$@"\n' "$cache/python-protoc/bin/python" >"$cache/protoc" &&
        chmod +x "$cache/protoc" || { reason="no protoc, and pip could not install grpcio-tools" && return 1; }
    fi
    export PROTOC=$cache/protoc
  fi
  cargo build --quiet --locked --manifest-path "$here/rust/Cargo.toml" --target-dir "$cache/rust" || { reason="its build failed" && return 1; }
  program=("$cache/rust/debug/client")
}

passed=0 failed=0 skipped=0
[ -n "$ENDPOINT" ] || start_member
for client in "${chosen[@]}"; do
  reason="there is no such client"
  if ! declare -F "prepare_$client" >/dev/null || ! "prepare_$client"; then
    echo "skip $client: $reason"
    skipped=$((skipped + 1))
    continue
  fi
  echo "== $client"
  timeout -k 5 300 "${program[@]}" >"$scratch/out" 2>"$scratch/err"
  code=$?
  cat "$scratch/out"
  passed=$((passed + $(grep -c '^ok ' "$scratch/out")))
  failed=$((failed + $(grep -c '^FAIL ' "$scratch/out")))
  skipped=$((skipped + $(grep -c '^skip ' "$scratch/out")))
  if [ $code -ne 0 ] && ! grep -q '^FAIL ' "$scratch/out" || ! grep -q '^ok ' "$scratch/out"; then
    echo "FAIL $client: ended with code $code"
    tail -n 20 "$scratch/err"
    failed=$((failed + 1))
  fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
