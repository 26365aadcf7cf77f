//! Reloads, upgrades and stops under load: nothing that a client asks fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tests::{Connection, Key, Policies, StoreKind, Trust, World, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";

/// Clients that ask one request after another until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    asked: Arc<AtomicUsize>,
    failed: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Load {
    fn start(port: u16, trust: &Trust, key: &Key) -> Self {
        let load = Load { stop: Arc::default(), threads: Vec::new(), asked: Arc::default(), failed: Arc::default() };
        let threads = (0..4).map(|_| {
            let (stop, asked, failed) = (load.stop.clone(), load.asked.clone(), load.failed.clone());
            let (trust, bearer) = (trust.clone(), format!("Bearer {}", key.secret));
            std::thread::spawn(move || {
                let mut connection = None;
                while !stop.load(Ordering::SeqCst) {
                    let kept = connection.take();
                    let is_fresh = kept.is_none();
                    let opened = kept.map_or_else(|| Connection::try_tls(port, &trust, HOST), Ok);
                    let Ok(mut open) = opened else {
                        failed.lock().unwrap().push(format!("connect: {:?}", opened.err()));
                        continue;
                    };
                    let fields = [("host", HOST), ("authorization", bearer.as_str())];
                    match open.try_ask("GET", "/v2/packs", &fields, b"") {
                        Ok(Some(answer)) if answer.status == 200 => {
                            asked.fetch_add(1, Ordering::SeqCst);
                            if answer.field("connection") != Some("close") {
                                connection = Some(open);
                            }
                        }
                        // A kept connection may be closed at any time before a request is taken
                        // (RFC 9112 section 9.3.1): every client tries again on a new one.
                        Ok(None) | Err(_) if !is_fresh => {}
                        other => failed.lock().unwrap().push(format!("{other:?}")),
                    }
                }
            })
        });
        let threads = threads.collect();
        Load { threads, ..load }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until more requests were answered.
    fn go_on(&self, more: usize) {
        let from = self.asked();
        until("requests are answered", || self.asked() >= from + more || !self.failed.lock().unwrap().is_empty());
    }

    fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} requests failed, the first: {}", failed.len(), failed[0]);
        self.asked.load(Ordering::SeqCst)
    }
}

fn world() -> (World, Key) {
    let world =
        World::start_with(StoreKind::Sqlite, "access_log: false", |p| p.replace("read: 1000/min", "read: 900000/min"));
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    (world, key)
}

fn reloads(world: &World, what: &str, result: &str) -> f64 {
    world.gateway().metric(&format!("tollgate_reloads_total{{result=\"{result}\",what=\"{what}\"}}"))
}

#[test]
fn a_policy_reload_takes_effect_and_fails_no_request() {
    let (world, key) = world();
    let load = Load::start(world.gateway().tls, &world.gateway().trust, &key);
    for round in 1..=3 {
        load.go_on(50);
        let text = world.policy_text("iconflow.yaml");
        world.write_policy("iconflow.yaml", &format!("{text}# round {round}\n"));
        until("the policy is reloaded", || reloads(&world, "policy", "ok") >= f64::from(round));
    }
    let open = world.policy_text("iconflow.yaml").replace("access: { scopes: [\"downloads:read\"] }", "access: public");
    assert_eq!(world.gateway().ask("GET", "https://api.iconflow.dev/v2/downloads", None, &[]).status, 401);
    world.write_policy("iconflow.yaml", &open);
    until("downloads are public", || {
        world.gateway().ask("GET", "https://api.iconflow.dev/v2/downloads", None, &[]).status == 200
    });
    assert!(load.finish() > 100);
}

#[test]
fn a_reload_resets_no_limit() {
    let (world, _) = world();
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let ask = || world.gateway().get("https://api.icodrip.com/v1/affiliates", &key);
    let before = ask();
    let text = world.policy_text("icodrip.yaml");
    world.write_policy("icodrip.yaml", &format!("{text}# changed\n"));
    until("the policy is reloaded", || reloads(&world, "policy", "ok") >= 1.0);
    let after = ask();
    if before.number("x-ratelimit-reset") == after.number("x-ratelimit-reset") {
        assert_eq!(after.number("x-ratelimit-remaining"), before.number("x-ratelimit-remaining") - 1);
    }
    // A lowered limit holds at once, without a fresh window.
    world.write_policy("icodrip.yaml", &text.replace("per_key: 100/min", "per_key: 2/min"));
    until("the limit is lower", || ask().number("x-ratelimit-limit") == 2);
    until("it refuses", || ask().status == 429);
}

#[test]
fn a_bad_policy_changes_nothing_and_readiness_says_where() {
    let (mut world, key) = world();
    let good = world.policy_text("iconflow.yaml");
    let load = Load::start(world.gateway().tls, &world.gateway().trust, &key);
    for (round, bad) in
        ["", "{", "version: 1\napis: []\n", &good.replace("packs:read\"]", "pakcs:read\"]")].into_iter().enumerate()
    {
        world.write_policy("iconflow.yaml", bad);
        until("the failure is counted", || reloads(&world, "policy", "failed") > round as f64);
        load.go_on(20);
        assert_eq!(world.gateway().get(PACKS, &key).status, 200);
        assert_eq!(world.gateway().ask("GET", PACKS, None, &[]).status, 401, "never open because of a bad file");
    }
    let (status, body) = world.gateway().readiness();
    assert_eq!((status, body["status"].as_str()), (200, Some("degraded")));
    let why = body["reasons"]["policy"].as_str().unwrap();
    assert!(why.contains("iconflow.yaml:") && why.contains("pakcs:read"), "{why}");
    assert_eq!(world.gateway().metric("tollgate_in_force{what=\"policy\"}"), 0.0);
    load.finish();

    // The last good policy survives a restart, and says so.
    world.gateway_mut().stop();
    world.gateway_mut().run(&[]);
    world.gateway_mut().wait_ready();
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
    assert_eq!(world.gateway().readiness().1["status"], "degraded");
    world.write_policy("iconflow.yaml", &good);
    until("all is well again", || world.gateway().readiness().1["status"] == "ready");
}

#[test]
fn a_configmap_swap_is_seen_and_so_is_sighup() {
    let (world, key) = world();
    // Kubernetes: the file is a link into a folder that is itself a link which is replaced.
    let folder = world.folder.path().to_owned();
    let text = world.policy_text("iconflow.yaml");
    let put = |name: &str, text: &str| {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::write(folder.join(name).join("iconflow.yaml"), text).unwrap();
        let link = folder.join("..data.new");
        std::os::unix::fs::symlink(folder.join(name), &link).unwrap();
        std::fs::rename(&link, folder.join("..data")).unwrap();
    };
    put("first", &text);
    std::fs::remove_file(folder.join("iconflow.yaml")).unwrap();
    std::os::unix::fs::symlink("..data/iconflow.yaml", folder.join("iconflow.yaml")).unwrap();
    put("second", &text.replace("packs:read\"] }\n        public_keys: true", "billing:read\"] }"));
    until("the swapped file is in force", || world.gateway().get(PACKS, &key).status == 403);
    put("third", &text);
    world.gateway().signal("-HUP");
    until("SIGHUP looks at once", || world.gateway().get(PACKS, &key).status == 200);
    assert!(world.gateway().output().contains("SIGHUP"));
}

#[test]
fn certificates_are_replaced_without_a_failed_request_and_bad_ones_are_not() {
    let (world, key) = world();
    let folder = world.folder.path();
    let before = world.gateway().connect(HOST).certificate();
    let fresh = tempfile::tempdir().unwrap();
    let made = std::process::Command::new(tests::binary())
        .args(["init", "--host", HOST, "--host", "api.icodrip.com"])
        .arg(fresh.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    let load = Load::start(world.gateway().tls, &world.gateway().trust, &key);
    load.go_on(20);
    // A key that does not belong to the certificate is not taken.
    let old_key = std::fs::read(folder.join("key.pem")).unwrap();
    std::fs::copy(fresh.path().join("key.pem"), folder.join("key.pem")).unwrap();
    until("the failure is counted", || reloads(&world, "certificates", "failed") >= 1.0);
    assert_eq!(world.gateway().connect(HOST).certificate(), before);
    assert_eq!(world.gateway().readiness().1["status"], "degraded");
    std::fs::write(folder.join("key.pem"), old_key).unwrap();
    until("all is well again", || world.gateway().readiness().1["status"] == "ready");
    load.go_on(20);
    load.finish();
    // A new pair is. (The load above trusts the old authority only, so it has ended before.)
    std::fs::copy(fresh.path().join("cert.pem"), folder.join("cert.pem")).unwrap();
    std::fs::copy(fresh.path().join("key.pem"), folder.join("key.pem")).unwrap();
    let trust = Trust::new(&fresh.path().join("ca.pem"));
    until("the new certificate is shown", || {
        Connection::try_tls(world.gateway().tls, &trust, HOST).is_ok_and(|c| c.certificate() != before)
    });
    let days = world.gateway().metric("tollgate_certificate_days");
    assert!((88.0..91.0).contains(&days), "{days}");
}

#[test]
fn an_upgrade_hands_the_listeners_over_without_a_failed_request() {
    let (mut world, key) = world();
    let load = Load::start(world.gateway().tls, &world.gateway().trust, &key);
    load.go_on(50);
    let mut old = world.gateway_mut().take_child();
    world.gateway_mut().run(&["--upgrade"]);
    // The new process waits for the listeners; the old one is told to hand them over.
    until("the new process waits", || world.folder.path().join("gateway-0/upgrade.sock").exists());
    std::thread::sleep(Duration::from_millis(500));
    assert!(std::process::Command::new("kill").args(["-QUIT", &old.id().to_string()]).status().unwrap().success());
    assert!(old.wait().unwrap().success());
    world.gateway_mut().wait_ready();
    load.go_on(100);
    load.finish();
    assert_eq!(world.gateway().get(PACKS, &key).status, 200);
}

#[test]
fn sigterm_answers_what_is_under_way_and_ends() {
    let (mut world, key) = world();
    let (port, trust, bearer) = (world.gateway().tls, world.gateway().trust.clone(), format!("Bearer {}", key.secret));
    let slow = std::thread::spawn(move || {
        let fields = [("host", HOST), ("authorization", bearer.as_str()), ("x-behave", "slow")];
        Connection::tls(port, &trust, HOST).ask("GET", "/v2/packs", &fields, b"").status
    });
    until("the request is under way", || !world.live.received().is_empty());
    let took = world.gateway_mut().stop();
    assert_eq!(slow.join().unwrap(), 200);
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[test]
fn quotas_survive_a_restart() {
    let mut world = World::start_with(StoreKind::Sqlite, "", |p| {
        p.replace("per_key: 100/min", "per_key: 100/min\n        per_key_also: [5/day]")
    });
    world.organization("acme");
    let key = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    let ask = |world: &World| world.gateway().get("https://api.icodrip.com/v1/affiliates", &key).status;
    assert_eq!([ask(&world), ask(&world), ask(&world)], [200; 3]);
    world.gateway_mut().stop();
    world.gateway_mut().run(&[]);
    world.gateway_mut().wait_ready();
    assert_eq!([ask(&world), ask(&world), ask(&world)], [200, 200, 429]);
}

#[test]
fn redis_killed_paused_and_restarted_under_load_fails_no_request_of_a_known_key() {
    let edit = |p: Policies| p.replace("read: 1000/min", "read: 900000/min");
    let mut world = World::start_with(StoreKind::Redis, "access_log: false", edit);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    world.gateway().wait_alone();
    let load = Load::start(world.gateway().tls, &world.gateway().trust, &key);
    load.go_on(50);
    world.redis().kill();
    // Until records are older than they may be without pushed changes, and still serve.
    let stale = "tollgate_key_lookups_total{found=\"stale\"}";
    until("stale records serve", || world.gateway().metric(stale) >= 50.0);
    load.go_on(200);
    world.redis().run();
    load.go_on(200);
    world.redis().signal("-STOP");
    load.go_on(200);
    world.redis().signal("-CONT");
    load.go_on(200);
    assert!(load.finish() > 800);
    // And nothing was forgotten meanwhile: a revocation still arrives.
    world.json(&["keys", "revoke", &key.id]);
    until("the key is refused", || world.gateway().get(PACKS, &key).status == 401);
}
