// The program for Go's clientv3: what its users do, each checked. Started by ../run.sh with ENDPOINT.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const prefix = "/clients/go/"

var client *clientv3.Client

func main() {
	var err error
	client, err = clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv("ENDPOINT")}, DialTimeout: 5 * time.Second})
	must(err)
	defer client.Close()
	run("delete what is there", func(ctx context.Context) { _, err := client.Delete(ctx, prefix, clientv3.WithPrefix()); must(err) })
	run("put, get, delete", keys)
	run("txn", txn)
	run("range stream", rangeStream)
	run("watch from history to live, with a gap-free resume", watch)
	run("watch of a compacted revision", watchCompacted)
	run("lease keep-alive and expiry", lease)
	run("STM", stm)
	run("mutex", mutex)
	run("election", election)
	run("status, members, hash", maintenance)
}

func keys(ctx context.Context) {
	put, err := client.Put(ctx, prefix+"a", "1")
	must(err)
	again, err := client.Put(ctx, prefix+"a", "2", clientv3.WithPrevKV())
	must(err)
	equal(again.Header.Revision, put.Header.Revision+1)
	equal(string(again.PrevKv.Value), "1")
	old, err := client.Get(ctx, prefix+"a", clientv3.WithRev(put.Header.Revision))
	must(err)
	equal(string(old.Kvs[0].Value), "1")
	_, err = client.Get(ctx, prefix+"a", clientv3.WithRev(again.Header.Revision+1000))
	equal(errors.Is(err, rpctypes.ErrFutureRev), true)
	gone, err := client.Delete(ctx, prefix+"a")
	must(err)
	equal(gone.Deleted, 1)
}

// What kube-apiserver sends: create, update at a revision, and a failed update that reads.
func txn(ctx context.Context) {
	key := prefix + "txn"
	create := func() *clientv3.TxnResponse {
		r, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "new")).Else(clientv3.OpGet(key)).Commit()
		must(err)
		return r
	}
	equal(create().Succeeded, true)
	second := create()
	equal(second.Succeeded, false)
	equal(string(second.Responses[0].GetResponseRange().Kvs[0].Value), "new")
	_, err := client.Txn(ctx).Then(clientv3.OpPut(key, "a"), clientv3.OpPut(key, "b")).Commit()
	equal(errors.Is(err, rpctypes.ErrDuplicateKey), true)
}

func rangeStream(ctx context.Context) {
	const count = 3000
	for from := 0; from < count; from += 100 {
		var puts []clientv3.Op
		for i := from; i < from+100; i++ {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("%sstream/%05d", prefix, i), strings.Repeat("v", 1000)))
		}
		_, err := client.Txn(ctx).Then(puts...).Commit()
		must(err)
	}
	stream, err := client.GetStream(ctx, prefix+"stream/", clientv3.WithPrefix())
	must(err)
	streamed, err := clientv3.GetStreamToGetResponse(stream)
	must(err)
	equal(len(streamed.Kvs), count)
	equal(streamed.Count, count)
	equal(string(streamed.Kvs[count-1].Key), fmt.Sprintf("%sstream/%05d", prefix, count-1))
	unary, err := client.Get(ctx, prefix+"stream/", clientv3.WithPrefix())
	must(err)
	equal(len(unary.Kvs), count)
	equal(streamed.Header.Revision, unary.Header.Revision)
	limited, err := client.GetStream(ctx, prefix+"stream/", clientv3.WithPrefix(), clientv3.WithLimit(500))
	must(err)
	page, err := clientv3.GetStreamToGetResponse(limited)
	must(err)
	equal(len(page.Kvs), 500)
	equal(page.More, true)
	equal(page.Count, count)
}

func watch(ctx context.Context) {
	key := prefix + "watched"
	first, err := client.Put(ctx, key, "0")
	must(err)
	next := first.Header.Revision
	seen := 0
	for round := range 3 { // each round is a watch that ends and is taken up again after its last event
		live, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
		events := client.Watch(live, key, clientv3.WithRev(next), clientv3.WithPrevKV())
		for i := range 10 {
			_, err := client.Put(ctx, key, fmt.Sprint(round*10+i+1))
			must(err)
		}
		for seen < (round+1)*10 {
			response := <-events
			must(response.Err())
			for _, event := range response.Events {
				equal(string(event.Kv.Value), fmt.Sprint(seen))
				if seen > 0 {
					equal(string(event.PrevKv.Value), fmt.Sprint(seen-1))
				}
				seen++
				next = event.Kv.ModRevision + 1
			}
		}
		stop()
	}
	events := client.Watch(ctx, key, clientv3.WithProgressNotify())
	must(client.RequestProgress(ctx))
	for response := range events {
		must(response.Err())
		if response.IsProgressNotify() {
			equal(response.Header.Revision >= next-1, true)
			return
		}
	}
}

func watchCompacted(ctx context.Context) {
	put, err := client.Put(ctx, prefix+"a", "1")
	must(err)
	_, err = client.Compact(ctx, put.Header.Revision)
	must(err)
	response := <-client.Watch(ctx, prefix+"a", clientv3.WithRev(1))
	equal(response.CompactRevision, put.Header.Revision)
	equal(errors.Is(response.Err(), rpctypes.ErrCompacted), true)
}

func lease(ctx context.Context) {
	granted, err := client.Grant(ctx, 2)
	must(err)
	put, err := client.Put(ctx, prefix+"leased", "1", clientv3.WithLease(granted.ID))
	must(err)
	kept, stop := context.WithCancel(ctx)
	alive, err := client.KeepAlive(kept, granted.ID)
	must(err)
	for range 5 { // more than the time to live
		equal((<-alive).TTL, 2)
	}
	left, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	must(err)
	equal(string(left.Keys[0]), prefix+"leased")
	stop()
	gone := <-client.Watch(ctx, prefix+"leased", clientv3.WithRev(put.Header.Revision+1))
	equal(gone.Events[0].Type, clientv3.EventTypeDelete)
	_, err = client.KeepAliveOnce(ctx, granted.ID)
	equal(errors.Is(err, rpctypes.ErrLeaseNotFound), true)
}

// Four clients move money between two accounts; none is made or lost.
func stm(ctx context.Context) {
	from, to := prefix+"account/a", prefix+"account/b"
	_, err := client.Put(ctx, from, strings.Repeat("x", 40))
	must(err)
	done := make(chan error)
	for range 4 {
		go func() {
			var err error
			for i := 0; i < 5 && err == nil; i++ {
				_, err = concurrency.NewSTM(client, func(s concurrency.STM) error {
					s.Put(to, s.Get(to)+"x")
					s.Put(from, s.Get(from)[1:])
					return nil
				}, concurrency.WithAbortContext(ctx))
			}
			done <- err
		}()
	}
	for range 4 {
		must(<-done)
	}
	for _, key := range []string{from, to} {
		got, err := client.Get(ctx, key)
		must(err)
		equal(len(got.Kvs[0].Value), 20)
	}
}

func session() *concurrency.Session {
	s, err := concurrency.NewSession(client, concurrency.WithTTL(5))
	must(err)
	return s
}

func mutex(ctx context.Context) {
	one, two := session(), session()
	defer one.Close()
	defer two.Close()
	held, waiting := concurrency.NewMutex(one, prefix+"mutex"), concurrency.NewMutex(two, prefix+"mutex")
	must(held.Lock(ctx))
	equal(errors.Is(waiting.TryLock(ctx), concurrency.ErrLocked), true)
	got := make(chan error)
	go func() { got <- waiting.Lock(ctx) }()
	must(held.Unlock(ctx))
	must(<-got)
	must(waiting.Unlock(ctx))
}

func election(ctx context.Context) {
	one, two := session(), session()
	defer two.Close()
	must(concurrency.NewElection(one, prefix+"election").Campaign(ctx, "one"))
	second := concurrency.NewElection(two, prefix+"election")
	leader, err := second.Leader(ctx)
	must(err)
	equal(string(leader.Kvs[0].Value), "one")
	won := make(chan error)
	go func() { won <- second.Campaign(ctx, "two") }()
	must(one.Close()) // revokes the leader's lease
	must(<-won)
	must(second.Resign(ctx))
}

func maintenance(ctx context.Context) {
	status, err := client.Status(ctx, os.Getenv("ENDPOINT"))
	must(err)
	equal(status.Leader, status.Header.MemberId)
	equal(status.DbSize > 0, true)
	members, err := client.MemberList(ctx)
	must(err)
	equal(members.Members[0].ID, status.Leader)
	must(client.Sync(ctx)) // from now on the client uses the advertised addresses
	hash, err := client.HashKV(ctx, os.Getenv("ENDPOINT"), 0)
	must(err)
	equal(hash.Hash != 0, true)
}

type failure struct{ error }

func must(err error) {
	if err != nil {
		panic(failure{err})
	}
}

func equal[T comparable](got, wanted T) {
	if got != wanted {
		panic(failure{fmt.Errorf("got %v, wanted %v", got, wanted)})
	}
}

func run(name string, check func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer func() {
		if caught := recover(); caught != nil {
			fmt.Printf("FAIL go %s: %v\n", name, caught)
			return
		}
		fmt.Println("ok go " + name)
	}()
	check(ctx)
}
