//! What others build on: the pages of `--help` and the names of metrics. A change here is a change for
//! them: look at it, and say so in CHANGELOG.md.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

use tests::{StoreKind, World, binary, until};

/// The commands in a page of `--help`.
fn commands(page: &str) -> Vec<String> {
    let Some((_, rest)) = page.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = rest.lines().take_while(|line| !line.is_empty());
    // Deeper lines go on with the words of the one before.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).map(str::trim);
    let first = names.filter_map(|line| line.split_whitespace().next());
    first.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// All pages, each behind its command line.
fn pages(command: &[String], all: &mut String) {
    let out = Command::new(binary())
        .args(command)
        .arg("--help")
        .env_remove("TOLLGATE_CONFIG")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let page = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    all.push_str(&format!("===== tollgate {}\n{}\n", command.join(" "), lines.join("\n")));
    for name in commands(&page) {
        pages(&[command, &[name]].concat(), all);
    }
}

#[test]
fn the_pages_of_help_are_as_they_were() {
    let mut all = String::new();
    pages(&[], &mut all);
    assert!(all.matches("=====").count() > 40, "subcommands are found");
    insta::assert_snapshot!(all);
}

#[test]
fn metrics_have_the_names_that_dashboards_know() {
    let (world, key) = World::with_admin(StoreKind::Sqlite, "", |policy| policy);
    let packs = "https://api.iconflow.dev/v2/packs";
    assert_eq!(world.gateway().get(packs, &key).status, 200);
    assert_eq!(world.gateway().ask("GET", packs, None, &[]).status, 401);
    until("both are counted", || {
        let text = String::from_utf8(world.gateway().admin_get("/metrics").body).unwrap();
        text.contains("outcome=\"forwarded\"") && text.contains("outcome=\"missing_credential\"")
    });
    let text = String::from_utf8(world.gateway().admin_get("/metrics").body).unwrap();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    names.sort_unstable();
    insta::assert_snapshot!(names.join("\n"));
}
