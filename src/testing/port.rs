//! A port of 127.0.0.1 that stays the same member's while the member is down.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

/// Holds a port without listening on it: the member may listen there, connections are refused while it does not, and the
/// kernel gives the port to nobody who asks for any.
pub struct Port {
    _holder: Socket,
    number: u16,
}

impl Port {
    /// A free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve() -> io::Result<Self> {
        let holder = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        holder.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        // Two sockets may share a port if both say so and only one of them listens.
        holder.set_reuse_address(true)?;
        let address = holder.local_addr()?.as_socket().ok_or_else(|| io::Error::other("an address without a port"))?;
        Ok(Self { _holder: holder, number: address.port() })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
