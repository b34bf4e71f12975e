//! A request larger than the limit, in the words of Go's gRPC, which clients of etcd know: tonic refuses it by itself,
//! before any service sees it, with another code and another text. Streams reword the refusal with [`reword`], unary
//! calls by `server` passing every answer's head through [`reword_head`].

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};

/// How tonic's refusal begins; what stands between and behind the two numbers follows.
const TONIC_TEXT: [&str; 3] = ["Error, decoded message length too large: found ", " bytes, the limit is: ", " bytes"];
/// gRPC's header of a call's code.
const GRPC_STATUS: &str = "grpc-status";
/// gRPC's header of a call's text, percent-encoded.
const GRPC_MESSAGE: &str = "grpc-message";

/// A stream's refusal of a large message in Go's words; any other status as it is.
pub fn reword(status: Status) -> Status {
    match go_text(status.message()) {
        Some(text) if status.code() == Code::OutOfRange => Status::resource_exhausted(text),
        _ => status,
    }
}

/// Rewords the refusal in the head of an answer that consists of a head only, as refusals do. Other answers cost one
/// look-up.
pub fn reword_head(headers: &mut HeaderMap) {
    let Some(code) = headers.get(GRPC_STATUS) else { return };
    if code.as_bytes() != b"11" {
        return;
    }
    let Some(text) = headers.get(GRPC_MESSAGE).and_then(|text| go_text(&decode_spaces(text))) else { return };
    // tonic percent-encodes texts; of what stands in this one, only the space would need it, and gRPC allows it plain.
    let text = HeaderValue::try_from(text).expect("words and digits");
    headers.insert(GRPC_STATUS, HeaderValue::from_static("8"));
    headers.insert(GRPC_MESSAGE, text);
}

fn go_text(tonic_text: &str) -> Option<String> {
    let [before, between, after] = TONIC_TEXT;
    let (found, limit) = tonic_text.strip_prefix(before)?.strip_suffix(after)?.split_once(between)?;
    Some(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

/// Undoes the percent-encoding that tonic's own text has.
fn decode_spaces(text: &HeaderValue) -> Cow<'_, str> {
    let text = text.to_str().unwrap_or_default();
    if text.contains('%') {
        Cow::Owned(text.replace("%20", " ").replace("%3A", ":").replace("%2C", ","))
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TONIC: &str = "Error, decoded message length too large: found 2097200 bytes, the limit is: 2097152 bytes";
    const GO: &str = "grpc: received message larger than max (2097200 vs. 2097152)";

    #[test]
    fn a_large_message_is_refused_in_gos_words() {
        let status = reword(Status::out_of_range(TONIC));
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, GO));

        let mut headers = Status::out_of_range(TONIC).into_http::<String>().into_parts().0.headers;
        reword_head(&mut headers);
        assert_eq!(headers[GRPC_STATUS], "8");
        assert_eq!(headers[GRPC_MESSAGE], GO);
    }

    #[test]
    fn other_refusals_stay_as_they_are() {
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let status = reword(Status::out_of_range(compacted));
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, compacted));
        let before = Status::out_of_range(compacted).into_http::<String>().into_parts().0.headers;
        let mut headers = before.clone();
        reword_head(&mut headers);
        assert_eq!(headers, before);
        reword_head(&mut HeaderMap::new());
    }
}
