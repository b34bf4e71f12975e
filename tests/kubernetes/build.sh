#!/usr/bin/env bash
# Builds the Kubernetes control plane that run.sh starts: kube-apiserver, kube-controller-manager, kube-scheduler and kubectl, from their
# published Go modules. k8s.io/kubernetes is published with `replace` lines to folders that the module does not contain; here they become the
# staging modules of the same release (v1.37.2 is v0.37.2).
#
# usage: tests/kubernetes/build.sh [DIR]     binaries go to DIR (default ~/.cache/kelson-kube/bin); what is there already is kept.
# Needs Go 1.26. About half an hour on two busy cores the first time, 5 GB of build cache.
set -euo pipefail
release=${KUBE_RELEASE:-1.37.2}
out=${1:-$HOME/.cache/kelson-kube/bin}
programs=(kube-apiserver kube-controller-manager kube-scheduler kubectl)

missing=()
for program in "${programs[@]}"; do [ -x "$out/$program" ] || missing+=("$program"); done
if [ ${#missing[@]} = 0 ]; then
  echo "$out"
  exit
fi

module=$(dirname "$out")/module-$release
mkdir -p "$out" "$module"
export CGO_ENABLED=0 GOFLAGS="-mod=mod -trimpath -buildvcs=false -p=2"
cd "$module"
if [ ! -f go.sum ]; then
  printf 'module kelson.invalid/kubernetes\n\ngo 1.26.0\n' >go.mod
  source=$(go mod download -json "k8s.io/kubernetes@v$release" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  sed -e 's|^module .*|module kelson.invalid/kubernetes|' \
    -e "s|=> \./staging/src/\(k8s.io/.*\)|=> \1 v0.${release#1.}|" "$source/go.mod" >go.mod
  printf '\nrequire k8s.io/kubernetes v%s\n' "$release" >>go.mod
  cp "$source/go.sum" go.sum
  chmod u+w go.mod go.sum
fi
stamp=k8s.io/component-base/version
flags="-s -w -X $stamp.gitVersion=v$release -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$release")"
for program in "${missing[@]}"; do
  nice -n 19 go build -ldflags "$flags" -o "$out/$program" "k8s.io/kubernetes/cmd/$program"
done
echo "$out"
