//! Versions and cipher suites: the TLS library's, narrowed to what the operator chose.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;

use super::Error;
use crate::config::{Config, TlsVersion};

/// The cryptography to use. As with etcd, whose library does not let them be chosen, the suites of TLS 1.3 stay on.
pub fn provider(config: &Config) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    if !config.cipher_suites.is_empty() {
        let is_chosen = |name: &str| config.cipher_suites.contains(&name);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || suite.suite().as_str().is_some_and(is_chosen));
    }
    Arc::new(provider)
}

/// The versions to speak.
pub fn versions(config: &Config) -> Vec<&'static SupportedProtocolVersion> {
    let newest = config.tls_max_version.unwrap_or(TlsVersion::Tls13);
    let all = [(TlsVersion::Tls12, &rustls::version::TLS12), (TlsVersion::Tls13, &rustls::version::TLS13)];
    let spoken = all.into_iter().filter(|(version, _)| (config.tls_min_version..=newest).contains(version));
    spoken.map(|(_, version)| version).collect()
}

/// What the library says of settings that leave it nothing to speak.
pub fn unusable(error: &rustls::Error) -> Error {
    Error::Settings(format!(
        "no TLS can be spoken with --cipher-suites, --tls-min-version and --tls-max-version as they are: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tls::CIPHER_SUITES;

    #[test]
    fn the_suites_that_flags_may_name_are_all_that_the_library_has() {
        let name =
            |suite: &rustls::SupportedCipherSuite| suite.suite().as_str().unwrap_or_default().replace("TLS13_", "TLS_");
        let mut names: Vec<_> = provider(&Config::default()).cipher_suites.iter().map(name).collect();
        names.sort();
        assert_eq!(names, CIPHER_SUITES);
    }

    #[test]
    fn a_list_narrows_tls_12_only() {
        let config = Config { cipher_suites: vec![CIPHER_SUITES[6]], ..Config::default() };
        assert_eq!(provider(&config).cipher_suites.len(), 4);
    }
}
