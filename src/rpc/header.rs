//! Every answer's `ResponseHeader`, in one place. Cluster answers carry no revision and some maintenance answers no
//! header at all, as etcd's do.

use crate::proto::etcdserverpb as pb;
use crate::raft::Node;

/// A header with the revision at which the answer was made.
pub fn at(node: &Node, revision: i64) -> Option<pb::ResponseHeader> {
    Some(node.header(revision))
}

/// A header with the store's revision of now.
pub fn now(node: &Node) -> Option<pb::ResponseHeader> {
    at(node, node.store().revision())
}

/// A header without a revision: what `Cluster` answers.
pub fn without_revision(node: &Node) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: 0, ..node.header(0) })
}
