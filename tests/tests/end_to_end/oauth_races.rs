//! What happens at once, on several gateways, and when a gateway dies in the middle.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashSet;

use tests::{App, Browser, Gateway, Response, StoreKind, Tokens, World, on_both_stores, until};

const PACKS: &str = "https://api.iconflow.dev/v2/packs";
const JO: &str = "jo@example.com";

fn world(kind: StoreKind, gateways: usize) -> (World, App) {
    let mut world = World::start_with(kind, "bounds: { failures_per_minute: 0 }", |policy| policy);
    world.add_gateways(gateways - 1);
    world.organization("acme");
    world.user(JO);
    let app = world.app(&[]);
    (world, app)
}

/// The same request from many threads at the same moment, spread over the gateways.
fn at_once(gateways: &[&Gateway], many: usize, ask: impl Fn(&Gateway) -> Response + Sync) -> Vec<Response> {
    let barrier = std::sync::Barrier::new(many);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..many)
            .map(|n| {
                let (gateway, ask, barrier) = (gateways[n % gateways.len()], &ask, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    ask(gateway)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn works(gateway: &Gateway, access: &str) -> bool {
    gateway.ask("GET", PACKS, Some(access), &[]).status == 200
}

on_both_stores![
    fifty_exchanges_of_one_code_give_one_success,
    fifty_refreshes_of_one_token_give_one_child,
    a_refresh_and_a_revocation_leave_nothing_alive,
    a_gateway_killed_in_the_middle_leaves_nothing_alive_that_should_be_dead,
];

fn fifty_exchanges_of_one_code_give_one_success(kind: StoreKind) {
    let (world, app) = world(kind, if kind == StoreKind::Redis { 2 } else { 1 });
    let gateways: Vec<&Gateway> = world.gateways().iter().collect();
    let code = Browser::default().code(gateways[0], &app, JO);
    let answers = at_once(&gateways, 50, |gateway| app.exchange(gateway, &code));
    let good: Vec<&Response> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(good.len(), 1);
    assert!(answers.iter().all(|a| a.status == 200 || a.json()["error"] == "invalid_grant"), "{answers:?}");
    // The others were replays by the right client: the grant has ended, everywhere.
    let access = Tokens::of(good[0]).access;
    for gateway in gateways {
        until("the grant has ended", || !works(gateway, &access));
    }
}

fn fifty_refreshes_of_one_token_give_one_child(kind: StoreKind) {
    let (world, app) = world(kind, if kind == StoreKind::Redis { 2 } else { 1 });
    let gateways: Vec<&Gateway> = world.gateways().iter().collect();
    let tokens = app.tokens(gateways[0], JO);
    let answers = at_once(&gateways, 50, |gateway| app.refresh(gateway, &tokens.refresh));
    let children: HashSet<String> = answers.iter().map(|answer| Tokens::of(answer).refresh).collect();
    assert_eq!(children.len(), 1, "one line, no branches");
    let child = children.into_iter().next().unwrap();
    let next = Tokens::of(&app.refresh(gateways[0], &child));
    assert!(works(gateways[0], &next.access));
    assert_eq!(app.refresh(gateways[0], &tokens.refresh).status, 400, "the grace is over once the child was seen");
    assert!(!works(gateways[0], &next.access));
}

fn a_refresh_and_a_revocation_leave_nothing_alive(kind: StoreKind) {
    let (world, app) = world(kind, if kind == StoreKind::Redis { 2 } else { 1 });
    let gateways: Vec<&Gateway> = world.gateways().iter().collect();
    for _ in 0..5 {
        let tokens = app.tokens(gateways[0], JO);
        let number = std::sync::atomic::AtomicUsize::new(0);
        let answers = at_once(&gateways, 8, |gateway| match number.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            3 => app.post(gateway, "/oauth/revoke", &[("token", &tokens.refresh)]),
            _ => app.refresh(gateway, &tokens.refresh),
        });
        for answer in answers.iter().filter(|answer| answer.status == 200 && !answer.body.is_empty()) {
            let late = Tokens::of(answer);
            for gateway in &gateways {
                until("the token is dead", || !works(gateway, &late.access));
            }
            assert_eq!(app.refresh(gateways[0], &late.refresh).status, 400);
        }
    }
}

fn a_gateway_killed_in_the_middle_leaves_nothing_alive_that_should_be_dead(kind: StoreKind) {
    let (mut world, app) = world(kind, 1);
    for round in 0..4u64 {
        let code = Browser::default().code(world.gateway(), &app, JO);
        let first = Tokens::of(&app.exchange(world.gateway(), &code));
        let second = Tokens::of(&app.refresh(world.gateway(), &first.refresh));
        // Somebody uses the first refresh token long after: the family must die, whatever happens
        // to the gateway that is told.
        Tokens::of(&app.refresh(world.gateway(), &second.refresh));
        let gateway = world.gateway();
        let mut connection = gateway.connect("auth.iconflow.dev");
        std::thread::scope(|scope| {
            let reuse = scope.spawn(|| {
                let body = tests::form(&[
                    ("grant_type", "refresh_token"),
                    ("refresh_token", &first.refresh),
                    ("client_id", &app.id),
                ]);
                let fields = [("host", "auth.iconflow.dev"), ("content-type", "application/x-www-form-urlencoded")];
                let _ = connection.try_ask("POST", "/oauth/token", &fields, body.as_bytes());
            });
            std::thread::sleep(std::time::Duration::from_millis(round));
            gateway.signal("-KILL");
            reuse.join().unwrap();
        });
        let _ = world.gateway_mut().take_child().wait();
        world.gateway_mut().run(&[]);
        world.gateway_mut().wait_ready();
        // Told again, it is dead for certain; a half-done kill would leave a child alive.
        assert_eq!(app.refresh(world.gateway(), &first.refresh).status, 400);
        assert_eq!(app.refresh(world.gateway(), &second.refresh).status, 400);
        assert!(!works(world.gateway(), &second.access));
        assert_eq!(app.exchange(world.gateway(), &code).status, 400);
    }
}

/// Several gateways on one Redis issue and accept each other's tokens, and one revocation reaches
/// all of them.
#[test]
fn gateways_accept_each_others_tokens_and_learn_of_their_end() {
    let (world, app) = world(StoreKind::Redis, 3);
    let gateways: Vec<&Gateway> = world.gateways().iter().collect();
    let code = Browser::default().code(gateways[0], &app, JO);
    let tokens = Tokens::of(&app.exchange(gateways[1], &code));
    let next = Tokens::of(&app.refresh(gateways[2], &tokens.refresh));
    for gateway in &gateways {
        assert!(works(gateway, &tokens.access) && works(gateway, &next.access));
    }
    let started = std::time::Instant::now();
    assert_eq!(app.post(gateways[0], "/oauth/revoke", &[("token", &next.refresh)]).status, 200);
    assert!(!works(gateways[0], &next.access), "here at once");
    for gateway in &gateways {
        until("the others know", || !works(gateway, &next.access) && !works(gateway, &tokens.access));
    }
    println!("known everywhere after {:?}", started.elapsed());
    let ended = world.json(&["grants", "list", "--app", &app.id]);
    assert_eq!(ended[0]["state"], "revoked");
    assert_eq!(ended[0]["ended_by"], "app");
}

/// Redis away: what is known goes on, what is not is a 503, and nothing is ever a wrong 401 or an
/// `invalid_grant` that would make an application throw its refresh token away.
#[test]
fn an_outage_is_never_a_401_and_never_an_invalid_grant() {
    let (mut world, app) = world(StoreKind::Redis, 1);
    let (known, unknown) = (app.tokens(world.gateway(), JO), app.tokens(world.gateway(), JO));
    assert!(works(world.gateway(), &known.access));
    world.redis().kill();
    until("the store is away", || app.refresh(world.gateway(), &known.refresh).status == 503);
    let refused = app.refresh(world.gateway(), &known.refresh);
    assert_eq!(refused.json()["error"], "temporarily_unavailable");
    assert!(refused.field("retry-after").is_some());
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&unknown.access), &[]).status, 503);
    let page = Browser::default().visit(world.gateway(), &app.authorize_url(&[]));
    assert_eq!((page.status, page.field("location")), (503, None));
    let bent = format!("{}A", known.access);
    assert_eq!(world.gateway().ask("GET", PACKS, Some(&bent), &[]).status, 401, "a forgery is a forgery");
    world.redis().run();
    until("the store is back", || app.refresh(world.gateway(), &known.refresh).status == 200);
    until("tokens work", || works(world.gateway(), &unknown.access));
}
