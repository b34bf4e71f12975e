//! What clients send, to a member that runs: bytes of every RPC of etcd's API, through HTTP/2 and the services.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use kelson::proto::DESCRIPTORS;
use kelson::proto::etcdserverpb as pb;
use kelson::testing::Cluster;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::commands::txn;
use super::engine::{Target, Verdict};
use super::mutate;
use super::peer_messages::check;
use super::random::Random;

/// Messages of one stream.
const MESSAGES_MAX: usize = 4;
/// Answers of one stream that are waited for.
const ANSWERS_MAX: usize = 8;
/// How long a stream that need not end is listened to.
const LISTEN: Duration = Duration::from_millis(10);

pub struct Requests {
    runtime: Runtime,
    cluster: Option<Cluster>,
    channel: Channel,
    methods: Vec<String>,
    inputs: u64,
}

/// An input: the method, then messages with their lengths.
fn encode(method: u8, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![method];
    for message in messages {
        out.put_u16_le(message.len() as u16);
        out.extend_from_slice(message);
    }
    out
}

fn decode(input: &[u8]) -> (u8, Vec<Vec<u8>>) {
    let mut rest = input;
    let method = rest.try_get_u8().unwrap_or(0);
    let mut messages = Vec::new();
    while let Ok(len) = rest.try_get_u16_le() {
        let (message, later) = rest.split_at(rest.len().min(usize::from(len)));
        messages.push(message.to_vec());
        rest = later;
    }
    messages.truncate(MESSAGES_MAX);
    if messages.is_empty() {
        messages.push(Vec::new());
    }
    (method, messages)
}

impl Requests {
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = runtime.block_on(Cluster::start(1)).unwrap();
        let channel = {
            let _guard = runtime.enter();
            cluster.member(0).channel()
        };
        Self { runtime, cluster: Some(cluster), channel, methods: methods(), inputs: 0 }
    }

    fn number(&self, method: &str) -> u8 {
        let at = self.methods.iter().position(|path| path.ends_with(&format!("/{method}")));
        at.unwrap_or_else(|| panic!("no {method} in {:?}", self.methods)) as u8
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.runtime.block_on(cluster.shutdown());
        }
    }
}

/// The paths of all RPCs that members serve to clients, by the same description from which they are generated.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut paths = Vec::new();
    for file in files.file.iter().filter(|file| file.package() != "kelson_peer") {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            paths.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    paths.sort();
    paths
}

impl Target for Requests {
    const NAME: &'static str = "requests";
    const ITERATIONS: u64 = 400;

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        let mut seeds: Vec<_> = (0..self.methods.len()).map(|method| encode(method as u8, &[Vec::new()])).collect();
        let range = pb::RangeRequest { key: "a".into(), range_end: "z".into(), limit: 2, ..Default::default() };
        let put = pb::PutRequest { key: "a".into(), value: "1".into(), prev_kv: true, ..Default::default() };
        let delete = pb::DeleteRangeRequest { key: "a".into(), range_end: "c".into(), prev_kv: true };
        let grant = pb::LeaseGrantRequest { id: 7, ttl: 60 };
        let alarm = pb::AlarmRequest { action: 1, member_id: 1, alarm: 1 };
        let add = pb::MemberAddRequest { peer_ur_ls: vec!["http://10.0.0.9:2380".into()], is_learner: true };
        let update = pb::MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://10.0.0.9:2380".into()] };
        let create = pb::WatchCreateRequest {
            key: "a".into(),
            range_end: "z".into(),
            start_revision: 2,
            prev_kv: true,
            fragment: true,
            progress_notify: true,
            ..Default::default()
        };
        let watch = |request| pb::WatchRequest { request_union: Some(request) }.encode_to_vec();
        use pb::watch_request::RequestUnion;
        let create = watch(RequestUnion::CreateRequest(create));
        let cancel = watch(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 1 }));
        let progress = watch(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        let alive = pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
        let ttl = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
        let streams = [
            ("Range", vec![range.encode_to_vec()]),
            ("RangeStream", vec![range.encode_to_vec()]),
            ("Put", vec![put.encode_to_vec()]),
            ("DeleteRange", vec![delete.encode_to_vec()]),
            ("Txn", vec![txn().encode_to_vec()]),
            ("Compact", vec![pb::CompactionRequest { revision: 3, physical: true }.encode_to_vec()]),
            ("Watch", vec![create.clone(), create, progress, cancel]),
            ("LeaseGrant", vec![grant.encode_to_vec()]),
            ("LeaseRevoke", vec![pb::LeaseRevokeRequest { id: 7 }.encode_to_vec()]),
            ("LeaseKeepAlive", vec![alive.clone(), alive]),
            ("LeaseTimeToLive", vec![ttl.encode_to_vec()]),
            ("MemberAdd", vec![add.encode_to_vec()]),
            ("MemberUpdate", vec![update.encode_to_vec()]),
            ("MemberRemove", vec![pb::MemberRemoveRequest { id: 1 }.encode_to_vec()]),
            ("MemberPromote", vec![pb::MemberPromoteRequest { id: 1 }.encode_to_vec()]),
            ("MemberList", vec![pb::MemberListRequest { linearizable: true }.encode_to_vec()]),
            ("Alarm", vec![alarm.encode_to_vec()]),
            ("HashKV", vec![pb::HashKvRequest { revision: 2 }.encode_to_vec()]),
            ("MoveLeader", vec![pb::MoveLeaderRequest { target_id: 2 }.encode_to_vec()]),
            ("Downgrade", vec![pb::DowngradeRequest { action: 0, version: "3.6".into() }.encode_to_vec()]),
        ];
        for (method, messages) in streams {
            // More than once, for every method without a message of its own has one, too.
            seeds.extend(std::iter::repeat_n(encode(self.number(method), &messages), 3));
        }
        seeds
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        let (mut method, mut messages) = decode(input);
        let (_, others) = decode(other);
        match random.below(20) {
            0 => method = random.next() as u8,
            1 => messages.push(random.pick(&others)),
            2 => messages.push(random.pick(&messages)),
            _ => {
                let at = random.below(messages.len());
                mutate::message(&mut messages[at], &random.pick(&others), random);
            }
        }
        *input = encode(method, &messages);
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        self.inputs += 1;
        let (method, messages) = decode(input);
        let path = self.methods[usize::from(method) % self.methods.len()].clone();
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let answered = self.runtime.block_on(async {
            let answered = call(self.channel.clone(), path, messages).await;
            let node = self.cluster.as_ref().expect("it runs until the end").member(0).server().node();
            check(node, self.inputs).await;
            answered
        });
        match answered {
            Ok(answers) => Verdict::Accepted(format!("{name} {}", if answers == 0 { "without" } else { "with" })),
            Err(status) => Verdict::Refused(format!("{name} {:?} {}", status.code(), status.message())),
        }
    }
}

/// Sends messages and hears the answers; how many there were.
async fn call(channel: Channel, path: String, messages: Vec<Vec<u8>>) -> Result<usize, Status> {
    let is_endless = ["Watch", "Observe"].iter().any(|name| path.ends_with(name));
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let messages = tokio_stream::iter(messages.into_iter().map(Bytes::from));
    let path = path.parse().expect("a method's path");
    let mut answers = grpc.streaming(Request::new(messages), path, Raw).await?.into_inner();
    let mut heard = 0;
    while heard < ANSWERS_MAX {
        let answer = if is_endless {
            match tokio::time::timeout(LISTEN, answers.message()).await {
                Ok(answer) => answer,
                Err(_) => break,
            }
        } else {
            answers.message().await
        };
        if answer?.is_none() {
            break;
        }
        heard += 1;
    }
    Ok(heard)
}

/// Messages as they are.
#[derive(Clone, Copy)]
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

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = from.remaining();
        Ok(Some(from.copy_to_bytes(len)))
    }
}
