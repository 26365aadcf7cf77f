//! What `tollgate explain` says is what the gateway does: every case is asked of both, over HTTP/1.1 and
//! HTTP/2.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use gateway::base::clock::{Clock as _, System, rfc3339};
use http::Request;
use serde_json::Value;
use tests::{Connection, Http2, Key, StoreKind, World, on_both_stores, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

/// Who asks.
#[derive(Clone, Copy)]
enum Caller<'a> {
    Nobody,
    Key(&'a Key),
    /// A secret that the store does not have.
    Stranger(&'a str),
}

/// One request, and how the gateway answers it.
struct Case<'a> {
    caller: Caller<'a>,
    method: &'a str,
    url: &'a str,
    origin: Option<&'a str>,
    status: u16,
    code: Option<&'a str>,
}

fn refused<'a>(caller: Caller<'a>, method: &'a str, url: &'a str, status: u16, code: &'a str) -> Case<'a> {
    Case { caller, method, url, origin: None, status, code: Some(code) }
}

fn answered<'a>(caller: Caller<'a>, method: &'a str, url: &'a str, status: u16) -> Case<'a> {
    Case { caller, method, url, origin: None, status, code: None }
}

impl<'a> Case<'a> {
    fn from(self, origin: &'a str) -> Self {
        Case { origin: Some(origin), ..self }
    }

    fn secret(&self) -> Option<&'a str> {
        match self.caller {
            Caller::Nobody => None,
            Caller::Key(key) => Some(&key.secret),
            Caller::Stranger(secret) => Some(secret),
        }
    }

    fn explained(&self, world: &World) -> Value {
        let mut arguments = vec!["--json", "explain"];
        match self.caller {
            Caller::Nobody => {}
            Caller::Key(key) => arguments.extend(["--key", &key.id]),
            Caller::Stranger(_) => arguments.extend(["--key", "-"]),
        }
        arguments.extend(self.origin.iter().flat_map(|origin| ["--origin", *origin]));
        arguments.extend([self.method, self.url]);
        let out = world.tollgate_with(&arguments, self.secret().unwrap_or_default());
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Host, target and fields of the request.
    fn head(&self) -> (&'a str, &'a str, Vec<(&'static str, String)>) {
        let rest = self.url.split_once("://").unwrap().1;
        let (host, target) = rest.split_at(rest.find('/').unwrap());
        let mut fields = Vec::new();
        fields.extend(self.secret().map(|secret| ("authorization", format!("Bearer {secret}"))));
        if let Some(origin) = self.origin {
            fields.push(("origin", origin.to_owned()));
            if self.method == "OPTIONS" {
                fields.push(("access-control-request-method", "GET".to_owned()));
            }
        }
        (host, target, fields)
    }

    /// Status and body over HTTP/1.1.
    fn over_http1(&self, world: &World) -> (u16, Value) {
        let (host, target, fields) = self.head();
        let mut all = vec![("host", host)];
        all.extend(fields.iter().map(|(name, value)| (*name, value.as_str())));
        let mut connection = match self.url.starts_with("https://") {
            true => world.gateway().connect(HOST),
            false => Connection::plain(world.gateway().plain),
        };
        let answer = connection.ask(self.method, target, &all, b"");
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// The same over HTTP/2.
    fn over_http2(&self, port: u16) -> (u16, Value) {
        let (host, target, fields) = self.head();
        let mut request = Request::builder().method(self.method).uri(format!("https://{host}{target}"));
        for (name, value) in fields {
            request = request.header(name, value);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async { Http2::connect(port).await.ask(request.body(()).unwrap()).await });
        let answer = answer.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    fn check(&self, world: &World, port: u16) {
        let what = format!("{} {}", self.method, self.url.get(..80).unwrap_or(self.url));
        let explained = self.explained(world);
        let said = (explained["status"].as_u64(), explained["code"].as_str());
        assert_eq!(said, (Some(self.status.into()), self.code), "{what}: {explained}");
        let (status, body) = self.over_http1(world);
        assert_eq!((status, body["code"].as_str()), (self.status, self.code), "{what} over HTTP/1.1: {body}");
        if self.url.starts_with("https://") {
            let (status, body) = self.over_http2(port);
            assert_eq!((status, body["code"].as_str()), (self.status, self.code), "{what} over HTTP/2: {body}");
        }
    }
}

/// Keys in every state that a request can be refused for.
struct Keys {
    good: Key,
    write: Key,
    revoked: Key,
    suspended: Key,
    expired: Key,
    elsewhere: Key,
    other_origin: Key,
    spent: Key,
}

impl Keys {
    fn of(world: &World) -> Self {
        let read = |rest: &[&str]| world.key("iconflow", "read", &[&["--scopes", "packs:read"], rest].concat());
        let keys = Keys {
            good: read(&[]),
            write: world.key("iconflow", "write", &["--scopes", "packs:write"]),
            revoked: read(&[]),
            suspended: read(&[]),
            expired: read(&["--expires", &rfc3339(System.now_ms() + 2_000)]),
            elsewhere: read(&["--allow-address", "10.0.0.0/8"]),
            other_origin: read(&["--allow-origin", "https://app.example"]),
            spent: read(&["--limit", "1/day"]),
        };
        world.json(&["keys", "revoke", &keys.revoked.id]);
        world.json(&["keys", "suspend", &keys.suspended.id]);
        assert_eq!(world.gateway().get(PACKS, &keys.spent).status, 200);
        until("it has expired", || world.gateway().get(PACKS, &keys.expired).status == 401);
        keys
    }
}

fn every_case_is_explained_as_it_is_answered(kind: StoreKind) {
    let mut world = World::start(kind);
    world.organization("acme");
    let port = world.add_trusted_listener();
    let keys = Keys::of(&world);
    let good = Caller::Key(&keys.good);
    let (me, meta) =
        ("https://api.iconflow.dev/.tollgate/self", "https://api.iconflow.dev/.well-known/oauth-protected-resource");
    let long = format!("{PACKS}/{}", "x".repeat(9_000));
    let long_query = format!("{PACKS}?{}", "x".repeat(9_000));
    let (known, _) = keys.good.secret.split_at(keys.good.secret.len() - 7);
    let stranger = format!("{known}zzzzzzz");
    for case in [
        answered(good, "GET", PACKS, 200),
        answered(good, "HEAD", PACKS, 200),
        refused(Caller::Nobody, "GET", PACKS, 401, "missing_credential"),
        refused(Caller::Nobody, "GET", "https://api.iconflow.dev/nothing", 401, "missing_credential"),
        refused(Caller::Stranger(&stranger), "GET", PACKS, 401, "invalid_credential"),
        refused(Caller::Stranger("nonsense"), "GET", PACKS, 401, "invalid_credential"),
        refused(good, "GET", "https://api.icodrip.com/v1/affiliates", 401, "invalid_credential"),
        refused(Caller::Key(&keys.expired), "GET", PACKS, 401, "expired_credential"),
        refused(Caller::Key(&keys.revoked), "GET", PACKS, 401, "revoked_credential"),
        refused(Caller::Key(&keys.suspended), "GET", PACKS, 401, "suspended_credential"),
        refused(good, "GET", "https://api.iconflow.dev/v2/../x", 400, "invalid_request"),
        refused(good, "GET", "https://api.iconflow.dev/v2/packs/a%2Fb", 400, "invalid_request"),
        refused(good, "GET", "https://api.iconflow.dev/v2/packs/a%3Bb", 400, "invalid_request"),
        refused(good, "POST", PACKS, 403, "insufficient_scope"),
        refused(good, "GET", "http://api.iconflow.dev/v2/packs", 403, "https_required"),
        refused(Caller::Key(&keys.elsewhere), "GET", PACKS, 403, "address_not_allowed"),
        refused(Caller::Key(&keys.other_origin), "GET", PACKS, 403, "origin_not_allowed").from("https://evil.example"),
        answered(Caller::Key(&keys.other_origin), "GET", PACKS, 200).from("https://app.example"),
        refused(Caller::Key(&keys.write), "GET", PACKS, 403, "server_only_key").from("https://app.example"),
        refused(good, "GET", "https://api.iconflow.dev/v2/nothing", 404, "no_such_route"),
        refused(good, "GET", "https://nobody.example/v2/packs", 404, "no_such_route"),
        refused(good, "PROPFIND", "https://api.iconflow.dev/v2/downloads", 405, "method_not_allowed"),
        refused(good, "CONNECT", "https://nobody.example/", 405, "method_not_allowed"),
        refused(good, "TRACE", PACKS, 405, "method_not_allowed"),
        refused(good, "GET", &long, 414, "too_large"),
        refused(good, "GET", &long_query, 414, "too_large"),
        refused(Caller::Key(&keys.spent), "GET", PACKS, 429, "limit_exceeded"),
        // What is no route: the caller's own rights, the metadata, a preflight, the issuer's host.
        answered(good, "GET", me, 200),
        answered(Caller::Key(&keys.spent), "GET", me, 200),
        refused(good, "POST", me, 404, "no_such_route"),
        refused(Caller::Nobody, "GET", me, 401, "missing_credential"),
        refused(Caller::Key(&keys.revoked), "GET", me, 401, "revoked_credential"),
        refused(Caller::Key(&keys.elsewhere), "GET", me, 403, "address_not_allowed"),
        refused(Caller::Key(&keys.write), "GET", me, 403, "server_only_key").from("https://app.example"),
        answered(Caller::Nobody, "GET", meta, 200),
        answered(Caller::Key(&keys.revoked), "GET", meta, 200),
        refused(Caller::Nobody, "POST", meta, 401, "missing_credential"),
        answered(Caller::Nobody, "OPTIONS", PACKS, 204).from("https://app.example"),
        answered(Caller::Nobody, "OPTIONS", "https://api.iconflow.dev/nothing", 204).from("https://app.example"),
        answered(Caller::Nobody, "GET", "https://auth.iconflow.dev/oauth/jwks", 200),
        answered(good, "GET", "https://auth.iconflow.dev/oauth/jwks", 200),
        refused(good, "GET", "https://auth.iconflow.dev/../x", 400, "invalid_request"),
    ] {
        case.check(&world, port);
    }
    assert_eq!(answered(good, "GET", me, 200).explained(&world)["answered_by"], "gateway");
    assert_eq!(answered(good, "GET", PACKS, 200).explained(&world)["answered_by"], "upstream");
    let issuer = answered(good, "GET", "https://auth.iconflow.dev/oauth/jwks", 200);
    assert_eq!(issuer.explained(&world)["answered_by"], "issuer");
}

on_both_stores![every_case_is_explained_as_it_is_answered];
