//! Logins that happen elsewhere, and the management API.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::too_many_lines, reason = "one story with its cases")]

use serde_json::{Value, json};
use tests::{
    AUTH, App, Browser, Connection, Gateway, Issuer, Policies, Response, Signer, StoreKind, Tokens, World, challenge,
    now_s, on_both_stores, parameter, until,
};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";
const KEY: &str = "management-key-of-this-test-0123456789";
const LOGIN: &str = "https://app.iconflow.dev/login";

fn world(kind: StoreKind, login: &str) -> (World, App) {
    let line = format!("      name: IconFlow\n      login: {login}\n");
    let edit = move |policy: Policies| policy.replace("      name: IconFlow\n", &line);
    let mut world = World::prepare(kind, "management_key_file: ../management-key", edit);
    std::fs::write(world.folder.path().join("management-key"), format!("{KEY}\n")).unwrap();
    world.add_gateway();
    std::fs::write(world.gateway().folder.join("secret"), "s3cret\n").unwrap();
    world.organization("acme");
    let app = world.app(&[]);
    (world, app)
}

/// A change to claims.
type Change = Box<dyn Fn(&mut Value)>;

fn manage(gateway: &Gateway, method: &str, path: &str, body: Value) -> Response {
    let bearer = format!("Bearer {KEY}");
    let fields = [("host", "localhost"), ("authorization", &*bearer), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Connection::plain(gateway.admin).ask(method, path, &fields, body.as_bytes())
}

/// Where a browser is sent to log in, and the login request's id.
fn sent_to_login(browser: &mut Browser, gateway: &Gateway, app: &App) -> String {
    let answer = browser.get(gateway, &app.authorize_url(&[]));
    let location = answer.field("location").unwrap();
    assert!(location.starts_with(LOGIN), "{location}");
    parameter(location, "login_request").unwrap()
}

fn code_of(answer: &Response) -> String {
    let location = answer.field("location").unwrap_or_else(|| panic!("{answer:?}"));
    parameter(location, "code").unwrap_or_else(|| panic!("{location}"))
}

on_both_stores![
    the_company_accepts_a_login_over_the_management_api,
    the_company_rejects_a_login,
    the_company_hands_over_a_signed_login_once,
    an_openid_provider_logs_users_in,
    the_management_api_registers_lists_and_ends,
];

fn the_company_accepts_a_login_over_the_management_api(kind: StoreKind) {
    let (world, app) = world(kind, &format!("{{ handoff: {{ url: \"{LOGIN}\" }} }}"));
    let gateway = world.gateway();
    let mut browser = Browser::default();
    let id = sent_to_login(&mut browser, gateway, &app);
    let path = format!("/admin/oauth/login-requests/{id}");
    let seen = manage(gateway, "GET", &path, Value::Null).json();
    assert_eq!(seen["client_name"], "PixelForge Design Tool");
    assert_eq!(seen["scopes"], json!(["packs:read", "downloads:read"]));
    let early = browser.get(gateway, &format!("/oauth/continue?login_request={id}"));
    assert_eq!(early.status, 400, "nobody has logged in yet");
    let accepted = json!({ "sub": "account-42", "name": "Jo", "organizations": ["acme"] });
    let answer = manage(gateway, "POST", &format!("{path}/accept"), accepted);
    assert_eq!(answer.status, 200, "{answer:?}");
    let back = answer.json()["redirect_to"].as_str().unwrap().to_owned();
    assert_eq!(Browser::default().get(gateway, &back).status, 400, "only in the browser in which it began");
    // Whoever began it, in another browser or in this one, gets no further without the verifier.
    let without = back.split("&login_verifier").next().unwrap();
    assert_eq!(browser.get(gateway, without).status, 400);
    assert_eq!(browser.get(gateway, &format!("{without}&login_verifier=x")).status, 400);
    let consent = browser.visit(gateway, &back);
    assert!(String::from_utf8_lossy(&consent.body).contains("Allow access"), "consent stays ours");
    let granted = browser.decide(gateway, &consent, "allow");
    let tokens = Tokens::of(&app.exchange(gateway, &code_of(&granted)));
    let sub = tokens.claims()["sub"].as_str().unwrap().to_owned();
    assert!(sub.starts_with("app-"), "an id that says where from: {sub}");
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).status, 200);
    let users = world.json(&["users", "list"]);
    assert_eq!((users[0]["id"].as_str(), users[0]["name"].as_str()), (Some(&*sub), Some("Jo")));
    for (what, body) in [
        ("an unknown organization", json!({ "sub": "x", "organizations": ["nobody"] })),
        ("no sub", json!({ "name": "x" })),
        ("scopes without consent", json!({ "sub": "x", "grant_scopes": ["packs:read"] })),
        ("an unknown member", json!({ "sub": "x", "admin": true })),
    ] {
        let id = sent_to_login(&mut Browser::default(), gateway, &app);
        let answer = manage(gateway, "POST", &format!("/admin/oauth/login-requests/{id}/accept"), body);
        assert_eq!(answer.status, 400, "{what}");
    }
    assert_eq!(manage(gateway, "POST", "/admin/oauth/login-requests/none/accept", json!({ "sub": "x" })).status, 404);
}

fn the_company_rejects_a_login(kind: StoreKind) {
    let (world, app) = world(kind, &format!("{{ handoff: {{ url: \"{LOGIN}\" }} }}"));
    let gateway = world.gateway();
    let mut browser = Browser::default();
    let id = sent_to_login(&mut browser, gateway, &app);
    let answer = manage(gateway, "POST", &format!("/admin/oauth/login-requests/{id}/reject"), Value::Null);
    let back = browser.get(gateway, answer.json()["redirect_to"].as_str().unwrap());
    assert_eq!(parameter(back.field("location").unwrap(), "error").as_deref(), Some("access_denied"));
}

fn the_company_hands_over_a_signed_login_once(kind: StoreKind) {
    let signer = Signer::ec();
    let key = signer.jwk("login").to_string();
    let login = format!("{{ handoff: {{ url: \"{LOGIN}\", keys: ['{key}'], consent: true }} }}");
    let (world, app) = world(kind, &login);
    let gateway = world.gateway();
    let statement = |flow: &str, change: &dyn Fn(&mut Value)| {
        let mut claims = json!({
            "iss": "https://app.iconflow.dev", "aud": AUTH, "sub": "account-42", "login_request": flow,
            "exp": now_s() + 50, "jti": format!("{flow}-1"), "organizations": ["acme"],
            "grant_scopes": ["packs:read"],
        });
        change(&mut claims);
        claims
    };
    let go = |browser: &mut Browser, flow: &str, token: &str| {
        browser.get(gateway, &format!("/oauth/continue?login_request={flow}&login_token={token}"))
    };
    let mut browser = Browser::default();
    let flow = sent_to_login(&mut browser, gateway, &app);
    let wrong: Vec<(&str, String)> = vec![
        ("another key", Signer::ec().sign("login", &statement(&flow, &|_| {}))),
        ("another audience", signer.sign("login", &statement(&flow, &|c| c["aud"] = json!("https://other.example")))),
        ("another request", signer.sign("login", &statement("other", &|_| {}))),
        ("too long a life", signer.sign("login", &statement(&flow, &|c| c["exp"] = json!(now_s() + 3_600)))),
        ("over", signer.sign("login", &statement(&flow, &|c| c["exp"] = json!(now_s() - 60)))),
        ("no jti", signer.sign("login", &statement(&flow, &|c| drop(c.as_object_mut().unwrap().remove("jti"))))),
        ("nonsense", "x.y.z".to_owned()),
    ];
    for (what, token) in &wrong {
        assert_eq!(go(&mut browser, &flow, token).status, 403, "{what}");
    }
    let good = signer.sign("login", &statement(&flow, &|_| {}));
    assert_eq!(go(&mut Browser::default(), &flow, &good).status, 400, "in another browser");
    let granted = go(&mut browser, &flow, &good);
    let answer = app.exchange(gateway, &code_of(&granted));
    assert_eq!(answer.json()["scope"], "packs:read", "what the company's page granted");
    assert!(matches!(go(&mut browser, &flow, &good).status, 400 | 403), "once");
    let mut other = Browser::default();
    let flow = sent_to_login(&mut other, gateway, &app);
    let more = signer.sign("login", &statement(&flow, &|c| c["grant_scopes"] = json!(["packs:write"])));
    assert_eq!(go(&mut other, &flow, &more).field("location"), None, "not more than was asked for");
}

fn an_openid_provider_logs_users_in(kind: StoreKind) {
    let (provider, signer) = (Issuer::start(), Signer::rsa());
    let url = provider.url();
    let login = format!(
        "{{ oidc: {{ issuer: \"{url}\", client_id: tollgate, client_secret_file: secret, organization: acme }} }}"
    );
    let (world, app) = world(kind, &login);
    let gateway = world.gateway();
    let metadata = json!({
        "issuer": url, "authorization_endpoint": format!("{url}/authorize"), "token_endpoint": format!("{url}/token"),
        "jwks_uri": format!("{url}/jwks"),
    });
    let keys = json!({ "keys": [signer.jwk("k")] }).to_string();
    let says = {
        let (metadata, keys) = (metadata.to_string(), keys.clone());
        move |id_token: String| {
            let (metadata, keys) = (metadata.clone(), keys.clone());
            move |head: &str, _: &str| match head.split(' ').nth(1).unwrap() {
                "/.well-known/openid-configuration" => (200, metadata.clone()),
                "/jwks" => (200, keys.clone()),
                "/token" => (200, json!({ "id_token": id_token, "access_token": "x" }).to_string()),
                _ => (404, String::new()),
            }
        }
    };
    let begin = |browser: &mut Browser| {
        provider.says(says(String::new()));
        let answer = browser.get(gateway, &app.authorize_url(&[]));
        let location = answer.field("location").unwrap_or_else(|| panic!("{answer:?}")).to_owned();
        assert!(location.starts_with(&format!("{url}/authorize?")), "{location}");
        assert_eq!(parameter(&location, "redirect_uri").unwrap(), format!("{AUTH}/oauth/continue"));
        let of = |name: &str| parameter(&location, name).unwrap();
        (of("state"), of("nonce"), of("code_challenge"))
    };
    let claims = |nonce: &str, change: &dyn Fn(&mut Value)| {
        let mut claims = json!({
            "iss": url, "aud": "tollgate", "sub": "alice", "nonce": nonce, "exp": now_s() + 60, "iat": now_s(),
            "email": "alice@example.com", "name": "Alice",
        });
        change(&mut claims);
        claims
    };
    let back = |browser: &mut Browser, state: &str, token: String| {
        provider.says(says(token));
        browser.visit(gateway, &format!("/oauth/continue?state={state}&code=their-code"))
    };
    let changes: [(&str, Change); 6] = [
        ("another nonce", Box::new(|c| c["nonce"] = json!("x"))),
        ("another issuer", Box::new(|c| c["iss"] = json!("https://other.example"))),
        ("another audience", Box::new(|c| c["aud"] = json!("other"))),
        (
            "several audiences and another azp",
            Box::new(|c| {
                c["aud"] = json!(["tollgate", "other"]);
                c["azp"] = json!("other");
            }),
        ),
        ("over", Box::new(|c| c["exp"] = json!(now_s() - 100))),
        ("no nonce", Box::new(|c| drop(c.as_object_mut().unwrap().remove("nonce")))),
    ];
    for (what, change) in &changes {
        let mut browser = Browser::default();
        let (state, nonce, _) = begin(&mut browser);
        let answer = back(&mut browser, &state, signer.sign("k", &claims(&nonce, change)));
        assert_eq!(answer.status, 403, "{what}: {answer:?}");
    }
    let mut browser = Browser::default();
    let (state, nonce, expected) = begin(&mut browser);
    let token = signer.sign("k", &claims(&nonce, &|_| {}));
    assert_eq!(back(&mut Browser::default(), &state, token.clone()).status, 400, "in another browser");
    let consent = back(&mut browser, &state, token);
    let asked = provider.asked().into_iter().rfind(|asked| asked.starts_with("POST /token")).unwrap();
    let verifier = parameter(&format!("?{}", asked.split("\r\n\r\n").nth(1).unwrap()), "code_verifier").unwrap();
    assert_eq!(challenge(&verifier), expected, "PKCE towards the provider too");
    assert!(asked.to_lowercase().contains("authorization: basic "));
    let granted = browser.decide(gateway, &consent, "allow");
    let tokens = Tokens::of(&app.exchange(gateway, &code_of(&granted)));
    assert!(tokens.claims()["sub"].as_str().unwrap().starts_with("oidc-"));
    let mut browser = Browser::default();
    let (state, _, _) = begin(&mut browser);
    provider.says(|_, _| (500, String::new()));
    let down = browser.visit(gateway, &format!("/oauth/continue?state={state}&code=their-code"));
    assert_eq!((down.status, down.field("retry-after")), (503, Some("1")), "an outage, not a refusal");
}

fn the_management_api_registers_lists_and_ends(kind: StoreKind) {
    let (world, _) = world(kind, "builtin");
    let gateway = world.gateway();
    let user = world.user("jo@example.com");
    for fields in [&[("host", "localhost")][..], &[("host", "localhost"), ("authorization", "Bearer wrong")]] {
        let answer = Connection::plain(gateway.admin).ask("GET", "/admin/apps", fields, b"");
        assert_eq!(answer.status, 401);
    }
    let new = |uri: &str| {
        json!({
            "name": "Server Tool", "organization": "acme", "redirect_uris": [uri], "scopes": ["packs:read"],
            "confidential": true,
        })
    };
    let bad = manage(gateway, "POST", "/admin/apps", new("https://*.example.com/cb"));
    assert_eq!((bad.status, bad.json()["code"].as_str()), (400, Some("invalid_redirect_uri")));
    for (method, path) in [("GET", "/admin/apps/cf_none"), ("POST", "/admin/apps/cf_none/disable")] {
        let unknown = manage(gateway, method, path, Value::Null);
        assert_eq!((unknown.status, unknown.json()["code"].as_str()), (404, Some("unknown_application")), "{path}");
    }
    assert!(bad.json()["detail"].as_str().unwrap().contains("pattern"), "{bad:?}");
    for body in [json!({}), json!([]), json!("x"), json!({ "name": 7 })] {
        assert_eq!(manage(gateway, "POST", "/admin/apps", body).status, 400);
    }
    let made = manage(gateway, "POST", "/admin/apps", new(tests::CALLBACK));
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.json()[name].as_str().map(str::to_owned);
    let app = App { id: text("id").unwrap(), secret: text("client_secret") };
    let listed = manage(gateway, "GET", "/admin/apps", Value::Null).json();
    assert!(listed.to_string().contains(&app.id) && !listed.to_string().contains("ics_"));
    listings_go_on_where_they_ended(gateway, &app);
    let location = Browser::default().allow(gateway, &app.authorize_url(&[("scope", "packs:read")]), "jo@example.com");
    let tokens = Tokens::of(&app.exchange(gateway, &parameter(&location, "code").unwrap()));
    let connected = manage(gateway, "GET", &format!("/admin/users/{user}/applications"), Value::Null).json();
    assert_eq!(
        (connected[0]["name"].as_str(), connected[0]["scopes"][0].as_str()),
        (Some("Server Tool"), Some("packs:read"))
    );
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).status, 200);
    assert_eq!(manage(gateway, "POST", &format!("/admin/apps/{}/disable", app.id), Value::Null).status, 200);
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).code(), "suspended_credential", "at once");
    manage(gateway, "POST", &format!("/admin/apps/{}/enable", app.id), Value::Null);
    until("the log says who did what", || {
        let log = gateway.output();
        ["registered", "switched off", "switched on"]
            .iter()
            .all(|did| log.contains(&format!("management: {did} the application {}", app.id)))
    });
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).status, 200);
    let path = format!("/admin/users/{user}/applications/{}", app.id);
    assert_eq!(manage(gateway, "DELETE", &path, Value::Null).json()["ended_grants"], 1);
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).code(), "revoked_credential", "at once");
}

/// `app` is not the only one.
fn listings_go_on_where_they_ended(gateway: &Gateway, app: &App) {
    let mut seen = Vec::new();
    let mut path = "/admin/apps?limit=1".to_owned();
    for _ in 0..10 {
        let page = manage(gateway, "GET", &path, Value::Null);
        let list = page.json();
        let list = list.as_array().unwrap();
        assert_eq!(list.len(), 1);
        seen.push(list[0]["id"].as_str().unwrap().to_owned());
        let Some(link) = page.field("link") else { break };
        path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    assert!(seen.len() > 1 && seen.contains(&app.id), "{seen:?}");
    let all = manage(gateway, "GET", "/admin/apps", Value::Null);
    assert_eq!((all.json().as_array().unwrap().len(), all.field("link")), (seen.len(), None));
    for wrong in ["limit=0", "limit=1001", "limit=x", "after=x", "after=1:%00", "page=2", "limit=1&limit=2"] {
        assert_eq!(manage(gateway, "GET", &format!("/admin/apps?{wrong}"), Value::Null).status, 400, "{wrong}");
    }
}
