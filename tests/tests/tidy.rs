//! Rules of the tree that a machine can keep: sizes, direction of dependencies, words that mark
//! unfinished work, and names that must not be in commits.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

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
    for (path, text) in sources(&["policy/src", "gateway/src", "bench/src"]) {
        let lines = product(&text).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines; at most {FILE_LINES_MAX}", path.display());
    }
}

#[test]
fn no_function_is_longer_than_a_screen() {
    for (path, text) in sources(&["policy/src", "gateway/src", "bench/src"]) {
        let mut begun: Option<(usize, usize, String)> = None;
        for (number, line) in product(&text).lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line
                .trim_start()
                .trim_start_matches("pub ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub(in crate::cli) ")
                .trim_start_matches("async ")
                .starts_with("fn ");
            match &begun {
                None if is_function && !line.trim_end().ends_with(';') => {
                    begun = Some((number, indent, line.trim().to_owned()))
                }
                Some((from, depth, name)) if indent == *depth && line.trim() == "}" => {
                    let lines = number - from + 1;
                    assert!(lines <= FUNCTION_LINES_MAX, "{}:{}: {name} has {lines} lines", path.display(), from + 1);
                    begun = None;
                }
                None | Some(_) => {}
            }
        }
    }
}

#[test]
fn the_pure_crate_does_no_io_and_knows_no_gateway() {
    for (path, text) in sources(&["policy/src"]) {
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
    let manifest = std::fs::read_to_string(root().join("policy/Cargo.toml")).unwrap();
    for dependency in ["tokio", "pingora", "gateway", "redis", "rusqlite"] {
        assert!(!manifest.contains(dependency), "policy depends on {dependency}");
    }
}

#[test]
fn nothing_is_unfinished_or_dated_by_its_words() {
    for (path, text) in sources(&["policy/src", "gateway/src", "tests/src", "tests/tests", "bench"]) {
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
    for (path, text) in sources(&["policy/src", "gateway/src", "bench/src"]) {
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
