//! Step 2 of the IconFlow page, sentence by sentence.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use tests::{AUTH, App, Browser, CALLBACK, StoreKind, Tokens, World, on_both_stores, parameter, part, until};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";
const JO: &str = "jo@example.com";

fn world(kind: StoreKind) -> (World, App, String) {
    let world = World::start(kind);
    world.organization("acme");
    let (app, user) = (world.app(&[]), world.user(JO));
    (world, app, user)
}

on_both_stores![
    after_registration_you_receive_a_client_id,
    iconflow_redirects_back_with_an_authorization_code,
    exchange_this_code_for_an_access_token,
    the_pair_printed_on_the_page_does_not_match_and_is_refused,
    use_the_access_token_on_behalf_of_the_user,
    use_the_refresh_token_to_obtain_a_new_access_token,
    refresh_tokens_can_be_revoked_by_the_user_under_connected_applications,
    oauth_access_tokens_inherit_the_limits_of_the_granting_users_plan,
    redirect_uris_are_exact_and_wildcards_are_refused,
    tokens_work_after_a_restart_and_a_reload,
];

fn after_registration_you_receive_a_client_id(kind: StoreKind) {
    let (world, app, _) = world(kind);
    assert!(app.id.starts_with("cf_") && app.id.len() == 17, "{}", app.id);
    assert!(app.id.bytes().skip(3).all(|b| b.is_ascii_alphanumeric()));
    assert_eq!(app.secret, None, "public-safe: there is no secret");
    let shown = world.json(&["apps", "show", &app.id]);
    assert_eq!(shown["name"], "PixelForge Design Tool");
    assert_eq!(shown.get("secrets"), None);
}

fn iconflow_redirects_back_with_an_authorization_code(kind: StoreKind) {
    let (world, app, _) = world(kind);
    let gateway = world.gateway();
    let mut browser = Browser::default();
    let login = browser.visit(gateway, &app.authorize_url(&[]));
    assert_eq!(login.status, 200);
    let consent = browser.log_in(gateway, &login, JO);
    let text = String::from_utf8(consent.body.clone()).unwrap();
    for words in ["PixelForge Design Tool", "pixelforge.design", "Browsing and searching icon libraries", "packs:read"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let back = browser.decide(gateway, &consent, "allow");
    assert_eq!(back.status, 303);
    let location = back.field("location").unwrap();
    assert!(location.starts_with(&format!("{CALLBACK}?code=")), "{location}");
    assert_eq!(parameter(location, "state").as_deref(), Some("xL8mQ2pR5tY9wN"));
    assert_eq!(parameter(location, "iss").as_deref(), Some(AUTH));
    assert_eq!(back.field("cache-control"), Some("no-store"));
    assert_eq!(back.field("referrer-policy"), Some("no-referrer"));
}

fn exchange_this_code_for_an_access_token(kind: StoreKind) {
    let (world, app, user) = world(kind);
    let gateway = world.gateway();
    let code = Browser::default().code(gateway, &app, JO);
    let answer = app.exchange(gateway, &code);
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    assert_eq!(json["token_type"], "Bearer");
    assert_eq!(json["expires_in"], 3600);
    assert_eq!(json["scope"], "packs:read downloads:read");
    assert_eq!(json.as_object().unwrap().len(), 5, "no more and no less than the page shows: {json}");
    let tokens = Tokens::of(&answer);
    assert!(tokens.access.starts_with("iat_eyJ") && tokens.refresh.starts_with("irt_"));
    let (header, claims) = (part(&tokens.access, 0), tokens.claims());
    assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("RS256"), Some("at+jwt")));
    assert_eq!(claims["iss"], AUTH);
    assert_eq!(claims["aud"], "https://api.iconflow.dev");
    assert_eq!(claims["sub"], user.as_str());
    assert_eq!(claims["client_id"], app.id.as_str());
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    assert!(claims.get("email").is_none() && claims.get("plan").is_none());
}

fn the_pair_printed_on_the_page_does_not_match_and_is_refused(kind: StoreKind) {
    let (world, app, _) = world(kind);
    let gateway = world.gateway();
    let code = Browser::default().code(gateway, &app, JO);
    let printed = app.exchange_with(gateway, &code, CALLBACK, "D2o1jQ8n7K3mR5pT9wL4xY6zA0bC");
    assert_eq!((printed.status, printed.json()["error"].as_str()), (400, Some("invalid_grant")));
    assert_eq!(
        app.exchange(gateway, &code).status,
        200,
        "the code is not burnt, the same curl with the right verifier works"
    );
}

fn use_the_access_token_on_behalf_of_the_user(kind: StoreKind) {
    let (world, app, user) = world(kind);
    let gateway = world.gateway();
    let tokens = app.tokens(gateway, JO);
    for _ in 0..2 {
        let answer = gateway.ask("GET", PACKS, Some(&tokens.access), &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let seen = world.live.last();
    assert_eq!(seen.field("authorization"), None);
    assert_eq!(seen.field("x-tollgate-user"), Some(user.as_str()));
    assert_eq!(seen.field("x-tollgate-org"), Some("acme"));
    assert_eq!(seen.field("x-tollgate-scopes"), Some("downloads:read packs:read"));
    let writes = gateway.ask("POST", PACKS, Some(&tokens.access), &[]);
    assert_eq!((writes.status, writes.code().as_str()), (403, "insufficient_scope"));
    let challenge = writes.field("www-authenticate").unwrap();
    assert!(challenge.contains("error=\"insufficient_scope\", scope=\"packs:write\""), "{challenge}");
    until("the user is on record", || gateway.output().contains(&format!("\"user\":\"{user}\"")));
    assert!(!gateway.output().contains(tokens.access.split_at(40).0), "no token in the log");
}

fn use_the_refresh_token_to_obtain_a_new_access_token(kind: StoreKind) {
    let (world, app, _) = world(kind);
    let gateway = world.gateway();
    let first = app.tokens(gateway, JO);
    let second = Tokens::of(&app.refresh(gateway, &first.refresh));
    assert_ne!(first.refresh, second.refresh, "refresh tokens rotate");
    assert_eq!(first.claims()["gid"], second.claims()["gid"]);
    for token in [&first.access, &second.access] {
        assert_eq!(gateway.ask("GET", PACKS, Some(token), &[]).status, 200);
    }
    let third = Tokens::of(&app.refresh(gateway, &second.refresh));
    // The first one is two generations old: whoever uses it has stolen it, or was stolen from.
    let reused = app.refresh(gateway, &first.refresh);
    assert_eq!((reused.status, reused.json()["error"].as_str()), (400, Some("invalid_grant")));
    assert_eq!(app.refresh(gateway, &third.refresh).status, 400, "the family is dead");
    let answer = gateway.ask("GET", PACKS, Some(&third.access), &[]);
    assert_eq!((answer.status, answer.code().as_str()), (401, "revoked_credential"), "access tokens too");
}

fn refresh_tokens_can_be_revoked_by_the_user_under_connected_applications(kind: StoreKind) {
    let (world, app, _) = world(kind);
    let gateway = world.gateway();
    let mut browser = Browser::default();
    let code = browser.code(gateway, &app, JO);
    let tokens = Tokens::of(&app.exchange(gateway, &code));
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).status, 200);
    until("the use is noted", || {
        let page = browser.visit(gateway, "/account/applications");
        String::from_utf8_lossy(&page.body).contains("just now")
    });
    let page = browser.visit(gateway, "/account/applications");
    let text = String::from_utf8_lossy(&page.body).into_owned();
    for words in
        ["Connected Applications", "PixelForge Design Tool", "Browsing and searching", "Connected since", "Revoke"]
    {
        assert!(text.contains(words), "{words}");
    }
    let csrf = text.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let forged = browser.post(gateway, "/account/applications/revoke", &[("app", &app.id), ("csrf", "x")]);
    assert_eq!(forged.status, 403);
    let done = browser.post(gateway, "/account/applications/revoke", &[("app", &app.id), ("csrf", &csrf)]);
    assert_eq!(done.status, 303);
    assert_eq!(gateway.ask("GET", PACKS, Some(&tokens.access), &[]).status, 401, "at once");
    assert_eq!(app.refresh(gateway, &tokens.refresh).json()["error"], "invalid_grant");
    let page = browser.visit(gateway, "/account/applications");
    assert!(String::from_utf8_lossy(&page.body).contains("No application has access"));
    let again = browser.visit(gateway, &app.authorize_url(&[]));
    assert!(String::from_utf8_lossy(&again.body).contains("Allow access"), "the consent is forgotten: asked again");
}

fn oauth_access_tokens_inherit_the_limits_of_the_granting_users_plan(kind: StoreKind) {
    let (world, app, _) = world(kind);
    let gateway = world.gateway();
    let first = app.tokens(gateway, JO);
    let read = gateway.ask("GET", PACKS, Some(&first.access), &[]);
    assert_eq!(read.number("x-ratelimit-limit"), 1000);
    let second = Tokens::of(&app.refresh(gateway, &first.refresh));
    let again = gateway.ask("GET", PACKS, Some(&second.access), &[]);
    assert_eq!(
        again.number("x-ratelimit-remaining"),
        read.number("x-ratelimit-remaining") - 1,
        "one bucket for the grant, across its tokens"
    );
    let other = app.tokens(gateway, JO);
    let third = gateway.ask("GET", PACKS, Some(&other.access), &[]);
    assert_eq!(third.number("x-ratelimit-remaining"), read.number("x-ratelimit-remaining") - 2, "same user, same app");
    let itself = gateway.ask("GET", "https://api.iconflow.dev/.tollgate/self", Some(&second.access), &[]).json();
    assert_eq!(itself["limits"][1]["class"], "write");
    assert_eq!(itself["limits"][1]["limit"], 200);
    assert_eq!(itself["client"], app.id.as_str());
}

fn redirect_uris_are_exact_and_wildcards_are_refused(kind: StoreKind) {
    let (world, app, _) = world(kind);
    for bad in ["https://*.pixelforge.design/cb", "http://pixelforge.design/cb", "https://pixelforge.design/cb#x"] {
        let arguments =
            ["apps", "register", "--name", "x", "--org", "acme", "--scopes", "packs:read", "--redirect-uri", bad];
        let out = world.tollgate(&arguments);
        assert_eq!(out.status.code(), Some(1), "{bad}");
    }
    let page = Browser::default().visit(
        world.gateway(),
        &app.authorize_url(&[("redirect_uri", "https://pixelforge.design/callback/iconflow/")]),
    );
    assert_eq!(page.status, 400);
    assert_eq!(page.field("location"), None, "nobody is sent anywhere");
}

fn tokens_work_after_a_restart_and_a_reload(kind: StoreKind) {
    let (mut world, app, _) = world(kind);
    let tokens = app.tokens(world.gateway(), JO);
    world.gateway_mut().stop();
    world.gateway_mut().run(&[]);
    world.gateway_mut().wait_ready();
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&tokens.access), &[]).status, 200);
    let policy = world.policy_text("iconflow.yaml");
    std::fs::write(world.folder.path().join("iconflow.yaml"), policy.replace("realm: IconFlow API", "realm: Changed"))
        .unwrap();
    until("the policy is reloaded", || {
        let answer = world.gateway().ask("GET", PACKS, None, &[]);
        answer.field("www-authenticate").unwrap().contains("Changed")
    });
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&tokens.access), &[]).status, 200);
    assert_eq!(app.refresh(world.gateway(), &tokens.refresh).status, 200);
}
