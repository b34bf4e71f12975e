//! Where members live: in network namespaces of their own, or all on 127.0.0.0/8.

use std::io;

use super::space::Spaces;
use super::traffic::Traffic;

/// The port for clients, and the next one for peers, where each member has an address of its own.
const CLIENT_PORT: u16 = 2379;

/// The cluster's network.
pub enum Place {
    /// One namespace for each member, on a bridge in ours.
    Spaces(Spaces),
}

impl Place {
    /// Namespaces, when this process has been put into one by [`super::space::enter`].
    pub fn new(members: u32) -> io::Result<Self> {
        Ok(Self::Spaces(Spaces::new(members)?))
    }

    /// Where clients reach a member.
    pub fn client_url(&self, member: u32) -> String {
        format!("http://{}:{CLIENT_PORT}", super::space::address(member))
    }

    /// Where peers reach it.
    pub fn peer_url(&self, member: u32) -> String {
        format!("http://{}:{}", super::space::address(member), CLIENT_PORT + 1)
    }

    /// Where it listens for peers, if something of ours stands between.
    pub fn peer_listen_url(&self, _member: u32) -> Option<String> {
        None
    }

    /// The command that brings a process to its member's place.
    pub fn inside(&self, member: u32) -> Vec<String> {
        match self {
            Self::Spaces(spaces) => spaces.inside(member),
        }
    }

    /// A member runs as this process now.
    pub fn runs(&self, _member: u32, _pid: u32) {}

    /// What cuts and heals.
    pub fn traffic(&self) -> Traffic {
        match self {
            Self::Spaces(_) => Traffic::Bridge,
        }
    }
}
