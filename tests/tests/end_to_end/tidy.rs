//! Rules of the tree that a machine can keep: sizes, direction of dependencies, words that mark
//! unfinished work, and names that must not be in commits.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    folders.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The text before the tests at a file's end.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

#[test]
fn no_file_is_longer_than_a_room() {
    for (path, text) in sources(&["http1/src", "policy/src", "gateway/src", "bench/src"]) {
        let lines = product(&text).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines; at most {FILE_LINES_MAX}", path.display());
    }
}

#[test]
fn the_pure_crates_do_no_io_and_know_no_gateway() {
    for (path, text) in sources(&["http1/src", "policy/src"]) {
        for word in [
            "std::fs",
            "std::net::Tcp",
            "std::env",
            "SystemTime",
            "Instant::now",
            "tokio",
            "pingora",
            "getrandom",
            "async fn",
            "gateway::",
        ] {
            assert!(!product(&text).contains(word), "{} mentions {word}", path.display());
        }
    }
    for pure in ["http1", "policy"] {
        let manifest = std::fs::read_to_string(root().join(pure).join("Cargo.toml")).unwrap();
        for dependency in ["tokio", "pingora", "gateway", "redis", "rusqlite"] {
            assert!(!manifest.contains(dependency), "{pure} depends on {dependency}");
        }
    }
}

/// The rooms of the gateway, and what each may import. An arrow that is not drawn here is refused; a
/// room stands below all that it imports, so that there is no circle.
const ROOMS: [(&str, &[&str]); 18] = [
    ("base", &[]),
    ("store", &["base"]),
    ("registry", &["base", "store"]),
    ("upstream", &["base"]),
    ("observe", &["base"]),
    ("audit", &["base", "observe"]),
    ("config", &["base", "store", "audit"]),
    ("limit", &["base", "store", "observe"]),
    ("usage", &["base", "store", "observe", "limit"]),
    ("snapshot", &["observe", "upstream"]),
    ("identify", &["base", "store", "registry", "observe"]),
    ("oauth", &["base", "store", "registry", "observe", "identify"]),
    ("manage", &["base", "store", "registry", "observe", "limit", "snapshot", "oauth"]),
    ("admit", &["base", "store", "registry", "observe", "config", "limit", "usage", "snapshot", "identify"]),
    ("edge", &["base", "observe", "config"]),
    ("downstream", &["base"]),
    (
        "exchange",
        &[
            "base",
            "observe",
            "audit",
            "config",
            "limit",
            "upstream",
            "snapshot",
            "identify",
            "oauth",
            "admit",
            "downstream",
        ],
    ),
    (
        "server",
        &[
            "base",
            "store",
            "registry",
            "upstream",
            "observe",
            "audit",
            "config",
            "limit",
            "usage",
            "snapshot",
            "identify",
            "oauth",
            "manage",
            "admit",
            "edge",
            "downstream",
            "exchange",
        ],
    ),
];

/// Rooms that know Pingora: those that hold connections.
const WITH_PINGORA: [&str; 5] = ["edge", "downstream", "exchange", "upstream", "server"];

#[test]
fn rooms_import_only_what_stands_below_them() {
    for (at, (room, below)) in ROOMS.iter().enumerate() {
        let earlier: Vec<&str> = ROOMS[..at].iter().map(|(name, _)| *name).collect();
        assert!(below.iter().all(|name| earlier.contains(name)), "{room} imports a room that stands above it");
    }
    for (path, text) in sources(&["gateway/src"]) {
        let inside = path.strip_prefix(root().join("gateway/src")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let room = first.trim_end_matches(".rs");
        // The command line stands above everything.
        let Some((_, below)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            assert!(["lib", "main", "cli"].contains(&room), "{room} is in no list");
            continue;
        };
        let code: Vec<&str> = product(&text).lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        for import in code.split("crate::").skip(1) {
            let name: String = import.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            assert!(name == room || below.contains(&name.as_str()), "{} imports {name}", path.display());
        }
        assert!(
            WITH_PINGORA.contains(&room) || !code.contains("pingora"),
            "{} knows Pingora, and {room} holds no connections",
            path.display()
        );
    }
}

#[test]
fn nothing_is_unfinished_or_dated_by_its_words() {
    for (path, text) in sources(&["http1/src", "policy/src", "gateway/src", "tests/src", "tests/tests", "bench"]) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "for now", "placeholder", "dummy", "#[ignore"] {
            assert!(!text.contains(word), "{} has the word {word}", path.display());
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (path, text) in sources(&["http1/src", "policy/src", "gateway/src", "bench/src"]) {
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > 20, "{} does not open with what it is for", path.display());
    }
}

#[test]
fn every_denial_of_the_specification_is_in_the_readme_and_the_code() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for code in gateway::admit::denial::Denial::CODES {
        assert!(readme.contains(&format!("`{code}`")), "README.md does not name {code}");
    }
}
