//! First steps: what a newcomer types, what goes wrong there, and what is said of it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tests::{StoreKind, World, binary, until};

fn tollgate(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(binary()).current_dir(folder).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn what_init_makes_passes_check_and_init_refuses_what_check_refuses() {
    let folder = tempfile::tempdir().unwrap();
    for bad in
        [&["--host", "not a host"][..], &["--host", "a.example", "--host", "a.example"], &["--upstream", "nowhere"]]
    {
        let (code, _, err) = tollgate(folder.path(), &[&["init", "mine"], bad].concat());
        assert_eq!(code, Some(1), "{bad:?}");
        assert!(err.contains("nothing was written"), "{err}");
        assert!(!folder.path().join("mine").exists(), "{bad:?}");
    }
    assert_eq!(tollgate(folder.path(), &["init", "mine", "--host", "api.example"]).0, Some(0));
    let (code, out, err) = tollgate(folder.path(), &["--config", "mine/tollgate.yaml", "check"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("1 certificates") && out.contains("ok: mine: 2 routes"), "{out}");
    let mode =
        |name: &str| std::fs::metadata(folder.path().join("mine").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("pepper"), mode("key.pem")), (0o600, 0o600));
}

#[test]
fn check_looks_at_all_that_the_settings_name() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(tollgate(folder.path(), &["init", "."]).0, Some(0));
    let settings = std::fs::read_to_string(folder.path().join("tollgate.yaml")).unwrap();
    let check = |text: String| {
        std::fs::write(folder.path().join("tollgate.yaml"), text).unwrap();
        tollgate(folder.path(), &["check"])
    };
    for (from, to, says) in [
        ("key: key.pem", "key: other.pem", "cannot read a private key"),
        ("policy: [policy.yaml]", "policy: [gone.yaml]", "gone.yaml"),
        ("pepper_file: pepper", "pepper_file: gone", "gone"),
        ("store: sqlite://tollgate.db", "store: redis+star://x", "`star` is not an arrangement of Redis"),
        ("store: sqlite://tollgate.db", "store: redis://a b", "the store URL cannot be used"),
        ("admin:", "upstream_ca: gone.pem\nadmin:", "upstream_ca: cannot read"),
        ("admin:", "bounds: { head_fields: 5 }\nadmin:", "this must be 10 to 256"),
    ] {
        assert!(settings.contains(from), "{from}");
        let (code, _, err) = check(settings.replace(from, to));
        assert_eq!(code, Some(3), "{to}: {err}");
        assert!(err.contains(says), "{to}: {err}");
    }
    let (_, _, err) = check(settings.replace("threads", "").replace("listen:", "lisen:"));
    assert!(err.contains("did you mean `listen`?") && err.contains("the settings were not accepted"), "{err}");
    assert!(!err.contains("policy was"), "{err}");
    let (code, out, _) = tollgate(folder.path(), &["--json", "check"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["ok"]), (Some(3), &false.into()));
    // A command that needs a store says the same of its URL, with the same code.
    std::fs::write(folder.path().join("tollgate.yaml"), settings.replace("sqlite://tollgate.db", "redis+star://x"))
        .unwrap();
    assert_eq!(tollgate(folder.path(), &["keys", "list"]).0, Some(3));
}

#[test]
fn a_file_that_is_no_settings_file_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("shadow", "root:$6$verysecret$hash:19000:0:99999:7:::\nadmin:x:1:1\n"),
        ("key.pem", "-----BEGIN PRIVATE KEY-----\nverysecret\n-----END PRIVATE KEY-----\n"),
        ("binary", "verysecret: [\u{1}"),
        ("empty", ""),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
        for command in [&["check"][..], &["keys", "list"], &["serve"]] {
            let (code, out, err) = tollgate(folder.path(), &[&["--config", name], command].concat());
            assert_eq!(code, Some(3), "{name}");
            assert!(!err.contains("verysecret") && !out.contains("verysecret"), "{err}");
            assert!(err.contains(name) && err.contains("is no settings file"), "{err}");
        }
    }
}

#[test]
fn colour_is_for_terminals_and_can_be_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.yaml"), "version: 2\n").unwrap();
    let on_terminal = |variable: &str| {
        let command = format!("{variable} {} check policy.yaml", binary().display());
        let out =
            Command::new("script").args(["-qec", &command, "/dev/null"]).current_dir(folder.path()).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(on_terminal("").contains("\u{1b}[1;31merror:"), "{}", on_terminal(""));
    assert!(!on_terminal("NO_COLOR=1").contains('\u{1b}'));
    assert!(!tollgate(folder.path(), &["check", "policy.yaml"]).2.contains('\u{1b}'));
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(tollgate(folder.path(), &["man", "pages"]).0, Some(0));
    for name in ["tollgate.1", "tollgate-keys-rotate.1", "tollgate-check.1"] {
        let page = std::fs::read_to_string(folder.path().join("pages").join(name)).unwrap();
        assert!(page.contains(".SH NAME"), "{name}");
    }
}

#[test]
fn lists_of_keys_fit_a_terminal_and_can_be_narrowed() {
    let world = World::start(StoreKind::Sqlite);
    world.organization("acme");
    let read = world.key("iconflow", "read", &["--scopes", "packs:read"]);
    let admin = world.key("iconflow", "admin", &[]);
    let other = world.key("icodrip", "read", &["--scopes", "affiliates:read"]);
    world.json(&["keys", "revoke", &admin.id]);
    let long = ["keys", "create", "--org", "acme", "--api", "iconflow", "--class", "admin", "--name"];
    world.json(&[&long[..], &["The backend of the production cluster in the north"]].concat());
    let out = world.tollgate(&["keys", "list"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.lines().count() == 5 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let ids = |arguments: &[&str]| -> Vec<String> {
        let list = world.json(&[&["keys", "list"], arguments].concat());
        list.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--api", "icodrip"]), std::slice::from_ref(&other.id));
    assert_eq!(ids(&["--state", "revoked"]), std::slice::from_ref(&admin.id));
    assert_eq!(ids(&["--class", "read"]).len(), 2);
    assert_eq!(ids(&["--class", "read", "--api", "iconflow", "--state", "active"]), std::slice::from_ref(&read.id));
    let shown = world.json(&["keys", "show", &read.id]);
    let by = shown["created_by"].as_str().unwrap();
    assert!(by.starts_with("cli:") && by.contains('(') && by.contains(")@") && !by.contains("unknown"), "{by}");
    let created = shown["created_at"].as_str().unwrap();
    assert!(created.ends_with('Z') && created.parse::<f64>().is_err() && shown.get("created_ms").is_none(), "{shown}");
    assert!(shown.get("digest").is_none());
}

/// Python 3.13 and urllib3 ask for what RFC 5280 wants; so do Go and OpenSSL in its strict mode.
#[test]
fn the_trial_certificate_satisfies_strict_verifiers() {
    let world = World::start(StoreKind::Sqlite);
    let (ca, port) = (world.folder.path().join("ca.pem"), world.gateway().tls);
    let strict = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "api.iconflow.dev", "-CAfile"])
        .arg(&ca)
        .arg(world.folder.path().join("cert.pem"))
        .output()
        .unwrap();
    assert!(strict.status.success(), "{strict:?}");
    let python = format!(
        "import ssl, socket\nc = ssl.create_default_context(cafile={:?})\nc.verify_flags |= ssl.VERIFY_X509_STRICT\n\
         s = c.wrap_socket(socket.create_connection(('127.0.0.1', {port})), server_hostname='api.iconflow.dev')\nprint(s.version())\n",
        ca.display().to_string()
    );
    let node = format!(
        "const t = require('tls'); const s = t.connect({{port: {port}, host: '127.0.0.1', servername: 'api.iconflow.dev', \
         ca: require('fs').readFileSync({:?})}}, () => {{ console.log(s.authorized); s.end(); }});",
        ca.display().to_string()
    );
    for (program, argument, code) in [("python3", "-c", python), ("node", "-e", node)] {
        let out = Command::new(program).args([argument, &code]).output().unwrap();
        assert!(out.status.success(), "{program}: {out:?}");
    }
    let url = format!("https://api.iconflow.dev:{port}/v2/packs");
    let to = format!("::127.0.0.1:{port}");
    let mut curl = Command::new("curl");
    let out = curl
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--connect-to", &to, "--cacert"])
        .arg(&ca)
        .arg(&url)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "401", "{out:?}");
}

#[test]
fn an_expired_certificate_does_not_keep_a_gateway_from_starting() {
    let mut world = World::prepare(StoreKind::Sqlite, "", |policy| policy);
    let folder = world.folder.path().to_owned();
    let certificate = |last_year: i32| {
        let mut leaf = rcgen::CertificateParams::new(["api.iconflow.dev".to_owned()]).unwrap();
        (leaf.not_before, leaf.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(last_year, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.join("cert.pem"), leaf.self_signed(&key).unwrap().pem()).unwrap();
    };
    certificate(2021);
    world.add_gateway();
    let (code, readiness) = world.gateway().readiness();
    assert_eq!((code, &readiness["status"]), (200, &"degraded".into()));
    assert!(readiness["reasons"]["certificates"].as_str().unwrap().contains("has expired"), "{readiness}");
    assert_eq!(world.gateway().metric("tollgate_in_force{what=\"certificates\"}"), 0.0);
    certificate(2099);
    until("the new one is in force", || world.gateway().readiness().1["status"] == "ready");
}

#[test]
fn a_demo_that_cannot_run_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // One of the demo's ports; whoever holds it keeps a demo from starting.
    let Ok(_held) = TcpListener::bind(("127.0.0.1", 9202)) else { panic!("port 9202 is needed by this test") };
    std::fs::create_dir(folder.path().join(".demo")).unwrap();
    std::fs::write(folder.path().join(".demo/tollgate.db"), "precious").unwrap();
    let (code, _, err) = tollgate(folder.path(), &["demo"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("`tollgate.db` that is not of a demo") && err.contains("nothing was changed"), "{err}");
    // One of the files of an earlier demo, which a demo may replace.
    std::fs::write(folder.path().join(".demo/demo.lock"), "").unwrap();
    let (code, out, err) = tollgate(folder.path(), &["demo"]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "nothing is printed: {err}");
    assert!(err.contains("port 9202") && err.contains("nothing was changed"), "{err}");
    assert_eq!(std::fs::read_to_string(folder.path().join(".demo/tollgate.db")).unwrap(), "precious");
}
