//! Faults of members and their disks.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::lane::{Fault, Outcome, wait};
use super::schedule::Kind;
use crate::chaosfs::Counters;
use crate::history::files::Forgotten;

/// A member that was told to end does so within this.
const END_MAX: Duration = Duration::from_secs(20);
/// A stopped process is seen as stopped after this long, or never.
const STOP_MAX: Duration = Duration::from_secs(2);
/// A disk fault is held this much longer when nothing has met it yet: a server writes into files made before.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long syncs hang before a power cut in half of the cuts, in milliseconds.
const HOLD_SYNCS_MS: (u64, u64) = (5, 300);
/// How long slow syncs take, in milliseconds.
const SLOW_SYNC_MS: (u64, u64) = (20, 800);
/// How far clocks jump, in seconds.
const JUMP_SECONDS: [i64; 6] = [1, -1, 30, -30, 3600, -86_400];

impl Fault<'_> {
    pub(super) async fn of_process(&mut self) -> anyhow::Result<Outcome> {
        match self.step.kind {
            Kind::Rolling => self.rolling().await,
            Kind::Pause => self.freeze().await,
            Kind::Clock => self.clock().await,
            Kind::PowerCut => self.power_cut().await,
            _ => self.kill().await,
        }
    }

    async fn kill(&mut self) -> anyhow::Result<Outcome> {
        let members = self.whom().await;
        let mut gone = Vec::new();
        for member in &members {
            gone.extend(self.cluster.kill(*member)?);
        }
        self.hold().await;
        for member in &members {
            self.cluster.start(*member)?;
        }
        let evidence = format!("{:?}: {} processes killed, {} ms", self.step.whom, gone.len(), self.step.hold_ms);
        Ok(Outcome { evidence, effect: gone.len() as u64 })
    }

    async fn power_cut(&mut self) -> anyhow::Result<Outcome> {
        let members = self.whom().await;
        if self.rng.chance(0.5) {
            for member in &members {
                self.cluster.disk(*member, |fs| fs.hold_syncs());
            }
            let hold = self.rng.between(HOLD_SYNCS_MS.0, HOLD_SYNCS_MS.1);
            tokio::time::sleep(Duration::from_millis(hold)).await;
        }
        let keep = *self.rng.pick(&[0.0, 0.5, 0.9]);
        let mut sum = Forgotten::default();
        // All of them die before any power goes: it is one cut.
        for member in &members {
            self.cluster.kill(*member)?;
        }
        for member in &members {
            let cut = self.cluster.power_cut(*member, keep, self.rng.bits()).inspect_err(|error| {
                // Its disk is gone: it cannot be started on what it had.
                self.windows.fail(format!("cutting the power of member {member}: {error}"));
            })?;
            sum.add(&Forgotten {
                members: 1,
                pages_unsynced: cut.pages_dirty,
                pages_lost: cut.pages_lost,
                pages_torn: cut.pages_torn,
                entries_lost: cut.entries_lost,
            });
        }
        self.windows.forgot(self.number, sum);
        self.hold().await;
        for member in &members {
            self.cluster.start(*member)?;
        }
        let evidence = format!(
            "{:?}: {} members, {} of {} unsynced pages lost, {} torn",
            self.step.whom,
            members.len(),
            sum.pages_lost,
            sum.pages_unsynced,
            sum.pages_torn
        );
        Ok(Outcome { evidence, effect: members.len() as u64 })
    }

    async fn rolling(&mut self) -> anyhow::Result<Outcome> {
        let mut ended = Vec::new();
        for member in 0..self.cluster.size() {
            if *self.stop.borrow() && !ended.is_empty() {
                break;
            }
            self.windows.aim(self.number, &(0..=member).collect::<Vec<_>>());
            let started = Instant::now();
            // While it is told to end, its end is no surprise to the guard.
            self.cluster.may_end(member, true);
            let told = self.cluster.signal(member, Signal::TERM)?;
            let status = self.cluster.wait_end(member, END_MAX).await?;
            self.cluster.may_end(member, false);
            match (told, status) {
                (Some(_), Some(status)) => ended.push(format!("{status} after {} ms", started.elapsed().as_millis())),
                (Some(pid), None) => {
                    let text =
                        format!("process {pid} still runs {END_MAX:?} after SIGTERM: {}", self.cluster.tail(member));
                    self.windows.broken("does not end", member, text);
                    self.cluster.kill(member)?;
                }
                (None, _) => {}
            }
            self.hold().await;
            self.cluster.start(member)?;
            let answered = Instant::now();
            while !self.cluster.answers(member).await && answered.elapsed() < END_MAX {}
        }
        Ok(Outcome { evidence: ended.join(", "), effect: ended.len() as u64 })
    }

    async fn freeze(&mut self) -> anyhow::Result<Outcome> {
        let members = self.whom().await;
        let mut stopped = 0;
        for member in &members {
            if let Some(pid) = self.cluster.signal(*member, Signal::STOP)? {
                stopped += u64::from(is_stopped(pid).await);
            }
        }
        let started = Instant::now();
        self.hold().await;
        let held = started.elapsed();
        for member in &members {
            self.cluster.signal(*member, Signal::CONT)?;
        }
        let evidence = format!("{:?}: {stopped} processes stopped for {} ms", self.step.whom, held.as_millis());
        Ok(Outcome { evidence, effect: stopped * (held.as_millis() as u64).max(1) })
    }

    async fn clock(&mut self) -> anyhow::Result<Outcome> {
        let members = self.whom().await;
        let seconds = *self.rng.pick(&JUMP_SECONDS);
        let before = std::time::SystemTime::now();
        for member in &members {
            std::fs::write(self.cluster.clock_file(*member), format!("{seconds:+}\n"))?;
        }
        self.hold().await;
        for member in &members {
            std::fs::write(self.cluster.clock_file(*member), "+0\n")?;
        }
        let preloaded = members.iter().filter(|member| self.cluster.pid(**member).is_some_and(is_faked)).count();
        let held = before.elapsed().unwrap_or_default().as_millis();
        let evidence = format!("{:?}: {preloaded} wall clocks {seconds:+} s off for {held} ms", self.step.whom);
        Ok(Outcome { evidence, effect: preloaded as u64 })
    }

    pub(super) async fn of_disk(&mut self) -> anyhow::Result<Outcome> {
        let members = self.whom().await;
        let kind = self.step.kind;
        let delay = Duration::from_millis(self.rng.between(SLOW_SYNC_MS.0, SLOW_SYNC_MS.1));
        let all_syncs = self.rng.chance(0.5);
        let hits = |member: u32| self.cluster.disk(member, |fs| fs.counters());
        let before: Vec<_> = members.iter().map(|member| hits(*member).unwrap_or_default()).collect();
        for member in &members {
            self.cluster.may_end(*member, kind != Kind::SlowSync);
            self.cluster.disk(*member, |fs| {
                let used = fs.bytes_used();
                fs.faults(|faults| match kind {
                    Kind::DiskFull => faults.capacity_bytes = Some(used),
                    Kind::SlowSync => faults.slow_sync = Some(delay),
                    _ if all_syncs => faults.fail_all_syncs = true,
                    _ => faults.fail_sync_in = Some(1),
                });
            });
        }
        self.hold().await;
        let until = Instant::now() + PATIENCE;
        let met = |(member, before): (&u32, &Counters)| {
            let hit = |after: Counters| match kind {
                Kind::SlowSync => syncs(&after) > syncs(before),
                _ => after.faults_hit > before.faults_hit,
            };
            hits(*member).is_some_and(hit)
        };
        while !members.iter().zip(&before).any(met) && Instant::now() < until {
            if !wait(Duration::from_millis(100), &mut self.stop).await {
                break;
            }
        }
        let mut story = Vec::new();
        let mut effect = 0;
        for (member, before) in members.iter().zip(before) {
            self.cluster.disk(*member, |fs| fs.faults(|faults| *faults = Default::default()));
            let after = hits(*member).unwrap_or_default();
            effect += match kind {
                Kind::SlowSync => syncs(&after) - syncs(&before),
                _ => after.faults_hit - before.faults_hit,
            };
            // A sync that failed just now may still be on its way to end the process.
            wait(Duration::from_millis(300), &mut self.stop).await;
            story.extend(self.cluster.take_ended(*member).map(|status| format!("member {member} ended ({status})")));
            self.cluster.may_end(*member, false);
            self.cluster.start(*member)?;
        }
        let what = match kind {
            Kind::DiskFull => format!("{effect} writes refused"),
            Kind::SlowSync => format!("{effect} syncs slowed by {delay:?}"),
            _ => format!("{effect} syncs failed"),
        };
        Ok(Outcome { evidence: format!("{:?}: {what} {}", self.step.whom, story.join(", ")), effect })
    }
}

fn syncs(counters: &Counters) -> u64 {
    counters.syncs + counters.synchronous_writes
}

/// Whether a process has stopped, as the kernel tells.
async fn is_stopped(pid: u32) -> bool {
    let started = Instant::now();
    while started.elapsed() < STOP_MAX {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Whether the library that moves clocks is in a process.
fn is_faked(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| maps.contains("libfaketime"))
}
