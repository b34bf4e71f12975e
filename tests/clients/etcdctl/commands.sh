#!/usr/bin/env bash
# Every command of etcdctl 3.7 that a cluster of one member without authentication answers, its output compared with what etcd 3.7.3 prints.
# Called by ../run.sh with ETCDCTL, ENDPOINT and PERF.
set -uo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export ETCDCTL_ENDPOINTS=http://$ENDPOINT
etcdutl=$(dirname "$ETCDCTL")/etcdutl
p=/clients/etcdctl

ctl() { timeout -k 1 30 "$ETCDCTL" "$@" 2>&1 | grep -v '^{"level"'; return "${PIPESTATUS[0]}"; }
report() { if [ "$1" = "$2" ]; then echo "ok etcdctl $3"; else printf 'FAIL etcdctl %s: wanted <%q>, got <%q>\n' "$3" "$1" "$2"; fi; }
# is NAME EXPECTED COMMAND...: its output is exactly that;   like NAME REGEX COMMAND...: each line of its output matches, and there is one.
is() { report "$2" "$(ctl "${@:3}")" "$1"; }
like() {
  local out
  out=$(ctl "${@:3}")
  if [ -n "$out" ] && ! grep -Evq "^($2)$" <<<"$out"; then echo "ok etcdctl $1"; else printf 'FAIL etcdctl %s: wanted lines like <%s>, got <%q>\n' "$1" "$2" "$out"; fi
}
field() { ctl get "${@:2}" -w fields | sed -n "s/^\"$1\" : //p"; }
revision() { field Revision /clients/none; }
eventually() { # eventually FILE REGEX: waits up to 10 s for such a line
  for _ in $(seq 100); do grep -Eq "$2" "$1" 2>/dev/null && return; sleep 0.1; done
  return 1
}

ctl del --prefix $p >/dev/null
# Keys.
is 'put' OK put $p/a 1
is 'put --prev-kv' $'OK\n'$p$'/a\n1' put $p/a 2 --prev-kv
report OK "$(echo -n from-stdin | ctl put $p/stdin)" 'put with the value from standard input'
is 'get' $p$'/a\n2' get $p/a
is 'get --print-value-only' from-stdin get $p/stdin --print-value-only
report '2' "$(field Version $p/a)" 'get -w fields: version'
before=$(revision)
is 'get --rev' $p$'/a\n1' get $p/a --rev "$(field CreateRevision $p/a)"
is 'get of a revision to come' 'Error: etcdserver: mvcc: required revision is a future revision' get $p/a --rev $((before + 100))
for i in 1 2 3 4 5; do ctl put $p/list/$i v$((6 - i)) >/dev/null; done
is 'get --prefix --keys-only' "$(printf "$p/list/%s\n\n" 1 2 3 4 5)" get --prefix $p/list/ --keys-only
is 'get KEY RANGE_END --limit' $p$'/list/2\nv4\n'$p$'/list/3\nv3' get $p/list/2 $p/list/5 --limit 2
is 'get --sort-by VALUE --order DESCEND' $'v5\nv4\nv3\nv2\nv1' get --prefix $p/list/ --sort-by VALUE --order DESCEND --print-value-only
is 'get --from-key' $p$'/list/5\nv1\n'$p$'/stdin\nfrom-stdin' get --from-key $p/list/5 --limit 2
is 'get --consistency s' v1 get $p/list/5 --consistency s --print-value-only
is 'get --stream' "$(ctl get --prefix $p/list/)" get --stream --prefix $p/list/
report 5 "$(field Count --prefix $p/list/ --count-only)" 'get --count-only'
report $'4\n5' "$(ctl get --prefix $p/list/ --min-mod-rev $((before + 4)) --keys-only | sed -n 's|.*/||p')" 'get --min-mod-rev'
report 7 "$(revision | awk -v b="$before" '{print $1 - b + 2}')" 'each put raises the revision by one'
is 'del --prev-kv' $'1\n'$p$'/list/1\nv5' del --prev-kv $p/list/1
is 'del KEY RANGE_END' 2 del --range $p/list/2 $p/list/4
is 'del of nothing' 0 del $p/list/none
is 'put --ignore-value of no key' 'Error: etcdserver: key not found' put $p/none --ignore-value
is 'put with an unknown lease' 'Error: etcdserver: requested lease not found' put $p/a 3 --lease 77
# Transactions.
transaction() { printf '%s\n' "$@" | ctl txn; }
report $'SUCCESS\n\nOK\n\n'$p$'/a\n3' "$(transaction "value(\"$p/a\") = \"2\"" '' "put $p/a 3" "get $p/a" '' "get $p/none" '')" 'txn that succeeds'
report $'FAILURE\n\n'$p$'/a\n3' "$(transaction "mod(\"$p/a\") = \"1\"" '' "del $p/a" '' "get $p/a" '')" 'txn that fails'
report $'SUCCESS\n\n1' "$(transaction "create(\"$p/none\") = \"0\"" "version(\"$p/a\") > \"1\"" '' "del $p/stdin" '' '')" 'txn with two compares'
# Watches.
from=$(($(revision) + 1))
"$ETCDCTL" watch --prefix $p/w/ --prev-kv >"$scratch/live" 2>/dev/null &
watcher=$!
for _ in $(seq 100); do ctl put $p/w/ready x >/dev/null; eventually "$scratch/live" ready && break; done
ctl put $p/w/x 1 >/dev/null && ctl put $p/w/x 2 >/dev/null && ctl del $p/w/x >/dev/null
eventually "$scratch/live" '^DELETE$'
kill $watcher && wait $watcher 2>/dev/null
wanted=$(printf '%s\n' PUT $p/w/x 1 PUT $p/w/x 1 $p/w/x 2 DELETE $p/w/x 2 $p/w/x '')
report "$wanted" "$(tail -n 13 "$scratch/live")" 'watch --prefix --prev-kv, live'
timeout 3 "$ETCDCTL" watch --prefix $p/w/x --rev "$from" >"$scratch/history" 2>/dev/null
report "$(printf '%s\n' PUT $p/w/x 1 PUT $p/w/x 2 DELETE $p/w/x '')" "$(cat "$scratch/history")" 'watch --rev, from history'
report 3 "$(timeout 3 "$ETCDCTL" watch --rev "$from" $p/w/x -- echo ran 2>/dev/null | grep -c '^ran$')" 'watch runs a command for each event'
# Leases.
grant() { ctl lease grant "$1" | sed -n "s/^lease \([0-9a-f]*\) granted with TTL($1s)$/\1/p"; }
lease=$(grant 100)
is 'lease grant, put --lease' OK put $p/leased 1 --lease "$lease"
like 'lease list' "found [0-9]+ leases|[0-9a-f]{16}" lease list
like 'lease timetolive --keys' "lease $lease granted with TTL\(100s\), remaining\([0-9]+s\), attached keys\(\[$p/leased\]\)" lease timetolive "$lease" --keys
is 'lease keep-alive --once' "lease $lease keepalived with TTL(100)" lease keep-alive --once "$lease"
is 'lease revoke' "lease $lease revoked" lease revoke "$lease"
is 'lease revoke deletes its keys' '' get $p/leased
is 'lease timetolive of a lease that is gone' "lease $lease already expired" lease timetolive "$lease"
short=$(grant 2)
ctl put $p/short 1 --lease "$short" >/dev/null
for _ in $(seq 150); do [ -n "$(ctl get $p/short)" ] || break; sleep 0.1; done
is 'a lease that expires deletes its keys' '' get $p/short
# Locks and elections, which etcdctl builds of leases, transactions and watches.
is 'lock runs a command' held lock $p/lock echo held
"$ETCDCTL" lock $p/lock >"$scratch/first" 2>/dev/null & first=$!
eventually "$scratch/first" "^$p/lock/"
"$ETCDCTL" lock $p/lock >"$scratch/second" 2>/dev/null & second=$!
sleep 1
report '' "$(cat "$scratch/second")" 'lock waits for its holder'
kill $first && eventually "$scratch/second" "^$p/lock/" && echo 'ok etcdctl lock is handed on' || echo 'FAIL etcdctl lock is handed on: it is not'
"$ETCDCTL" elect $p/election one >"$scratch/elected" 2>/dev/null & candidate=$!
eventually "$scratch/elected" '^one$' && echo 'ok etcdctl elect' || echo 'FAIL etcdctl elect: not elected'
"$ETCDCTL" elect -l $p/election >"$scratch/observed" 2>/dev/null & observer=$!
eventually "$scratch/observed" '^one$' && echo 'ok etcdctl elect --listen' || echo 'FAIL etcdctl elect --listen: nobody observed'
kill $second $candidate $observer
wait $first $second $candidate $observer 2>/dev/null
# The cluster.
like 'endpoint health' "http://$ENDPOINT is healthy: successfully committed proposal: took = .*" endpoint health
like 'endpoint status' "http://$ENDPOINT, [0-9a-f]+, 3\.7\.[0-9]+, [0-9.]+, .* [kMG]?B, .* [kMG]?B, [0-9]+%, .*, true, false, [0-9]+, [0-9]+, [0-9]+, , .*, false" endpoint status
like 'endpoint status -w json' '\[\{"Endpoint":"http://.*"dbSize":[1-9][0-9]*,"leader":[1-9][0-9]*,"raftIndex":[1-9].*"dbSizeInUse":[1-9].*' endpoint status -w json
like 'endpoint hashkv' "http://$ENDPOINT, [0-9]+, $(revision)" endpoint hashkv
report "$(ctl endpoint hashkv)" "$(ctl endpoint hashkv --rev "$(revision)")" 'endpoint hashkv --rev'
like 'member list' "[0-9a-f]+, started, [^,]*, http.*, http.*, false" member list
is 'member remove of an unknown one' 'Error: etcdserver: member not found' member remove 1
is 'alarm list' '' alarm list
is 'alarm disarm' '' alarm disarm
like 'defrag' "Finished defragmenting etcd member\[http://$ENDPOINT\]. took .*" defrag
like 'version' 'etcdctl version: .*|API version: 3.7' version
# Snapshots.
like 'snapshot save' "Snapshot saved at $scratch/snapshot.db|Server version .*" snapshot save "$scratch/snapshot.db"
if [ -x "$etcdutl" ]; then
  saved=$("$etcdutl" snapshot status "$scratch/snapshot.db" -w fields 2>/dev/null | sed -n 's/^"Revision" : //p')
  report "$(revision)" "$saved" 'snapshot status (etcdutl)'
  "$etcdutl" snapshot restore "$scratch/snapshot.db" --data-dir "$scratch/restored" >/dev/null 2>"$scratch/restore" &&
    echo 'ok etcdctl snapshot restore (etcdutl)' || echo "FAIL etcdctl snapshot restore (etcdutl): $(tail -n 1 "$scratch/restore")"
fi
# A mirror of a prefix, in the same member under another one.
"$ETCDCTL" make-mirror --prefix $p/list/ --dest-prefix $p/mirror/ "http://$ENDPOINT" >/dev/null 2>&1 & mirror=$!
for _ in $(seq 100); do [ "$(ctl get $p/mirror/5 --print-value-only)" = v1 ] && break; sleep 0.1; done
ctl put $p/list/new n >/dev/null
for _ in $(seq 100); do [ "$(ctl get $p/mirror/new --print-value-only)" = n ] && break; sleep 0.1; done
kill $mirror && wait $mirror 2>/dev/null
is 'make-mirror' $'v2\nv1\nn' get --prefix $p/mirror/ --print-value-only
# Compaction.
now=$(revision)
is 'compaction' "compacted revision $now" compaction "$now"
is 'compaction of what is gone' 'Error: etcdserver: mvcc: required revision has been compacted' compaction "$now"
is 'compaction of what is to come' 'Error: etcdserver: mvcc: required revision is a future revision' compaction $((now + 100))
is 'get of a compacted revision' 'Error: etcdserver: mvcc: required revision has been compacted' get $p/a --rev $((now - 1))
report 'etcdserver: mvcc: required revision has been compacted' "$(timeout 5 "$ETCDCTL" watch $p/a --rev 1 2>&1 | sed -n 's/^watch was canceled (\(.*\))$/\1/p')" 'watch of a compacted revision'
ctl put $p/b 1 >/dev/null
is 'compaction --physical' "compacted revision $(revision)" compaction --physical "$(revision)"
if [ -n "$PERF" ]; then
  timeout 120 "$ETCDCTL" check perf --load s 2>&1 | tr '\r' '\n' | grep -oE '(PASS|FAIL).*' | sed 's/^/     check perf: /'
  timeout 120 "$ETCDCTL" check datascale --load s 2>&1 | tr '\r' '\n' | grep -oE '(PASS|FAIL).*' | sed 's/^/     check datascale: /'
fi
exit 0
