//! The files behind one side's TLS, and what is made of them, made anew when one of them has changed.
//!
//! Every connection reads the files again, as with etcd; that costs a fraction of its handshake, and no clock or inode
//! can say that a file is the same as surely as its bytes. A file that is missing or broken fails the handshake, for
//! what it held may have been withdrawn. Only of a certificate and a key that do not belong together the pair before is
//! kept: they are replaced one after the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Error;
use super::revoked::Revoked;
use crate::config::TlsConfig;
use crate::config::tls::Side;

/// How often, and how long apart, files are read before a handshake fails because of them: one that is being written
/// is whole a moment later.
const READS_MAX: usize = 5;
const READ_PAUSE: Duration = Duration::from_millis(100);

/// A file and the flag that names it.
#[derive(Clone, Debug)]
pub struct File {
    /// With its dashes.
    pub flag: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Where a certificate with its key comes from.
#[derive(Clone)]
pub enum Pair {
    /// Two files.
    Files {
        /// The chain.
        cert: File,
        /// The key.
        key: File,
    },
    /// Made for this process, which keeps nothing on disk.
    Held(Arc<CertifiedKey>),
}

/// The files of one side.
#[derive(Clone)]
pub struct Sources {
    /// What listeners show.
    pub pair: Option<Pair>,
    /// Who vouches for the other side.
    pub ca: Option<File>,
    /// Whom nobody may vouch for.
    pub crl: Option<File>,
}

impl Sources {
    /// The files that a configuration names; `made` is the certificate made for lack of one.
    pub fn new(side: Side, tls: &TlsConfig, made: Option<Pair>) -> Self {
        let file = |key: &str, path: &Option<PathBuf>| File::new(side, key, path);
        Self {
            pair: pair(file("cert-file", &tls.cert_file), file("key-file", &tls.key_file)).or(made),
            ca: file("trusted-ca-file", &tls.trusted_ca_file),
            crl: file("crl-file", &tls.crl_file),
        }
    }
}

/// Two files, if both are named.
pub fn pair(cert: Option<File>, key: Option<File>) -> Option<Pair> {
    cert.zip(key).map(|(cert, key)| Pair::Files { cert, key })
}

impl File {
    /// The file of a key of the configuration's block, if it is named.
    pub fn new(side: Side, key: &str, path: &Option<PathBuf>) -> Option<Self> {
        path.clone().map(|path| Self { flag: side.flag(key), path })
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        std::fs::read(&self.path).map_err(|source| Error::Read {
            flag: self.flag.clone(),
            path: self.path.clone(),
            source,
        })
    }

    /// The error for a file that does not hold what it should.
    pub fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Broken { flag: self.flag.clone(), path: self.path.clone(), reason: reason.into() }
    }
}

/// What the files hold, parsed.
pub struct Material {
    /// What is shown.
    pub pair: Option<Arc<CertifiedKey>>,
    /// Who vouches.
    pub roots: Option<Arc<RootCertStore>>,
    /// Whom nobody may vouch for.
    pub revoked: Revoked,
}

/// The files' bytes.
#[derive(PartialEq, Eq)]
struct Contents {
    pair: Option<(Vec<u8>, Vec<u8>)>,
    ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

type Build<T> = Box<dyn Fn(Material) -> Result<T, Error> + Send + Sync>;

/// What is made of the files as they are now.
pub struct Reloading<T> {
    sources: Sources,
    provider: Arc<CryptoProvider>,
    build: Build<T>,
    // Guards what was made last. Threads that load block each other for as long as parsing takes, never a task.
    made: Mutex<Option<Made<T>>>,
}

struct Made<T> {
    contents: Contents,
    pair: Option<Arc<CertifiedKey>>,
    value: Arc<T>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When one is missing or broken, or `build` refuses.
    pub fn open(
        sources: Sources,
        provider: Arc<CryptoProvider>,
        build: impl Fn(Material) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let reloading = Self::check(sources, provider, build)?;
        reloading.load()?;
        Ok(reloading)
    }

    /// As [`Self::open`], but leaves `build` for when it is first needed.
    ///
    /// # Errors
    /// When a file is missing or broken.
    pub fn check(
        sources: Sources,
        provider: Arc<CryptoProvider>,
        build: impl Fn(Material) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let contents = sources.read()?;
        sources.parse_pair(&contents, &provider)?;
        sources.parse_roots(&contents)?;
        sources.parse_revoked(&contents)?;
        Ok(Self { sources, provider, build: Box::new(build), made: Mutex::new(None) })
    }

    /// What the files make now.
    ///
    /// # Errors
    /// When one is missing or broken, and stays so.
    pub async fn current(self: &Arc<Self>) -> Result<Arc<T>, Error> {
        let mut reads = 1;
        loop {
            let this = self.clone();
            let loaded = tokio::task::spawn_blocking(move || this.load()).await;
            match loaded.map_err(|error| Error::Handshake(std::io::Error::other(error)))? {
                Err(error) if reads < READS_MAX => tracing::debug!(%error, "reading the TLS files again"),
                loaded => return loaded,
            }
            reads += 1;
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    fn load(&self) -> Result<Arc<T>, Error> {
        let contents = self.sources.read()?;
        let mut made = self.made.lock();
        if let Some(made) = made.as_ref().filter(|made| made.contents == contents) {
            return Ok(made.value.clone());
        }
        let pair = match (self.sources.parse_pair(&contents, &self.provider), &*made) {
            (Err(error @ Error::Mismatch { .. }), Some(before)) => {
                tracing::warn!(%error, "keeping the certificate and key that were there before");
                before.pair.clone()
            }
            (parsed, _) => parsed?,
        };
        let roots = self.sources.parse_roots(&contents)?;
        let revoked = self.sources.parse_revoked(&contents)?;
        let value = Arc::new((self.build)(Material { pair: pair.clone(), roots, revoked })?);
        if made.is_some() {
            tracing::info!("the TLS files changed; new connections use what they hold now");
        }
        *made = Some(Made { contents, pair, value: value.clone() });
        Ok(value)
    }
}

impl Sources {
    fn read(&self) -> Result<Contents, Error> {
        let read = |file: &Option<File>| file.as_ref().map(File::read).transpose();
        let pair = match &self.pair {
            Some(Pair::Files { cert, key }) => Some((cert.read()?, key.read()?)),
            Some(Pair::Held(_)) | None => None,
        };
        Ok(Contents { pair, ca: read(&self.ca)?, crl: read(&self.crl)? })
    }

    fn parse_pair(&self, contents: &Contents, provider: &CryptoProvider) -> Result<Option<Arc<CertifiedKey>>, Error> {
        match (&self.pair, &contents.pair) {
            (Some(Pair::Files { cert, key }), Some((chain, secret))) => {
                parse_pair(cert, chain, key, secret, provider).map(Some)
            }
            (Some(Pair::Held(held)), _) => Ok(Some(held.clone())),
            (Some(Pair::Files { .. }) | None, _) => Ok(None),
        }
    }

    fn parse_roots(&self, contents: &Contents) -> Result<Option<Arc<RootCertStore>>, Error> {
        let Some((file, bytes)) = self.ca.as_ref().zip(contents.ca.as_ref()) else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in parse_certificates(file, bytes)? {
            roots.add(certificate).map_err(|error| file.broken(format!("has a CA that cannot be read: {error}")))?;
        }
        Ok(Some(Arc::new(roots)))
    }

    fn parse_revoked(&self, contents: &Contents) -> Result<Revoked, Error> {
        let Some((file, bytes)) = self.crl.as_ref().zip(contents.crl.as_ref()) else { return Ok(Revoked::default()) };
        Revoked::parse(bytes).map_err(|reason| file.broken(reason))
    }
}

fn parse_certificates(file: &File, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| file.broken(format!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(file.broken("has no certificate: it must hold a block that begins with BEGIN CERTIFICATE"));
    }
    Ok(certificates)
}

/// Parses a certificate and its key, and checks that they belong together.
pub fn parse_pair(
    cert: &File,
    chain: &[u8],
    key: &File,
    secret: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    const KINDS: &str = "keys are RSA of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519";
    let chain = parse_certificates(cert, chain)?;
    let parsed = PrivateKeyDer::from_pem_slice(secret).map_err(|error| {
        let is_encrypted = secret.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED");
        key.broken(match is_encrypted {
            true => "is encrypted, and nobody can be asked for its password: write it out with `openssl pkey`".into(),
            false => format!("has no private key in PEM: {error}"),
        })
    })?;
    let signing = provider
        .key_provider
        .load_private_key(parsed)
        .map_err(|error| key.broken(format!("has a key that cannot be used ({error}): {KINDS}")))?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        // Unknown is not a mismatch: a kind of key that does not say what its public half is.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Error::Mismatch {
            cert_flag: cert.flag.clone(),
            cert: cert.path.clone(),
            key_flag: key.flag.clone(),
            key: key.path.clone(),
        }),
        Err(error) => Err(cert.broken(format!("has a certificate that cannot be used: {error}"))),
    }
}
