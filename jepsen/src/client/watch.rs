//! One watcher on a stream of its own: created, read message by message, asked for progress, never resumed by itself.

use tokio::sync::mpsc;
use tonic::Streaming;

use super::call::kv_of;
use super::{ANSWER_BYTES_MAX, Client, Error, bytes_of};
use crate::history::stream::{Event, Message, Watch};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::mvccpb;

/// Requests that wait on one stream: its creation and questions for progress.
const REQUESTS_MAX: usize = 8;

/// An open watch.
pub struct Watcher {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Client {
    /// Opens a watch; the deadline holds until the server accepts the stream. `asks` for progress in the same breath, when
    /// the server cannot have shown anything yet.
    pub async fn watch(&self, watch: &Watch, asks: bool) -> Result<Watcher, Error> {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        requests.try_send(create_of(watch)).map_err(|_| Error::Contract("a fresh channel was full".into()))?;
        if asks {
            requests.try_send(progress_request()).map_err(|_| Error::Contract("a fresh channel was full".into()))?;
        }
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answers = self.within(client.watch(stream)).await?.into_inner();
        Ok(Watcher { requests, answers })
    }
}

impl Watcher {
    /// The next message, without its time; `None` = the stream ended. Waits as long as the caller does.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        let Some(answer) = self.answers.message().await? else { return Ok(None) };
        Ok(Some(message_of(answer)))
    }

    /// Asks how far the stream is. The server may drop the question; one that finds the queue full is not sent.
    pub fn ask_progress(&self) {
        // A full queue holds such a question already; a closed one shows when the stream is read.
        drop(self.requests.try_send(progress_request()));
    }
}

fn progress_request() -> pb::WatchRequest {
    let ask = pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
    pb::WatchRequest { request_union: Some(ask) }
}

/// The request that creates a watcher.
pub fn create_of(watch: &Watch) -> pb::WatchRequest {
    use pb::watch_create_request::FilterType;
    let filters = [(watch.no_put, FilterType::Noput), (watch.no_delete, FilterType::Nodelete)];
    let create = pb::WatchCreateRequest {
        key: bytes_of(&watch.key),
        range_end: watch.end.as_deref().map(bytes_of).unwrap_or_default(),
        start_revision: watch.start_revision,
        progress_notify: watch.progress_notify,
        filters: filters.into_iter().filter(|(on, _)| *on).map(|(_, filter)| filter.into()).collect(),
        prev_kv: watch.prev_kv,
        fragment: watch.fragment,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) }
}

/// A response, without its time.
pub fn message_of(answer: pb::WatchResponse) -> Message {
    Message {
        t: 0,
        rev: super::revision(answer.header),
        created: answer.created,
        canceled: answer.canceled,
        compact_revision: answer.compact_revision,
        reason: answer.cancel_reason,
        fragment: answer.fragment,
        events: answer.events.into_iter().map(event_of).collect(),
    }
}

fn event_of(event: mvccpb::Event) -> Event {
    Event {
        deleted: event.r#type() == mvccpb::event::EventType::Delete,
        kv: event.kv.map(kv_of).unwrap_or_default(),
        prev: event.prev_kv.map(kv_of),
    }
}
