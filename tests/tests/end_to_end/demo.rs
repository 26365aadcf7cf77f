//! The demo: it starts, and every line that it prints does what it says.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn shell(line: &str, folder: &std::path::Path) -> String {
    let out = Command::new("bash").args(["-c", line]).current_dir(folder).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// The demo, which ends with the test also when that fails.
struct Running(std::process::Child);

impl Running {
    fn in_folder(folder: &std::path::Path) -> Self {
        let mut demo = Command::new(tests::binary());
        demo.arg("demo").current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::null());
        Running(demo.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sample clients in a real browser, started as the demo says; pictures are kept beside the
/// client libraries.
fn walk_in_a_browser(line: &str, email: &str, password: &str, folder: &std::path::Path) {
    let rules = line.split('\'').nth(1).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/browser.mjs");
    let pictures = tests::clients().join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    let out = Command::new("node")
        .arg(script)
        .env("CLIENTS", tests::clients())
        .env("PICTURES", &pictures)
        .env("PROFILE", folder.join("profile"))
        .env("RULES", rules)
        .env("EMAIL", email)
        .env("PASSWORD", password)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("OK"), "{said}");
}

#[test]
fn every_line_that_the_demo_prints_does_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Running::in_folder(folder.path());
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let (mut email, mut password) = (String::new(), String::new());
    // IdlePool open to the end: a program whose reader goes away may end.
    let mut printed = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    for line in printed.by_ref() {
        let line = line.unwrap();
        if let Some(login) = line.strip_prefix("# Log in as ") {
            let words: Vec<&str> = login.split([' ', ';']).collect();
            (email, password) = (words[0].to_owned(), words[4].to_owned());
        } else if let Some(title) = line.strip_prefix("# ") {
            sections.push((title.to_owned(), Vec::new()));
        } else if line.starts_with("Ctrl-C") {
            break;
        } else if let Some((_, lines)) = sections.last_mut().filter(|_| !line.trim().is_empty()) {
            lines.push(line);
        }
    }
    tests::until("the gateway listens", || std::net::TcpStream::connect(("127.0.0.1", 8443)).is_ok());
    assert_eq!(sections.len(), 15, "{sections:?}");
    let (in_a_browser, sections) = sections.split_last().unwrap();
    assert!(in_a_browser.0.starts_with("in a browser"));
    walk_in_a_browser(&in_a_browser.1[0], &email, &password, folder.path());
    for (title, lines) in sections {
        let seen: String = lines.iter().map(|line| shell(line, folder.path())).collect();
        let expected: &[&str] = match title.split(':').next().unwrap() {
            "200" => &["\"upstream\":\"ico", "x-tollgate-key-id"],
            "401" => &["401", "www-authenticate: Bearer realm=\"IconFlow API\"", "missing_credential"],
            "403" if title.contains("plain HTTP") => &["403", "https_required"],
            "403" => &["403", "scope=\"packs:write\"", "required_scopes"],
            "429" => &["100 200", "5 429", "retry-after", "limit_exceeded"],
            "OAuth" if title.contains("what users") => &["SCOPES", "revoked", "packs:read"],
            "OAuth" => &["code_challenge_methods_supported", "https://auth.iconflow.dev/oauth/token"],
            "the sandbox" => &["iconflow-sandbox"],
            "a revoke and its effect" => &["acknowledged by 1 of 1 gateways", "revoked_credential"],
            "a policy edit and its effect" => &["iconflow-live"],
            "why? and what else?" => &["STOP", "Production CDN Reader", "tollgate_requests_total{"],
            other => panic!("what does `{other}` show?"),
        };
        for needle in expected {
            assert!(seen.contains(needle), "{title}: {needle} is not in {seen}");
        }
    }
    // Ctrl-C stops all of it cleanly.
    assert!(Command::new("kill").args(["-INT", &demo.0.id().to_string()]).status().unwrap().success());
    assert!(demo.0.wait().unwrap().success());
    drop(printed);
    tests::until("nobody listens", || {
        [8443, 9101, 9201].iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_err())
    });
}

#[test]
fn a_second_demo_leaves_the_first_alone_and_closing_the_terminal_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Running::in_folder(folder.path());
    let mut printed = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    assert!(printed.by_ref().map_while(Result::ok).any(|line| line.contains("Ctrl-C stops everything")));
    let store = folder.path().join(".demo/tollgate.db");
    let before = std::fs::metadata(&store).unwrap().modified().unwrap();
    let second = Command::new(tests::binary()).arg("demo").current_dir(folder.path()).output().unwrap();
    assert_eq!((second.status.code(), second.stdout.is_empty()), (Some(1), true));
    assert!(String::from_utf8_lossy(&second.stderr).contains("a demo is running in"), "{second:?}");
    let elsewhere = tempfile::tempdir().unwrap();
    let third = Command::new(tests::binary()).arg("demo").current_dir(elsewhere.path()).output().unwrap();
    assert!(String::from_utf8_lossy(&third.stderr).contains("nothing was changed"), "{third:?}");
    assert_eq!(std::fs::metadata(&store).unwrap().modified().unwrap(), before);
    let mode = |name: &str| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.path().join(name)).unwrap().permissions())
    };
    assert_eq!(mode(".demo/pepper") & 0o777, 0o600);
    assert!(Command::new("kill").args(["-HUP", &demo.0.id().to_string()]).status().unwrap().success());
    assert!(demo.0.wait().unwrap().success());
}
