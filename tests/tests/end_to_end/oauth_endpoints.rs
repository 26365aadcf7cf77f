//! Every row of the endpoint table: what the authorization server and the edge answer, exactly.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::too_many_lines, reason = "one story with its cases")]

use tests::{
    AUTH, App, Browser, CALLBACK, CHALLENGE, Gateway, Response, StoreKind, Tokens, VERIFIER, World, form, hidden,
    on_both_stores, parameter, post,
};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";
const JO: &str = "jo@example.com";

struct Scene {
    world: World,
    app: App,
}

fn scene(kind: StoreKind) -> Scene {
    let world = World::start(kind);
    world.organization("acme");
    world.user(JO);
    let app = world.app(&[]);
    Scene { world, app }
}

impl Scene {
    fn gateway(&self) -> &Gateway {
        self.world.gateway()
    }

    fn authorize(&self, changes: &[(&str, &str)]) -> Response {
        Browser::default().get(self.gateway(), &self.app.authorize_url(changes))
    }

    fn code(&self) -> String {
        Browser::default().code(self.gateway(), &self.app, JO)
    }

    fn tokens(&self) -> Tokens {
        self.app.tokens(self.gateway(), JO)
    }

    fn token(&self, body: &str) -> Response {
        post(self.gateway(), "/oauth/token", &[], body)
    }

    fn works(&self, access: &str) -> bool {
        self.gateway().ask("GET", PACKS, Some(access), &[]).status == 200
    }
}

/// An error of the token endpoint: status, code, and that nobody may store it.
fn is_error(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(code)), "{answer:?}");
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"), "errors too can be read by a page");
    assert_eq!(answer.field("access-control-allow-credentials"), None);
    assert!(status != 401 || answer.field("www-authenticate").is_some_and(|c| c.starts_with("Basic ")));
}

/// A page, and no redirect.
fn is_page(answer: &Response) {
    assert_eq!((answer.status, answer.field("location")), (400, None), "{answer:?}");
    assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"));
    let policy = answer.field("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'; form-action 'self'"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"));
    assert_eq!(answer.field("x-frame-options"), Some("DENY"));
}

/// An error that went back to the application.
fn went_back(answer: &Response, code: &str) {
    assert_eq!(answer.status, 303, "{answer:?}");
    let location = answer.field("location").unwrap();
    assert!(location.starts_with(CALLBACK), "{location}");
    assert_eq!(parameter(location, "error").as_deref(), Some(code));
    assert_eq!(parameter(location, "iss").as_deref(), Some(AUTH));
}

on_both_stores![
    authorize_without_a_proven_client_and_redirect_uri_is_a_page,
    authorize_with_a_wrong_response_type_goes_back,
    authorize_without_pkce_s256_goes_back,
    authorize_with_an_unknown_scope_goes_back_and_without_one_takes_the_default,
    authorize_with_a_strange_state_goes_back_without_it,
    authorize_takes_get_and_post_and_is_for_no_other_origin,
    authorize_never_fetches_request_objects,
    the_user_says_no,
    a_state_comes_back_exactly,
    token_wants_a_form_by_post,
    token_wants_a_grant_type_it_knows,
    token_wants_to_know_the_client,
    a_confidential_client_proves_itself_with_basic,
    a_code_is_bound_to_client_redirect_uri_and_verifier,
    a_replayed_code_ends_the_grant_and_a_wrong_replay_ends_nothing,
    a_refresh_of_another_client_or_an_unknown_one_is_invalid_grant_and_spends_nothing,
    a_refresh_may_narrow_scopes_and_never_widen_them,
    the_direct_parent_gives_the_same_child_again,
    revoking_ends_the_grant_or_the_one_token,
    revoking_what_is_not_yours_is_200_and_has_no_effect,
    introspection_is_for_clients_with_a_secret,
    introspection_tells_the_truth_and_no_more,
    metadata_and_keys_are_public_and_say_what_is_true,
    token_and_revoke_answer_preflights,
    the_edge_says_where_to_get_a_token,
    the_edge_takes_tokens_only_from_one_header,
    a_disabled_user_or_client_loses_everything_and_gets_it_back,
    consent_is_remembered_for_https_until_the_redirect_uris_change,
    a_login_page_is_of_its_browser_only,
    guessing_passwords_is_slowed_and_says_nothing,
    a_lost_post_forwards_no_password,
    no_form_makes_it_a_5xx,
];

fn authorize_without_a_proven_client_and_redirect_uri_is_a_page(kind: StoreKind) {
    let scene = scene(kind);
    for changes in [
        &[("client_id", "")][..],
        &[("client_id", "cf_AAAAAAAAAAAAAA")],
        &[("client_id", "<script>alert(1)</script>")],
        &[("redirect_uri", "")],
        &[("redirect_uri", "https://evil.example/cb")],
        &[("redirect_uri", "https://pixelforge.design/callback/iconflow?x=1")],
        &[("redirect_uri", "HTTPS://pixelforge.design/callback/iconflow")],
        &[("redirect_uri", "https://evil.example/cb"), ("scope", "nonsense"), ("response_type", "token")],
    ] {
        let answer = scene.authorize(changes);
        is_page(&answer);
        assert!(!String::from_utf8_lossy(&answer.body).contains("<script>"));
    }
    for twice in ["client_id=cf_x", "redirect_uri=https%3A%2F%2Fpixelforge.design%2Fcallback%2Ficonflow"] {
        let url = format!("{}&{twice}", scene.app.authorize_url(&[]));
        is_page(&Browser::default().get(scene.gateway(), &url));
    }
    scene.world.json(&["apps", "disable", &scene.app.id]);
    is_page(&scene.authorize(&[]));
}

fn authorize_with_a_wrong_response_type_goes_back(kind: StoreKind) {
    let scene = scene(kind);
    went_back(&scene.authorize(&[("response_type", "")]), "invalid_request");
    for other in ["token", "id_token", "code token", "Code"] {
        let answer = scene.authorize(&[("response_type", other)]);
        went_back(&answer, "unsupported_response_type");
        assert_eq!(parameter(answer.field("location").unwrap(), "state").as_deref(), Some("xL8mQ2pR5tY9wN"));
    }
    went_back(&scene.authorize(&[("response_mode", "fragment")]), "invalid_request");
    let twice = format!("{}&response_type=code", scene.app.authorize_url(&[]));
    went_back(&Browser::default().get(scene.gateway(), &twice), "invalid_request");
}

fn authorize_without_pkce_s256_goes_back(kind: StoreKind) {
    let scene = scene(kind);
    let short = CHALLENGE.split_at(42).0;
    let long = format!("{CHALLENGE}A");
    for changes in [
        &[("code_challenge", "")][..],
        &[("code_challenge_method", "")],
        &[("code_challenge_method", "plain")],
        &[("code_challenge_method", "s256")],
        &[("code_challenge", short)],
        &[("code_challenge", &long)],
        &[("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM")],
    ] {
        went_back(&scene.authorize(changes), "invalid_request");
    }
    // Confidential clients too.
    let server = scene.world.app(&["--confidential"]);
    let url = server.authorize_url(&[("code_challenge", ""), ("code_challenge_method", "")]);
    went_back(&Browser::default().get(scene.gateway(), &url), "invalid_request");
}

fn authorize_with_an_unknown_scope_goes_back_and_without_one_takes_the_default(kind: StoreKind) {
    let scene = scene(kind);
    for scope in ["packs:read nonsense", "packs:write", "packs:read  downloads:read", "PACKS:READ", " packs:read"] {
        went_back(&scene.authorize(&[("scope", scope)]), "invalid_scope");
    }
    went_back(&scene.authorize(&[("resource", "https://elsewhere.example")]), "invalid_target");
    let url = scene.app.authorize_url(&[("scope", "")]);
    let location = Browser::default().allow(scene.gateway(), &url, JO);
    let answer = scene.app.exchange(scene.gateway(), &parameter(&location, "code").unwrap());
    assert_eq!(answer.json()["scope"], "downloads:read packs:read");
}

fn authorize_with_a_strange_state_goes_back_without_it(kind: StoreKind) {
    let scene = scene(kind);
    let long = "s".repeat(2_049);
    for state in ["caf\u{e9}", "a\nb", "a\u{7f}", &long] {
        let answer = scene.authorize(&[("state", state)]);
        went_back(&answer, "invalid_request");
        assert_eq!(parameter(answer.field("location").unwrap(), "state"), None);
    }
}

fn authorize_takes_get_and_post_and_is_for_no_other_origin(kind: StoreKind) {
    let scene = scene(kind);
    let query = scene.app.authorize_url(&[]);
    let query = query.split_once('?').unwrap().1;
    let posted = post(scene.gateway(), "/oauth/authorize", &[], query);
    assert_eq!(posted.status, 303);
    assert!(posted.field("location").unwrap().starts_with("/oauth/login?login_request="));
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH"] {
        let fields = [("origin", "https://evil.example"), ("access-control-request-method", "GET")];
        let answer = scene.gateway().ask(method, &format!("{AUTH}/oauth/authorize?{query}"), None, &fields);
        assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD, POST")), "{method}");
        assert!(!answer.fields.iter().any(|(name, _)| name.starts_with("access-control-")), "{answer:?}");
    }
    assert_eq!(scene.authorize(&[]).field("access-control-allow-origin"), None);
}

fn authorize_never_fetches_request_objects(kind: StoreKind) {
    let scene = scene(kind);
    went_back(&scene.authorize(&[("request", "eyJ.eyJ.x")]), "request_not_supported");
    went_back(&scene.authorize(&[("request_uri", "https://127.0.0.1/")]), "request_uri_not_supported");
}

fn the_user_says_no(kind: StoreKind) {
    let scene = scene(kind);
    let mut browser = Browser::default();
    let login = browser.visit(scene.gateway(), &scene.app.authorize_url(&[]));
    let consent = browser.log_in(scene.gateway(), &login, JO);
    let answer = browser.decide(scene.gateway(), &consent, "deny");
    went_back(&answer, "access_denied");
    assert_eq!(parameter(answer.field("location").unwrap(), "state").as_deref(), Some("xL8mQ2pR5tY9wN"));
    let again = browser.decide(scene.gateway(), &consent, "allow");
    assert_eq!((again.status, again.field("location")), (400, None), "one decision for one question");
}

fn a_state_comes_back_exactly(kind: StoreKind) {
    let scene = scene(kind);
    for state in ["a b&c=d%20+;/?#\"'<>", "~!@$^*()", &"x".repeat(2_048)] {
        let url = scene.app.authorize_url(&[("state", state)]);
        let location = Browser::default().allow(scene.gateway(), &url, JO);
        assert_eq!(parameter(&location, "state").as_deref(), Some(state));
    }
}

fn token_wants_a_form_by_post(kind: StoreKind) {
    let scene = scene(kind);
    for method in ["GET", "PUT", "DELETE"] {
        let answer = scene.gateway().ask(method, &format!("{AUTH}/oauth/token?grant_type=x"), None, &[]);
        assert_eq!((answer.status, answer.field("allow")), (405, Some("POST")));
    }
    let all = form(&[("grant_type", "authorization_code"), ("client_id", &scene.app.id), ("code", "x")]);
    let url = format!("{AUTH}/oauth/token");
    for kind in ["application/json", "text/plain", "multipart/form-data; boundary=x"] {
        let answer = scene.gateway().ask_with_body("POST", &url, None, &[("content-type", kind)], all.as_bytes());
        is_error(&answer, 400, "invalid_request");
    }
    let in_query = scene.gateway().ask("POST", &format!("{url}?{all}"), None, &[]);
    is_error(&in_query, 400, "invalid_request");
    for repeated in ["grant_type", "client_id", "code", "redirect_uri", "code_verifier"] {
        let body = format!("{all}&redirect_uri=a&code_verifier={VERIFIER}&{repeated}=again");
        is_error(&scene.token(&body), 400, "invalid_request");
    }
    for broken in ["grant_type=%", "grant_type=%zz&client_id=x", "grant_type=%ff%fe"] {
        is_error(&scene.token(broken), 400, "invalid_request");
    }
    let huge = format!("{all}&x={}", "y".repeat(70_000));
    assert_eq!(scene.token(&huge).status, 413);
}

fn token_wants_a_grant_type_it_knows(kind: StoreKind) {
    let scene = scene(kind);
    let client = format!("client_id={}", scene.app.id);
    is_error(&scene.token(&client), 400, "invalid_request");
    is_error(&scene.token(&format!("{client}&grant_type=")), 400, "invalid_request");
    for other in ["password", "client_credentials", "implicit", "Authorization_Code"] {
        is_error(
            &scene.token(&format!("{client}&grant_type={other}&username=jo&password=x")),
            400,
            "unsupported_grant_type",
        );
    }
}

fn token_wants_to_know_the_client(kind: StoreKind) {
    let scene = scene(kind);
    is_error(&scene.token("grant_type=refresh_token&refresh_token=x"), 400, "invalid_client");
    is_error(&scene.token("grant_type=refresh_token&refresh_token=x&client_id=cf_nobody"), 400, "invalid_client");
    let basic = [("authorization", "Basic Y2Zfbm9ib2R5Ong=")];
    let answer = post(scene.gateway(), "/oauth/token", &basic, "grant_type=refresh_token&refresh_token=x");
    is_error(&answer, 401, "invalid_client");
    for bad in ["Basic !!!", "Basic Y2Y=", "Bearer x", "Basic"] {
        let answer = post(scene.gateway(), "/oauth/token", &[("authorization", bad)], "grant_type=refresh_token");
        is_error(&answer, 401, "invalid_client");
    }
}

fn a_confidential_client_proves_itself_with_basic(kind: StoreKind) {
    let scene = scene(kind);
    let server = scene.world.app(&["--confidential"]);
    let secret = server.secret.clone().unwrap();
    assert!(secret.starts_with("ics_"));
    let code = Browser::default().code(scene.gateway(), &server, JO);
    let nameless = App { id: server.id.clone(), secret: None };
    is_error(&nameless.exchange(scene.gateway(), &code), 400, "invalid_client");
    let in_body = [("grant_type", "authorization_code"), ("client_secret", &secret), ("code", &code)];
    is_error(&nameless.post(scene.gateway(), "/oauth/token", &in_body), 400, "invalid_client");
    is_error(&server.post(scene.gateway(), "/oauth/token", &in_body), 400, "invalid_request");
    let wrong = App { id: server.id.clone(), secret: Some("ics_wrong".into()) };
    is_error(&wrong.exchange(scene.gateway(), &code), 401, "invalid_client");
    let tokens = Tokens::of(&server.exchange(scene.gateway(), &code));
    is_error(&nameless.refresh(scene.gateway(), &tokens.refresh), 400, "invalid_client");
    let rotated = scene.world.json(&["apps", "rotate-secret", &server.id, "--overlap", "1h"]);
    let newer = App { id: server.id.clone(), secret: rotated["client_secret"].as_str().map(str::to_owned) };
    let next = Tokens::of(&server.refresh(scene.gateway(), &tokens.refresh));
    assert_eq!(newer.refresh(scene.gateway(), &next.refresh).status, 200, "old and new secret work");
}

fn a_code_is_bound_to_client_redirect_uri_and_verifier(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, code) = (scene.gateway(), scene.code());
    let other = scene.world.app(&[]);
    is_error(&other.exchange(gateway, &code), 400, "invalid_grant");
    is_error(
        &scene.app.exchange_with(gateway, &code, "https://pixelforge.design/other", VERIFIER),
        400,
        "invalid_grant",
    );
    let fields = [("grant_type", "authorization_code"), ("code", &*code), ("code_verifier", VERIFIER)];
    is_error(&scene.app.post(gateway, "/oauth/token", &fields), 400, "invalid_grant");
    let fields = [("grant_type", "authorization_code"), ("code", &*code), ("redirect_uri", CALLBACK)];
    is_error(&scene.app.post(gateway, "/oauth/token", &fields), 400, "invalid_grant");
    let (long, odd) = ("x".repeat(129), format!("{}\u{20ac}", "x".repeat(50)));
    for verifier in ["short", CHALLENGE, &"x".repeat(43), &long, &odd] {
        is_error(&scene.app.exchange_with(gateway, &code, CALLBACK, verifier), 400, "invalid_grant");
    }
    let mut typo = code.clone();
    typo.replace_range(30..31, if code.as_bytes()[30] == b'A' { "B" } else { "A" });
    for wrong in ["x", &typo, &code.repeat(2), "", "\u{20ac}"] {
        let answer = scene.app.exchange(gateway, wrong);
        let code = if wrong.is_empty() { "invalid_request" } else { "invalid_grant" };
        is_error(&answer, 400, code);
    }
    assert_eq!(scene.app.exchange(gateway, &code).status, 200, "nothing of that has burnt the code");
}

fn a_replayed_code_ends_the_grant_and_a_wrong_replay_ends_nothing(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, code) = (scene.gateway(), scene.code());
    let tokens = Tokens::of(&scene.app.exchange(gateway, &code));
    is_error(&scene.app.exchange_with(gateway, &code, CALLBACK, &"x".repeat(43)), 400, "invalid_grant");
    is_error(&scene.world.app(&[]).exchange(gateway, &code), 400, "invalid_grant");
    assert!(scene.works(&tokens.access), "whoever only has the code cannot end the grant");
    is_error(&scene.app.exchange(gateway, &code), 400, "invalid_grant");
    assert!(!scene.works(&tokens.access));
    is_error(&scene.app.refresh(gateway, &tokens.refresh), 400, "invalid_grant");
}

fn a_refresh_of_another_client_or_an_unknown_one_is_invalid_grant_and_spends_nothing(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    is_error(&scene.world.app(&[]).refresh(gateway, &tokens.refresh), 400, "invalid_grant");
    let mut typo = tokens.refresh.clone();
    typo.replace_range(40..41, if typo.as_bytes()[40] == b'A' { "B" } else { "A" });
    for wrong in ["irt_", "irt_8xK2mN9pQr4vT7wL", &typo, &tokens.access, "x"] {
        is_error(&scene.app.refresh(gateway, wrong), 400, "invalid_grant");
    }
    is_error(&scene.app.refresh(gateway, ""), 400, "invalid_request");
    assert_eq!(scene.app.refresh(gateway, &tokens.refresh).status, 200, "it was not spent");
}

fn a_refresh_may_narrow_scopes_and_never_widen_them(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    let refresh = |token: &str, scope: &str| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)];
        scene.app.post(gateway, "/oauth/token", &fields)
    };
    is_error(&refresh(&tokens.refresh, "packs:read packs:write"), 400, "invalid_scope");
    let narrow = refresh(&tokens.refresh, "packs:read");
    assert_eq!(narrow.json()["scope"], "packs:read");
    let narrow = Tokens::of(&narrow);
    assert!(scene.works(&narrow.access));
    let answer = gateway.ask("GET", "https://api.iconflow.dev/v2/downloads", Some(&narrow.access), &[]);
    assert_eq!(answer.status, 403);
    let whole = scene.app.refresh(gateway, &narrow.refresh);
    assert_eq!(whole.json()["scope"], "packs:read downloads:read", "the refresh token keeps the whole scope");
}

fn the_direct_parent_gives_the_same_child_again(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    let first = Tokens::of(&scene.app.refresh(gateway, &tokens.refresh));
    let again = Tokens::of(&scene.app.refresh(gateway, &tokens.refresh));
    assert_eq!(first.refresh, again.refresh, "an answer got lost: the same child");
    assert_ne!(first.access, again.access);
    assert_eq!(scene.app.refresh(gateway, &first.refresh).status, 200);
    is_error(&scene.app.refresh(gateway, &tokens.refresh), 400, "invalid_grant");
    is_error(&scene.app.refresh(gateway, &first.refresh), 400, "invalid_grant");
}

fn revoking_ends_the_grant_or_the_one_token(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    let next = Tokens::of(&scene.app.refresh(gateway, &tokens.refresh));
    let revoke = |token: &str, hint: &str| {
        let answer = scene.app.post(gateway, "/oauth/revoke", &[("token", token), ("token_type_hint", hint)]);
        assert_eq!((answer.status, answer.body.len(), answer.field("cache-control")), (200, 0, Some("no-store")));
    };
    assert!(scene.works(&tokens.access));
    revoke(&tokens.access, "refresh_token");
    let answer = gateway.ask("GET", PACKS, Some(&tokens.access), &[]);
    assert_eq!((answer.status, answer.code().as_str()), (401, "revoked_credential"), "the one token, at once");
    assert!(scene.works(&next.access), "and no other");
    revoke(&tokens.access, "nonsense");
    revoke(&tokens.refresh, "access_token");
    assert!(!scene.works(&next.access), "an old refresh token ends the grant as well");
    is_error(&scene.app.refresh(gateway, &next.refresh), 400, "invalid_grant");
    revoke(&next.refresh, "");
}

fn revoking_what_is_not_yours_is_200_and_has_no_effect(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    let other = scene.world.app(&[]);
    for token in [&*tokens.access, &tokens.refresh, "irt_x", "x", "ifk_live_8xK2mN9pQr4vT7wL"] {
        assert_eq!(other.post(gateway, "/oauth/revoke", &[("token", token)]).status, 200);
    }
    assert!(scene.works(&tokens.access));
    assert_eq!(scene.app.refresh(gateway, &tokens.refresh).status, 200);
    is_error(&scene.app.post(gateway, "/oauth/revoke", &[]), 400, "invalid_request");
    is_error(&post(gateway, "/oauth/revoke", &[], &form(&[("token", &tokens.access)])), 400, "invalid_client");
    let get = gateway.ask("GET", &format!("{AUTH}/oauth/revoke?token=x"), None, &[]);
    assert_eq!((get.status, get.field("allow")), (405, Some("POST")));
}

fn introspection_is_for_clients_with_a_secret(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    is_error(&scene.app.post(gateway, "/oauth/introspect", &[("token", &tokens.access)]), 401, "invalid_client");
    let server = scene.world.app(&["--confidential"]);
    let wrong = App { id: server.id, secret: Some("ics_wrong".into()) };
    is_error(&wrong.post(gateway, "/oauth/introspect", &[("token", &tokens.access)]), 401, "invalid_client");
}

fn introspection_tells_the_truth_and_no_more(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    let server = scene.world.app(&["--confidential"]);
    let ask = |token: &str| server.post(gateway, "/oauth/introspect", &[("token", token)]);
    let answer = ask(&tokens.access);
    let (seen, claims) = (answer.json(), tokens.claims());
    assert_eq!((answer.status, answer.field("cache-control")), (200, Some("no-store")));
    assert_eq!(seen["active"], true);
    for name in ["scope", "client_id", "sub", "exp", "iat", "iss", "aud", "jti"] {
        assert_eq!(seen[name], claims[name], "{name}");
    }
    assert_eq!(seen["token_type"], "Bearer");
    let inactive = serde_json::json!({ "active": false });
    for token in ["x", "irt_x", "iat_eyJ.eyJ.x", &tokens.refresh, "ifk_live_8xK2mN9pQr4vT7wL"] {
        assert_eq!(ask(token).json(), inactive, "not known, or not this client's");
    }
    scene.app.post(gateway, "/oauth/revoke", &[("token", &tokens.refresh)]);
    assert_eq!(ask(&tokens.access).json(), inactive);
}

fn metadata_and_keys_are_public_and_say_what_is_true(kind: StoreKind) {
    let scene = scene(kind);
    let gateway = scene.gateway();
    let get = |path: &str, fields: &[(&str, &str)]| gateway.ask("GET", &format!("{AUTH}{path}"), None, fields);
    let one = get("/.well-known/oauth-authorization-server", &[]);
    assert_eq!(one.body, get("/.well-known/openid-configuration", &[]).body);
    let said = one.json();
    assert_eq!(said["issuer"], AUTH);
    assert_eq!(said["response_types_supported"], serde_json::json!(["code"]));
    assert_eq!(said["grant_types_supported"], serde_json::json!(["authorization_code", "refresh_token"]));
    assert_eq!(said["code_challenge_methods_supported"], serde_json::json!(["S256"]));
    assert_eq!(said["token_endpoint_auth_methods_supported"], serde_json::json!(["none", "client_secret_basic"]));
    assert_eq!(said["authorization_response_iss_parameter_supported"], true);
    let keys = get("/oauth/jwks", &[]);
    for answer in [&one, &keys] {
        assert_eq!((answer.status, answer.field("cache-control")), (200, Some("public, max-age=3600")));
        assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    }
    let key = &keys.json()["keys"][0];
    assert_eq!(
        (key["kty"].as_str(), key["alg"].as_str(), key["use"].as_str()),
        (Some("RSA"), Some("RS256"), Some("sig"))
    );
    for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
        assert!(key.get(private).is_none(), "public parts only");
    }
    let kid = tests::part(&scene.tokens().access, 0)["kid"].clone();
    assert_eq!(key["kid"], kid);
    let known = get("/oauth/jwks", &[("if-none-match", keys.field("etag").unwrap())]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    let posted = gateway.ask("POST", &format!("{AUTH}/oauth/jwks"), None, &[]);
    assert_eq!(posted.status, 405);
    // After a rotation both keys are published; the next one signs later.
    scene.world.json(&["signing-keys", "rotate"]);
    tests::until("the next key is published", || get("/oauth/jwks", &[]).json()["keys"].as_array().unwrap().len() == 2);
    assert_eq!(tests::part(&scene.tokens().access, 0)["kid"], kid);
    // In an emergency there is only the new one, and old tokens are void.
    let old = scene.tokens();
    assert!(scene.works(&old.access));
    scene.world.json(&["signing-keys", "rotate", "--emergency"]);
    tests::until("the old token is void", || !scene.works(&old.access));
    assert_eq!(get("/oauth/jwks", &[]).json()["keys"].as_array().unwrap().len(), 1);
    let fresh = Tokens::of(&scene.app.refresh(gateway, &old.refresh));
    assert!(scene.works(&fresh.access), "applications refresh and go on");
    assert!(!scene.works(&old.access));
}

fn token_and_revoke_answer_preflights(kind: StoreKind) {
    let scene = scene(kind);
    for path in ["/oauth/token", "/oauth/revoke"] {
        let fields = [("origin", "https://spa.example"), ("access-control-request-method", "POST")];
        let answer = scene.gateway().ask("OPTIONS", &format!("{AUTH}{path}"), None, &fields);
        assert_eq!(answer.status, 204);
        assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.field("access-control-allow-methods"), Some("POST"));
        assert_eq!(answer.field("access-control-allow-headers"), Some("content-type, authorization"));
        assert_eq!(answer.field("access-control-max-age"), Some("600"));
        assert_eq!(answer.field("access-control-allow-credentials"), None);
    }
}

fn the_edge_says_where_to_get_a_token(kind: StoreKind) {
    let scene = scene(kind);
    let metadata = "https://api.iconflow.dev/.well-known/oauth-protected-resource";
    let nobody = scene.gateway().ask("GET", PACKS, None, &[]);
    let expected = format!("Bearer realm=\"IconFlow API\", resource_metadata=\"{metadata}\"");
    assert_eq!((nobody.status, nobody.field("www-authenticate")), (401, Some(expected.as_str())));
    let bad = scene.gateway().ask("GET", PACKS, Some("iat_x.y.z"), &[]);
    let challenge = bad.field("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"invalid_token\"") && challenge.contains(metadata), "{challenge}");
    assert_eq!((bad.status, bad.field("cache-control")), (401, Some("no-store")));
    let said = scene.gateway().ask("GET", metadata, None, &[]);
    assert_eq!(said.status, 200);
    assert_eq!(said.json()["resource"], "https://api.iconflow.dev");
    assert_eq!(said.json()["authorization_servers"], serde_json::json!([AUTH]));
    assert_eq!(said.json()["bearer_methods_supported"], serde_json::json!(["header"]));
}

fn the_edge_takes_tokens_only_from_one_header(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, access) = (scene.gateway(), scene.tokens().access);
    assert_eq!(gateway.ask("GET", &format!("{PACKS}?access_token={access}"), None, &[]).status, 401);
    let cookie = format!("access_token={access}");
    assert_eq!(gateway.ask("GET", PACKS, None, &[("cookie", &cookie)]).status, 401);
    let body = format!("access_token={access}");
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(gateway.ask_with_body("POST", PACKS, None, &kind, body.as_bytes()).status, 401);
    let (one, lower) = (format!("Bearer {access}"), format!("bearer {access}"));
    assert_eq!(gateway.ask("GET", PACKS, None, &[("authorization", &lower)]).status, 200, "the scheme has no case");
    assert_eq!(gateway.ask("GET", PACKS, None, &[("authorization", &one), ("authorization", &one)]).status, 400);
    for after in [" ", " x", ",x", "=="] {
        let answer = gateway.ask("GET", PACKS, None, &[("authorization", &format!("{one}{after}"))]);
        assert!(matches!(answer.status, 200 | 400 | 401), "{answer:?}");
        assert!(answer.status != 200 || after == " ", "{after:?}");
    }
}

fn a_disabled_user_or_client_loses_everything_and_gets_it_back(kind: StoreKind) {
    let scene = scene(kind);
    let (gateway, tokens) = (scene.gateway(), scene.tokens());
    for (off, on, subject) in [("disable", "enable", "apps"), ("disable", "enable", "users")] {
        let id = if subject == "apps" { scene.app.id.as_str() } else { JO };
        assert!(scene.works(&tokens.access));
        scene.world.json(&[subject, off, id]);
        tests::until("the token stops", || gateway.ask("GET", PACKS, Some(&tokens.access), &[]).status == 401);
        let refused = scene.app.refresh(gateway, &tokens.refresh);
        let code = if subject == "apps" { "invalid_client" } else { "invalid_grant" };
        is_error(&refused, 400, code);
        scene.world.json(&[subject, on, id]);
        tests::until("the token works again", || scene.works(&tokens.access));
    }
    assert_eq!(scene.app.refresh(gateway, &tokens.refresh).status, 200, "nothing was spent");
    scene.world.json(&["users", "leave", JO, "--org", "acme"]);
    tests::until("a former member's token stops", || !scene.works(&tokens.access));
}

fn consent_is_remembered_for_https_until_the_redirect_uris_change(kind: StoreKind) {
    let scene = scene(kind);
    let gateway = scene.gateway();
    let mut browser = Browser::default();
    browser.code(gateway, &scene.app, JO);
    let silent = browser.visit(gateway, &scene.app.authorize_url(&[("prompt", "none")]));
    assert!(parameter(silent.field("location").unwrap(), "code").is_some(), "agreed to before: no page");
    let asked = browser.visit(gateway, &scene.app.authorize_url(&[("prompt", "consent")]));
    assert_eq!(asked.status, 200);
    let less = browser.visit(gateway, &scene.app.authorize_url(&[("scope", "packs:read")]));
    assert_eq!(less.status, 303, "a part of what was agreed to");
    let stranger = Browser::default().visit(gateway, &scene.app.authorize_url(&[("prompt", "none")]));
    went_back(&stranger, "login_required");
    let more = ["apps", "update", &scene.app.id, "--redirect-uri", CALLBACK, "--redirect-uri", "http://127.0.0.1/cb"];
    scene.world.json(&more);
    let moved = browser.visit(gateway, &scene.app.authorize_url(&[("prompt", "none")]));
    went_back(&moved, "consent_required");
    // A native application can be anybody: asked every time.
    let native = scene.app.authorize_url(&[("redirect_uri", "http://127.0.0.1:51004/cb")]);
    for _ in 0..2 {
        let location = browser.allow(gateway, &native, JO);
        assert!(location.starts_with("http://127.0.0.1:51004/cb?code="), "{location}");
        let page = browser.visit(gateway, &native);
        assert_eq!(page.status, 200, "asked again");
        let policy = page.field("content-security-policy").unwrap();
        assert!(policy.contains("form-action 'self' http://127.0.0.1:51004;"), "{policy}");
    }
}

fn a_login_page_is_of_its_browser_only(kind: StoreKind) {
    let scene = scene(kind);
    let gateway = scene.gateway();
    let (mut one, mut other) = (Browser::default(), Browser::default());
    let login = one.visit(gateway, &scene.app.authorize_url(&[]));
    other.visit(gateway, &scene.app.authorize_url(&[]));
    let (flow, csrf) = (hidden(&login, "login_request"), hidden(&login, "csrf"));
    assert_eq!(other.visit(gateway, &format!("/oauth/login?login_request={flow}")).status, 400);
    assert_eq!(Browser::default().visit(gateway, &format!("/oauth/consent?login_request={flow}")).status, 400);
    let fields = [("login_request", &*flow), ("csrf", &csrf), ("email", JO), ("password", tests::PASSWORD)];
    assert_eq!(other.post(gateway, "/oauth/login", &fields).status, 400);
    let forged = [("login_request", &*flow), ("csrf", "x"), ("email", JO), ("password", tests::PASSWORD)];
    assert_eq!(one.post(gateway, "/oauth/login", &forged).status, 403);
    let cookie = format!("__Host-lr={}", one.cookies[0].1);
    let elsewhere = [("cookie", &*cookie), ("origin", "https://evil.example")];
    assert_eq!(post(gateway, "/oauth/login", &elsewhere, &form(&fields)).status, 403);
    assert_eq!(one.post(gateway, "/oauth/login", &fields).status, 303);
    let before = one.cookies.clone();
    let again = one.visit(gateway, &scene.app.authorize_url(&[("prompt", "login")]));
    one.log_in(gateway, &again, JO);
    assert_ne!(before, one.cookies, "a new session at each login");
}

fn guessing_passwords_is_slowed_and_says_nothing(kind: StoreKind) {
    let scene = scene(kind);
    let gateway = scene.gateway();
    let mut browser = Browser::default();
    let login = browser.visit(gateway, &scene.app.authorize_url(&[]));
    let (flow, csrf) = (hidden(&login, "login_request"), hidden(&login, "csrf"));
    let mut guess = |email: &str, password: &str| {
        let fields = [("login_request", &*flow), ("csrf", &csrf), ("email", email), ("password", password)];
        browser.post(gateway, "/oauth/login", &fields)
    };
    let (wrong, unknown) = (guess(JO, "wrong password"), guess("nobody@example.com", "wrong password"));
    assert_eq!((wrong.status, unknown.status), (401, 401));
    let plain = |answer: &Response| String::from_utf8_lossy(&answer.body).replace("nobody@example.com", JO);
    assert_eq!(plain(&wrong), plain(&unknown), "the same words for both");
    for email in ["", "x", "'; DROP TABLE users; --@x.y", &"a".repeat(300)] {
        assert_eq!(guess(email, "x").status, 401);
    }
    for _ in 0..9 {
        guess(JO, "wrong password");
    }
    assert_eq!(guess(JO, tests::PASSWORD).status, 429, "also with the right one: a guess must not tell");
}

/// Whatever is sent to the endpoints, nothing of it is a 5xx, and the gateway goes on.
fn no_form_makes_it_a_5xx(kind: StoreKind) {
    let scene = scene(kind);
    let tokens = scene.tokens();
    let mut dice = tests::Dice::new(7);
    let mut pick = |most: usize| usize::try_from(dice.below(most as u64)).unwrap();
    let names = [
        "grant_type",
        "client_id",
        "code",
        "redirect_uri",
        "code_verifier",
        "refresh_token",
        "scope",
        "token",
        "state",
        "login_request",
        "csrf",
        "email",
    ];
    let values = [
        "",
        "authorization_code",
        "refresh_token",
        &scene.app.id,
        &tokens.refresh,
        &tokens.access,
        "%00",
        "%ff",
        "a%20b",
        "\u{202e}",
        "irt_",
        "iat_..",
        "0",
        "-1",
        "[]",
    ];
    let mut connection = scene.gateway().connect("auth.iconflow.dev");
    for round in 0..400 {
        let mut body = String::new();
        for _ in 0..pick(6) {
            let (name, value) = (names[pick(names.len())], values[pick(values.len())]);
            body.push_str(&format!("{name}={value}&"));
        }
        if round % 7 == 0 {
            for _ in 0..=pick(3) {
                body.pop();
            }
        }
        let path = [
            "/oauth/token",
            "/oauth/revoke",
            "/oauth/introspect",
            "/oauth/login",
            "/oauth/consent",
            "/oauth/authorize",
            "/account/logout",
        ][round % 7];
        let basic = ["Basic !", "Basic Og==", "Bearer x", "Basic Y2Y6eA=="][pick(4)];
        let mut fields = vec![
            ("host", "auth.iconflow.dev"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("cookie", "__Host-lr=x; __Host-as=\"y"),
        ];
        if pick(3) == 0 {
            fields.push(("authorization", basic));
        }
        let answer = connection.try_ask("POST", path, &fields, body.as_bytes()).ok().flatten();
        match answer {
            Some(answer) => assert!(answer.status < 500, "{path} {body}: {answer:?}"),
            None => connection = scene.gateway().connect("auth.iconflow.dev"),
        }
    }
    assert!(scene.works(&tokens.access) || !scene.gateway().output().contains("panicked"));
}

fn a_lost_post_forwards_no_password(kind: StoreKind) {
    let scene = scene(kind);
    let mut browser = Browser::default();
    let login = browser.visit(scene.gateway(), &scene.app.authorize_url(&[]));
    let consent = browser.log_in(scene.gateway(), &login, JO);
    assert_eq!(browser.decide(scene.gateway(), &consent, "allow").status, 303, "303, after which browsers use GET");
    tests::until("it is on record", || scene.gateway().output().contains("\"status\":303"));
    let log = scene.gateway().output();
    for secret in [tests::PASSWORD, "code=", "xL8mQ2pR5tY9wN", CHALLENGE] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
