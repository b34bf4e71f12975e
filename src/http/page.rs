//! Answers in the form that Go's `net/http` gives them, and the query of a request.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;

/// A whole answer in memory.
pub type Page = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// 200 without content.
pub fn empty() -> Page {
    Response::new(Full::default())
}

/// 200 with plain text.
pub fn text(body: impl Into<Bytes>) -> Page {
    with_type(body, TEXT)
}

/// 200 with metrics.
pub fn metrics(body: String) -> Page {
    with_type(body, METRICS)
}

/// 200 with JSON; the type is given because etcd's pages differ in it.
pub fn json(body: impl Into<Bytes>, content_type: &'static str) -> Page {
    with_type(body, content_type)
}

/// An error as `http.Error` writes it: the text and a line feed.
pub fn error(status: StatusCode, text: &str) -> Page {
    let mut page = no_sniff(with_type(format!("{text}\n"), TEXT));
    *page.status_mut() = status;
    page
}

/// No such page.
pub fn not_found() -> Page {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// The page can only be read.
pub fn only_get() -> Page {
    let mut page = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    page
}

/// Tells browsers to believe the type.
pub fn no_sniff(mut page: Page) -> Page {
    page.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

fn with_type(body: impl Into<Bytes>, content_type: &'static str) -> Page {
    let mut page = Response::new(Full::new(body.into()));
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}

/// The names and values after `?`, decoded.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// The query of a request.
    pub fn of(request: &http::request::Parts) -> Self {
        let query = request.uri.query().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// Whether a name occurs, with whatever value.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// All values of a name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Replaces `+` and `%xx`; what is not well formed stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = || text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex()) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_what_is_malformed_stays() {
        let (parts, ()) = http::Request::builder().uri("/x?a=1&b&a=%32+%zz&%63=").body(()).unwrap().into_parts();
        let query = Query::of(&parts);
        assert_eq!(query.values("a").collect::<Vec<_>>(), ["1", "2 %zz"]);
        assert!(query.has("b") && query.has("c") && !query.has("d"));
    }
}
