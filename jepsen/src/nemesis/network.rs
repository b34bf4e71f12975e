//! Faults between members, and between them and clients.

use std::time::{Duration, Instant};

use super::lane::{Fault, Outcome, aside, wait};
use super::schedule::Kind;
use crate::cluster::Party;
use crate::rng::Rng;

/// Shares of packets that are lost, in percent.
const LOSS_PERCENT: [u64; 4] = [1, 5, 15, 30];
/// How slow links are, in milliseconds.
const DELAY_MS: [u64; 4] = [10, 50, 150, 400];
/// A flapping partition changes after this, in milliseconds.
const FLAP_MS: (u64, u64) = (50, 500);
/// A fault of the network that no packet met is held this much longer, for one to come.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two looks whether one came.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Shapes of partitions.
const SHAPES: [&str; 9] =
    ["halves", "leader", "leader", "ring", "bridge", "one-way", "peers-only", "client-only", "flapping"];

type Pairs = Vec<(Party, Party)>;

impl Fault<'_> {
    pub(super) async fn of_network(&mut self) -> anyhow::Result<Outcome> {
        let traffic = self.cluster.traffic();
        let members = self.whom().await;
        match self.step.kind {
            Kind::Loss => {
                let percent = *self.rng.pick(&LOSS_PERCENT);
                let hit = members.clone();
                aside(move || traffic.lose(&hit, percent)).await??;
                self.hold().await;
                self.until_dropped().await?;
                let lost = self.heal().await?;
                Ok(Outcome { evidence: format!("{percent} %: {lost} packets dropped"), effect: lost })
            }
            Kind::Slow => {
                let delay = *self.rng.pick(&DELAY_MS);
                let hit = members.clone();
                let slow = traffic.clone();
                let how = aside(move || slow.slow(&hit, delay)).await??;
                self.hold().await;
                let until = Instant::now() + PATIENCE;
                loop {
                    let (slow, hit) = (traffic.clone(), members.clone());
                    if aside(move || slow.held_back(&hit)).await?? > 0 || Instant::now() > until {
                        break;
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                let held = aside(move || traffic.fast(&members)).await??;
                Ok(Outcome { evidence: format!("{how}: {held} packets held back"), effect: held })
            }
            _ => self.partition(&members).await,
        }
    }

    async fn partition(&mut self, members: &[u32]) -> anyhow::Result<Outcome> {
        let shape = if self.step.kind == Kind::Isolate { "peers-only" } else { *self.rng.pick(&SHAPES) };
        let leader = members.first().copied().unwrap_or(0);
        let pairs = shape_of(shape, self.cluster.size(), leader, &mut self.rng);
        let hit: std::collections::BTreeSet<u32> =
            pairs.iter().flat_map(|(from, to)| [*from, *to]).filter_map(number).collect();
        self.windows.aim(self.number, &hit.into_iter().collect::<Vec<_>>());
        let mut dropped = 0;
        let until = Instant::now() + Duration::from_millis(self.step.hold_ms);
        if shape == "flapping" {
            while Instant::now() < until && !*self.stop.borrow() {
                self.cut(&pairs).await?;
                wait(Duration::from_millis(self.rng.between(FLAP_MS.0, FLAP_MS.1)), &mut self.stop).await;
                dropped += self.heal().await?;
                wait(Duration::from_millis(self.rng.between(FLAP_MS.0, FLAP_MS.1)), &mut self.stop).await;
            }
        } else {
            self.cut(&pairs).await?;
            self.hold().await;
            self.until_dropped().await?;
            dropped = self.heal().await?;
        }
        Ok(Outcome { evidence: format!("{shape}: {} cuts, {dropped} packets dropped", pairs.len()), effect: dropped })
    }

    async fn cut(&self, pairs: &Pairs) -> anyhow::Result<()> {
        let (traffic, pairs) = (self.cluster.traffic(), pairs.clone());
        Ok(aside(move || traffic.cut(&pairs)).await??)
    }

    /// Waits for a packet to be dropped, as far as patience goes.
    async fn until_dropped(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while self.dropped().await? == 0 && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn dropped(&self) -> anyhow::Result<u64> {
        let traffic = self.cluster.traffic();
        Ok(aside(move || traffic.dropped()).await??)
    }

    async fn heal(&self) -> anyhow::Result<u64> {
        let traffic = self.cluster.traffic();
        Ok(aside(move || traffic.heal()).await??)
    }
}

fn number(party: Party) -> Option<u32> {
    match party {
        Party::Member(member) => Some(member),
        Party::Clients => None,
    }
}

/// Which directions a shape cuts. `one` is the member that it is about.
fn shape_of(shape: &str, size: u32, one: u32, rng: &mut Rng) -> Pairs {
    let mut all: Vec<u32> = (0..size).collect();
    (1..all.len()).rev().for_each(|last| all.swap(last, rng.below(last as u64 + 1) as usize));
    let others: Vec<u32> = all.iter().copied().filter(|member| *member != one).collect();
    let both = |a: Party, b: Party| [(a, b), (b, a)];
    let between = |left: &[u32], right: &[u32]| -> Pairs {
        let right = right.iter().map(|member| Party::Member(*member)).collect::<Vec<_>>();
        left.iter().flat_map(|a| right.iter().flat_map(move |b| both(Party::Member(*a), *b))).collect()
    };
    let half = all.len() / 2;
    match shape {
        "halves" | "flapping" => between(&all[..half], &all[half..]),
        // Each sees a majority, but no two the same one.
        "ring" => {
            let seen = all.len() / 2 + 1;
            let reach = (seen - 1) / 2 + (seen - 1) % 2;
            let far = |a: usize, b: usize| {
                let apart = a.abs_diff(b);
                apart.min(all.len() - apart) > reach || (all.len() <= 3 && (a, b) == (0, 1))
            };
            let indices = 0..all.len();
            let cut = indices.flat_map(|a| (a + 1..all.len()).map(move |b| (a, b))).filter(|(a, b)| far(*a, *b));
            cut.flat_map(|(a, b)| both(Party::Member(all[a]), Party::Member(all[b]))).collect()
        }
        // Two halves and one member that both see.
        "bridge" => {
            let middle = others.len() / 2;
            between(&others[..middle], &others[middle..])
        }
        "one-way" => {
            let outward = rng.chance(0.5);
            let pair = |other: &u32| match outward {
                true => (Party::Member(one), Party::Member(*other)),
                false => (Party::Member(*other), Party::Member(one)),
            };
            others.iter().map(pair).collect()
        }
        "client-only" => both(Party::Member(one), Party::Clients).to_vec(),
        "peers-only" => between(&[one], &others),
        // Cut off from everybody.
        _ => {
            let mut pairs = between(&[one], &others);
            pairs.extend(both(Party::Member(one), Party::Clients));
            pairs
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_cuts_something_and_never_a_member_from_itself() {
        for shape in SHAPES {
            for size in [3, 5, 7] {
                let pairs = shape_of(shape, size, 1, &mut Rng::new(u64::from(size)));
                assert!(!pairs.is_empty(), "{shape} of {size}");
                assert!(pairs.iter().all(|(from, to)| from != to), "{shape} of {size}");
            }
        }
    }

    #[test]
    fn in_a_ring_each_member_sees_a_majority() {
        for size in [3u32, 5, 7] {
            let pairs = shape_of("ring", size, 0, &mut Rng::new(1));
            for member in 0..size {
                let cut = pairs.iter().filter(|(from, _)| *from == Party::Member(member)).count() as u32;
                assert!(size - cut > size / 2, "member {member} of {size} sees {}", size - cut);
            }
        }
    }
}
