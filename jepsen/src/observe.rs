//! Reads everything that a quiet server shows, for the checkers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::check::durability::{Ledger, Observation};
use crate::client::{Client, Error, Watched};

/// An empty server's revision: nothing changed at it.
const FIRST_REVISION: i64 = 1;
/// An answered compaction may take a moment until old reads are refused; etcd answers after the logical mark.
const COMPACTION_POLLS: u32 = 3;

/// Reads head, changes, state, leases and hashes. `clock` gives the histories' time.
pub async fn observe(
    client: &Client,
    ledger: &Ledger,
    compacted: i64,
    clock: impl Fn() -> u64,
) -> Result<Observation, Error> {
    let head = client.head().await?;
    let mut seen = Observation { head, compacted: compacted.max(ledger.compacted()), ..Observation::default() };
    seen.compaction_holds = compaction_holds(client, seen.compacted).await?;
    loop {
        match client.events(seen.compacted.max(FIRST_REVISION) + 1, head).await? {
            Watched::Events(events) => {
                seen.events = events;
                break;
            }
            // Of the revision it is compacted to, only what is still alive can be read: begin behind it.
            Watched::Compacted(oldest) if oldest > seen.compacted => seen.compacted = oldest,
            Watched::Compacted(oldest) => {
                return Err(Error::Contract(format!("{} is compacted although only {oldest} is", seen.compacted + 1)));
            }
        }
    }
    seen.state = client.everything_at(head).await?;
    seen.hash = client.hash_at(head).await?;
    if let Some(before) = ledger.hash() {
        seen.hash_before = client.hash_at(before.revision).await?;
    }
    let mut leases = BTreeMap::new();
    for id in client.leases().await? {
        // One that runs out between the two calls is not there.
        if let Some(lease) = client.lease(id).await? {
            leases.insert(id, lease);
        }
    }
    seen.leases = leases;
    seen.time = clock();
    Ok(seen)
}

async fn compaction_holds(client: &Client, compacted: i64) -> Result<bool, Error> {
    if compacted <= 1 {
        return Ok(true);
    }
    for _ in 0..COMPACTION_POLLS {
        if client.is_compacted(compacted - 1).await? {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}
