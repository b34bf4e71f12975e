//! Where members live: in network namespaces of their own, or all on 127.0.0.0/8 behind proxies.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use tokio::task::AbortHandle;

use super::proxy::Links;
use super::space::{self, Spaces};
use super::traffic::Traffic;

/// The port for clients, and the next one for peers, where each member has an address of its own.
const CLIENT_PORT: u16 = 2379;
/// Where proxies look for a free pair of ports.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The cluster's network.
pub enum Place {
    /// One namespace for each member, on a bridge in ours.
    Spaces(Spaces),
    /// Proxies at 127.0.1.N, members at 127.0.2.N, all with this port and the next.
    Loopback(u16, Links, Vec<AbortHandle>),
}

impl Place {
    /// Namespaces, when this process has been put into one by [`space::enter`]; else proxies, on the current runtime.
    pub fn new(members: u32) -> io::Result<Self> {
        if space::moved() {
            return Ok(Self::Spaces(Spaces::new(members)?));
        }
        let links = Links::default();
        let mut pairs = PORTS.step_by(2).skip(std::process::id() as usize % 1000);
        let (port, listeners) = loop {
            let port = pairs.next().ok_or_else(|| io::Error::other("no free ports"))?;
            let listen = |(member, port): (u32, u16)| TcpListener::bind((proxy_address(member), port));
            let all = (0..members).flat_map(|member| [(member, port), (member, port + 1)]);
            if let Ok(listeners) = all.map(listen).collect::<io::Result<Vec<_>>>() {
                break (port, listeners);
            }
        };
        let mut tasks = Vec::new();
        for (number, listener) in (0u32..).zip(listeners) {
            let target = format!("{}:{}", member_address(number / 2), port + (number % 2) as u16);
            let target: SocketAddr = target.parse().map_err(io::Error::other)?;
            tasks.push(links.serve(listener, number / 2, target)?);
        }
        Ok(Self::Loopback(port, links, tasks))
    }

    fn reach(&self, member: u32, offset: u16) -> String {
        match self {
            Self::Spaces(_) => format!("{}:{}", space::address(member), CLIENT_PORT + offset),
            Self::Loopback(port, ..) => format!("{}:{}", proxy_address(member), port + offset),
        }
    }

    /// Where clients reach a member, as host and port.
    pub fn for_clients(&self, member: u32) -> String {
        self.reach(member, 0)
    }

    /// Where peers reach it.
    pub fn for_peers(&self, member: u32) -> String {
        self.reach(member, 1)
    }

    /// Where it listens, for clients and peers, if something of ours stands between.
    pub fn listens(&self, member: u32) -> Option<(String, String)> {
        match self {
            Self::Spaces(_) => None,
            Self::Loopback(port, ..) => {
                let at = |offset: u16| format!("{}:{}", member_address(member), port + offset);
                Some((at(0), at(1)))
            }
        }
    }

    /// Every address that a member is reached at, or that others see it come from: what its certificate names.
    pub fn addresses(&self, member: u32) -> Vec<IpAddr> {
        let all = match self {
            Self::Spaces(_) => vec![space::address(member)],
            // Peers see the proxies' own address, and etcd compares it with their certificates.
            Self::Loopback(..) => vec![proxy_address(member), member_address(member), "127.0.0.1".into()],
        };
        all.iter().map(|address| address.parse().expect("it is written so here")).collect()
    }

    /// The command that brings a process to its member's place.
    pub fn inside(&self, member: u32) -> Vec<String> {
        match self {
            Self::Spaces(spaces) => spaces.inside(member),
            Self::Loopback(..) => Vec::new(),
        }
    }

    /// A member runs as this process now.
    pub fn runs(&self, member: u32, pid: u32) {
        if let Self::Loopback(_, links, _) = self {
            links.runs(member, pid);
        }
    }

    /// What cuts and heals.
    pub fn traffic(&self) -> Traffic {
        match self {
            Self::Spaces(_) => Traffic::Bridge,
            Self::Loopback(_, links, _) => Traffic::Proxies(links.clone()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Loopback(_, _, tasks) = self {
            tasks.iter().for_each(AbortHandle::abort);
        }
    }
}

fn proxy_address(member: u32) -> String {
    format!("127.0.1.{}", member + 1)
}

fn member_address(member: u32) -> String {
    format!("127.0.2.{}", member + 1)
}
