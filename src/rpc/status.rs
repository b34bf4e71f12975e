//! Every refusal in etcd's words: the only place where an error gets a gRPC code and the text that clients match
//! byte by byte (etcd's `rpctypes/error.go`, and what really reaches the wire where that differs).

use std::borrow::Cow;

use tonic::{Code, Status};

use super::check;
use crate::raft::membership;
use crate::{raft, state};

/// What etcd puts before nearly every text.
const PREFIX: &str = "etcdserver: ";

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No store would accept the request.
    #[error(transparent)]
    Check(#[from] check::Error),
    /// The store refused it.
    #[error(transparent)]
    State(#[from] state::Error),
    /// It could not be replicated, or a read not be confirmed.
    #[error(transparent)]
    Raft(#[from] raft::Error),
    /// The rules of membership are against it.
    #[error(transparent)]
    Membership(#[from] membership::Error),
    /// An alarm action that the API does not have; etcd 3.7.3 crashes here.
    #[error("unknown alarm action")]
    AlarmAction,
    /// A downgrade action that the API does not have.
    #[error("unknown method")]
    DowngradeAction,
    /// Not `major.minor` or `major.minor.patch`.
    #[error("wrong downgrade target version format")]
    DowngradeFormat,
    /// Not one minor version below, or not possible at all.
    #[error("invalid downgrade target version")]
    DowngradeTarget,
    /// A member without a vote does not do this.
    #[error("rpc not supported for learner")]
    Learner,
    /// A copy of the data could not be made; the object and the cause.
    #[error("snapshot: {0}")]
    Snapshot(String),
}

impl Error {
    /// The gRPC code, as etcd's answer has it on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Check(error) => check_code(*error),
            Self::State(error) => state_code(*error),
            Self::Raft(error) => raft_code(error),
            Self::Membership(error) => membership_code(*error),
            Self::Learner => Code::FailedPrecondition,
            // etcd maps this to an error of its client, which gRPC does not know.
            Self::DowngradeAction => Code::Unknown,
            Self::AlarmAction | Self::DowngradeFormat | Self::DowngradeTarget => Code::InvalidArgument,
            Self::Snapshot(_) => Code::Internal,
        }
    }

    /// The text, byte for byte.
    pub fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Check(check::Error::StreamSort) => Cow::Borrowed("RangeStream does not support custom sort orders"),
            Self::Check(check::Error::StreamFilter) => Cow::Borrowed("RangeStream does not support revision filters"),
            Self::Check(error) => Cow::Owned(format!("{PREFIX}{error}")),
            Self::State(error) => Cow::Borrowed(state_text(*error)),
            Self::Raft(error) => Cow::Borrowed(raft_text(error)),
            Self::Membership(_)
            | Self::AlarmAction
            | Self::DowngradeAction
            | Self::DowngradeFormat
            | Self::DowngradeTarget
            | Self::Learner
            | Self::Snapshot(_) => Cow::Owned(format!("{PREFIX}{self}")),
        }
    }

    /// Whether the same request may succeed when it is sent again, here or to another member. For a write whose
    /// outcome is unknown this says nothing about whether it was done.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Raft(error) => match error {
                raft::Error::NoLeader
                | raft::Error::NotLeader
                | raft::Error::LeaderChanged
                | raft::Error::Timeout
                | raft::Error::TooManyRequests
                | raft::Error::Stopped
                | raft::Error::Fatal(_) => true,
                raft::Error::TooLarge { .. } => false,
            },
            Self::Snapshot(_) => true,
            Self::Check(_)
            | Self::State(_)
            | Self::Membership(_)
            | Self::AlarmAction
            | Self::DowngradeAction
            | Self::DowngradeFormat
            | Self::DowngradeTarget
            | Self::Learner => false,
        }
    }

    /// Whether every member would answer the same at the same applied index.
    pub fn is_same_everywhere(&self) -> bool {
        match self {
            Self::Raft(_) | Self::Snapshot(_) => false,
            Self::Check(_)
            | Self::State(_)
            | Self::Membership(_)
            | Self::AlarmAction
            | Self::DowngradeAction
            | Self::DowngradeFormat
            | Self::DowngradeTarget
            | Self::Learner => true,
        }
    }

    /// Whether the process cannot go on.
    pub fn must_stop(&self) -> bool {
        match self {
            Self::Raft(error) => match error {
                raft::Error::Fatal(_) => true,
                raft::Error::NoLeader
                | raft::Error::NotLeader
                | raft::Error::LeaderChanged
                | raft::Error::Timeout
                | raft::Error::TooManyRequests
                | raft::Error::TooLarge { .. }
                | raft::Error::Stopped => false,
            },
            Self::Check(_)
            | Self::State(_)
            | Self::Membership(_)
            | Self::AlarmAction
            | Self::DowngradeAction
            | Self::DowngradeFormat
            | Self::DowngradeTarget
            | Self::Learner
            | Self::Snapshot(_) => false,
        }
    }
}

impl From<membership::Fate> for Error {
    fn from(fate: membership::Fate) -> Self {
        match fate {
            membership::Fate::Refused(refused) => refused.into(),
            membership::Fate::Raft(error) => error.into(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.text())
    }
}

fn check_code(error: check::Error) -> Code {
    match error {
        check::Error::EmptyKey
        | check::Error::EmptyOperation
        | check::Error::ValueProvided
        | check::Error::LeaseProvided
        | check::Error::TooManyOperations
        | check::Error::DuplicateKey
        | check::Error::InvalidSortOption
        | check::Error::TooLarge
        | check::Error::MemberUrls
        | check::Error::ClientApiVersion => Code::InvalidArgument,
        check::Error::LeaseTtlTooLarge => Code::OutOfRange,
        check::Error::StreamSort | check::Error::StreamFilter => Code::Unimplemented,
    }
}

fn membership_code(error: membership::Error) -> Code {
    match error {
        membership::Error::NotFound => Code::NotFound,
        membership::Error::UrlExists
        | membership::Error::NotLearner
        | membership::Error::LearnerNotReady
        | membership::Error::TooManyLearners
        | membership::Error::BadTransferee => Code::FailedPrecondition,
        // etcd maps this to an error of its client, which gRPC does not know.
        membership::Error::NotEnoughStarted => Code::Unknown,
        membership::Error::Unhealthy => Code::Unavailable,
    }
}

fn state_code(error: state::Error) -> Code {
    match error {
        state::Error::Compacted | state::Error::FutureRevision => Code::OutOfRange,
        state::Error::KeyNotFound => Code::InvalidArgument,
        state::Error::LeaseNotFound => Code::NotFound,
        state::Error::LeaseExists => Code::FailedPrecondition,
        state::Error::NoSpace => Code::ResourceExhausted,
        state::Error::Corrupt => Code::DataLoss,
    }
}

fn state_text(error: state::Error) -> &'static str {
    match error {
        state::Error::Compacted => "etcdserver: mvcc: required revision has been compacted",
        state::Error::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
        state::Error::KeyNotFound => "etcdserver: key not found",
        state::Error::LeaseNotFound => "etcdserver: requested lease not found",
        state::Error::LeaseExists => "etcdserver: lease already exists",
        state::Error::NoSpace => "etcdserver: mvcc: database space exceeded",
        state::Error::Corrupt => "etcdserver: corrupt cluster",
    }
}

fn raft_code(error: &raft::Error) -> Code {
    match error {
        raft::Error::NoLeader
        | raft::Error::LeaderChanged
        | raft::Error::Timeout
        | raft::Error::Stopped
        | raft::Error::Fatal(_) => Code::Unavailable,
        raft::Error::NotLeader => Code::FailedPrecondition,
        // As for `NotEnoughStarted`.
        raft::Error::TooManyRequests => Code::Unknown,
        raft::Error::TooLarge { .. } => Code::InvalidArgument,
    }
}

fn raft_text(error: &raft::Error) -> &'static str {
    match error {
        raft::Error::NoLeader => "etcdserver: no leader",
        raft::Error::NotLeader => "etcdserver: not leader",
        raft::Error::LeaderChanged => "etcdserver: leader changed",
        raft::Error::Timeout => "etcdserver: request timed out",
        raft::Error::TooManyRequests => "etcdserver: too many requests",
        raft::Error::TooLarge { .. } => "etcdserver: request is too large",
        // The cause is in this member's log; to a client the member is simply gone.
        raft::Error::Stopped | raft::Error::Fatal(_) => "etcdserver: server stopped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's `rpctypes` table, as far as this layer can produce its rows; codes as they are on the wire.
    #[test]
    fn every_refusal_has_the_code_and_the_text_that_etcd_gives_it() {
        use check::Error as C;
        use membership::Error as M;
        use raft::Error as R;
        use state::Error as S;
        let table: [(Error, Code, &str); 41] = [
            (C::EmptyKey.into(), Code::InvalidArgument, "etcdserver: key is not provided"),
            (C::EmptyOperation.into(), Code::InvalidArgument, "etcdserver: key not found"),
            (C::ValueProvided.into(), Code::InvalidArgument, "etcdserver: value is provided"),
            (C::LeaseProvided.into(), Code::InvalidArgument, "etcdserver: lease is provided"),
            (C::TooManyOperations.into(), Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (C::DuplicateKey.into(), Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            (C::InvalidSortOption.into(), Code::InvalidArgument, "etcdserver: invalid sort option"),
            (C::TooLarge.into(), Code::InvalidArgument, "etcdserver: request is too large"),
            (C::LeaseTtlTooLarge.into(), Code::OutOfRange, "etcdserver: too large lease TTL"),
            (C::MemberUrls.into(), Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            (C::ClientApiVersion.into(), Code::InvalidArgument, "etcdserver: invalid client api version"),
            (C::StreamSort.into(), Code::Unimplemented, "RangeStream does not support custom sort orders"),
            (C::StreamFilter.into(), Code::Unimplemented, "RangeStream does not support revision filters"),
            (S::Compacted.into(), Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            (S::FutureRevision.into(), Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            (S::KeyNotFound.into(), Code::InvalidArgument, "etcdserver: key not found"),
            (S::LeaseNotFound.into(), Code::NotFound, "etcdserver: requested lease not found"),
            (S::LeaseExists.into(), Code::FailedPrecondition, "etcdserver: lease already exists"),
            (S::NoSpace.into(), Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (S::Corrupt.into(), Code::DataLoss, "etcdserver: corrupt cluster"),
            (R::NoLeader.into(), Code::Unavailable, "etcdserver: no leader"),
            (R::NotLeader.into(), Code::FailedPrecondition, "etcdserver: not leader"),
            (R::LeaderChanged.into(), Code::Unavailable, "etcdserver: leader changed"),
            (R::Timeout.into(), Code::Unavailable, "etcdserver: request timed out"),
            (R::TooManyRequests.into(), Code::Unknown, "etcdserver: too many requests"),
            (R::TooLarge { bytes: 2, max: 1 }.into(), Code::InvalidArgument, "etcdserver: request is too large"),
            (R::Stopped.into(), Code::Unavailable, "etcdserver: server stopped"),
            (R::Fatal("disk".into()).into(), Code::Unavailable, "etcdserver: server stopped"),
            (M::NotFound.into(), Code::NotFound, "etcdserver: member not found"),
            (M::UrlExists.into(), Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
            (
                M::NotEnoughStarted.into(),
                Code::Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            (M::Unhealthy.into(), Code::Unavailable, "etcdserver: unhealthy cluster"),
            (M::NotLearner.into(), Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
            (
                M::LearnerNotReady.into(),
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            (M::TooManyLearners.into(), Code::FailedPrecondition, "etcdserver: too many learner members in cluster"),
            (M::BadTransferee.into(), Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            (Error::Learner, Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
            (Error::AlarmAction, Code::InvalidArgument, "etcdserver: unknown alarm action"),
            (Error::DowngradeAction, Code::Unknown, "etcdserver: unknown method"),
            (Error::DowngradeFormat, Code::InvalidArgument, "etcdserver: wrong downgrade target version format"),
            (Error::DowngradeTarget, Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
        ];
        for (error, code, text) in table {
            let status = Status::from(error.clone());
            assert_eq!((status.code(), status.message()), (code, text), "{error:?}");
        }
    }

    #[test]
    fn only_a_fatal_error_stops_the_process_and_only_passing_troubles_are_retried() {
        let fatal = Error::from(raft::Error::Fatal("log: fdatasync failed".into()));
        assert!(fatal.must_stop() && fatal.may_retry() && !fatal.is_same_everywhere());
        let timeout = Error::from(raft::Error::Timeout);
        assert!(!timeout.must_stop() && timeout.may_retry() && !timeout.is_same_everywhere());
        let compacted = Error::from(state::Error::Compacted);
        assert!(!compacted.must_stop() && !compacted.may_retry() && compacted.is_same_everywhere());
        let too_large = Error::from(raft::Error::TooLarge { bytes: 3, max: 2 });
        assert!(!too_large.must_stop() && !too_large.may_retry());
    }
}
