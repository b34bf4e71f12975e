//! What operators do while a cluster is busy. A request that is refused, or lost in another fault, counts as none.

use std::time::Duration;

use anyhow::Context;

use super::lane::{Fault, Outcome};
use super::schedule::Kind;
use crate::history::op::{Outcome as Answered, Request};

/// A request of an operator may take so long.
const DEADLINE: Duration = Duration::from_secs(5);
/// A compaction keeps this many revisions, so that watches that were just broken find what they missed,
const KEEP_REVISIONS: u64 = 100;
/// or up to so many.
const KEEP_REVISIONS_MAX: u64 = 1500;
/// Between two looks at who leads after a hand-over.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks at who leads after a hand-over.
const LOOKS_MAX: u32 = 20;

impl Fault<'_> {
    pub(super) async fn of_operator(&mut self) -> anyhow::Result<Outcome> {
        let member = self.whom().await.first().copied().context("nobody to ask")?;
        let client = self.cluster.client(member, DEADLINE)?;
        match self.step.kind {
            Kind::MoveLeader => self.move_leader().await,
            Kind::Compact => {
                let keep = self.rng.between(KEEP_REVISIONS, KEEP_REVISIONS_MAX) as i64;
                let head = client.head().await?;
                // A slow workload has few revisions: then half of them. What no collector has seen yet must stay.
                let at = (head - keep.min(head / 2)).min(self.windows.collected());
                anyhow::ensure!(at > 1, "too little to compact");
                let outcome = self.windows.send(&client, member, Request::Compact(at)).await;
                anyhow::ensure!(matches!(outcome, Answered::Ok { .. }), "not answered");
                Ok(Outcome { evidence: format!("compacted to revision {at}"), effect: 1 })
            }
            Kind::Defrag => {
                client.defragment().await?;
                Ok(Outcome { evidence: format!("member {member} answered"), effect: 1 })
            }
            _ => {
                let bytes = client.snapshot_bytes().await?;
                Ok(Outcome { evidence: format!("{bytes} bytes read from member {member}"), effect: bytes })
            }
        }
    }

    async fn move_leader(&mut self) -> anyhow::Result<Outcome> {
        let (leader, before) = self.cluster.leader().await.context("no leader")?;
        let others: Vec<u32> = (0..self.cluster.size()).filter(|member| *member != leader).collect();
        anyhow::ensure!(!others.is_empty(), "nobody to hand over to");
        let target = *self.rng.pick(&others);
        let standing = self.cluster.standing(target).await.context("the target does not answer")?;
        self.windows.aim(self.number, &[leader, target]);
        self.cluster.client(leader, DEADLINE)?.move_leader(standing.member).await?;
        for _ in 0..LOOKS_MAX {
            if let Some((leader, now)) = self.cluster.leader().await.filter(|(_, now)| now.term > before.term) {
                let evidence = format!("member {leader} leads in term {} after {}", now.term, before.term);
                return Ok(Outcome { evidence, effect: 1 });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::bail!("the leader stayed")
    }
}
