//! Who may read: `--host-whitelist` against DNS rebinding, `--cors` for pages of other origins.

use std::collections::BTreeSet;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderMap,
    HeaderValue, ORIGIN,
};
use http::{StatusCode, request::Parts};

use super::page::{self, Page};
use crate::config::Config;
use crate::tls::Encrypted;

const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// Which hosts and origins are allowed.
pub struct Access {
    /// `None` allows all.
    hosts: Option<BTreeSet<String>>,
    /// `None` allows all.
    origins: Option<BTreeSet<String>>,
}

impl Access {
    /// The rules of a configuration.
    pub fn new(config: &Config) -> Self {
        Self { hosts: unless_any(&config.host_whitelist), origins: unless_any(&config.cors) }
    }

    /// The refusal of a request for a host name that is not ours: a page of another site may have bent a name to our
    /// address. Over TLS the name was in the certificate, and is not looked at again.
    pub fn refusal(&self, request: &Parts) -> Option<Page> {
        if request.extensions.get::<Encrypted>().is_some() {
            return None;
        }
        let hosts = self.hosts.as_ref()?;
        let header = || request.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = request.uri.authority().map(http::uri::Authority::as_str);
        let host = without_port(authority.or_else(header).unwrap_or_default());
        if hosts.contains(host) {
            return None;
        }
        let text = format!(
            "the host \"{host}\" is not one of this member's: ask for it under a name that --host-whitelist holds, or \
             add this one there"
        );
        Some(page::error(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    /// Lets pages of allowed origins read the answer.
    pub fn add_cors(&self, request: &Parts, headers: &mut HeaderMap) {
        let allowed = match &self.origins {
            None => ANY,
            Some(origins) => match request.headers.get(ORIGIN) {
                Some(origin) if origin.to_str().is_ok_and(|origin| origins.contains(origin)) => origin.clone(),
                _ => return,
            },
        };
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    }
}

/// The names of a list; `None` if it is empty or holds `*`.
fn unless_any(names: &[String]) -> Option<BTreeSet<String>> {
    let any = names.is_empty() || names.iter().any(|name| name == "*");
    (!any).then(|| names.iter().cloned().collect())
}

/// `[::1]:2379` is `::1`, `host:80` is `host`.
fn without_port(host: &str) -> &str {
    if let Some((inner, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inner;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}
