//! One list of tests over every store: SQLite, a Redis alone, a Redis Cluster, Redis behind Sentinel,
//! and a Redis with TLS and an ACL user.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gateway::base::clock::System;
use gateway::limit::{Embedded, Leasing, Limiter};
use gateway::observe::Metrics;
use gateway::store::{RedisSettings, conformance, open};
use tests::{Cluster, Redis, Sentinel, free_port};

fn settings() -> RedisSettings {
    RedisSettings { timeout: Duration::from_secs(2), connect_timeout: Duration::from_secs(2), ca: None }
}

/// Both lists: that of the store, and that of the limiter beside it.
fn run(url: &str, settings: &RedisSettings) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(url, settings).await.unwrap();
        conformance::all(&*store).await;
        let limiter: Arc<dyn Limiter> = if url.starts_with("sqlite") {
            Arc::new(Embedded::new(10_000))
        } else {
            let metrics = Metrics::new().unwrap().limits;
            Leasing::start(url, settings, 10_000, Arc::new(System), metrics).unwrap()
        };
        limiter.ready().await;
        gateway::limit::conformance::all(limiter).await;
    });
}

#[test]
fn sqlite_does_what_a_store_must() {
    let folder = tempfile::tempdir().unwrap();
    run(&format!("sqlite://{}", folder.path().join("store/tollgate.db").display()), &settings());
}

#[test]
fn many_processes_may_make_the_same_sqlite_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
    let opening: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(open(&url, &settings())).map(|_| ()).map_err(|e| e.to_string())
            })
        })
        .collect();
    for one in opening {
        assert_eq!(one.join().unwrap(), Ok(()));
    }
}

#[test]
fn redis_does_what_a_store_must() {
    run(&Redis::start().url(), &settings());
}

#[test]
fn a_redis_cluster_of_three_nodes_does_what_a_store_must() {
    run(&Cluster::start(3, 0).url(), &settings());
}

#[test]
fn redis_behind_sentinel_does_what_a_store_must() {
    let redis = Redis::start();
    let sentinel = Sentinel::start(&redis);
    // A sentinel that is gone is passed over.
    run(&format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/mymaster", free_port(), sentinel.port), &settings());
}

#[test]
fn redis_with_tls_and_an_acl_user_does_what_a_store_must() {
    gateway::edge::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new(tests::binary()).args(["init", "--host", "localhost"]).arg(folder.path()).output().unwrap();
    assert!(made.status.success());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let port = free_port().to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &at("cert.pem"),
        "--tls-key-file",
        &at("key.pem"),
        "--tls-ca-cert-file",
        &at("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let user = "acl setuser tollgate on >secret ~tollgate:* &tollgate:* +@read +@write +@stream +@pubsub +@scripting +@connection +info +time +cluster|slots";
    assert_eq!(redis.cli(&user.split(' ').collect::<Vec<_>>()).trim(), "OK");
    let tls = RedisSettings { ca: Some(folder.path().join("ca.pem")), ..settings() };
    run(&format!("rediss://tollgate:secret@localhost:{port}/0"), &tls);
    drop(redis);
}

#[test]
fn a_redis_that_keeps_nothing_on_disk_is_warned_about() {
    let redis = Redis::start();
    redis.cli(&["config", "set", "appendonly", "no"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(&redis.url(), &settings()).await.unwrap();
        let warnings = store.warnings().await.unwrap();
        assert!(warnings.iter().any(|w| w.contains("appendonly")), "{warnings:?}");
    });
}

#[test]
fn a_store_url_that_means_nothing_is_explained() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for url in ["mysql://x", "nonsense", "redis+ring://x", "redis+sentinel://h:1", "redis://host:port"] {
        let opened = runtime.block_on(open(url, &settings()));
        let error = opened.err().unwrap_or_else(|| panic!("{url} was accepted")).to_string();
        assert!(error.contains("sqlite:///path"), "{url}: {error}");
    }
}
