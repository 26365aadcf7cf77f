//! The command line: what a person types, what they see, exit codes, and that no secret shows.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::too_many_lines, reason = "one story with its cases")]

use std::process::{Command, Output};

use tests::{StoreKind, World, binary, on_both_stores, until};

fn text(out: &Output) -> (i32, String, String) {
    let read = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (out.status.code().unwrap(), read(&out.stdout), read(&out.stderr))
}

fn tollgate(arguments: &[&str]) -> (i32, String, String) {
    text(&Command::new(binary()).args(arguments).output().unwrap())
}

on_both_stores![
    keys_are_made_listed_rotated_and_ended,
    a_list_that_was_cut_says_so_and_how_to_go_on,
    explain_tells_the_whole_decision_and_spends_nothing
];

fn keys_are_made_listed_rotated_and_ended(kind: StoreKind) {
    let world = World::start(kind);
    world.organization("acme");
    let (code, out, _) = text(&world.tollgate(&[
        "keys",
        "create",
        "--org",
        "acme",
        "--api",
        "iconflow",
        "--name",
        "CDN",
        "--class",
        "read",
        "--scopes",
        "packs:read",
    ]));
    assert_eq!(code, 0);
    assert!(out.contains("ifk_live_") && out.contains("shown only this once"), "{out}");
    for (arguments, needle) in [
        (
            vec![
                "keys",
                "create",
                "--org",
                "nobody",
                "--api",
                "iconflow",
                "--name",
                "x",
                "--class",
                "read",
                "--scopes",
                "packs:read",
            ],
            "no organization nobody",
        ),
        (
            vec![
                "keys",
                "create",
                "--org",
                "acme",
                "--api",
                "iconflow",
                "--name",
                "x",
                "--class",
                "read",
                "--scopes",
                "pakcs:read",
            ],
            "did you mean `packs:read`",
        ),
        (
            vec!["keys", "create", "--org", "acme", "--name", "x", "--class", "read", "--scopes", "packs:read"],
            "--api: iconflow, icodrip",
        ),
        (
            vec![
                "keys",
                "create",
                "--org",
                "acme",
                "--api",
                "iconflow",
                "--name",
                "x",
                "--class",
                "admin",
                "--scopes",
                "packs:read",
            ],
            "leave --scopes out",
        ),
        (
            vec![
                "keys",
                "create",
                "--org",
                "acme",
                "--api",
                "iconflow",
                "--name",
                "x",
                "--class",
                "read",
                "--scopes",
                "packs:read",
                "--expires",
                "2020-01-01",
            ],
            "expired already",
        ),
        (
            vec![
                "keys",
                "create",
                "--org",
                "acme",
                "--api",
                "iconflow",
                "--name",
                "x",
                "--class",
                "read",
                "--scopes",
                "packs:read",
                "--limit",
                "many",
            ],
            "not a rate",
        ),
        (vec!["keys", "show", "key_none"], "no key key_none"),
        (vec!["orgs", "create", "a b", "--permissions", "packs:read"], "cannot be an id"),
        (vec!["orgs", "create", "acme", "--permissions", "packs:read"], "already exists"),
    ] {
        let (code, _, err) = text(&world.tollgate(&arguments));
        assert_eq!(code, 1, "{arguments:?}");
        assert!(err.contains(needle), "{arguments:?}: {err}");
    }
    let key = world.key("iconflow", "write", &["--scopes", "packs:write", "--expires", "2099-01-01"]);
    let rotated = world.json(&["keys", "rotate", &key.id, "--overlap", "12h"]);
    assert_eq!(rotated["expires_at"], world.json(&["keys", "show", rotated["id"].as_str().unwrap()])["expires_at"]);
    assert_eq!(rotated["expires_at"], "2099-01-01T00:00:00.000Z", "the end of a key stays its end");
    let again = text(&world.tollgate(&["keys", "rotate", &key.id]));
    assert_eq!(again.0, 1);
    assert!(again.2.contains("replaced"), "{}", again.2);
    assert_eq!(world.json(&["keys", "list", "--org", "acme"]).as_array().unwrap().len(), 3);
    world.json(&["keys", "revoke", &key.id]);
    let resumed = text(&world.tollgate(&["keys", "resume", &key.id]));
    assert!(resumed.0 == 1 && resumed.2.contains("for good"));
}

fn a_list_that_was_cut_says_so_and_how_to_go_on(kind: StoreKind) {
    let world = World::start(kind);
    let create = ["keys", "create", "--org", "acme", "--api", "iconflow", "--scopes", "packs:read"];
    world.organization("acme");
    for n in 0..7 {
        let name = format!("key {n}");
        let class = if n % 3 == 0 { "write" } else { "read" };
        let (code, _, err) = text(&world.tollgate(&[&create[..], &["--name", &name, "--class", class]].concat()));
        assert_eq!(code, 0, "{err}");
    }
    // Of all, and of those that a filter wants.
    for (filter, expected) in [(&[][..], 7), (&["--class", "write"], 3)] {
        let (mut names, mut after) = (Vec::new(), None);
        for _ in 0..10 {
            let mut arguments = [&["--json", "keys", "list", "--limit", "2"], filter].concat();
            arguments.extend(after.iter().flat_map(|cursor: &String| ["--after", cursor]));
            let (code, out, err) = text(&world.tollgate(&arguments));
            assert_eq!(code, 0, "{err}");
            let page: serde_json::Value = serde_json::from_str(&out).unwrap();
            let page = page.as_array().unwrap();
            assert!(page.len() <= 2);
            names.extend(page.iter().map(|key| key["name"].as_str().unwrap().to_owned()));
            let more = err.trim().strip_prefix("there may be more: go on with --after ");
            after = more.map(str::to_owned);
            if after.is_none() {
                assert_eq!(err, "");
                break;
            }
        }
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((names.len(), sorted.len()), (expected, expected), "{names:?}");
    }
    let (code, _, err) = text(&world.tollgate(&["keys", "list", "--after", "yesterday"]));
    assert!(code == 2 && err.contains("a cursor is what an earlier page gave"), "{err}");
    for list in [&["orgs", "list"][..], &["apps", "list"], &["users", "list"], &["grants", "list", "--app", "none"]] {
        let (code, _, err) = text(&world.tollgate(&[list, &["--limit", "1"]].concat()));
        assert_eq!((code, err.as_str()), (0, ""), "{list:?}");
    }
}

fn explain_tells_the_whole_decision_and_spends_nothing(kind: StoreKind) {
    let world = World::start(kind);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let explain = |arguments: &[&str], input: &str| {
        let mut all = vec!["--json", "explain"];
        all.extend(arguments);
        let out = world.tollgate_with(&all, input);
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    let packs = "https://api.iconflow.dev/v2/packs";
    for (arguments, status) in [
        (vec!["--key", &key.id, "GET", packs], 200),
        (vec!["--key", &key.id, "POST", packs], 403),
        (vec!["GET", packs], 401),
        (vec!["--key", &key.id, "GET", "https://api.iconflow.dev/v2/nothing"], 404),
        (vec!["--key", &key.id, "GET", "https://api.iconflow.dev/v2/../x"], 400),
        (vec!["--key", &key.id, "GET", "https://api.icodrip.com/v1/affiliates"], 401),
    ] {
        assert_eq!(explain(&arguments, "")["status"], status, "{arguments:?}");
    }
    assert_eq!(explain(&["--key", "-", "GET", packs], &key.secret)["status"], 200);
    // What explain says is what the proxy does, and it cost nothing.
    let answer = world.gateway().get(packs, &key);
    assert_eq!((answer.status, answer.number("x-ratelimit-remaining")), (200, 999));
    world.json(&["keys", "suspend", &key.id]);
    assert_eq!(explain(&["--key", &key.id, "GET", packs], "")["code"], "suspended_credential");
}

#[test]
fn check_prints_every_problem_and_exits_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, tests::ICONFLOW.replace("hosts:", "hots:").replace("[GET]", "[GTE]")).unwrap();
    let (code, _, err) = tollgate(&["check", path.to_str().unwrap()]);
    assert_eq!(code, 3);
    assert!(
        err.contains("did you mean `hosts`?") && err.contains("did you mean `GET`?") && err.contains("^^^"),
        "{err}"
    );
    let (code, out, _) = tollgate(&["--json", "check", path.to_str().unwrap()]);
    assert_eq!(code, 3);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(value["problems"].as_array().unwrap().len() >= 2 && value["problems"][0]["line"].is_u64());
    std::fs::write(&path, tests::ICONFLOW).unwrap();
    assert_eq!(tollgate(&["check", path.to_str().unwrap()]).0, 0);
    assert_eq!(tollgate(&["check", "/nonexistent.yaml"]).0, 1);
    assert_eq!(tollgate(&["frobnicate"]).0, 2);
}

#[test]
fn settings_with_mistakes_are_explained_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.yaml");
    std::fs::write(&path, "policy: [p.yaml]\nadmim: x\nlisten:\n  - { address: nowhere }\n  - { address: \"127.0.0.1:1\", kind: trusted }\nbounds: { head: forever }\n").unwrap();
    let (code, _, err) = tollgate(&["--config", path.to_str().unwrap(), "serve"]);
    assert_eq!(code, 3);
    for needle in ["did you mean `admin`?", "not an address and port", "terminated_by", "not a duration", "pepper_file"]
    {
        assert!(err.contains(needle), "{needle}: {err}");
    }
    let (code, _, err) = tollgate(&["--config", "/nonexistent", "serve"]);
    assert_eq!(code, 3);
    assert!(err.contains("tollgate init"));
}

#[test]
fn an_address_in_use_is_named() {
    let world = World::start(StoreKind::Sqlite);
    let (code, _, err) = text(&world.tollgate(&["serve"]));
    assert_eq!(code, 1);
    assert!(
        err.contains(&world.gateway().tls.to_string()) || err.contains(&world.gateway().admin.to_string()),
        "{err}"
    );
}

#[test]
fn the_newcomers_path_works_from_init_to_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = tests::Upstream::start("mine");
    let (code, out, err) =
        tollgate(&["init", folder.path().to_str().unwrap(), "--upstream", &format!("127.0.0.1:{}", upstream.port)]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("orgs create"));
    let settings = folder.path().join("tollgate.yaml");
    let (tls, plain, admin) = (tests::free_port(), tests::free_port(), tests::free_port());
    let edited = std::fs::read_to_string(&settings)
        .unwrap()
        .replace("8443", &tls.to_string())
        .replace("8080", &plain.to_string())
        .replace("9090", &admin.to_string());
    std::fs::write(&settings, edited).unwrap();
    let config = settings.to_str().unwrap();
    assert_eq!(
        tollgate(&["--config", config, "orgs", "create", "acme", "--permissions", "items:read,items:write"]).0,
        0
    );
    let (code, out, err) = tollgate(&[
        "--json",
        "--config",
        config,
        "keys",
        "create",
        "--org",
        "acme",
        "--name",
        "first",
        "--class",
        "read",
        "--scopes",
        "items:read",
    ]);
    assert_eq!(code, 0, "{err}");
    let made: serde_json::Value = serde_json::from_str(&out).unwrap();
    let mut gateway =
        Command::new(binary()).args(["--config", config, "serve"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let ask = || {
        let out = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(folder.path().join("ca.pem"))
            .args([
                "--connect-to",
                &format!("::127.0.0.1:{tls}"),
                "-H",
                &format!("Authorization: Bearer {}", made["key"].as_str().unwrap()),
                "https://api.localhost/items/7",
            ])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    until("the gateway answers", || ask() == "200");
    assert_eq!(upstream.last().line, "GET /items/7 HTTP/1.1");
    let _ = gateway.kill();
    let _ = gateway.wait();
    assert_eq!(tollgate(&["init", folder.path().to_str().unwrap()]).0, 1, "nothing is overwritten");
}

#[test]
fn schemas_and_completions_are_printed() {
    for of in ["policy", "settings"] {
        let (code, out, _) = tollgate(&["schema", of]);
        assert_eq!(code, 0);
        assert!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["properties"].is_object());
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(tollgate(&["completions", shell]).1.contains("tollgate"));
    }
    let (code, help, _) = tollgate(&["--help"]);
    assert_eq!(code, 0);
    for word in ["demo", "serve", "check", "explain", "keys", "orgs"] {
        assert!(help.contains(word));
    }
}

#[test]
fn peppers_rotate_without_a_401() {
    let mut world = World::start(StoreKind::Sqlite);
    world.organization("acme");
    let key = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let folder = world.folder.path().to_owned();
    std::fs::rename(folder.join("pepper"), folder.join("old-pepper")).unwrap();
    std::fs::write(folder.join("pepper"), "7".repeat(64)).unwrap();
    let settings = folder.join("gateway-0/tollgate.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}previous_pepper_file: ../old-pepper\n")).unwrap();
    world.gateway_mut().stop();
    world.gateway_mut().run(&[]);
    world.gateway_mut().wait_ready();
    let new = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    for _ in 0..50 {
        assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &key).status, 200);
        assert_eq!(world.gateway().get("https://api.iconflow.dev/v2/packs", &new).status, 200);
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
}
