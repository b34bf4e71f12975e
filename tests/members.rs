//! Clusters of processes: members that come, go, are killed, stopped, cut off and replaced, under writers that remember
//! what was acknowledged to them.

#[path = "common/authority.rs"]
mod authority;
#[path = "common/clients.rs"]
mod clients;
mod common;
#[path = "common/namespaces.rs"]
mod namespaces;
#[path = "common/processes.rs"]
mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use authority::{Authority, Leaf};
use clients::{Client, Renewing, Route, Writer, ask_peer, assert_same};
use common::{refusal, refused, until};
use kelson::proto::etcdserverpb as pb;
use namespaces::Network;
use processes::{KELSON, Member, initial_cluster, leader, skip, start_three};
use rustix::process::Signal;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};

fn first_eight_bytes(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(Sha1::digest(bytes)[..8].try_into().unwrap())
}

#[tokio::test]
async fn three_commands_make_a_cluster_with_the_ids_that_etcd_gives_it() {
    let directory = tempfile::tempdir().unwrap();
    let members = start_three(directory.path()).await;
    let client = Client::of(&members);
    let mut acknowledged = BTreeMap::new();
    for (place, member) in members.iter().enumerate() {
        let (key, value) = (format!("from-{}", member.name), place.to_string());
        client.kv(place).put(common::put(&key, &value)).await.unwrap();
        acknowledged.insert(key, value);
        for reader in 0..members.len() {
            assert_eq!(client.all(reader).await.unwrap().0, acknowledged);
        }
    }
    assert_same(&members, &acknowledged).await;

    let ids: Vec<_> =
        members.iter().map(|member| first_eight_bytes(format!("{}etcd-cluster", member.peer_url).as_bytes())).collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    let cluster_id = first_eight_bytes(&sorted.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<_>>());
    let listed = client.members().await.unwrap();
    assert_eq!(listed.iter().map(|member| member.id).collect::<Vec<_>>(), sorted);
    for (place, member) in members.iter().enumerate() {
        let header = client.status(place).await.unwrap().header.unwrap();
        assert_eq!((header.member_id, header.cluster_id), (ids[place], cluster_id), "{}", member.name);
        let listed = listed.iter().find(|listed| listed.id == ids[place]).unwrap();
        assert_eq!((&listed.name, listed.is_learner), (&member.name, false));
        assert_eq!(listed.peer_ur_ls, std::slice::from_ref(&member.peer_url));
        assert_eq!(listed.client_ur_ls, std::slice::from_ref(&member.client_url));
    }
}

async fn add(client: &Client, member: &Member, is_learner: bool) -> Result<pb::Member, Status> {
    let request = pb::MemberAddRequest { peer_ur_ls: vec![member.peer_url.clone()], is_learner };
    Ok(client.cluster().member_add(request).await?.into_inner().member.expect("the member added"))
}

async fn remove(client: &Client, id: u64) -> Result<(), Status> {
    client.cluster().member_remove(pb::MemberRemoveRequest { id }).await.map(drop)
}

/// Waits until a member has said its name to the cluster.
async fn named(client: &Client, id: u64) {
    until("the new member's name in the list", || async {
        let listed = client.members().await.unwrap_or_default();
        listed.iter().any(|member| member.id == id && !member.name.is_empty())
    })
    .await;
}

/// Adds a voter to a cluster and starts it.
async fn grow(members: &mut Vec<Member>, root: &Path, name: &str) {
    let mut new = Member::new(root, name);
    let client = members[0].client();
    let id = add(&client, &new, false).await.unwrap().id;
    new.start(&initial_cluster(members.iter().chain([&new])), "existing");
    named(&client, id).await;
    new.ready().await;
    assert_eq!(new.client().status(0).await.unwrap().header.unwrap().member_id, id);
    members.push(new);
}

/// Removes a member, whose process must end by itself, for good.
async fn shrink(members: &mut Vec<Member>, place: usize) {
    let mut leaving = members.remove(place);
    let id = leaving.client().status(0).await.unwrap().header.unwrap().member_id;
    remove(&members[0].client(), id).await.unwrap();
    for _ in ["when it is removed", "when it is started again"] {
        let (code, log) = leaving.ended().await;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("the member has been permanently removed from the cluster"), "{log}");
        leaving.restart();
    }
}

#[tokio::test]
async fn a_cluster_grows_to_five_and_shrinks_to_one_under_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut members = vec![Member::new(root, "a")];
    processes::start_all(&mut members).await;
    let mut written = Vec::new();
    for name in ["b", "c", "d", "e"] {
        let writer = Writer::start(Client::of(&members), &format!("with-{name}/"));
        grow(&mut members, root, name).await;
        writer.writes(20).await;
        written.push(writer.stop().await);
    }
    let mut acknowledged: BTreeMap<_, _> = written.into_iter().flat_map(|written| written.acknowledged).collect();
    assert_same(&members, &acknowledged).await;

    while members.len() > 1 {
        // The leader among them, and others.
        let place = if members.len() % 2 == 1 { leader(&members).await } else { members.len() - 1 };
        let writer = Writer::start(Client::of(&members), &format!("of-{}/", members.len()));
        shrink(&mut members, place).await;
        writer.writes(20).await;
        acknowledged.extend(writer.stop().await.acknowledged);
    }
    assert_same(&members, &acknowledged).await;
    let listed = members[0].client().members().await.unwrap();
    assert_eq!(listed.iter().map(|member| &member.name).collect::<Vec<_>>(), [&members[0].name]);
}

/// One line of a member's metrics, by the beginning of its name.
async fn metric(member: &Member, name: &str) -> Option<f64> {
    let address = member.client_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.ok()?;
    let line = page.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_member_that_was_away_for_longer_than_the_log_reaches_is_sent_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--snapshot-count", "10", "--snapshot-catchup-entries", "1"].map(str::to_owned);
    let mut members: Vec<_> = ["a", "b", "c"].map(|name| Member::new(directory.path(), name).with(&flags)).into();
    processes::start_all(&mut members).await;
    let away = (leader(&members).await + 1) % members.len();
    let id = members[away].client().status(0).await.unwrap().header.unwrap().member_id;
    members[away].kill();
    let mut others: Vec<_> = members.iter().collect();
    others.remove(away);
    let client = Client::new(&others);
    // More than a snapshot's distance in bytes, of which compaction leaves little: the log is purged behind a snapshot.
    let mut acknowledged = BTreeMap::new();
    for number in 0..80 {
        let (key, value) = (format!("large/{}", number % 4), format!("{number:07}").repeat(150_000));
        let (revision, _) = client.put(&key, &value).await;
        acknowledged.insert(key, value);
        if number % 8 == 7 {
            client.kv(0).compact(pb::CompactionRequest { revision, physical: true }).await.unwrap();
        }
    }
    for member in others {
        until("the log to be purged", || async { member.log().contains("log purged") }).await;
    }

    members[away].restart();
    members[away].ready().await;
    let writer = Writer::start(Client::of(&members), "meanwhile/");
    writer.writes(20).await;
    acknowledged.extend(writer.stop().await.acknowledged);
    assert_same(&members, &acknowledged).await;
    let (mut sent, mut received) = (0.0, 0.0);
    for sender in members.iter().filter(|member| member.name != members[away].name) {
        let from = sender.client().status(0).await.unwrap().header.unwrap().member_id;
        sent += metric(sender, &format!("etcd_network_snapshot_send_success{{To=\"{id:x}\"}}")).await.unwrap();
        let name = format!("etcd_network_snapshot_receive_success{{From=\"{from:x}\"}}");
        received += metric(&members[away], &name).await.unwrap();
    }
    assert_eq!((sent, received), (1.0, 1.0));
}

/// kubeadm's order: a learner, which is promoted as soon as that is allowed.
#[tokio::test]
async fn a_learner_that_has_caught_up_is_promoted() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut members = vec![Member::new(root, "a")];
    processes::start_all(&mut members).await;
    let client = members[0].client();
    for number in 0..100 {
        client.put(&format!("before/{number}"), "v").await;
    }
    let mut learner = Member::new(root, "b");
    let id = add(&client, &learner, true).await.unwrap().id;
    let promote = async || client.cluster().member_promote(pb::MemberPromoteRequest { id }).await;
    let not_ready =
        refused(Code::FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader");
    assert_eq!(refusal(promote().await), not_ready, "it does not even run");
    let too_many = refused(Code::FailedPrecondition, "etcdserver: too many learner members in cluster");
    assert_eq!(refusal(add(&client, &Member::new(root, "c"), true).await), too_many);

    learner.start(&initial_cluster([&members[0], &learner]), "existing");
    learner.ready().await;
    let unsupported = refused(Code::FailedPrecondition, "etcdserver: rpc not supported for learner");
    let at_learner = learner.client();
    assert!(at_learner.status(0).await.unwrap().is_learner);
    assert_eq!(refusal(at_learner.get(0, "before/1").await), unsupported);
    assert_eq!(refusal(at_learner.kv(0).put(common::put("x", "y")).await), unsupported);
    assert_eq!(refusal(at_learner.members().await), unsupported);
    let serializable = pb::RangeRequest { serializable: true, ..common::range("before/1", "") };
    assert_eq!(at_learner.kv(0).range(serializable).await.unwrap().into_inner().kvs.len(), 1);

    until("the promotion", || async {
        match promote().await {
            Ok(_) => true,
            Err(status) => {
                assert_eq!((status.code(), status.message().to_owned()), not_ready);
                false
            }
        }
    })
    .await;
    let voter = refused(Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    assert_eq!(refusal(promote().await), voter);
    until("the member hears that it votes", || async { !at_learner.status(0).await.unwrap().is_learner }).await;
    at_learner.put("after", "v").await;
    members.push(learner);
    assert_same(&members, &[("after".to_owned(), "v".to_owned())].into()).await;
}

#[tokio::test]
async fn a_rolling_restart_costs_a_writer_no_more_than_a_retry() {
    let directory = tempfile::tempdir().unwrap();
    let mut members = start_three(directory.path()).await;
    let writers = ["x/", "y/"].map(|prefix| Writer::start(Client::of(&members), prefix));
    // The first to stop leads, and hands that over; the others may come to lead meanwhile.
    let first = leader(&members).await;
    for place in [first, (first + 1) % 3, (first + 2) % 3] {
        writers[0].writes(50).await;
        members[place].stop().await;
        if place == first {
            let log = members[place].log();
            assert!(log.contains("leadership handed over"), "{log}");
        }
        writers[0].writes(50).await;
        members[place].restart();
        members[place].ready().await;
    }
    for writer in writers {
        writer.writes(50).await;
        let written = writer.stop().await;
        assert!(written.attempts_max <= members.len(), "{} attempts", written.attempts_max);
        assert_same(&members, &written.acknowledged).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills_of_one_and_of_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut members = start_three(directory.path()).await;
    let writers = ["x/", "y/"].map(|prefix| Writer::start(Client::of(&members), prefix));
    let leading = leader(&members).await;
    for place in [leading, (leading + 1) % 3] {
        writers[0].writes(50).await;
        members[place].kill();
        writers[0].writes(50).await;
        members[place].restart();
        members[place].ready().await;
    }
    writers[1].writes(50).await;
    for member in &mut members {
        member.kill();
    }
    for member in &mut members {
        member.restart();
    }
    for member in &mut members {
        member.ready().await;
    }
    for writer in writers {
        writer.writes(20).await;
        assert_same(&members, &writer.stop().await.acknowledged).await;
    }
}

#[tokio::test]
async fn a_leader_that_was_suspended_reads_nothing_old() {
    let directory = tempfile::tempdir().unwrap();
    let members = start_three(directory.path()).await;
    let everybody = Client::of(&members);
    for round in 0..3 {
        let place = leader(&members).await;
        everybody.put("k", &format!("{round} before")).await;
        let at_old = members[place].client();
        assert!(at_old.get(0, "k").await.is_ok(), "connected");
        members[place].signal(Signal::STOP);
        let rest: Vec<_> = members.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, m)| m).collect();
        let newest = format!("{round} after");
        Client::new(&rest).put("k", &newest).await;
        // Reads wait in its socket, and more come while it wakes.
        let early: Vec<_> = (0..4)
            .map(|_| {
                let client = at_old.clone();
                tokio::spawn(async move { client.get(0, "k").await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        members[place].signal(Signal::CONT);
        for _ in 0..20 {
            if let Ok(value) = at_old.get(0, "k").await {
                assert_eq!(value.as_deref(), Some(&*newest));
            }
        }
        for read in early {
            if let Ok(value) = read.await.unwrap() {
                assert_eq!(value.as_deref(), Some(&*newest));
            }
        }
    }
}

#[tokio::test]
async fn a_member_that_lost_its_data_comes_back_only_as_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut members = start_three(root).await;
    let writer = Writer::start(Client::of(&members[..2]), "w/");
    let lost = members[2].client().status(0).await.unwrap().header.unwrap().member_id;
    members[2].kill();
    std::fs::remove_dir_all(&members[2].data).unwrap();
    members[2].restart();
    let (code, log) = members[2].ended().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&format!("member {lost:x} has already been bootstrapped")), "{log}");
    assert!(log.contains(&format!("etcdctl member remove {lost:x}")), "{log}");
    // What it left must not make the next start believe that it has data.
    members[2].restart();
    let (code, log) = members[2].ended().await;
    assert!(code == Some(1) && log.contains("has already been bootstrapped"), "{log}");

    let client = members[0].client();
    remove(&client, lost).await.unwrap();
    let added = add(&client, &members[2], false).await.unwrap().id;
    assert_ne!(added, lost);
    let cluster = initial_cluster(&members);
    members[2].start(&cluster, "existing");
    named(&client, added).await;
    members[2].ready().await;
    writer.writes(20).await;
    assert_same(&members, &writer.stop().await.acknowledged).await;
}

/// Certificates of three members and of their clients, in files.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// Writes a file, whole or not at all.
    fn write(&self, name: &str, text: &str) {
        let part = self.directory.path().join("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, self.directory.path().join(name)).unwrap();
    }

    fn trust(&self, authorities: &[&Authority]) {
        self.write("ca.crt", &authorities.iter().map(|authority| authority.pem()).collect::<String>());
    }

    /// A new certificate for each member, each file there whole or not at all.
    fn issue(&self, authority: &Authority) {
        let parts = tempfile::tempdir_in(self.directory.path()).unwrap();
        for name in ["a", "b", "c"] {
            let (cert, key) = authority.issue(name, &["127.0.0.1"]).write(parts.path(), name);
            for part in [cert, key] {
                std::fs::rename(&part, self.directory.path().join(part.file_name().unwrap())).unwrap();
            }
        }
    }

    /// Three members that take nobody without a certificate.
    fn members(&self, root: &Path, route: &Route) -> Vec<Member> {
        let member = |name: &str| {
            let path = |file: &str| self.directory.path().join(file).display().to_string();
            let side = |prefix: &str, crl: &str| {
                [
                    format!("--{prefix}cert-file={}", path(&format!("{name}.crt"))),
                    format!("--{prefix}key-file={}", path(&format!("{name}.key"))),
                    format!("--{prefix}trusted-ca-file={}", path("ca.crt")),
                    format!("--{prefix}client-cert-auth=true"),
                    format!("--{crl}-crl-file={}", path("crl")),
                ]
            };
            let flags = [side("", "client"), side("peer-", "peer")].concat();
            let mut member = Member::at(root, name, "https", "https").with(&flags);
            member.route = route.clone();
            member
        };
        ["a", "b", "c"].map(member).into()
    }
}

#[tokio::test]
async fn with_certificates_nobody_else_is_let_in_and_all_of_them_can_be_replaced_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new();
    files.trust(&[&old]);
    files.issue(&old);
    let revoked = old.issue("b", &["127.0.0.1"]);
    files.write("crl", &old.revoke(&[&revoked]).0);
    let route = |authority: &Authority| Route::tls(&[&old, &new], Some(&authority.issue("root", &[])));
    let old_route = route(&old);
    let mut members = files.members(directory.path(), &old_route);
    processes::start_all(&mut members).await;

    let peer_url = &members[0].peer_url;
    assert_eq!(ask_peer(&old_route, peer_url).await.unwrap().members.len(), 3, "with a certificate");
    let shows = |leaf: &Leaf| Route::tls(&[&old], Some(leaf));
    let refused = [
        ("nobody", Route::tls(&[&old], None)),
        ("a stranger", shows(&Authority::new("theirs").issue("b", &["127.0.0.1"]))),
        ("one whose time is over", shows(&old.issue_expired("b", &["127.0.0.1"]))),
        ("one that is revoked", shows(&revoked)),
        ("one in clear", Route::default()),
    ];
    for (who, route) in &refused {
        assert!(ask_peer(route, peer_url).await.is_err(), "a peer: {who}");
        assert!(Client::by(route, &members).get(0, "x").await.is_err(), "a client: {who}");
    }

    // One writer keeps its connections, the other one makes new ones for every write.
    let steady = Writer::start(Client::of(&members), "steady/");
    let renewing = Renewing::start(&members, &old_route);
    renewing.writes(10).await;
    files.trust(&[&old, &new]);
    renewing.writes(10).await;
    files.issue(&new);
    renewing.writes(10).await;
    let new_route = route(&new);
    renewing.turn_to(&new_route);
    renewing.writes(10).await;
    files.trust(&[&new]);
    renewing.writes(10).await;
    let by_old = Client::by(&old_route, &members);
    assert!(by_old.get(0, "x").await.is_err(), "the old certificate");
    let steadily_written = steady.stop().await;
    assert_eq!(steadily_written.attempts_max, 1);
    let mut acknowledged = renewing.stop().await;
    acknowledged.extend(steadily_written.acknowledged);

    // Restarted, members make all their connections anew.
    for member in &mut members {
        member.route = new_route.clone();
        member.stop().await;
        member.restart();
        member.ready().await;
    }
    assert_same(&members, &acknowledged).await;
}

#[tokio::test]
async fn peers_with_certificates_that_they_made_themselves_form_a_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let auto = ["--peer-auto-tls".to_owned()];
    let mut members: Vec<_> =
        ["a", "b", "c"].iter().map(|name| Member::at(directory.path(), name, "http", "https").with(&auto)).collect();
    processes::start_all(&mut members).await;
    assert!(ask_peer(&Route::default(), &members[0].peer_url).await.is_err(), "in clear");
    let client = Client::of(&members);
    client.put("k", "v").await;
    members[1].stop().await;
    members[1].restart();
    members[1].ready().await;
    assert_same(&members, &[("k".to_owned(), "v".to_owned())].into()).await;
}

/// Runs a program that must succeed; what it prints.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out
}

fn endpoints(members: &[Member]) -> String {
    members.iter().map(|member| member.client_url.as_str()).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn etcdctl_sees_and_changes_a_cluster() {
    let Some(etcdctl) = processes::tool("etcdctl") else { return skip("there is no etcdctl") };
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut members = start_three(root).await;
    let all = endpoints(&members);
    let ctl = |endpoints: &str, args: &[&str]| {
        run(Command::new(&etcdctl).env_clear().args(["--endpoints", endpoints, "--command-timeout", "20s"]).args(args))
    };
    let json = |endpoints: &str, args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&ctl(endpoints, &[args, &["-w", "json"]].concat())).unwrap()
    };
    assert_eq!(ctl(&all, &["put", "k", "v"]), "OK\n");

    let leading = leader(&members).await;
    let statuses = json(&all, &["endpoint", "status"]);
    let id = |place: usize| statuses[place]["Status"]["header"]["member_id"].as_u64().unwrap();
    for place in 0..3 {
        assert_eq!(statuses[place]["Status"]["leader"].as_u64().unwrap(), id(leading));
    }
    let following = (leading + 1) % 3;
    let to = format!("{:x}", id(following));
    let moved = ctl(&all, &["move-leader", &to]);
    assert_eq!(moved, format!("Leadership transferred from {:x} to {to}\n", id(leading)));
    assert_eq!(leader(&members).await, following);

    let hashes = json(&members[0].client_url, &["endpoint", "hashkv", "--cluster"]);
    let hashes: Vec<_> = hashes.as_array().unwrap().iter().map(|one| &one["HashKV"]["hash"]).collect();
    assert!(hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0] && hash.is_u64()), "{hashes:?}");
    assert_eq!(ctl(&all, &["alarm", "list"]), "");

    let mut learner = Member::new(root, "d");
    let urls = format!("--peer-urls={}", learner.peer_url);
    let added = ctl(&all, &["member", "add", "d", &urls, "--learner"]);
    let cluster = setting(&added, "ETCD_INITIAL_CLUSTER");
    let state = setting(&added, "ETCD_INITIAL_CLUSTER_STATE");
    assert_eq!(state, "existing", "{added}");
    let named: BTreeSet<_> = cluster.split(',').map(str::to_owned).collect();
    let expected = initial_cluster(members.iter().chain([&learner]));
    assert_eq!(named, expected.split(',').map(str::to_owned).collect());
    learner.start(&cluster, &state);
    learner.ready().await;
    let id = format!("{:x}", learner.client().status(0).await.unwrap().header.unwrap().member_id);
    assert!(added.starts_with(&format!("Member {id:>16} added as learner to cluster")), "{added}");
    until("the promotion", || async {
        let promoted =
            Command::new(&etcdctl).env_clear().args(["--endpoints", &all, "member", "promote", &id]).output().unwrap();
        let text = String::from_utf8_lossy(&promoted.stderr);
        assert!(promoted.status.success() || text.contains("in sync with leader"), "{text}");
        promoted.status.success()
    })
    .await;
    let list = ctl(&all, &["member", "list"]);
    let line = format!("{id}, started, d, {}, {}, false\n", learner.peer_url, learner.client_url);
    assert!(list.contains(&line), "{list}");
    members.push(learner);

    // Under another name of the same address it is reached as well.
    let other = members[3].peer_url.replace("127.0.0.1", "localhost");
    ctl(&all, &["member", "update", &id, &format!("--peer-urls={other}")]);
    assert!(ctl(&all, &["member", "list"]).contains(&format!("{id}, started, d, {other}, ")));
    assert_eq!(ctl(&members[3].client_url, &["put", "after", "update"]), "OK\n");
    assert_same(&members, &[("after".to_owned(), "update".to_owned())].into()).await;

    let removed = ctl(&all, &["member", "remove", &id]);
    assert!(removed.starts_with(&format!("Member {id:>16} removed from cluster")), "{removed}");
    let (code, log) = members.pop().unwrap().ended().await;
    assert_eq!(code, Some(1), "{log}");
}

/// A setting that etcdctl prints for the new member.
fn setting(text: &str, name: &str) -> String {
    let prefix = format!("{name}=\"");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.unwrap_or_else(|| panic!("{text}")).trim_end_matches('"').to_owned()
}

#[tokio::test]
async fn a_snapshot_of_three_members_becomes_three_new_members() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let members = start_three(root).await;
    let client = Client::of(&members);
    let mut acknowledged = BTreeMap::new();
    for number in 0..50 {
        let (key, value) = (format!("k{number:02}"), number.to_string());
        client.put(&key, &value).await;
        acknowledged.insert(key, value);
    }
    let (_, revision) = client.all(1).await.unwrap();
    let file = root.join("backup.db");
    let (program, endpoints) = match processes::tool("etcdctl") {
        Some(etcdctl) => (etcdctl, &members[1].client_url),
        None => (KELSON.into(), &members[1].client_url),
    };
    run(Command::new(program).env_clear().args(["snapshot", "save"]).arg(&file).args(["--endpoints", endpoints]));
    drop(members);

    let new_root = root.join("new");
    std::fs::create_dir(&new_root).unwrap();
    let mut members: Vec<_> = ["x", "y", "z"].iter().map(|name| Member::new(&new_root, name)).collect();
    let cluster = initial_cluster(&members);
    for member in &members {
        run(Command::new(KELSON)
            .env_clear()
            .args(["snapshot", "restore"])
            .arg(&file)
            .args(["--name", &member.name, "--initial-cluster", &cluster])
            .args(["--initial-advertise-peer-urls", &member.peer_url, "--data-dir"])
            .arg(&member.data));
    }
    for member in &mut members {
        member.start(&cluster, "new");
    }
    for member in &mut members {
        member.ready().await;
    }
    let client = Client::of(&members);
    for place in 0..3 {
        assert_eq!(client.all(place).await.unwrap(), (acknowledged.clone(), revision));
    }
    client.put("after", "restore").await;
    acknowledged.insert("after".to_owned(), "restore".to_owned());
    assert_same(&members, &acknowledged).await;
    let mut names: Vec<_> = client.members().await.unwrap().into_iter().map(|member| member.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["x", "y", "z"]);
    for member in &mut members {
        member.stop().await;
    }
    for member in &mut members {
        member.restart();
    }
    for member in &mut members {
        member.ready().await;
    }
    assert_same(&members, &acknowledged).await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_answers_nothing_old_and_loses_nothing() {
    let network = match Network::new(3) {
        Ok(network) => network,
        Err(reason) => return skip(&format!("no network namespaces: {reason}")),
    };
    let directory = tempfile::tempdir().unwrap();
    let member = |(place, name): (usize, &&str)| {
        Member::within(directory.path(), name, network.name(place), &Network::address(place))
    };
    let mut members: Vec<_> = ["a", "b", "c"].iter().enumerate().map(member).collect();
    processes::start_all(&mut members).await;
    let everybody = Client::of(&members);
    everybody.put("k", "before").await;
    let writer = Writer::start(Client::of(&members), "w/");
    writer.writes(50).await;

    let place = leader(&members).await;
    let at_old = members[place].client();
    network.cut(place);
    let rest: Vec<_> = members.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, m)| m).collect();
    Client::new(&rest).put("k", "after").await;
    let mut kv = at_old.kv(0);
    let (read, put) = tokio::join!(at_old.get(0, "k"), kv.put(common::put("lost", "v")));
    for status in [read.unwrap_err(), put.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    let serializable = pb::RangeRequest { serializable: true, ..common::range("k", "") };
    let old = at_old.kv(0).range(serializable).await.unwrap().into_inner();
    assert_eq!(old.kvs[0].value(), b"before");
    writer.writes(50).await;

    network.heal(place);
    until("the old leader follows", || async { at_old.get(0, "k").await.is_ok() }).await;
    assert_eq!(at_old.get(0, "k").await.unwrap().as_deref(), Some("after"));
    writer.writes(20).await;
    assert_same(&members, &writer.stop().await.acknowledged).await;
    drop(members);
}
