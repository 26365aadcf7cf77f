//! What an exchange knows of its client's connection.

use std::net::{IpAddr, Ipv4Addr};

use http::StatusCode;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;

use crate::admit::head::Received;

use crate::edge::deadlines::{DeadlineStream, Phase};

/// Says what the connection waits for next.
pub(super) fn set_phase(session: &Session, phase: Phase) {
    let stream = session.stream();
    if let Some(guarded) = stream.and_then(|stream| stream.as_any().downcast_ref::<DeadlineStream>()) {
        guarded.phase().set(phase);
    }
}

/// Who is at the other end of the connection.
pub(super) fn peer_address(session: &Session) -> IpAddr {
    let inet = session.client_addr().and_then(|address| address.as_inet()).map(std::net::SocketAddr::ip);
    inet.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
}

/// A head as it came. `raw` is the head over HTTP/1.1, byte for byte.
pub(super) fn received<'s>(session: &'s Session, raw: Option<&'s [u8]>) -> Received<'s> {
    let request = session.req_header();
    Received { parts: request, target: request.raw_path(), raw }
}

/// Whether a final answer has begun. An upgrade is one too: what is written after it would be taken
/// for data.
pub(super) fn has_begun(session: &Session) -> bool {
    let is_final = |r: &ResponseHeader| !r.status.is_informational() || r.status == StatusCode::SWITCHING_PROTOCOLS;
    session.response_written().is_some_and(is_final)
}
