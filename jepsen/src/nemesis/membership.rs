//! A member is removed, loses its data, and joins again, as a voter or first as a learner.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::lane::{Fault, Outcome};
use super::schedule::Kind;
use crate::client::Client;

/// A change of members may take so long, with retries after answers that leave it open.
const CHANGE_MAX: Duration = Duration::from_secs(30);
/// One request of it.
const DEADLINE: Duration = Duration::from_secs(4);
/// A member that was removed while it was away learns of it within this, and ends.
const GHOST_MAX: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);

impl Fault<'_> {
    pub(super) async fn of_membership(&mut self) -> anyhow::Result<Outcome> {
        let member = self.whom().await.first().copied().context("nobody to remove")?;
        let learner = self.rng.chance(0.5);
        let url = self.cluster.peer_url(member);
        let asked = (member + 1 + self.rng.below(u64::from(self.cluster.size() - 1)) as u32) % self.cluster.size();
        let client = self.cluster.client(asked, DEADLINE)?;
        let started = Instant::now();
        let patience = Patience::new();
        let old = loop {
            match id_of(&client, &url).await {
                Ok(Some(old)) => break old,
                Ok(None) => anyhow::bail!("it is no member"),
                // Nothing is broken yet, and a busy member may answer the next question.
                Err(error) if !patience.more().await => return Err(error),
                Err(_) => {}
            }
        };
        // A removed member ends by itself: no surprise.
        self.cluster.may_end(member, true);
        let is_ghost = self.step.kind == Kind::Ghost;
        if is_ghost {
            self.cluster.kill(member)?;
        }
        let patience = Patience::new();
        // An answer that got lost may have been a yes.
        while client.remove_member(old).await.is_err() && !id_of(&client, &url).await.is_ok_and(|id| id.is_none()) {
            if !patience.more().await {
                self.cluster.may_end(member, false);
                return Ok(Outcome { evidence: "the removal was refused".into(), effect: 0 });
            }
        }
        // From here on it must come back, whatever it takes.
        self.hold().await;
        if is_ghost {
            self.haunt(member).await?;
        }
        self.cluster.wipe(member)?;
        let patience = Patience::new();
        let new = loop {
            match id_of(&client, &url).await {
                Ok(Some(id)) => break id,
                // Whether it was added shows in the next list.
                Ok(None) => drop(client.add_member(&url, learner).await),
                Err(_) => {}
            }
            anyhow::ensure!(patience.more().await, "member {member} was removed and cannot be added again");
        };
        self.cluster.may_end(member, false);
        self.cluster.start(member)?;
        let patience = Patience::new();
        while learner && client.promote_member(new).await.is_err() && !is_voter(&client, new).await {
            anyhow::ensure!(patience.more().await, "learner {member} cannot be promoted");
        }
        let patience = Patience::new();
        let mut answered = true;
        while answered && !self.cluster.answers(member).await {
            answered = patience.more().await;
        }
        let evidence = format!(
            "{:?} removed, wiped, added{} as {new:x} after {old:x} in {} ms{}",
            self.step.whom,
            if learner { " as a learner, promoted" } else { "" },
            started.elapsed().as_millis(),
            if answered { "" } else { ", does not answer" }
        );
        Ok(Outcome { evidence, effect: 1 })
    }
}

impl Fault<'_> {
    /// A removed member is started on what it had: it is told, and ends.
    async fn haunt(&self, member: u32) -> anyhow::Result<()> {
        self.cluster.start(member)?;
        if self.cluster.wait_end(member, GHOST_MAX).await?.is_none() {
            let text = format!("removed, it still runs {GHOST_MAX:?} after its start: {}", self.cluster.tail(member));
            self.windows.broken("removed and back", member, text);
        }
        Ok(())
    }
}

async fn id_of(client: &Client, url: &str) -> anyhow::Result<Option<u64>> {
    let members = client.members().await?;
    Ok(members.into_iter().find(|one| one.peer_urls.iter().any(|listed| listed == url)).map(|one| one.id))
}

async fn is_voter(client: &Client, id: u64) -> bool {
    client.members().await.is_ok_and(|members| members.iter().any(|one| one.id == id && !one.learner))
}

/// The end of retries.
struct Patience(Instant);

impl Patience {
    fn new() -> Self {
        Self(Instant::now())
    }

    /// Waits a little; false when it is at its end.
    async fn more(&self) -> bool {
        tokio::time::sleep(PAUSE).await;
        self.0.elapsed() < CHANGE_MAX
    }
}
