//! The program for Rust's etcd-client. Started by ../run.sh with ENDPOINT.

use std::error::Error;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error as ClientError, EventType, GetOptions, LeaseTimeToLiveOptions,
    LockOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};

type Checked = Result<(), Box<dyn Error>>;

/// `/clients/rust/` and the rest of a key.
fn key(rest: &str) -> String {
    format!("/clients/rust/{rest}")
}

fn equal<T: PartialEq + std::fmt::Debug>(got: T, wanted: T) -> Checked {
    if got == wanted { Ok(()) } else { Err(format!("got {got:?}, wanted {wanted:?}").into()) }
}

/// Runs a check for at most 30 s and prints its line.
async fn run(name: &str, check: impl Future<Output = Checked>) {
    match tokio::time::timeout(Duration::from_secs(30), check).await {
        Ok(Ok(())) => println!("ok rust {name}"),
        Ok(Err(error)) => match error.downcast_ref() {
            Some(ClientError::GRpcStatus(status)) if format!("{:?}", status.code()) == "Unimplemented" => {
                println!("skip rust {name}: {}", status.message());
            }
            _ => println!("FAIL rust {name}: {error}"),
        },
        Err(_) => println!("FAIL rust {name}: not done in 30 s"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Checked {
    let endpoint = std::env::var("ENDPOINT")?;
    let mut client = Client::connect([endpoint], None).await?;
    client.delete(key(""), Some(DeleteOptions::new().with_prefix())).await?;
    run("put, get, delete", keys(client.clone())).await;
    run("range with order and limit", range(client.clone())).await;
    run("range stream", range_stream(client.clone())).await;
    run("transaction", transaction(client.clone())).await;
    run("watch from history to live, two watches on a stream", watch(client.clone())).await;
    run("lease: keep-alive, keys, revoke", lease(client.clone())).await;
    run("status, members, hash, snapshot", maintenance(client.clone())).await;
    run("lock service", lock(client.clone())).await;
    run("election service", election(client)).await;
    Ok(())
}

async fn keys(mut client: Client) -> Checked {
    client.put(key("a"), "1", None).await?;
    let put = client.put(key("a"), "2", Some(PutOptions::new().with_prev_key())).await?;
    equal(put.prev_key().map(|kv| kv.value()), Some(b"1".as_slice()))?;
    let got = client.get(key("a"), None).await?;
    equal((got.kvs()[0].value_str()?, got.kvs()[0].version()), ("2", 2))?;
    equal(client.delete(key("a"), None).await?.deleted(), 1)?;
    equal(client.get(key("a"), None).await?.kvs().len(), 0)
}

async fn range(mut client: Client) -> Checked {
    for i in 0..20 {
        client.put(key(&format!("list/{i:02}")), "v", None).await?;
    }
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(3);
    let page = client.get(key("list/"), Some(options)).await?;
    equal((page.count(), page.more()), (20, true))?;
    equal(page.kvs()[2].key_str()?, &key("list/17"))
}

async fn range_stream(client: Client) -> Checked {
    let mut stream = client.kv_client().get_stream(key("list/"), Some(GetOptions::new().with_prefix())).await?;
    let (mut found, mut count) = (0, 0);
    while let Some(chunk) = stream.message().await? {
        found += chunk.kvs().len();
        count = chunk.count();
    }
    equal((found, count), (20, 20))
}

async fn transaction(mut client: Client) -> Checked {
    client.put(key("txn"), "1", None).await?;
    for wanted in [true, false] {
        let swap = Txn::new()
            .when([Compare::value(key("txn"), CompareOp::Equal, "1")])
            .and_then([TxnOp::put(key("txn"), "2", None)])
            .or_else([TxnOp::get(key("txn"), None)]);
        let answer = client.txn(swap).await?;
        equal(answer.succeeded(), wanted)?;
        if let TxnOpResponse::Get(got) = &answer.op_responses()[0] {
            equal(got.kvs()[0].value(), b"2")?;
        }
    }
    Ok(())
}

async fn watch(mut client: Client) -> Checked {
    let first = client.put(key("w"), "0", None).await?.header().map_or(0, |header| header.revision());
    let from_history = WatchOptions::new().with_start_revision(first).with_prev_key();
    let mut stream = client.watch(key("w"), Some(from_history)).await?;
    stream.watch(key("other"), None).await?;
    client.put(key("w"), "1", None).await?;
    client.delete(key("w"), None).await?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let response = stream.message().await?.ok_or("the stream ended")?;
        for event in response.events() {
            let value =
                |kv: Option<&etcd_client::KeyValue>| kv.map_or(String::new(), |kv| kv.value_str().unwrap().into());
            seen.push((event.event_type(), value(event.kv()), value(event.prev_kv())));
        }
    }
    let event = |kind, value: &str, before: &str| (kind, value.to_owned(), before.to_owned());
    let (put, delete) = (EventType::Put, EventType::Delete);
    equal(seen, vec![event(put, "0", ""), event(put, "1", "0"), event(delete, "", "1")])?;
    stream.request_progress().await?;
    while !stream.message().await?.ok_or("the stream ended")?.events().is_empty() {}
    Ok(())
}

async fn lease(mut client: Client) -> Checked {
    let id = client.lease_grant(60, None).await?.id();
    client.put(key("leased"), "1", Some(PutOptions::new().with_lease(id))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    keeper.keep_alive().await?;
    equal(answers.message().await?.ok_or("the stream ended")?.ttl(), 60)?;
    let info = client.lease_time_to_live(id, Some(LeaseTimeToLiveOptions::new().with_keys())).await?;
    equal(info.keys(), &[key("leased").into_bytes()])?;
    client.lease_revoke(id).await?;
    equal(client.get(key("leased"), None).await?.kvs().len(), 0)
}

async fn maintenance(mut client: Client) -> Checked {
    let status = client.status().await?;
    equal(&status.version()[..3], "3.7")?;
    equal(client.member_list().await?.members()[0].id(), status.leader())?;
    client.hash_kv(0).await?;
    let (mut snapshot, mut bytes) = (client.snapshot().await?, 0);
    while let Some(part) = snapshot.message().await? {
        bytes += part.blob().len();
    }
    equal(bytes > 32, true)
}

async fn lock(mut client: Client) -> Checked {
    let id = client.lease_grant(60, None).await?.id();
    let held = client.lock(key("lock"), Some(LockOptions::new().with_lease(id))).await?;
    client.unlock(held.key()).await?;
    client.lease_revoke(id).await?;
    Ok(())
}

async fn election(mut client: Client) -> Checked {
    let id = client.lease_grant(60, None).await?.id();
    let won = client.campaign(key("election"), "one", id).await?;
    let leader = client.leader(key("election")).await?;
    equal(leader.kv().map(|kv| kv.value()), Some(b"one".as_slice()))?;
    let resign = ResignOptions::new().with_leader(won.leader().ok_or("no leader key")?.clone());
    client.resign(Some(resign)).await?;
    client.lease_revoke(id).await?;
    Ok(())
}
