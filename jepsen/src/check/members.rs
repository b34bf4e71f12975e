//! Members: one leader a term, nothing of a member goes back while it lives, equal hashes at equal revisions.

use std::collections::{BTreeMap, HashMap};

use super::finding::Finding;
use crate::history::files::Fault;
use crate::history::op::{Member, Op, Reply, Request};

/// Faults that end a member's life: afterwards it may have applied less, and show older revisions until it caught up.
const ENDS: [&str; 8] = ["kill", "power", "rolling", "disk-full", "sync-error", "member", "ghost", "broken"];

/// Judges all answers to questions for status and hash.
pub fn check(ops: &[Op], faults: &[Fault]) -> Finding {
    let mut finding = Finding::new("members");
    let mut leaders: HashMap<u64, (&str, u64)> = HashMap::new();
    let mut hashes: HashMap<(i64, i64), (u32, u64)> = HashMap::new();
    let mut before: BTreeMap<u32, (&Op, &Reply, &Member)> = BTreeMap::new();
    let mut samples: Vec<&Op> =
        ops.iter().filter(|op| matches!(op.request, Request::Status | Request::HashKv(_))).collect();
    samples.sort_by_key(|op| op.start);
    for op in samples {
        let Some((reply, member)) = op.reply().and_then(|reply| Some((reply, reply.member.as_deref()?))) else {
            continue;
        };
        finding.checked += 1;
        if let Request::HashKv(_) = op.request {
            let at = (member.hash_revision, member.compact_revision);
            let (hash, other) = *hashes.entry(at).or_insert((member.hash, op.id));
            if hash != member.hash {
                let text = format!("revision {} under compaction {}: {hash} and {}", at.0, at.1, member.hash);
                finding.wrong("hash-differs", text, [other, op.id]);
            }
            continue;
        }
        // etcd tells the leader at once and the term with the first entry that it applies in it. So only a member counts
        // that says it leads, twice, and has applied something in between.
        let surely = before.get(&op.node).is_some_and(|(.., old)| {
            (old.term, &old.leader) == (member.term, &member.leader) && old.applied < member.applied
        });
        if member.leader == member.member && surely {
            let (leader, other) = *leaders.entry(member.term).or_insert((&member.leader, op.id));
            if leader != member.leader {
                let text = format!("term {} has the leaders {leader} and {}", member.term, member.leader);
                finding.wrong("two-leaders", text, [other, op.id]);
            }
        }
        if let Some((earlier, old_reply, old)) = before.get(&op.node).filter(|(earlier, ..)| earlier.end < op.start) {
            let ended = faults.iter().any(|fault| {
                let hit = fault.nodes.contains(&op.node) && ENDS.iter().any(|name| fault.name.starts_with(name));
                hit && fault.start <= op.end && fault.end >= earlier.start
            });
            let wiped = faults.iter().any(|fault| {
                matches!(fault.name.as_str(), "member" | "ghost")
                    && fault.nodes.contains(&op.node)
                    && fault.start <= op.end
                    && fault.end >= earlier.start
            });
            let went_back = match () {
                // Another member by the same name.
                () if wiped => None,
                () if member.term < old.term => Some(format!("term {} after {}", member.term, old.term)),
                () if ended => None,
                () if reply.rev < old_reply.rev => Some(format!("revision {} after {}", reply.rev, old_reply.rev)),
                () if member.applied < old.applied => Some(format!("applied {} after {}", member.applied, old.applied)),
                () => None,
            };
            if let Some(text) = went_back {
                finding.wrong("went-back", format!("node {}: {text}", op.node), [earlier.id, op.id]);
            }
        }
        before.insert(op.node, (op, reply, member));
    }
    finding
}
