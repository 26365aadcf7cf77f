//! Tokens that must not work: every way of bending one of ours and one of another issuer's, and
//! what holds when an issuer is down. None of it may be a 5xx unless something cannot be known.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::too_many_lines, reason = "one story with its cases")]

use serde_json::{Value, json};
use tests::{AUTH, Gateway, Issuer, Policies, Response, Signer, StoreKind, World, b64, now_s, on_both_stores, part};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";
const AUDIENCE: &str = "https://api.iconflow.dev";
const JO: &str = "jo@example.com";

fn ask(gateway: &Gateway, token: &str) -> Response {
    gateway.ask("GET", PACKS, Some(token), &[])
}

fn is_refused(gateway: &Gateway, what: &str, token: &str) {
    let answer = ask(gateway, token);
    assert!(matches!(answer.status, 400 | 401), "{what}: {answer:?}");
    if answer.status == 401 {
        assert!(answer.field("www-authenticate").unwrap().contains("error=\"invalid_token\""), "{what}");
        assert_eq!(answer.field("cache-control"), Some("no-store"), "{what}");
    }
}

on_both_stores![
    no_bent_token_of_ours_is_believed,
    tokens_of_another_issuer_are_believed_by_its_keys,
    no_bent_token_of_another_issuer_is_believed,
    an_issuer_that_is_down_is_an_outage_and_its_known_keys_serve_on,
    opaque_tokens_are_asked_about,
    nothing_in_a_token_leads_anywhere,
];

fn no_bent_token_of_ours_is_believed(kind: StoreKind) {
    let world = World::start_with(kind, "bounds: { failures_per_minute: 0 }", |policy| policy);
    world.organization("acme");
    world.user(JO);
    let (gateway, app) = (world.gateway(), world.app(&[]));
    let token = app.tokens(gateway, JO).access;
    assert_eq!(ask(gateway, &token).status, 200);
    let bare = token.strip_prefix("iat_").unwrap();
    let parts: Vec<&str> = bare.split('.').collect();
    let (header, claims) = (part(&token, 0), part(&token, 1));
    let kid = header["kid"].as_str().unwrap();
    let (mallory, now) = (Signer::rsa(), now_s());
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let resigned = |claims: &Value| mallory.sign(kid, claims);
    let unsigned = |header: &str, payload: &str| format!("{}.{}.{}", b64(header), b64(payload), parts[2]);
    let cases: Vec<(&str, String)> = vec![
        ("another key under our kid", resigned(&claims)),
        ("another key under its own kid", mallory.sign("mine", &claims)),
        ("longer life", unsigned(&header.to_string(), &with("exp", json!(now + 9_999)).to_string())),
        ("more scope", unsigned(&header.to_string(), &with("scope", json!("packs:read packs:write")).to_string())),
        ("another user", unsigned(&header.to_string(), &with("sub", json!("usr_other")).to_string())),
        ("alg none", format!("{}.{}.", b64(r#"{"alg":"none","typ":"at+jwt"}"#), parts[1])),
        ("alg none with a signature", format!("{}.{}.{}", b64(r#"{"alg":"none","typ":"at+jwt"}"#), parts[1], parts[2])),
        ("alg None", format!("{}.{}.{}", b64(r#"{"alg":"None","typ":"at+jwt"}"#), parts[1], parts[2])),
        (
            "HS256 over the public key",
            format!(
                "{}.{}.{}",
                b64(format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}"}}"#)),
                parts[1],
                b64([7u8; 32])
            ),
        ),
        (
            "RS384",
            format!("{}.{}.{}", b64(format!(r#"{{"alg":"RS384","typ":"at+jwt","kid":"{kid}"}}"#)), parts[1], parts[2]),
        ),
        (
            "PS256",
            format!("{}.{}.{}", b64(format!(r#"{{"alg":"PS256","typ":"at+jwt","kid":"{kid}"}}"#)), parts[1], parts[2]),
        ),
        (
            "typ JWT",
            format!("{}.{}.{}", b64(format!(r#"{{"alg":"RS256","typ":"JWT","kid":"{kid}"}}"#)), parts[1], parts[2]),
        ),
        ("no kid", format!("{}.{}.{}", b64(r#"{"alg":"RS256","typ":"at+jwt"}"#), parts[1], parts[2])),
        (
            "crit",
            format!(
                "{}.{}.{}",
                b64(format!(r#"{{"alg":"RS256","typ":"at+jwt","kid":"{kid}","crit":["x"],"x":1}}"#)),
                parts[1],
                parts[2]
            ),
        ),
        (
            "jwk in the header",
            mallory.sign_text(
                &json!({ "alg": "RS256", "typ": "at+jwt", "kid": kid, "jwk": mallory.jwk(kid) }).to_string(),
                &claims.to_string(),
            ),
        ),
        (
            "duplicate alg",
            format!(
                "{}.{}.{}",
                b64(format!(r#"{{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"{kid}"}}"#)),
                parts[1],
                parts[2]
            ),
        ),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{bare}.x")),
        ("five parts, like encrypted", format!("{bare}.x.y")),
        ("empty payload", format!("{}..{}", parts[0], parts[2])),
        ("signature cut", bare.split_at(bare.len() - 4).0.to_owned()),
        ("signature of zeros", format!("{}.{}.{}", parts[0], parts[1], b64([0u8; 256]))),
        ("signature of ones", format!("{}.{}.{}", parts[0], parts[1], b64([255u8; 256]))),
        ("empty signature bytes", format!("{}.{}.AA", parts[0], parts[1])),
        ("payload a list", format!("{}.{}.{}", parts[0], b64("[]"), parts[2])),
        ("payload no JSON", format!("{}.{}.{}", parts[0], b64("hello"), parts[2])),
        (
            "deep payload",
            format!("{}.{}.{}", parts[0], b64(format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100))), parts[2]),
        ),
        ("padding", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
        ("plus and slash", bare.replace('-', "+").replace('_', "/") + "+"),
        ("nine kilobytes", format!("{}.{}.{}", parts[0], "A".repeat(8_000), parts[2])),
        ("nothing", String::new()),
        ("dots", "..".to_owned()),
        ("twice the prefix", format!("iat_{bare}")),
    ];
    for (what, text) in &cases {
        is_refused(gateway, what, &format!("iat_{text}"));
    }
    is_refused(gateway, "without its prefix", bare);
    is_refused(gateway, "with another prefix", &format!("IAT_{bare}"));
    is_refused(gateway, "as a key", &format!("ifk_live_{bare}"));
    assert_eq!(ask(gateway, &token).status, 200, "after all of that the good one still works");
    // Every single byte of the signature and of the payload counts.
    for at in (0..bare.len()).step_by(23) {
        let mut bent = token.clone().into_bytes();
        let byte = &mut bent[4 + at];
        *byte = if *byte == b'A' { b'B' } else { b'A' };
        is_refused(gateway, &format!("byte {at}"), &String::from_utf8(bent).unwrap());
    }
    assert!(!gateway.output().contains("panicked"), "{}", gateway.output());
}

struct Foreign {
    world: World,
    issuer: Issuer,
    signer: Signer,
}

/// IconFlow with another issuer beside its own.
fn foreign(kind: StoreKind, rest: &str) -> Foreign {
    let issuer = Issuer::start();
    let signer = Signer::rsa();
    issuer.publishes(vec![signer.jwk("k1")]);
    let url = issuer.url();
    let entry = format!(
        "    issuers:\n      - issuer: {url}\n        {}\n        scopes: [\"packs:read\", \"downloads:read\"]\n        plan_claim: tier\n        plans: {{ gold: big }}\n    upstreams:\n",
        rest.replace("URL", &url)
    );
    let edit = move |policy: Policies| {
        let policy = policy.replacen("    upstreams:\n", &entry, 1);
        policy.replace("    default_plan: standard\n", "      big: { per_key: 5000/min }\n    default_plan: standard\n")
    };
    let world =
        World::start_with(kind, "bounds: { failures_per_minute: 0 }", move |policy| policy.in_api("iconflow", &edit));
    std::fs::write(world.gateway().folder.join("secret"), "s3cret\n").unwrap();
    world.organization("acme");
    Foreign { world, issuer, signer }
}

impl Foreign {
    fn claims(&self) -> Value {
        json!({
            "iss": self.issuer.url(), "sub": "alice", "aud": AUDIENCE, "client_id": "their-app",
            "exp": now_s() + 600, "iat": now_s(), "scope": "packs:read packs:write profile",
        })
    }

    fn with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        let members = claims.as_object_mut().unwrap();
        members.insert(name.into(), value);
        members.retain(|_, value| !value.is_null());
        claims
    }
}

fn tokens_of_another_issuer_are_believed_by_its_keys(kind: StoreKind) {
    let foreign = foreign(kind, "jwks: URL/jwks\n        algorithms: [RS256, ES256, EdDSA]");
    let gateway = foreign.world.gateway();
    let (ec, ed) = (Signer::ec(), Signer::ed());
    foreign.issuer.publishes(vec![foreign.signer.jwk("k1"), ec.jwk("k2"), ed.jwk("k3")]);
    assert_eq!(ask(gateway, &ec.sign("k2", &foreign.claims())).status, 200);
    assert_eq!(ask(gateway, &ed.sign("k3", &foreign.claims())).status, 200);
    let answer = ask(gateway, &foreign.signer.sign("k1", &foreign.claims()));
    assert_eq!(answer.status, 200, "{answer:?} {}", gateway.output());
    assert_eq!(answer.number("x-ratelimit-limit"), 1000, "the default plan");
    let seen = foreign.world.live.last();
    assert_eq!(seen.field("x-tollgate-scopes"), Some("packs:read"), "what the policy lets this issuer give");
    assert!(seen.field("x-tollgate-user").unwrap().starts_with("iss-"), "an id that says where from");
    let gold = ask(gateway, &foreign.signer.sign("k1", &foreign.with("tier", json!("gold"))));
    assert_eq!(gold.number("x-ratelimit-limit"), 5000, "the plan that the claim says");
    let list = foreign.with("aud", json!(["https://other.example", AUDIENCE]));
    assert_eq!(ask(gateway, &foreign.signer.sign("k1", &list)).status, 200);
    assert_eq!(foreign.issuer.asked().len(), 1, "keys are fetched once");
}

fn no_bent_token_of_another_issuer_is_believed(kind: StoreKind) {
    let foreign = foreign(kind, "jwks: URL/jwks\n        algorithms: [RS256, ES256]");
    let (gateway, signer) = (foreign.world.gateway(), &foreign.signer);
    let good = signer.sign("k1", &foreign.claims());
    assert_eq!(ask(gateway, &good).status, 200);
    let now = now_s();
    let claims = [
        ("no exp", foreign.with("exp", Value::Null)),
        ("no sub", foreign.with("sub", Value::Null)),
        ("no aud", foreign.with("aud", Value::Null)),
        ("no iss", foreign.with("iss", Value::Null)),
        ("expired beyond the leeway", foreign.with("exp", json!(now - 61))),
        ("not yet", foreign.with("nbf", json!(now + 120))),
        ("issued in the future", foreign.with("iat", json!(now + 120))),
        ("exp as text", foreign.with("exp", json!((now + 60).to_string()))),
        ("exp as list", foreign.with("exp", json!([now + 60]))),
        ("exp beyond all bounds", foreign.with("exp", json!(u64::MAX))),
        ("nbf of the wrong type", foreign.with("nbf", json!("soon"))),
        ("another audience", foreign.with("aud", json!("https://other.example"))),
        ("audience as object", foreign.with("aud", json!({ AUDIENCE: 1 }))),
        ("our own issuer", foreign.with("iss", json!(AUTH))),
        ("another issuer", foreign.with("iss", json!("https://idp.example"))),
        ("issuer with a slash", foreign.with("iss", json!(format!("{}/", foreign.issuer.url())))),
        ("issuers as list", foreign.with("iss", json!([foreign.issuer.url()]))),
        ("sub as number", foreign.with("sub", json!(7))),
        ("scope as number", foreign.with("scope", json!(7))),
    ];
    for (what, claims) in &claims {
        is_refused(gateway, what, &signer.sign("k1", claims));
    }
    let all = foreign.claims().to_string();
    let headers = [
        ("typ of something else", r#"{"alg":"RS256","typ":"secevent+jwt","kid":"k1"}"#),
        ("crit", r#"{"alg":"RS256","kid":"k1","crit":["exp"]}"#),
        ("b64", r#"{"alg":"RS256","kid":"k1","b64":false}"#),
        ("an unknown kid", r#"{"alg":"RS256","kid":"k9"}"#),
        ("kid as number", r#"{"alg":"RS256","kid":1}"#),
        ("another family", r#"{"alg":"ES256","kid":"k1"}"#),
        ("none", r#"{"alg":"none","kid":"k1"}"#),
        ("HS256", r#"{"alg":"HS256","kid":"k1"}"#),
        ("EdDSA is not allowed here", r#"{"alg":"EdDSA","kid":"k1"}"#),
    ];
    for (what, header) in headers {
        is_refused(gateway, what, &signer.sign_text(header, &all));
    }
    is_refused(
        gateway,
        "twice sub",
        &signer.sign_text(r#"{"alg":"RS256","kid":"k1"}"#, &all.replacen('{', r#"{"sub":"root","#, 1)),
    );
    is_refused(gateway, "another key", &Signer::rsa().sign("k1", &foreign.claims()));
    is_refused(gateway, "as one of ours", &format!("iat_{good}"));
    assert_eq!(ask(gateway, &good).status, 200);
    assert!(
        foreign.issuer.asked().len() <= 2,
        "unknown kids do not flood the issuer: {}",
        foreign.issuer.asked().len()
    );
}

fn an_issuer_that_is_down_is_an_outage_and_its_known_keys_serve_on(kind: StoreKind) {
    let foreign = foreign(kind, "jwks: URL/jwks");
    let gateway = foreign.world.gateway();
    foreign.issuer.says(|_, _| (500, "oops".into()));
    let answer = ask(gateway, &foreign.signer.sign("k1", &foreign.claims()));
    assert_eq!((answer.status, answer.code().as_str()), (503, "temporarily_unavailable"), "an outage is never a 401");
    assert!(answer.field("retry-after").is_some());
    for (nonsense_number, nonsense) in ["", "[]", "{\"keys\":7}", &"x".repeat(300_000)].into_iter().enumerate() {
        let nonsense = nonsense.to_owned();
        foreign.issuer.says(move |_, _| (200, nonsense.clone()));
        assert_eq!(
            ask(gateway, &foreign.signer.sign("k1", &foreign.with("jti", json!(nonsense_number.to_string())))).status,
            503
        );
    }
    assert_eq!(foreign.issuer.asked().len(), 1, "not again within the cool-down");
}

fn opaque_tokens_are_asked_about(kind: StoreKind) {
    let rest = "introspection: { endpoint: URL/introspect, client_id: gateway, client_secret_file: secret }\n        prefix: opq_";
    let foreign = foreign(kind, rest);
    let gateway = foreign.world.gateway();
    let url = foreign.issuer.url();
    let active = json!({ "active": true, "sub": "alice", "scope": "packs:read", "client_id": "x", "iss": url });
    let body = active.to_string();
    foreign.issuer.says(move |_, _| (200, body.clone()));
    for _ in 0..3 {
        let answer = ask(gateway, "opq_good");
        assert_eq!(answer.status, 200, "{answer:?} {}", gateway.output());
    }
    let asked = foreign.issuer.asked();
    assert_eq!(asked.len(), 1, "the answer is believed for a while");
    assert!(asked[0].contains("token=opq_good") && asked[0].to_lowercase().contains("authorization: basic "));
    is_refused(gateway, "another prefix", "zzz_good");
    assert_eq!(foreign.issuer.asked().len(), 1, "only tokens with its prefix are sent to it");
    is_refused(gateway, "one of ours", "iat_opq_good");
    let wrong = [
        json!({ "active": false }),
        json!({ "active": "true", "sub": "a" }),
        json!({ "active": 1, "sub": "a" }),
        json!({ "active": true }),
        json!({ "active": true, "sub": "a", "iss": "https://other.example" }),
        json!({ "active": true, "sub": "a", "aud": "https://other.example" }),
        json!({ "active": true, "sub": "a", "exp": now_s() - 100 }),
        json!({ "active": true, "sub": "a", "nbf": now_s() + 500 }),
        json!({ "active": true, "sub": "a", "exp": "soon" }),
    ];
    for (n, answer) in wrong.iter().enumerate() {
        let body = answer.to_string();
        foreign.issuer.says(move |_, _| (200, body.clone()));
        is_refused(gateway, &answer.to_string(), &format!("opq_wrong{n}"));
    }
    foreign.issuer.says(|_, _| (503, String::new()));
    assert_eq!(ask(gateway, "opq_unknown").status, 503);
    assert_eq!(ask(gateway, "opq_good").status, 200, "known a moment ago");
}

fn nothing_in_a_token_leads_anywhere(kind: StoreKind) {
    let foreign = foreign(kind, "jwks: URL/jwks");
    let trap = Issuer::start();
    let gateway = foreign.world.gateway();
    let (mallory, url) = (Signer::rsa(), trap.url());
    trap.publishes(vec![mallory.jwk("k1")]);
    for name in ["jku", "x5u"] {
        let header = json!({ "alg": "RS256", "kid": "k1", name: format!("{url}/jwks") });
        is_refused(gateway, name, &mallory.sign_text(&header.to_string(), &foreign.claims().to_string()));
    }
    let own = foreign.with("iss", json!(url));
    is_refused(gateway, "iss", &mallory.sign("k1", &own));
    assert_eq!(trap.asked().len(), 0, "nobody was asked");
}

/// The keys of an issuer over time: with a clock that the test moves.
#[test]
fn keys_are_fetched_again_after_a_cool_down_and_serve_while_their_issuer_is_down() {
    use gateway::base::clock::{Clock as _, Manual, System};
    use gateway::base::digest::{Pepper, Peppers};
    use gateway::identify::{Bounds, Tokens, Unidentified};
    use policy::credential::Secret;
    use std::sync::Arc;

    let (issuer, first, second) = (Issuer::start(), Signer::rsa(), Signer::rsa());
    issuer.publishes(vec![first.jwk("k1")]);
    let url = issuer.url();
    let entry = format!(
        "    issuers: [{{ issuer: \"{url}\", jwks: \"{url}/jwks\", scopes: [\"packs:read\"] }}]\n    upstreams:\n"
    );
    let text = tests::ICONFLOW.replacen("    upstreams:\n", &entry, 1);
    let policy = policy::compile(vec![policy::Source { name: "test".into(), text }]).unwrap();
    let api = policy.api("iconflow").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let store = gateway::store::SqliteStore::open(&folder.path().join("t.db")).await.unwrap();
        let clock = Arc::new(Manual::at(System.now_ms()));
        let peppers = Peppers { current: Pepper::from_hex(&"1".repeat(64)).unwrap(), previous: None };
        let http_client =
            Arc::new(gateway::base::http_client::HttpClient::new(None, folder.path().to_owned()).unwrap());
        let tokens = Tokens::new(Arc::new(store), peppers, Bounds::default(), clock.clone(), http_client);
        let mut number = 0;
        let mut token = |signer: &Signer, kid: &str| {
            number += 1;
            let claims = json!({
                "iss": url, "sub": "alice", "aud": AUDIENCE, "exp": now_s() + 1_000_000, "jti": number.to_string(),
                "scope": "packs:read",
            });
            signer.sign(kid, &claims)
        };
        let believed = async |token: &str| tokens.identify(api, Secret::new(token)).await.map(|_| ());
        assert_eq!(believed(&token(&first, "k1")).await, Ok(()));
        issuer.publishes(vec![second.jwk("k2")]);
        assert_eq!(believed(&token(&second, "k2")).await, Err(Unidentified::Unknown), "asked a moment ago");
        clock.advance(30_000);
        assert_eq!(believed(&token(&second, "k2")).await, Ok(()));
        assert_eq!(believed(&token(&first, "k1")).await, Err(Unidentified::Unknown), "not published any more");
        issuer.says(|_, _| (500, String::new()));
        let asked = issuer.asked().len();
        clock.advance(6 * 60_000);
        assert_eq!(believed(&token(&second, "k2")).await, Ok(()), "known keys serve on");
        assert_eq!(believed(&token(&second, "k2")).await, Ok(()));
        assert_eq!(issuer.asked().len(), asked + 1, "one try for all of them");
        clock.advance(25 * 3_600_000);
        assert_eq!(believed(&token(&second, "k2")).await, Err(Unidentified::CannotKnow), "for a day, not for ever");
    });
}
