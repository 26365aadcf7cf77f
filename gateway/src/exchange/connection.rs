//! What an exchange knows of its client's connection.

use std::net::{IpAddr, Ipv4Addr};

use pingora::protocols::http::ServerSession as Session;

use crate::edge::deadlines::{Guarded, Phase};

/// Says what the connection waits for next.
pub(super) fn set_phase(session: &Session, phase: Phase) {
    let stream = session.stream();
    if let Some(guarded) = stream.and_then(|stream| stream.as_any().downcast_ref::<Guarded>()) {
        guarded.phase().set(phase);
    }
}

/// Who is at the other end of the connection.
pub(super) fn peer_address(session: &Session) -> IpAddr {
    let inet = session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip);
    inet.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
}
