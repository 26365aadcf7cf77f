//! Client libraries of other ecosystems, unmodified, through the whole flow against a real gateway.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use tests::{App, Browser, CALLBACK, StoreKind, World, clients, until};

const JO: &str = "jo@example.com";
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients");

/// A gateway that clients reach by a name that resolves: the issuer is `https://localhost:<port>`.
struct Scene {
    world: World,
    issuer: String,
    api: String,
}

fn scene() -> Scene {
    let world = World::start(StoreKind::Sqlite);
    let port = world.gateway().tls;
    let issuer = format!("https://localhost:{port}");
    let policy = world.policy_text("iconflow.yaml");
    let policy = policy.replace("https://auth.iconflow.dev\n", &format!("{issuer}\n"));
    let policy = policy.replace("hosts: [api.iconflow.dev]", "hosts: [api.iconflow.dev, 127.0.0.1]");
    std::fs::write(world.folder.path().join("iconflow.yaml"), policy).unwrap();
    until("the issuer has moved", || {
        let at = format!("{issuer}/.well-known/oauth-authorization-server");
        world.gateway().ask("GET", &at, None, &[]).status == 200
    });
    world.organization("acme");
    world.user(JO);
    Scene { world, issuer, api: format!("https://127.0.0.1:{port}/v2/packs") }
}

fn walk(scene: &Scene, app: &App, program: &str, script: &str, library: &str) {
    let ca = scene.world.folder.path().join("ca.pem");
    let mut command = Command::new(program);
    command.arg(format!("{SCRIPTS}/{script}")).arg(library);
    command.env("ISSUER", &scene.issuer).env("CLIENT_ID", &app.id).env("CALLBACK", CALLBACK);
    command.env("API", &scene.api).env("CA", &ca).env("NODE_EXTRA_CA_CERTS", &ca).env("CLIENTS", clients());
    command.env("REQUESTS_CA_BUNDLE", &ca).env("CURL_CA_BUNDLE", &ca);
    command.env("AUDIENCE", "https://api.iconflow.dev");
    if let Some(secret) = &app.secret {
        command.env("CLIENT_SECRET", secret);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap_or_else(|| panic!("{library} ended before it asked the user")).unwrap();
    let url = line.strip_prefix("AUTHORIZE ").unwrap_or_else(|| panic!("{line}"));
    let mut browser = Browser { origin: scene.issuer.clone(), ..Browser::default() };
    let back = browser.allow(scene.world.gateway(), url, JO);
    writeln!(child.stdin.take().unwrap(), "{back}").unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{library}: {rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("OK"), "{library}");
}

fn walk_both_kinds(script: &str, library: &str) {
    let program = match script {
        "walk.py" => clients().join("python/bin/python").display().to_string(),
        _ => "node".to_owned(),
    };
    let scene = scene();
    walk(&scene, &scene.world.app(&[]), &program, script, library);
    walk(&scene, &scene.world.app(&["--confidential"]), &program, script, library);
}

#[test]
fn authlib_walks_the_whole_flow() {
    walk_both_kinds("walk.py", "authlib");
}

#[test]
fn requests_oauthlib_walks_the_whole_flow() {
    walk_both_kinds("walk.py", "requests-oauthlib");
}

#[test]
fn openid_client_walks_the_whole_flow() {
    walk_both_kinds("walk.mjs", "openid-client");
}

#[test]
fn oauth4webapi_walks_the_whole_flow() {
    walk_both_kinds("walk.mjs", "oauth4webapi");
}
