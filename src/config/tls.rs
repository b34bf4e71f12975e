//! What an operator may choose about TLS: certificates, and whom they let in, once for clients and once for peers.
//!
//! Here are the fields and the rules between them; no file is opened. `crate::tls` does what they say.

use std::path::PathBuf;

use super::{Config, Url};

/// Cipher suites by their IANA names: all that the TLS library has, and none without forward secrecy.
pub const CIPHER_SUITES: [&str; 9] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Names without their hash, which etcd takes too.
const SHORT_NAMES: [&str; 2] = ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"];

/// TLS on one side: towards clients, or between members. Fields are named after the keys of the file's two blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate that the listeners show, with the intermediate ones behind it. Given with `key_file` or not at
    /// all.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The certificate shown when dialing; without it `cert_file`.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// CAs of the other side's certificates. Set, the listeners demand a certificate.
    pub trusted_ca_file: Option<PathBuf>,
    /// Demand a certificate of whoever connects; needs `trusted_ca_file`.
    pub client_cert_auth: bool,
    /// Serial numbers that are refused.
    pub crl_file: Option<PathBuf>,
    /// Make a certificate when none is given. Encrypts and proves nothing.
    pub auto_tls: bool,
    /// Common names that are let in; empty is all. Excludes `allowed_hostnames`.
    pub allowed_cns: Vec<String>,
    /// Host names of which a certificate must carry one to be let in; empty is all.
    pub allowed_hostnames: Vec<String>,
    /// Let a peer in from an address that its certificate does not name.
    pub skip_client_san_verification: bool,
}

impl TlsConfig {
    /// Whether there is a certificate to show, given or made.
    pub fn has_certificate(&self) -> bool {
        self.cert_file.is_some() || self.auto_tls
    }

    /// Whether a certificate is made.
    pub fn makes_certificate(&self) -> bool {
        self.cert_file.is_none() && self.auto_tls
    }
}

/// Towards whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients.
    Client,
    /// Other members.
    Peer,
}

impl Side {
    /// The flag of a key of the file's block.
    pub fn flag(self, key: &str) -> String {
        match (self, key) {
            (Self::Client, "crl-file") => "--client-crl-file".into(),
            (Self::Client, "allowed-hostname") => "--client-cert-allowed-hostname".into(),
            // No flag, in etcd neither.
            (Self::Client, "allowed-cn") => "client-transport-security.allowed-cn".into(),
            (Self::Client, _) => format!("--{key}"),
            (Self::Peer, "allowed-cn" | "allowed-hostname") => format!("--peer-cert-{key}"),
            (Self::Peer, _) => format!("--peer-{key}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

impl TlsVersion {
    /// Reads etcd's names; the error is etcd's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "TLS1.2" => Ok(Self::Tls12),
            "TLS1.3" => Ok(Self::Tls13),
            _ => Err(format!("unexpected TLS version \"{text}\" (must be one of: TLS1.2, TLS1.3)")),
        }
    }

    /// As etcd writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS1.2",
            Self::Tls13 => "TLS1.3",
        }
    }
}

/// Reads the names of `--cipher-suites` into those of [`CIPHER_SUITES`].
pub fn parse_suites(names: &[String]) -> Result<Vec<&'static str>, String> {
    let find = |name: &String| {
        let whole = if SHORT_NAMES.contains(&name.as_str()) { format!("{name}_SHA256") } else { name.clone() };
        CIPHER_SUITES.into_iter().find(|suite| *suite == whole).ok_or_else(|| {
            format!(
                "--cipher-suites: unexpected TLS cipher suite \"{name}\"; supported are {}",
                CIPHER_SUITES.join(", ")
            )
        })
    };
    names.iter().map(find).collect()
}

/// Checks everything about TLS. Gives what to warn of.
pub fn check(config: &Config) -> Result<Vec<String>, String> {
    if let Some(max) = config.tls_max_version.filter(|max| *max < config.tls_min_version) {
        return Err(format!(
            "min version ({}) is greater than max version ({}): change --tls-min-version or --tls-max-version",
            config.tls_min_version.name(),
            max.name()
        ));
    }
    if config.tls_min_version == TlsVersion::Tls13 && !config.cipher_suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled: leave --cipher-suites out".into());
    }
    let clients = Rules {
        side: Side::Client,
        tls: &config.client_tls,
        urls: vec![
            ("listen-client-urls", &config.listen_client_urls),
            ("listen-client-http-urls", &config.listen_client_http_urls),
        ],
    };
    let peers =
        Rules { side: Side::Peer, tls: &config.peer_tls, urls: vec![("listen-peer-urls", &config.listen_peer_urls)] };
    if (config.client_tls.auto_tls || config.peer_tls.auto_tls) && config.self_signed_cert_validity_years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0: change \
                    --self-signed-cert-validity"
            .into());
    }
    clients.demand_certificate_for("listen-metrics-urls", &config.listen_metrics_urls)?;
    let mut warnings = clients.check()?;
    warnings.extend(peers.check()?);
    Ok(warnings)
}

/// The rules of one side. What looks protected and is not stops the start; what merely does nothing warns.
struct Rules<'a> {
    side: Side,
    tls: &'a TlsConfig,
    /// Where it listens, with the flags' names.
    urls: Vec<(&'static str, &'a Vec<Url>)>,
}

impl Rules<'_> {
    fn check(&self) -> Result<Vec<String>, String> {
        let (side, tls) = (self.side, self.tls);
        self.demand_pair("cert-file", &tls.cert_file, "key-file", &tls.key_file)?;
        self.demand_pair("client-cert-file", &tls.client_cert_file, "client-key-file", &tls.client_key_file)?;
        if !tls.allowed_cns.is_empty() && !tls.allowed_hostnames.is_empty() {
            return Err(format!(
                "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={}): leave out {} or {}",
                quoted(&tls.allowed_cns),
                quoted(&tls.allowed_hostnames),
                side.flag("allowed-cn"),
                side.flag("allowed-hostname"),
            ));
        }
        self.demand_ca()?;
        for (flag, urls) in &self.urls {
            self.demand_certificate_for(flag, urls)?;
        }
        self.demand_tls_for_authentication()?;
        Ok(self.warnings())
    }

    fn demand_pair(
        &self,
        cert: &str,
        cert_file: &Option<PathBuf>,
        key: &str,
        key_file: &Option<PathBuf>,
    ) -> Result<(), String> {
        let (given, file, missing) = match (cert_file, key_file) {
            (Some(file), None) => (cert, file, key),
            (None, Some(file)) => (key, file, cert),
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        let (given, missing) = (self.side.flag(given), self.side.flag(missing));
        Err(format!("{given}={} needs {missing} too: a certificate and its key go together", file.display()))
    }

    /// Whoever is checked needs somebody to vouch for. etcd would take the system's CAs, who vouch for half the world.
    fn demand_ca(&self) -> Result<(), String> {
        let (side, tls) = (self.side, self.tls);
        let checks = [
            (tls.client_cert_auth, "client-cert-auth"),
            (tls.crl_file.is_some(), "crl-file"),
            (!tls.allowed_cns.is_empty(), "allowed-cn"),
            (!tls.allowed_hostnames.is_empty(), "allowed-hostname"),
            (tls.trusted_ca_file.is_some(), "trusted-ca-file"),
        ];
        let Some((_, check)) = checks.into_iter().find(|(is_set, _)| *is_set) else { return Ok(()) };
        if tls.makes_certificate() {
            return Err(format!(
                "{} contradicts {}, which encrypts and checks nobody: give {} and {} instead of the latter",
                side.flag(check),
                side.flag("auto-tls"),
                side.flag("cert-file"),
                side.flag("key-file"),
            ));
        }
        if tls.trusted_ca_file.is_none() {
            return Err(format!(
                "{} checks certificates and needs {}, the CA that they come from",
                side.flag(check),
                side.flag("trusted-ca-file"),
            ));
        }
        Ok(())
    }

    fn demand_certificate_for(&self, flag: &str, urls: &[Url]) -> Result<(), String> {
        match urls.iter().find(|url| url.is_tls()) {
            Some(url) if !self.tls.has_certificate() => Err(format!(
                "TLS key/cert ({}, {}) must be provided for {} url {url} with HTTPS scheme in --{flag}",
                self.side.flag("cert-file"),
                self.side.flag("key-file"),
                self.side.name(),
            )),
            _ => Ok(()),
        }
    }

    fn demand_tls_for_authentication(&self) -> Result<(), String> {
        let mut urls = self.urls.iter().flat_map(|(_, urls)| urls.iter());
        if !self.tls.client_cert_auth || urls.any(Url::is_tls) {
            return Ok(());
        }
        Err(format!(
            "{} demands certificates, and no https:// URL in --{} can ask for them: use https:// or leave the flag out",
            self.side.flag("client-cert-auth"),
            self.urls[0].0,
        ))
    }

    fn warnings(&self) -> Vec<String> {
        let (side, tls) = (self.side, self.tls);
        let mut warnings = Vec::new();
        if tls.auto_tls && tls.cert_file.is_some() {
            warnings.push(format!("ignoring {} since certs given", side.flag("auto-tls")));
        }
        for (flag, url) in self.urls.iter().flat_map(|(flag, urls)| urls.iter().map(move |url| (flag, url))) {
            if url.is_tls() {
                continue;
            }
            if tls.has_certificate() {
                warnings.push(format!("--{flag}: the scheme of {url} is not HTTPS; ignoring key and cert files there"));
            }
            if tls.client_cert_auth {
                let auth = side.flag("client-cert-auth");
                warnings.push(format!("--{flag}: the scheme of {url} is not HTTPS; ignoring {auth} there"));
            }
        }
        warnings
    }
}

/// As Go prints a list of texts.
fn quoted(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that is well set up; each test spoils one thing.
    fn secured() -> Config {
        let https = |port: u16| vec![Url::parse(&format!("https://127.0.0.1:{port}")).unwrap()];
        let tls = TlsConfig {
            cert_file: Some("/c".into()),
            key_file: Some("/k".into()),
            trusted_ca_file: Some("/ca".into()),
            client_cert_auth: true,
            ..TlsConfig::default()
        };
        Config {
            listen_client_urls: https(1),
            listen_peer_urls: https(2),
            client_tls: tls.clone(),
            peer_tls: tls,
            ..Config::default()
        }
    }

    #[track_caller]
    fn refusal(spoil: impl FnOnce(&mut Config)) -> String {
        let mut config = secured();
        spoil(&mut config);
        check(&config).unwrap_err()
    }

    fn warnings(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = secured();
        change(&mut config);
        check(&config).unwrap()
    }

    #[test]
    fn what_fits_together_is_silent() {
        assert_eq!(warnings(|_| {}), Vec::<String>::new());
        assert_eq!(check(&Config::default()), Ok(vec![]));
    }

    #[test]
    fn settings_that_contradict_stop_the_start_and_name_the_flags() {
        let refusals = [
            (refusal(|c| c.client_tls.key_file = None), "--cert-file=/c needs --key-file too"),
            (refusal(|c| c.peer_tls.cert_file = None), "--peer-key-file=/k needs --peer-cert-file too"),
            (refusal(|c| c.peer_tls.client_cert_file = Some("/cc".into())), "--peer-client-cert-file=/cc needs"),
            (refusal(|c| c.client_tls.trusted_ca_file = None), "--client-cert-auth checks certificates and needs"),
            (
                refusal(|c| c.client_tls = TlsConfig { auto_tls: true, ..with_ca() }),
                "--trusted-ca-file contradicts --auto-tls",
            ),
            (
                refusal(|c| c.client_tls = TlsConfig::default()),
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1",
            ),
            (
                refusal(|c| c.listen_peer_urls = Config::default().listen_peer_urls),
                "--peer-client-cert-auth demands certificates, and no https:// URL in --listen-peer-urls",
            ),
            (
                refusal(|c| (c.tls_min_version, c.tls_max_version) = (TlsVersion::Tls13, Some(TlsVersion::Tls12))),
                "min version (TLS1.3) is greater than max version (TLS1.2)",
            ),
            (
                refusal(|c| (c.tls_min_version, c.cipher_suites) = (TlsVersion::Tls13, vec![CIPHER_SUITES[0]])),
                "cipher suites cannot be configured",
            ),
        ];
        for (refusal, start) in refusals {
            assert!(refusal.starts_with(start), "{refusal}");
        }
    }

    fn with_ca() -> TlsConfig {
        TlsConfig { trusted_ca_file: Some("/ca".into()), ..TlsConfig::default() }
    }

    #[test]
    fn names_and_host_names_exclude_each_other_in_etcds_words() {
        let refusal = refusal(|c| {
            c.peer_tls.allowed_cns = vec!["a".into(), "b".into()];
            c.peer_tls.allowed_hostnames = vec!["h".into()];
        });
        let text = "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\" \"b\"], hostnames=[\"h\"])";
        assert!(refusal.starts_with(text), "{refusal}");
    }

    #[test]
    fn a_plain_url_beside_an_encrypted_one_warns() {
        let warnings = warnings(|c| c.listen_client_urls.push(Url::parse("http://127.0.0.1:3").unwrap()));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[1].ends_with("http://127.0.0.1:3 is not HTTPS; ignoring --client-cert-auth there"));
    }

    #[test]
    fn suites_have_iana_names_and_etcds_short_ones() {
        let parse = |name: &str| parse_suites(&[name.to_owned()]);
        assert_eq!(parse("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"), Ok(vec![CIPHER_SUITES[8]]));
        let refusal = parse("TLS_RSA_WITH_AES_128_CBC_SHA").unwrap_err();
        assert!(
            refusal.starts_with("--cipher-suites: unexpected TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\""),
            "{refusal}"
        );
        assert!(refusal.ends_with(CIPHER_SUITES[8]), "{refusal}");
    }
}
