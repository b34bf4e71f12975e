//! Links for machines without namespaces: members on 127.0.0.0/8, and a TCP proxy of ours before each of their ports.
//!
//! Everybody connects to a proxy at 127.0.1.N, which knows by the kernel's table of sockets whose process is at the other
//! end, and passes bytes on to the member at 127.0.2.N. A cut holds bytes and new connections back, in one direction if
//! need be; TCP hides loss, so what would be lost is late instead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::traffic::Party;

/// Bytes passed on at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// Between two looks whether a cut is healed.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a lost packet costs: TCP's shortest time to send again.
const RESEND: Duration = Duration::from_millis(200);

/// What is wrong with the links now, and whom it has met.
#[derive(Default)]
struct State {
    cuts: BTreeSet<(Party, Party)>,
    lossy: BTreeMap<Party, u64>,
    slow: BTreeMap<Party, Duration>,
    pids: BTreeMap<u32, u32>,
    held: u64,
    chunks: u64,
}

/// The links of a cluster.
#[derive(Clone, Default)]
pub struct Links(Arc<Mutex<State>>);

impl Links {
    /// Nothing goes from the one to the other, for each of these pairs.
    pub fn cut(&self, pairs: &[(Party, Party)]) {
        self.0.lock().cuts = pairs.iter().copied().collect();
    }

    /// This share of what these members send and receive is late, in percent.
    pub fn lose(&self, members: &[u32], percent: u64) {
        self.0.lock().lossy = members.iter().map(|member| (Party::Member(*member), percent)).collect();
    }

    /// All that these members send and receive is late.
    pub fn slow(&self, members: &[u32], delay: Duration) {
        self.0.lock().slow = members.iter().map(|member| (Party::Member(*member), delay)).collect();
    }

    /// How much was held back since the last time that everything was healed.
    pub fn held(&self) -> u64 {
        self.0.lock().held
    }

    /// Everything is as it should be; how much was held back.
    pub fn heal(&self) -> u64 {
        let state = &mut *self.0.lock();
        state.cuts.clear();
        state.lossy.clear();
        state.slow.clear();
        std::mem::take(&mut state.held)
    }

    /// A member's process.
    pub fn runs(&self, member: u32, pid: u32) {
        self.0.lock().pids.insert(member, pid);
    }

    fn is_cut(&self, from: Party, to: Party) -> bool {
        self.0.lock().cuts.contains(&(from, to))
    }

    /// Waits while the link is cut; counts once.
    async fn pass(&self, from: Party, to: Party) {
        if self.is_cut(from, to) {
            self.0.lock().held += 1;
            while self.is_cut(from, to) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// How late a chunk is.
    fn lateness(&self, from: Party, to: Party) -> Duration {
        let state = &mut *self.0.lock();
        state.chunks += 1;
        let of = |late: &BTreeMap<Party, Duration>| late.get(&from).or(late.get(&to)).copied().unwrap_or_default();
        let percent = state.lossy.get(&from).or(state.lossy.get(&to)).copied().unwrap_or(0);
        // A fixed sieve instead of chance: 37 has no common divisor with 100.
        let lost = if state.chunks * 37 % 100 < percent { RESEND } else { Duration::ZERO };
        let late = of(&state.slow) + lost;
        state.held += u64::from(late > Duration::ZERO);
        late
    }

    /// Whose process has the other end of a connection; nobody's of ours is a client's.
    fn owner(&self, end: SocketAddr) -> Party {
        let SocketAddr::V4(end) = end else { return Party::Clients };
        let Some(inode) = inode_of(end) else { return Party::Clients };
        let socket = format!("socket:[{inode}]");
        let pids = self.0.lock().pids.clone();
        let has = |pid: &u32| {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|to| to.as_os_str() == socket.as_str())
        };
        pids.iter().find(|(_, pid)| has(pid)).map_or(Party::Clients, |(member, _)| Party::Member(*member))
    }

    /// Passes connections on for ever.
    pub fn serve(
        &self,
        listener: std::net::TcpListener,
        member: u32,
        target: SocketAddr,
    ) -> std::io::Result<AbortHandle> {
        listener.set_nonblocking(true)?;
        let (listener, links) = (TcpListener::from_std(listener)?, self.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            // A failed accept is the other side's affair.
            loop {
                if let Ok((stream, from)) = listener.accept().await {
                    let links = links.clone();
                    connections.spawn(async move { links.connect(stream, from, member, target).await });
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(task.abort_handle())
    }

    async fn connect(&self, near: TcpStream, from: SocketAddr, member: u32, target: SocketAddr) {
        let (from, to) = (self.owner(from), Party::Member(member));
        self.pass(from, to).await;
        self.pass(to, from).await;
        // Nobody listens: dropping the near end says so.
        let Ok(far) = TcpStream::connect(target).await else { return };
        if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
            return;
        }
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::select! {
            () = self.copy(near_in, far_out, from, to) => {}
            () = self.copy(far_in, near_out, to, from) => {}
        }
    }

    /// Passes bytes on until either end goes; then both do.
    async fn copy(&self, mut source: OwnedReadHalf, mut target: OwnedWriteHalf, from: Party, to: Party) {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let Ok(read @ 1..) = source.read(&mut chunk).await else { return };
            self.pass(from, to).await;
            tokio::time::sleep(self.lateness(from, to)).await;
            if target.write_all(&chunk[..read]).await.is_err() {
                return;
            }
        }
    }
}

/// The kernel's number of the socket with this local address.
fn inode_of(address: SocketAddrV4) -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").ok()?;
    let local = format!("{:08X}:{:04X}", u32::from(*address.ip()).swap_bytes(), address.port());
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .into_iter()
        .find(|fields| fields.get(1) == Some(&local.as_str()))
        .and_then(|fields| fields.get(9).map(|inode| (*inode).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_holds_bytes_back_until_it_is_healed() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let links = Links::default();
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = proxy.local_addr().unwrap();
        let task = links.serve(proxy, 0, server.local_addr().unwrap()).unwrap();
        let mut near = TcpStream::connect(address).await.unwrap();
        near.write_all(b"a").await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');
        links.cut(&[(Party::Clients, Party::Member(0))]);
        near.write_all(b"b").await.unwrap();
        far.write_all(b"c").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'c', "the other direction is open");
        while links.held() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(links.heal(), 1);
        assert_eq!(far.read_u8().await.unwrap(), b'b');
        task.abort();
    }

    #[tokio::test]
    async fn a_connection_is_known_by_its_process() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        let links = Links::default();
        let end = near.local_addr().unwrap();
        assert_eq!(links.owner(end), Party::Clients);
        links.runs(4, std::process::id());
        assert_eq!(links.owner(end), Party::Member(4));
    }
}
