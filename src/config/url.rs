//! The URLs that flags carry, by etcd's rules; not a general URL parser. Used by `config` and by whoever listens.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// What comes before `://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A plain Unix socket.
    Unix,
    /// TLS over a Unix socket.
    Unixs,
}

impl Scheme {
    const ALL: [Self; 4] = [Self::Http, Self::Https, Self::Unix, Self::Unixs];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }
}

/// One URL of a flag: a scheme and `host:port`, or a socket's path. It prints as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    scheme: Scheme,
    /// `host:port`, or for Unix sockets the whole path.
    address: String,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl Url {
    /// Reads one URL. The error is etcd's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let scheme = Scheme::ALL
            .into_iter()
            .find(|scheme| text.strip_prefix(scheme.name()).is_some_and(|rest| rest.starts_with("://")));
        let Some(scheme) = scheme else {
            return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
        };
        let address = &text[scheme.name().len() + "://".len()..];
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            if address.is_empty() {
                return Err(format!("a Unix socket's URL needs a path: {text}"));
            }
            return Ok(Self { scheme, address: address.to_owned() });
        }
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains('/') {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let url = Self { scheme, address: address.to_owned() };
        url.split_port().ok_or_else(|| format!("URL address does not have the form \"host:port\": {text}"))?;
        Ok(url)
    }

    /// Reads a comma-separated list, keeping its order. An empty text is an empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Self::parse).collect()
    }

    /// What comes before `://`.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether the other side is to speak TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The host without brackets or port; for Unix sockets the path.
    pub fn host(&self) -> &str {
        self.split_port().map_or(&self.address, |(host, _)| host)
    }

    /// The TCP port; `None` for Unix sockets.
    pub fn port(&self) -> Option<u16> {
        self.split_port().map(|(_, port)| port)
    }

    /// Where to listen. As etcd, refuses DNS names other than `localhost`, which may point anywhere tomorrow.
    pub fn listen_address(&self) -> Result<Address, String> {
        let Some((host, port)) = self.split_port() else {
            return Ok(Address::Unix(PathBuf::from(&self.address)));
        };
        let ip = match host {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => host.parse().map_err(|_| format!("expected IP in URL for binding ({self})"))?,
        };
        Ok(Address::Tcp(SocketAddr::new(ip, port)))
    }

    /// Host and port of a TCP URL; `None` for a Unix socket or a malformed address.
    fn split_port(&self) -> Option<(&str, u16)> {
        if matches!(self.scheme, Scheme::Unix | Scheme::Unixs) {
            return None;
        }
        let (host, port) = self.address.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        Some((host, port.parse().ok()?))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme.name(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_order_and_prints_as_written() {
        let urls = Url::parse_list("http://10.0.0.1:2379, https://[::1]:2380,unix:///run/k.sock").unwrap();
        let printed: Vec<_> = urls.iter().map(ToString::to_string).collect();
        assert_eq!(printed, ["http://10.0.0.1:2379", "https://[::1]:2380", "unix:///run/k.sock"]);
        assert_eq!((urls[1].host(), urls[1].port()), ("::1", Some(2380)));
        assert_eq!(urls[2].listen_address(), Ok(Address::Unix("/run/k.sock".into())));
    }

    #[test]
    fn a_dns_name_is_no_place_to_listen_but_localhost_is() {
        assert_eq!(
            Url::parse("http://localhost:1").unwrap().listen_address(),
            Ok(Address::Tcp("127.0.0.1:1".parse().unwrap()))
        );
        let error = Url::parse("http://example.com:2379").unwrap().listen_address().unwrap_err();
        assert_eq!(error, "expected IP in URL for binding (http://example.com:2379)");
    }

    #[test]
    fn what_is_no_url_is_refused_with_the_reason() {
        for (text, part) in [
            ("127.0.0.1:2379", "URL scheme must be"),
            ("tcp://127.0.0.1:2379", "URL scheme must be"),
            ("http://127.0.0.1", "does not have the form"),
            ("http://127.0.0.1:99999", "does not have the form"),
            ("http://127.0.0.1:1/x", "must not contain a path"),
            ("unix://", "needs a path"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
