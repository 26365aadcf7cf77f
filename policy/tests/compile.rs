//! What a policy author sees: the shipped files compile, and mistakes are reported together.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

use policy::{Problems, Source};

fn compile(text: &str) -> Result<policy::Policy, Problems> {
    policy::compile(vec![Source { name: "policy.yaml".into(), text: text.into() }])
}

fn shipped(name: &str) -> Source {
    let path = format!("{}/../deploy/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    Source { name: name.into(), text: std::fs::read_to_string(path).unwrap() }
}

#[test]
fn the_shipped_policies_compile_alone_and_together() {
    for name in ["iconflow.yaml", "icodrip.yaml", "tour.yaml"] {
        if let Err(problems) = policy::compile(vec![shipped(name)]) {
            panic!("{problems}");
        }
    }
    let both = policy::compile(vec![shipped("iconflow.yaml"), shipped("icodrip.yaml")]).unwrap();
    assert_eq!(both.apis.len(), 2);
}

#[test]
fn every_problem_is_reported_at_once_with_line_excerpt_caret_and_suggestion() {
    let text = r#"version: 2
apis:
  - name: iconflow
    hosts: [api.iconflow.dev, "bad host"]
    keyz: { live: ifk_live_ }
    keys: { live: ifk_live_ }
    upstreams:
      live: { addresses: ["127.0.0.1"] }
    scopes:
      packs:read: Browsing
    plans:
      standard: { per_key: 1000 per minute }
    defualt_plan: standard
    outage: opne
    routes:
      - id: packs
        methods: [GET, patch]
        paths: [/v2/packs, /v2/pa*ks]
        access: { scopes: ["pakcs:read"] }
      - id: packs
        methods: GET
        paths: [/v2/packs]
        access: publik
      - id: open
        methods: [GET]
        paths: [/v2/packs]
"#;
    insta::assert_snapshot!(compile(text).unwrap_err().to_string());
}

#[test]
fn a_file_that_is_not_yaml_says_where() {
    insta::assert_snapshot!(compile("version: 1\napis: [\n  - name: x\n").unwrap_err().to_string());
}

#[test]
fn an_empty_policy_is_a_problem() {
    for text in ["", "version: 1\napis: []\n", "{}", "[]", "null", "apis: x"] {
        assert!(compile(text).is_err(), "{text:?}");
    }
}

#[test]
fn duplicate_routes_hosts_and_prefixes_are_problems() {
    let one = shipped("iconflow.yaml");
    let problems = policy::compile(vec![one.clone(), one]).unwrap_err().to_string();
    assert!(problems.contains("already belongs to `iconflow`"), "{problems}");
    assert!(problems.contains("two APIs with the name"), "{problems}");
    assert!(problems.contains("begin alike"), "{problems}");
}

#[test]
fn the_published_schema_is_the_one_in_the_repository() {
    let path = format!("{}/../deploy/examples/policy.schema.json", env!("CARGO_MANIFEST_DIR"));
    let text = format!("{:#}\n", policy::file::schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "run with UPDATE_SCHEMA=1");
}
