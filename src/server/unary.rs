//! The usual shape of a unary gRPC call, answered without tonic's streams: the request is one whole message in one DATA
//! frame that ends the stream. Whatever looks otherwise (split, compressed, too large, malformed) goes to the generated
//! service with nothing lost, so that every refusal is tonic's.
//!
//! tonic reads a unary request as a stream of messages through a buffer of its own and writes the answer as one; measured
//! in `benches/README.md`, that costs more than looking up a key does.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Frame, SizeHint};
use prost::Message;
use tonic::Status;
use tonic::body::Body;

/// Before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;
/// gRPC's header of a call's code.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A request, taken apart or not.
pub enum Asked<Q, B: http_body::Body> {
    /// The usual shape.
    Message(Q),
    /// Any other; the body as it came.
    Other(Box<Request<Rejoined<B>>>),
}

/// Reads a request of the usual shape, of at most `bytes_max` bytes.
pub async fn read<Q, B>(request: Request<B>, bytes_max: usize) -> Asked<Q, B>
where
    Q: Message + Default,
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (parts, mut rest) = request.into_parts();
    let first = std::future::poll_fn(|cx| Pin::new(&mut rest).poll_frame(cx)).await;
    if let Some(Ok(frame)) = &first
        && rest.is_end_stream()
        && let Some(message) = frame.data_ref().and_then(|data| whole(data, bytes_max))
        && let Ok(message) = Q::decode(message)
    {
        return Asked::Message(message);
    }
    Asked::Other(Box::new(Request::from_parts(parts, Rejoined { is_end: first.is_none(), first, rest })))
}

/// The message in a frame that holds exactly one, not compressed.
fn whole(data: &Bytes, bytes_max: usize) -> Option<Bytes> {
    let (head, message) = data.split_first_chunk::<HEAD_BYTES>()?;
    let [0, len @ ..] = *head else { return None };
    let len = u32::from_be_bytes(len) as usize;
    (len == message.len() && len <= bytes_max).then(|| data.slice(HEAD_BYTES..))
}

/// The answer to a unary call: head, message, and the code behind it.
pub fn answer<A: Message>(answer: Result<A, Status>) -> Response<Body> {
    match answer.and_then(|answer| encode(&answer)) {
        Ok(message) => {
            let mut response = Response::new(Body::new(Answer { message: Some(message), is_over: false }));
            response.headers_mut().insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
            response
        }
        Err(status) => status.into_http(),
    }
}

fn encode(answer: &impl Message) -> Result<Bytes, Status> {
    let len = answer.encoded_len();
    let Ok(len_field) = u32::try_from(len) else {
        return Err(Status::resource_exhausted(format!("the answer has {len} bytes, more than gRPC can carry")));
    };
    let mut out = BytesMut::with_capacity(HEAD_BYTES + len);
    out.put_u8(0);
    out.put_u32(len_field);
    answer.encode_raw(&mut out);
    Ok(out.freeze())
}

/// A message and the trailers behind it.
struct Answer {
    message: Option<Bytes>,
    is_over: bool,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// A body whose first frame was looked at.
pub struct Rejoined<B: http_body::Body> {
    first: Option<Result<Frame<B::Data>, B::Error>>,
    rest: B,
    /// The body had no frame at all.
    is_end: bool,
}

impl<B> http_body::Body for Rejoined<B>
where
    B: http_body::Body<Data = Bytes, Error: Unpin> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.is_end {
            return Poll::Ready(None);
        }
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(cx));
        self.is_end = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end || (self.first.is_none() && self.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.size_hint();
        let Some(Ok(first)) = &self.first else { return rest };
        let first = first.data_ref().map_or(0, Buf::remaining) as u64;
        let mut whole = SizeHint::new();
        whole.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            whole.set_upper(upper + first);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;
    use crate::proto::etcdserverpb as pb;

    struct Frames(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn request() -> pb::RangeRequest {
        pb::RangeRequest { key: "k".into(), limit: 7, ..Default::default() }
    }

    fn encoded() -> Vec<u8> {
        encode(&request()).unwrap().to_vec()
    }

    async fn ask(frames: Vec<Vec<u8>>) -> Asked<pb::RangeRequest, Frames> {
        let frames = frames.into_iter().map(|bytes| Frame::data(Bytes::from(bytes))).collect();
        read(Request::new(Frames(frames)), 100).await
    }

    #[tokio::test]
    async fn one_whole_message_is_taken() {
        match ask(vec![encoded()]).await {
            Asked::Message(message) => assert_eq!(message, request()),
            Asked::Other(_) => panic!("the usual shape"),
        }
    }

    #[tokio::test]
    async fn every_other_shape_is_passed_on_whole() {
        let good = encoded();
        let (left, right) = good.split_at(3);
        let compressed = [&[1][..], &good[1..]].concat();
        let malformed = [&[0, 0, 0, 0, 1][..], &[0xff]].concat();
        let large = encode(&pb::RangeRequest { key: vec![b'k'; 200].into(), ..Default::default() }).unwrap().to_vec();
        let cases: [Vec<Vec<u8>>; 8] = [
            vec![],
            vec![vec![]],
            vec![left.to_vec(), right.to_vec()],
            vec![good.clone(), vec![]],
            vec![[&good[..], &good].concat()],
            vec![compressed],
            vec![malformed],
            vec![large],
        ];
        for frames in cases {
            let Asked::Other(passed) = ask(frames.clone()).await else { panic!("taken: {frames:?}") };
            assert_eq!(passed.body().is_end_stream(), frames.is_empty());
            assert_eq!(passed.into_body().collect().await.unwrap().to_bytes(), frames.concat(), "{frames:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_its_message_and_a_code_of_zero() {
        let message =
            pb::PutResponse { header: Some(pb::ResponseHeader { revision: 3, ..Default::default() }), prev_kv: None };
        let response = answer(Ok(message.clone()));
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        let bytes = body.to_bytes();
        assert_eq!(pb::PutResponse::decode(&bytes[HEAD_BYTES..]).unwrap(), message);
        assert_eq!(bytes[..HEAD_BYTES], [0, 0, 0, 0, (bytes.len() - HEAD_BYTES) as u8]);
    }

    #[test]
    fn a_refusal_is_a_head_only() {
        let response = answer::<pb::PutResponse>(Err(Status::not_found("no such thing")));
        assert_eq!(response.headers()["grpc-status"], "5");
        assert!(response.body().is_end_stream());
    }
}
