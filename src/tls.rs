//! TLS: who this member is to whoever connects to it or is connected to, and whom it lets in.
//!
//! An [`Acceptor`] turns an accepted socket into an encrypted one, a [`Dialer`] one that was connected. Both are made
//! from the settings of one side, towards clients or between members, and read their files anew for every connection,
//! so that certificates, CAs and lists of revoked ones change without a restart. `server` owns them; it listens and
//! `raft` dials, this module opens no socket.

mod acceptor;
mod dialer;
mod files;
mod identity;
mod names;
mod provider;
mod revoked;
mod self_signed;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use acceptor::Acceptor;
pub use dialer::Dialer;
pub use identity::{ClientIdentity, Encrypted};

use crate::clock::Clock;
use crate::config::tls::Side;
use crate::config::{self, Config};

/// How long a handshake may take, as with etcd; whoever says nothing is cut after it.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no encrypted connection, or at the start no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{flag}: cannot read {} ({source}): check the path and the file's permissions", .path.display())]
    Read {
        /// The flag that names it.
        flag: String,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{flag}: {} {reason}", .path.display())]
    Broken {
        /// The flag that names it.
        flag: String,
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Certificate and key are of two pairs.
    #[error(
        "the key in {} ({key_flag}) does not belong to the certificate in {} ({cert_flag}): give the pair that was \
         made together, with the member's own certificate first in its file",
        .key.display(), .cert.display()
    )]
    Mismatch {
        /// The certificate's flag.
        cert_flag: String,
        /// The certificate's file.
        cert: PathBuf,
        /// The key's flag.
        key_flag: String,
        /// The key's file.
        key: PathBuf,
    },
    /// Settings that leave nothing to speak.
    #[error("{0}")]
    Settings(String),
    /// The certificate of `--auto-tls` cannot be made or kept.
    #[error("{flag}: cannot make a certificate in {} ({reason})", .directory.display())]
    SelfSigned {
        /// `--auto-tls` or `--peer-auto-tls`.
        flag: String,
        /// Where it should be.
        directory: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The other side did not finish the handshake in time.
    #[error("the TLS handshake was not finished after {0:?}")]
    Timeout(Duration),
    /// The other side does not speak TLS.
    #[error("the other side speaks without TLS: it must use https://")]
    Plaintext,
    /// The handshake failed.
    #[error("{}", describe(.0))]
    Handshake(#[source] io::Error),
    /// The certificate does not name the address that it came from.
    #[error("{0}")]
    Address(String),
    /// What was dialed has no name that a certificate could carry.
    #[error("{0:?} is neither a host name nor an IP address")]
    Host(String),
}

impl Error {
    /// Whether the other side merely went away, as whoever only tries whether a port is open.
    pub fn is_hangup(&self) -> bool {
        match self {
            Self::Handshake(error) => matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ),
            Self::Read { .. }
            | Self::Broken { .. }
            | Self::Mismatch { .. }
            | Self::Settings(_)
            | Self::SelfSigned { .. }
            | Self::Timeout(_)
            | Self::Plaintext
            | Self::Address(_)
            | Self::Host(_) => false,
        }
    }
}

/// A failed handshake in words: our own reasons for a refusal travel inside the library's error.
fn describe(error: &io::Error) -> String {
    let library = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match library {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(reason))) => reason.0.to_string(),
        _ => error.to_string(),
    }
}

/// All of a member's TLS.
#[derive(Clone)]
pub struct Transports {
    /// For https:// URLs of clients; `None` when there is no certificate for them.
    pub client: Option<Arc<Acceptor>>,
    /// For https:// URLs of peers; `None` when there is no certificate for them.
    pub peer: Option<Arc<Acceptor>>,
    /// For connections to other members whose URLs say https.
    pub dialer: Arc<Dialer>,
}

impl Transports {
    /// Reads and checks all files that the configuration names, and makes the certificates that it asks for.
    ///
    /// # Errors
    /// [`Error`] naming flag and file, or settings that contradict each other. Nothing that would fail at the first
    /// connection is left for then, but for what changes until then.
    pub fn open(config: &Config, clock: &Clock) -> Result<Self, Error> {
        // Whoever embeds a member makes its configuration without the flags' checks. What merely warns was told there.
        config::tls::check(config).map_err(Error::Settings)?;
        let made = |side| self_signed::pair(side, config, clock);
        let client = files::Sources::new(Side::Client, &config.client_tls, made(Side::Client)?);
        let peer = files::Sources::new(Side::Peer, &config.peer_tls, made(Side::Peer)?);
        Ok(Self {
            dialer: Arc::new(Dialer::new(config, &peer)?),
            client: Acceptor::new(Side::Client, config, client)?.map(Arc::new),
            peer: Acceptor::new(Side::Peer, config, peer)?.map(Arc::new),
        })
    }
}
