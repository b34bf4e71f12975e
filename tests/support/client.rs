//! A client that sends prepared bytes and shows answers as JSON: `{"ok": answer}` or `{"error": {code, message}}`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::schema::Schema;

/// No call takes longer, whatever the server does.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Watch streams are read only now and then, and must not keep other answers on their connection from coming.
const WINDOW_BYTES: u32 = 1 << 30;
/// Requests that wait in a stream's queue; they are sent one by one, so it never fills.
const STREAM_QUEUE: usize = 64;

/// One connection to a server.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
    /// What the bytes mean.
    pub schema: Arc<Schema>,
}

impl Client {
    /// Connects to `host:port`.
    pub async fn connect(endpoint: &str, schema: Arc<Schema>) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES);
        let channel = endpoint.connect().await?;
        let grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { grpc, schema })
    }

    /// A unary call.
    pub async fn call(&mut self, method: &str, message: &Value) -> Value {
        let request = Request::new(Bytes::from(self.schema.request_bytes(method, message)));
        let called = async {
            self.ready().await?;
            self.grpc.unary(request, path(method), Raw).await
        };
        match timed(called).await {
            Ok(answer) => json!({"ok": self.schema.answer_json(method, answer.get_ref())}),
            Err(status) => error(&status),
        }
    }

    /// A call answered by a stream: all its messages as a list.
    pub async fn list(&mut self, method: &str, message: &Value) -> Value {
        let request = Request::new(Bytes::from(self.schema.request_bytes(method, message)));
        let called = async {
            self.ready().await?;
            let mut stream = self.grpc.server_streaming(request, path(method), Raw).await?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await? {
                answers.push(self.schema.answer_json(method, &answer));
            }
            Ok(answers)
        };
        match timed(called).await {
            Ok(answers) => json!({"ok": answers}),
            Err(status) => error(&status),
        }
    }

    /// A stream in both directions. etcd sends its headers with its first answer, so the stream is opened by a task
    /// and the first request must not wait for it.
    pub fn duplex(&self, method: &'static str) -> Duplex {
        let (requests, queue) = mpsc::channel(STREAM_QUEUE);
        let mut client = self.clone();
        let opening = tokio::spawn(async move {
            client.ready().await?;
            let stream = client.grpc.streaming(Request::new(ReceiverStream::new(queue)), path(method), Raw).await?;
            Ok(stream.into_inner())
        });
        Duplex { method, schema: Arc::clone(&self.schema), requests, answers: Answers::Opening(opening) }
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unknown(format!("not connected: {error}")))
    }
}

/// A stream in both directions; dropping it ends it.
pub struct Duplex {
    method: &'static str,
    schema: Arc<Schema>,
    requests: mpsc::Sender<Bytes>,
    answers: Answers,
}

enum Answers {
    Opening(tokio::task::JoinHandle<Result<Streaming<Bytes>, Status>>),
    Open(Box<Streaming<Bytes>>),
}

impl Drop for Duplex {
    fn drop(&mut self) {
        if let Answers::Opening(opening) = &self.answers {
            opening.abort();
        }
    }
}

impl Duplex {
    /// Sends one message; on a broken stream the next answer tells.
    pub async fn send(&mut self, message: &Value) {
        let bytes = Bytes::from(self.schema.request_bytes(self.method, message));
        let sent = self.requests.send(bytes).await;
        drop(sent);
    }

    /// The next answer: its message, or the error that ended the stream. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Value, Value> {
        loop {
            match &mut self.answers {
                Answers::Opening(opening) => {
                    let opened = opening.await.map_err(|error| json!({"error": error.to_string()}))?;
                    self.answers = Answers::Open(Box::new(opened.map_err(|status| error(&status))?));
                }
                Answers::Open(stream) => {
                    return match stream.message().await {
                        Ok(Some(bytes)) => Ok(self.schema.answer_json(self.method, &bytes)),
                        Ok(None) => Err(json!({"error": "the stream has ended"})),
                        Err(status) => Err(error(&status)),
                    };
                }
            }
        }
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::unknown(format!("no answer within {CALL_TIMEOUT:?}"))),
    }
}

fn path(method: &str) -> http::uri::PathAndQuery {
    format!("/etcdserverpb.{method}").parse().expect("method names are path-safe")
}

fn error(status: &Status) -> Value {
    json!({"error": {"code": format!("{:?}", status.code()), "message": status.message()}})
}

/// Hands bytes through.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}
