//! The three checks, and the alarm.

use std::convert::Infallible;
use std::time::Duration;

use super::survey::survey;
use super::{Error, Survey, names};
use crate::proto::etcdserverpb as pb;
use crate::raft::Node;
use crate::state::Command;

/// Compares a member that starts with its peers; it must have applied all that was committed. One that is behind,
/// compacted otherwise or cannot be reached is passed over, as in etcd, but for a log line: the cluster must be able to
/// start.
///
/// # Errors
/// [`Error::Inconsistent`]: the member must not serve; [`Error::Hash`].
pub async fn before_serving(node: &Node) -> Result<(), Error> {
    tracing::info!("starting initial corruption check");
    let survey = survey(node, |_| 0).await?;
    tell_skipped(&survey);
    let differing = survey.differing();
    if differing.is_empty() {
        let compared = survey.others.len() - survey.skipped().count();
        tracing::info!(compared, revision = survey.own.revision, "initial corruption checking passed; no corruption");
        return Ok(());
    }
    tell_difference(&survey);
    let (revision, compact_revision) = survey.place();
    Err(Error::Inconsistent { me: survey.me, differing, revision, compact_revision })
}

/// `--corrupt-check-time`: while this member leads, compares everything that is kept, for ever; dropping the future ends
/// it.
pub async fn run_periodic(node: &Node, interval: Duration) -> Infallible {
    loop {
        tokio::time::sleep(interval).await;
        if !is_due(node) {
            continue;
        }
        if let Err(error) = check_all(node).await {
            tracing::warn!(%error, "corruption check not made");
        }
    }
}

/// Only the leader asks, and only when there is somebody to ask.
fn is_due(node: &Node) -> bool {
    node.is_leader() && node.members().len() > 1
}

async fn check_all(node: &Node) -> Result<(), Error> {
    node.read_barrier().await?;
    let survey = survey(node, |_| 0).await?;
    tell_skipped(&survey);
    // By now whatever the others had committed is here.
    node.read_barrier().await?;
    let verdict = survey.verdict(node.store().revision(), node.store().compact_revision());
    raise(node, &survey, verdict.alarmed()).await;
    Ok(())
}

/// `--compact-hash-check-time`: while this member leads, compares what each compaction has left at its revision, for
/// ever; dropping the future ends it. Every member can compute that hash for as long as it has not compacted further, so
/// that none need be kept; a compaction that is overtaken by the next before everybody was heard is covered by that one.
pub async fn run_compaction(node: &Node, interval: Duration) -> Infallible {
    let mut checked = 0;
    loop {
        tokio::time::sleep(interval).await;
        let compacted = node.store().compact_revision();
        if compacted == checked || !is_due(node) {
            continue;
        }
        match check_compaction(node).await {
            // Whoever was not heard is asked again.
            Ok(settled) => checked = settled.unwrap_or(checked),
            Err(error) => tracing::warn!(%error, "compaction hash check not made"),
        }
    }
}

/// The revision at which everybody was compared, or somebody found corrupt.
async fn check_compaction(node: &Node) -> Result<Option<i64>, Error> {
    let survey = survey(node, |store| store.compact_revision()).await?;
    tell_skipped(&survey);
    let alarmed = survey.by_hashes().alarmed();
    let is_settled = survey.is_complete() || !alarmed.is_empty();
    raise(node, &survey, alarmed).await;
    Ok(is_settled.then_some(survey.own.revision))
}

fn tell_skipped(survey: &Survey) {
    for (id, reason) in survey.skipped() {
        let revision = survey.own.revision;
        tracing::warn!(member = format!("{id:x}"), reason, revision, "a member's hash is not compared");
    }
}

fn tell_difference(survey: &Survey) {
    let (revision, compact_revision) = survey.place();
    for (hash, members) in survey.by_hash() {
        tracing::error!(hash, members = names(&members), revision, compact_revision, "members differ in their data");
    }
}

/// Raises the CORRUPT alarm for members, once for each.
async fn raise(node: &Node, survey: &Survey, members: Vec<u64>) {
    if members.is_empty() {
        return;
    }
    tell_difference(survey);
    for member_id in members {
        let alarm = pb::AlarmMember { member_id, alarm: pb::AlarmType::Corrupt.into() };
        if node.store().alarms().contains(&alarm) {
            continue;
        }
        tracing::error!(member = format!("{member_id:x}"), "data is corrupt, raising alarm CORRUPT");
        let raise = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id,
            alarm: pb::AlarmType::Corrupt.into(),
        };
        if let Err(error) = node.propose(Command::Alarm(raise)).await {
            // The next check finds the same and tries again.
            tracing::warn!(member = format!("{member_id:x}"), %error, "alarm CORRUPT not raised");
        }
    }
}
