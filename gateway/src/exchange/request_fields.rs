//! What the upstream gets to see: our fields, none of the client's copies of them, no credential.
//!
//! The request is made anew. It knows no connection.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{COOKIE, TE};
use policy::Identity;
use policy::fields::{Treatment, treatment, treatment_of_plain};

use crate::base::field_names as names;
use crate::base::field_sink::{FieldSink, FieldSource, Indexing};
use crate::base::message::{Fields, RequestHead, Version};

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct ClientInfo<'a> {
    /// The caller's address.
    pub address: IpAddr,
    /// The host as the client named it.
    pub host: &'a str,
    /// Whether it came over TLS, to us or to whoever is trusted in front of us.
    pub is_https: bool,
    /// The request's id.
    pub request_id: &'a str,
}

/// The fields of a request for the upstream: the client's without those of its connection and those that only we
/// write, and ours.
#[derive(Clone, Copy)]
pub struct ForwardedFields<'a> {
    /// The head as the client sent it.
    pub head: RequestHead<'a>,
    /// Whose request it is.
    pub identity: Identity<'a>,
    /// Where it came from.
    pub client: ClientInfo<'a>,
    /// Whether the backend speaks HTTP/2.
    pub is_http2: bool,
}

impl FieldSource for ForwardedFields<'_> {
    fn put_into(&self, sink: &mut impl FieldSink) {
        let nominations = Nominations::of(self.head.fields);
        let is_crumbled = self.head.version == Version::Http2 && self.head.fields.all("cookie").nth(1).is_some();
        let treatment = if self.head.fields.are_plain() { treatment_of_plain } else { treatment };
        for (name, value) in self.head.fields.iter() {
            let goes_on = match treatment(name) {
                Treatment::Forward => !is_hop_by_hop(name) && !nominations.contain(name),
                Treatment::Drop | Treatment::Refuse => false,
            };
            // The handshake of a stream is ours.
            let is_ours = self.head.is_websocket_stream && name == b"sec-websocket-key";
            if goes_on && !is_ours && !(is_crumbled && name == b"cookie") {
                sink.pass(name, value);
            }
        }
        if is_crumbled {
            self.put_cookies(sink);
        }
        // gRPC wants to see it; nothing else that it can say is for anybody but us.
        if self.is_http2 && self.head.fields.first("te") == Some(b"trailers") {
            sink.put(&TE, b"trailers");
        }
        self.put_ours(sink);
    }
}

impl ForwardedFields<'_> {
    /// Over HTTP/2 a client may send its cookies in several fields; elsewhere they are one (RFC 9113
    /// section 8.2.3).
    fn put_cookies(&self, sink: &mut impl FieldSink) {
        let crumbs: Vec<&[u8]> = self.head.fields.all("cookie").collect();
        sink.pass(COOKIE.as_str().as_bytes(), &crumbs.join(&b"; "[..]));
    }

    /// Ours are put in last: nothing that a client nominates can take them away again. Always all of them, also
    /// empty ones: a field that is absent could be somebody else's.
    fn put_ours(&self, sink: &mut impl FieldSink) {
        let (key, user) = match self.identity {
            Identity::Anonymous => ("", ""),
            Identity::Key(key, _) => (&*key.id, ""),
            Identity::Token(token, _) => ("", &*token.user),
        };
        let organization = self.identity.organization().map_or("", |organization| &*organization.id);
        let environment = match self.identity {
            Identity::Anonymous => "",
            Identity::Key(..) | Identity::Token(..) => self.identity.environment().as_str(),
        };
        sink.put(&names::KEY_ID, key.as_bytes());
        sink.put(&names::ORG, organization.as_bytes());
        sink.put(&names::USER, user.as_bytes());
        sink.write(&names::SCOPES, Indexing::Usual, |value| {
            for (i, scope) in self.identity.effective_scopes().enumerate() {
                value.extend_from_slice(if i > 0 { b" " } else { b"" });
                value.extend_from_slice(scope.as_str().as_bytes());
            }
        });
        sink.put(&names::ENV, environment.as_bytes());
        sink.put(&names::REQUEST_ID, self.client.request_id.as_bytes());
        sink.write(&names::FORWARDED_FOR, Indexing::Usual, |value| write_address(value, self.client.address));
        sink.put(&names::FORWARDED_PROTO, if self.client.is_https { b"https" } else { b"http" });
        sink.put(&names::FORWARDED_HOST, self.client.host.as_bytes());
    }
}

/// An address, without the detours of formatting where it is a short one.
fn write_address(value: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (i, octet) in address.octets().into_iter().enumerate() {
                value.extend_from_slice(if i > 0 { b"." } else { b"" });
                value.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => {
            let mut text = String::new();
            let _ = write!(text, "{address}");
            value.extend_from_slice(text.as_bytes());
        }
    }
}

/// Fields that a `Connection` field calls its own (RFC 9110 section 7.6.1).
#[derive(Clone, Copy)]
pub struct Nominations<'a> {
    fields: Fields<'a>,
    /// Mostly there are none.
    are_any: bool,
}

impl<'a> Nominations<'a> {
    /// Reads the fields of a message.
    pub fn of(fields: Fields<'a>) -> Self {
        let are_any = Self::names(fields).next().is_some();
        Nominations { fields, are_any }
    }

    fn names(fields: Fields<'a>) -> impl Iterator<Item = &'a [u8]> {
        let names = fields.all("connection").flat_map(http1::framing::options);
        names.filter(|name| !name.eq_ignore_ascii_case(b"keep-alive") && !name.eq_ignore_ascii_case(b"close"))
    }

    /// Whether a name in lower case is one of them.
    pub fn contain(&self, name: &[u8]) -> bool {
        self.are_any && Self::names(self.fields).any(|nominated| nominated.eq_ignore_ascii_case(name))
    }
}

/// Fields of one connection, not of the message (RFC 9110 section 7.6.1), those that frame it, and the host, which
/// the upstream is told as its own.
fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"content-length"
            | b"expect"
            | b"host"
            | b"http2-settings"
            | b"keep-alive"
            | b"proxy-authenticate"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
    )
}
