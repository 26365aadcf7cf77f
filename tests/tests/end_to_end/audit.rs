//! Requests on record: each has one record, what is lost is said, and nothing secret is in it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tests::{Http2, Key, StoreKind, World, until};

/// What `tollgate audit requests` prints, the newest first.
fn records(world: &World, filter: &[&str]) -> Vec<Value> {
    let out = world.tollgate(&[&["audit", "requests", "--format", "ndjson", "--limit", "10000"], filter].concat());
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `tollgate usage` sums, by name.
fn used(world: &World, arguments: &[&str]) -> BTreeMap<String, u64> {
    let rows = world.json(&[&["usage"], arguments].concat());
    let row = |row: &Value| (row["name"].as_str().unwrap().to_owned(), row["requests"].as_u64().unwrap());
    rows.as_array().unwrap().iter().map(row).collect()
}

fn wait_for(world: &World, count: usize) -> Vec<Value> {
    until(&format!("{count} records"), || records(world, &[]).len() >= count);
    let all = records(world, &[]);
    assert_eq!(all.len(), count, "{all:?}");
    all
}

fn verified(world: &World) -> (bool, Value) {
    let out = world.tollgate(&["--json", "audit", "verify"]);
    (out.status.success(), serde_json::from_slice(&out.stdout).unwrap())
}

/// One request of each kind over HTTP/1.1, and the same over HTTP/2: ten in all.
fn ask(world: &mut World, good: &Key, revoked: &Key) {
    let gateway = world.gateway();
    let url = "https://api.iconflow.dev/v2/packs";
    assert_eq!(gateway.get(url, good).status, 200);
    assert_eq!(gateway.get(url, revoked).status, 401);
    assert_eq!(gateway.ask("GET", url, None, &[]).status, 401);
    assert_eq!(gateway.ask("GET", "https://api.iconflow.dev/nothing", Some(&good.secret), &[]).status, 404);
    assert_eq!(gateway.ask("GET", url, Some(&good.secret), &[("x-request-id", "order-7")]).status, 200);
    let port = world.add_trusted_listener();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Http2::connect(port).await;
        let cases = [(url, Some(good), 200), (url, Some(revoked), 401), (url, None, 401), (url, Some(good), 200)];
        for (url, key, status) in cases {
            let mut request = http::Request::get(url);
            if let Some(key) = key {
                request = request.header("authorization", key.bearer());
            }
            assert_eq!(client.ask(request.body(()).unwrap()).await.unwrap().status, status);
        }
        let nowhere = http::Request::get("https://api.iconflow.dev/nothing").header("authorization", good.bearer());
        assert_eq!(client.ask(nowhere.body(()).unwrap()).await.unwrap().status, 404);
    });
}

fn each_request_has_one_record(kind: StoreKind) {
    let (mut world, good) = World::with_admin(kind, "", |policy| policy);
    let revoked = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    world.json(&["keys", "revoke", &revoked.id, "--wait"]);
    ask(&mut world, &good, &revoked);
    let all = wait_for(&world, 10);

    let mut kinds: BTreeMap<(String, String, u64), usize> = BTreeMap::new();
    for record in &all {
        let text = |name: &str| record[name].as_str().unwrap().to_owned();
        *kinds.entry((text("protocol"), text("outcome"), record["status"].as_u64().unwrap())).or_default() += 1;
    }
    for protocol in ["http/1.1", "h2"] {
        let count = |outcome: &str, status| kinds[&(protocol.to_owned(), outcome.to_owned(), status)];
        assert_eq!(count("forwarded", 200), 2);
        assert_eq!(count("revoked_credential", 401), 1);
        assert_eq!(count("missing_credential", 401), 1);
        assert_eq!(count("no_such_route", 404), 1);
    }
    let of_revoked = records(&world, &["--key", &revoked.id]);
    assert_eq!(of_revoked.len(), 2, "a refused key is on record with its id");
    assert!(of_revoked.iter().all(|record| record["organization"] == "acme"));
    assert_eq!(records(&world, &["--status", "4xx", "--org", "acme"]).len(), 4);
    assert_eq!(records(&world, &["--id", "order-7"]).len(), 1);
    assert_eq!(used(&world, &["--by", "org"])["acme"], 8, "counts that are not written yet are there too");
    let id = all[0]["request_id"].as_str().unwrap();
    assert_eq!(records(&world, &["--id", id]), [all[0].clone()]);

    let mut logged: Vec<Value> = std::fs::read_to_string(world.gateway().folder.join("stdout"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    logged.reverse();
    let ids = |list: &[Value]| list.iter().map(|line| line["request_id"].to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&logged), ids(&all), "the access log has the same, in the same order");
    let key_itself = world.tollgate_with(&["audit", "requests", "--key", "-", "--format", "ndjson"], &revoked.secret);
    assert_eq!(String::from_utf8(key_itself.stdout).unwrap().lines().count(), 2);

    world.gateway_mut().stop();
    let (holds, report) = verified(&world);
    assert!(holds, "{report}");
    let sums =
        |name: &str| report["boots"].as_array().unwrap().iter().map(|boot| boot[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sums("records"), sums("counted"), sums("accounted")), (10, 10, 10));
    let expected = [("denied", 6), ("ok", 4)].map(|(class, count)| (class.to_owned(), count));
    assert_eq!(used(&world, &["--by", "outcome"]), expected.into());
    assert_eq!(used(&world, &["--by", "key", "--org", "acme"])[&revoked.id], 2);
    assert_eq!(used(&world, &["--by", "day"]).values().sum::<u64>(), 10);
}

#[test]
fn each_request_has_one_record_over_sqlite() {
    each_request_has_one_record(StoreKind::Sqlite);
}

#[test]
fn each_request_has_one_record_over_redis() {
    each_request_has_one_record(StoreKind::Redis);
}

#[test]
fn what_a_killed_gateway_has_lost_is_said_by_the_next_one() {
    let (mut world, key) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    for _ in 0..3 {
        assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &key).status, 200);
    }
    wait_for(&world, 3);
    world.gateway().signal("-KILL");
    world.gateway_mut().take_child().wait().unwrap();
    world.gateway_mut().run(&[]);
    world.gateway_mut().wait_ready();
    until("the tail is noticed", || {
        let (holds, report) = verified(&world);
        let boots = report["boots"].as_array().unwrap();
        let killed = boots.iter().find(|boot| boot["records"] == 3).unwrap();
        holds && killed["state"] == "ended_uncleanly" && killed["missing"][0]["reason"] == "unclean_end"
    });
    assert!(world.gateway().output().contains("ended uncleanly"));
    assert_eq!(used(&world, &["--by", "key"])[&key.id], 3, "what it had not counted is counted from its blocks");
}

fn in_the_way(world: &World) -> std::path::PathBuf {
    world.gateway().folder.join("elsewhere")
}

#[test]
fn while_nothing_can_be_written_requests_are_served_and_kept_until_it_can() {
    let (mut world, key) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    std::fs::write(in_the_way(&world), b"no folder").unwrap();
    world.change_settings("state: .\n", "state: .\naudit: { folder: elsewhere }\n");
    until("readiness says it", || world.gateway().readiness().1["reasons"]["audit"].is_string());
    assert_eq!(world.gateway().readiness().1["status"], "degraded");
    assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &key).status, 200);
    std::fs::remove_file(in_the_way(&world)).unwrap();
    wait_for(&world, 1);
    until("readiness is itself again", || world.gateway().readiness().1["status"] == "ready");
}

#[test]
fn where_everything_must_be_on_record_nothing_is_served_that_cannot_be() {
    let (mut world, key) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    std::fs::write(in_the_way(&world), b"no folder").unwrap();
    world.change_settings("state: .\n", "state: .\naudit: { folder: elsewhere, when_full: refuse }\n");
    let get = |world: &World| world.gateway().get("https://api.iconflow.dev/v2/packs", &key);
    until("requests are refused", || get(&world).status == 503);
    let forwarded = world.live.received().len();
    let answer = get(&world);
    assert_eq!((answer.status, answer.json()["code"].as_str().unwrap()), (503, "temporarily_unavailable"));
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(world.live.received().len(), forwarded);
    std::fs::remove_file(in_the_way(&world)).unwrap();
    until("requests are served again", || get(&world).status == 200);
    until("the refused ones are on record too", || {
        records(&world, &["--outcome", "temporarily_unavailable"]).len() >= 2
    });
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn no_credential_is_kept_wherever_a_client_puts_it() {
    let (world, key) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    let secret = key.secret.as_str();
    let body = secret.strip_prefix("ifk_live_").or_else(|| secret.rsplit('_').next()).unwrap();
    let gateway = world.gateway();
    let base = "https://api.iconflow.dev/v2/packs";
    let mut asked = 0;
    let mut ask = |url: &str, fields: &[(&str, &str)]| {
        gateway.ask("GET", url, Some(secret), fields);
        asked += 1;
    };
    for url in ["/{}", "?key={}", "/a{}b", "/%2e{}", "/x/{}/y?{}"] {
        ask(&format!("{base}{}", url.replace("{}", secret)), &[]);
    }
    let names =
        ["x-request-id", "user-agent", "cookie", "referer", "x-api-key", "origin", "x-forwarded-for", "traceparent"];
    for name in names {
        ask(base, &[(name, secret)]);
    }
    gateway.ask_with_body("POST", base, Some(secret), &[], secret.as_bytes());
    wait_for(&world, asked + 1);
    for format in ["table", "csv", "ndjson", "json"] {
        let out = world.tollgate(&["audit", "requests", "--format", format]);
        assert!(!String::from_utf8(out.stdout).unwrap().contains(body), "as {format}");
    }
    assert!(!gateway.output().contains(body), "in the logs");
    for path in files_below(&world.folder.path().join("gateway-0")) {
        let bytes = std::fs::read(&path).unwrap();
        let has = bytes.windows(body.len()).any(|window| window == body.as_bytes());
        assert!(!has, "{} has the key", path.display());
    }
}

#[test]
fn of_an_address_as_much_is_kept_as_the_settings_say() {
    for (addresses, kept) in [("network", "127.0.0.0"), ("none", "")] {
        let settings = format!("audit: {{ addresses: {addresses} }}");
        let (world, key) = World::with_admin(StoreKind::Sqlite, &settings, |policy| policy);
        world.gateway().get("https://api.iconflow.dev/v2/packs", &key);
        assert_eq!(wait_for(&world, 1)[0]["address"], kept);
        assert!(world.gateway().output().contains(&format!("\"address\":\"{kept}\"")));
    }
}

#[test]
fn wrong_audit_settings_are_refused_with_what_to_write() {
    let (world, _) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    let settings = world.gateway().folder.join("tollgate.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    for (wrong, said) in
        [("days: 0", "`days` is 1 to 3660"), ("size: 1KiB", "the least is 10MiB"), ("when_full: block", "refuse")]
    {
        std::fs::write(&settings, format!("{text}audit: {{ {wrong} }}\n")).unwrap();
        let out = world.tollgate(&["check"]);
        let shown = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && shown.contains(said), "{wrong}: {shown}");
    }
}
