//! Who a member is, and of which cluster: decided once, when it is made, and then kept with its data. As with etcd the
//! `--initial-*` flags count only for the first start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::recover::Opened;
use crate::config::{ClusterState, Config, Url, ids};
use crate::proto::etcdserverpb as pb;
use crate::proto::peer::MembersResponse;
use crate::raft::peers::{Dial, ask_members};
use crate::raft::types::MemberInfo;
use crate::raft::{Identity, alone};
use crate::storage::data_dir::DataDir;

/// How long one member may take to say who is in the cluster.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// How often a member that joins asks around before it gives up, and the pause between.
const ASK_ROUNDS: u32 = 15;
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// Who a member is, and with whom it begins.
pub struct Identified {
    /// Its ids.
    pub identity: Identity,
    /// The members of a cluster to be made; empty for one that is there.
    pub initial_members: BTreeMap<u64, MemberInfo>,
}

/// The ids as they are kept, in hexadecimal, as etcd prints them.
#[derive(Serialize, Deserialize)]
struct Kept {
    member_id: String,
    cluster_id: String,
}

/// Writes the ids down, durably.
///
/// # Errors
/// The disk's.
pub fn keep(data_dir: &DataDir, member_id: u64, cluster_id: u64) -> Result<(), Error> {
    let kept = Kept { member_id: format!("{member_id:x}"), cluster_id: format!("{cluster_id:x}") };
    let text = serde_json::to_vec_pretty(&kept).map_err(|error| Error::Recovery(error.to_string()))?;
    Ok(data_dir.set_identity(&text)?)
}

fn kept(data_dir: &DataDir) -> Result<Option<(u64, u64)>, Error> {
    let Some(text) = data_dir.identity()? else { return Ok(None) };
    let bad = |reason: String| {
        let file = data_dir.root().join("member/identity");
        Error::Recovery(format!("{}: {reason}; restore the file, or this member from a backup", file.display()))
    };
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let id = |text: &str| u64::from_str_radix(text, 16).map_err(|error| bad(format!("{text}: {error}")));
    Ok(Some((id(&kept.member_id)?, id(&kept.cluster_id)?)))
}

/// Finds out who this member is, and sees to it that it stays so. `known` are its own id and its cluster's, where
/// somebody else has kept them.
///
/// # Errors
/// [`Error::Recovery`] when the member cannot join, was there before, or its data is another's.
pub async fn identify(
    config: &Config,
    opened: &Opened,
    known: Option<(u64, u64)>,
    dial: &Arc<dyn Dial>,
) -> Result<Identified, Error> {
    let fresh = |identity| {
        let initial_members = match config.initial_cluster_state {
            ClusterState::New => initial_members(config),
            ClusterState::Existing => BTreeMap::new(),
        };
        Identified { identity, initial_members }
    };
    if let Some(data_dir) = &opened.data_dir
        && let Some((member_id, cluster_id)) = kept(data_dir)?
    {
        return Ok(fresh(Identity::new(member_id, cluster_id)));
    }
    if let Some((member_id, cluster_id)) = known {
        return Ok(fresh(Identity::new(member_id, cluster_id)));
    }
    let members: Vec<u64> = opened.mark.membership.membership().nodes().map(|(id, _)| *id).collect();
    let identity = match members[..] {
        // Data of a version that kept no ids: it ran alone, and can be nobody but the one named there.
        [alone] => Identity::new(alone, ids::cluster_id(&[alone])),
        [_, _, ..] => {
            return Err(Error::Recovery(format!(
                "the data is of a cluster of {} members and does not say which of them this is: restore this member \
                 from a backup, or remove it from the cluster and add it anew",
                members.len()
            )));
        }
        [] if opened.recovered.last.is_some() => Identity::new(config.member_id(), config.cluster_id()),
        [] => match config.initial_cluster_state {
            ClusterState::New => found(config, dial).await?,
            ClusterState::Existing => join(config, dial).await?,
        },
    };
    if let Some(data_dir) = &opened.data_dir {
        keep(data_dir, identity.member_id, identity.cluster_id)?;
    }
    Ok(fresh(identity))
}

/// `--force-new-cluster`: makes the only member of its cluster out of one that has data; blocks. `true` when everything
/// has to be opened anew.
///
/// # Errors
/// [`Error::Recovery`]; the disk's.
pub fn make_alone(config: &Config, opened: &Opened) -> Result<bool, Error> {
    let Some(data_dir) = &opened.data_dir else { return Ok(false) };
    if opened.mark.log_id.is_none() && opened.recovered.last.is_none() {
        tracing::warn!("--force-new-cluster changes nothing: there is no data yet");
        return Ok(false);
    }
    let Some((me, _)) = kept(data_dir)? else {
        tracing::warn!("--force-new-cluster changes nothing: the member is the only one of its cluster already");
        return Ok(false);
    };
    let outcome = alone::make_alone(
        me,
        strings(&config.initial_advertise_peer_urls),
        &opened.log,
        &opened.recovered,
        &opened.store,
        opened.mark.clone(),
        &opened.snapshots,
    )?;
    match outcome {
        alone::Outcome::WasAlone => {
            tracing::warn!(
                member_id = format!("{me:x}"),
                "--force-new-cluster changes nothing: the member is the only one of its cluster already"
            );
            Ok(false)
        }
        alone::Outcome::IsAlone(others) => {
            let removed = others.iter().map(|id| format!("{id:x}")).collect::<Vec<_>>().join(",");
            tracing::warn!(
                member_id = format!("{me:x}"),
                removed,
                "--force-new-cluster: the member is the only one of its cluster now; leave the flag out next time"
            );
            Ok(true)
        }
    }
}

/// The members that `--initial-cluster` names.
pub fn initial_members(config: &Config) -> BTreeMap<u64, MemberInfo> {
    let members = config.initial_cluster.values().map(|urls| {
        let id = ids::member_id(urls, &config.initial_cluster_token, None);
        let peer_urls = urls.iter().map(ToString::to_string).collect();
        (id, MemberInfo { peer_urls, becomes_voter: false })
    });
    members.collect()
}

/// A member of a new cluster; unless the cluster knows it, for then it has lost its data, and would vote again where it
/// has voted before.
async fn found(config: &Config, dial: &Arc<dyn Dial>) -> Result<Identity, Error> {
    let identity = Identity::new(config.member_id(), config.cluster_id());
    let asked = others(config).map(|urls| ask_members(dial.clone(), strings(urls), false, ASK_DEADLINE));
    for answer in futures_util::future::join_all(asked).await.into_iter().flatten() {
        let is_known = |member: &pb::Member| member.id == identity.member_id && !member.name.is_empty();
        if answer.cluster_id == identity.cluster_id && answer.members.iter().any(is_known) {
            return Err(Error::Recovery(format!(
                "member {:x} has already been bootstrapped: its cluster runs, but its data is not here. Check \
                 --data-dir; if the data is lost, remove the member from the cluster (etcdctl member remove {:x}), add \
                 it anew and start it with --initial-cluster-state=existing",
                identity.member_id, identity.member_id
            )));
        }
    }
    Ok(identity)
}

/// A member that was added to a cluster: its ids are what the cluster says, as of now. One of its members may still know
/// the id that this one had before it was removed, and nobody would speak to it by that.
async fn join(config: &Config, dial: &Arc<dyn Dial>) -> Result<Identity, Error> {
    let mine: BTreeSet<String> = strings(&config.initial_advertise_peer_urls).into_iter().collect();
    let mut reason = "--initial-cluster names no other member".to_owned();
    let deadline = ASK_DEADLINE + Duration::from_millis(config.election_timeout_ms);
    let rounds = if others(config).next().is_some() { ASK_ROUNDS } else { 0 };
    for round in 0..rounds {
        if round > 0 {
            tokio::time::sleep(ASK_PAUSE).await;
        }
        for urls in others(config) {
            match ask_members(dial.clone(), strings(urls), true, deadline).await {
                Ok(answer) if !answer.confirmed => {
                    reason = format!("{}: no leader confirms who the members are", strings(urls).join(","));
                }
                Ok(answer) => match find_itself(&answer, &mine) {
                    Found::Added(id) => return Ok(Identity::new(id, answer.cluster_id)),
                    Found::Started(id) => {
                        reason = format!(
                            "member {id:x} has these peer URLs and has run before: if its data is lost, remove it from \
                             the cluster (etcdctl member remove {id:x}) and add it anew"
                        );
                    }
                    Found::Nowhere => {
                        reason = format!(
                            "the cluster {:x} has no member with the peer URLs {}",
                            answer.cluster_id,
                            mine.iter().map(String::as_str).collect::<Vec<_>>().join(",")
                        );
                    }
                },
                Err(failure) => reason = format!("{}: {failure}", strings(urls).join(",")),
            }
        }
        tracing::info!(reason, "cannot join yet");
    }
    Err(Error::Recovery(format!(
        "there is no data here, and --initial-cluster-state=existing cannot join: {reason}. Check --data-dir; to join, \
         add this member first (etcdctl member add) with the URLs of --initial-advertise-peer-urls, and name it and the \
         members that run with --initial-cluster; to have a backup back, `kelson snapshot restore`; for an empty cluster, \
         --initial-cluster-state=new"
    )))
}

/// What a list of members says of one that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It was added and never ran: this is its id.
    Added(u64),
    /// Who has its URLs ran already. Either that one lost its data, and would vote again where it has voted before; or the
    /// list is old, of a member that has not heard yet that this one was removed and somebody was added in its place.
    Started(u64),
    /// Nobody has its URLs.
    Nowhere,
}

fn find_itself(answer: &MembersResponse, mine: &BTreeSet<String>) -> Found {
    let is_me = |member: &&pb::Member| member.peer_ur_ls.iter().any(|url| mine.contains(url));
    // A joining member that found itself in a cluster that does not run yet would make another one of it.
    match answer.members.iter().find(is_me) {
        // A member tells its name when it first runs.
        Some(member) if member.name.is_empty() => Found::Added(member.id),
        Some(member) => Found::Started(member.id),
        None => Found::Nowhere,
    }
}

fn others(config: &Config) -> impl Iterator<Item = &[Url]> {
    let others = config.initial_cluster.iter().filter(|(name, _)| **name != config.name);
    others.map(|(_, urls)| urls.as_slice())
}

fn strings(urls: &[Url]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member was removed and added again in one breath; a peer that lagged still listed the removed one, whose id the
    /// new one took for ever: "member bec2ae7b8d89c70a is here, not 90d3f244d4cbf6d7".
    #[test]
    fn a_member_that_joins_is_nobody_who_has_run_before() {
        let mine: BTreeSet<String> = ["http://10.0.0.4:2380".to_owned()].into();
        let list = |id: u64, name: &str| {
            let member = |id, name: &str, url: &str| pb::Member {
                id,
                name: name.into(),
                peer_ur_ls: vec![url.into()],
                ..pb::Member::default()
            };
            let members = vec![member(1, "m0", "http://10.0.0.1:2380"), member(id, name, "http://10.0.0.4:2380")];
            MembersResponse { members, ..MembersResponse::default() }
        };
        assert_eq!(find_itself(&list(0xbec2, "m3"), &mine), Found::Started(0xbec2), "an old list");
        assert_eq!(find_itself(&list(0x90d3, ""), &mine), Found::Added(0x90d3));
        assert_eq!(find_itself(&list(0x90d3, ""), &["http://10.0.0.9:2380".to_owned()].into()), Found::Nowhere);
    }
}
