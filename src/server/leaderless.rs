//! `hasleader: true`, clientv3's `WithRequireLeader`: whoever sends it wants no answer from a member that may be cut off
//! from the cluster. By etcd's rules (`v3rpc/interceptor.go`) a call is refused at once while no leader is known, and an
//! open stream ends when there has been none for three election timeouts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::timeout;

use crate::raft::Node;
use crate::watch::Hub;

/// How many election timeouts without a leader a stream outlives.
const ELECTIONS_OUTLIVED: u32 = 3;

/// Tells the hub and `lost` when streams that need a leader must end, and when there is a leader again; returns when the
/// node has ended.
pub async fn follow(node: Arc<Node>, hub: Arc<Hub>, lost: channel::Sender<bool>) {
    let patience: Duration = node.leader_deadline() * ELECTIONS_OUTLIVED;
    let mut leadership = node.watch_leadership();
    loop {
        if leadership.wait_for(|now| now.leader.is_none()).await.is_err() {
            return;
        }
        match timeout(patience, leadership.wait_for(|now| now.leader.is_some())).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        tracing::warn!(?patience, "no leader for so long: streams that need one end");
        lost.send_replace(true);
        hub.leader_lost();
        if leadership.wait_for(|now| now.leader.is_some()).await.is_err() {
            return;
        }
        lost.send_replace(false);
        hub.leader_found();
    }
}
