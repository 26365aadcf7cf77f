//! The steps of a request, one by one and together. `cargo bench -p bench`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot be set up should stop"
)]

use std::hint::black_box;
use std::net::IpAddr;

use bench::{NOW_MS, gate, now, policy, policy_text, secret};
use criterion::{Criterion, criterion_group, criterion_main};
use gateway::admit::Known;
use gateway::admit::head::Head;
use gateway::snapshot::{PolicyKeeper, fingerprint};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use policy::credential::{Secret, bearer};
use policy::{Source, Target};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn steps(c: &mut Criterion) {
    let bench = gate(policy(10_000), 10_000);
    let shared = &bench.gate.shared;
    let key = secret(4_321);
    let header = format!("Bearer {key}");

    c.bench_function("credential: parse, hash, cache hit", |b| {
        b.iter(|| {
            let secret = bearer(std::iter::once(black_box(header.as_bytes()))).unwrap().unwrap();
            shared.identities.identify_cached(secret, NOW_MS).unwrap().unwrap()
        });
    });
    c.bench_function("credential: hash alone", |b| {
        let pepper = bench::pepper();
        b.iter(|| pepper.digest(Secret::new(black_box(&key))));
    });

    let large = policy(10_000);
    let api = &large.apis[0];
    let parse = |path: &'static str| {
        Target::parse("GET", path.as_bytes(), Some(b"api.iconflow.dev"), None, &policy::Bounds::DEFAULT).unwrap()
    };
    let (first, deep, none) =
        (parse("/v2/packs"), parse("/v2/area7/things/x1234/parts9907"), parse("/v2/area7/nothing"));
    c.bench_function("route match among 10,000: literal", |b| b.iter(|| api.find(black_box(&first)).unwrap().index));
    c.bench_function("route match among 10,000: deep with *", |b| b.iter(|| api.find(black_box(&deep)).unwrap().index));
    c.bench_function("route match among 10,000: none", |b| b.iter(|| api.find(black_box(&none)).is_none()));
    c.bench_function("target: parse", |b| b.iter(|| parse(black_box("/v2/area7/things/x1234/parts9907?q=1"))));

    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, header.parse().unwrap());
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let snapshot = bench.keeper.load();
    c.bench_function("admit without network", |b| {
        b.iter(|| {
            let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", &headers);
            let mut known = Known::at(gateway::base::clock::Moment::at_ms(NOW_MS), address);
            bench::permit(now(bench.gate.decide(black_box(&head), &snapshot, &mut known)))
        });
    });
}

fn reload(c: &mut Criterion) {
    let metrics = std::sync::Arc::new(gateway::observe::Metrics::new().unwrap());
    let keeper = PolicyKeeper::fixed(policy(1), metrics);
    let sources = vec![Source { name: "bench".into(), text: policy_text(10_000) }];
    let mut group = c.benchmark_group("reload");
    group.sample_size(20);
    group.bench_function("compile and swap 10,000 routes", |b| {
        b.iter(|| keeper.replace(policy::compile(sources.clone()).unwrap(), fingerprint(&sources)));
    });
    group.finish();
}

fn tokens(c: &mut Criterion) {
    let scene = bench::tokens();
    let (shared, token) = (&scene.bench.gate.shared, scene.token.as_str());
    let snapshot = scene.bench.keeper.load();
    let api = &snapshot.policy.apis[0];
    let oauth = api.oauth.clone().unwrap();
    let tokens = &shared.identities.tokens;
    let bare = token.strip_prefix("iat_").unwrap();
    c.bench_function("token: cold (form, RS256, claims)", |b| {
        b.iter(|| now(tokens.own_claims(&oauth, black_box(bare), NOW_MS)).unwrap());
    });
    scene.bench.runtime.block_on(tokens.identify(api, Secret::new(token))).unwrap();
    c.bench_function("token: cached (hash, key, grant)", |b| {
        b.iter(|| tokens.identify_cached(api, Secret::new(black_box(token)), NOW_MS).unwrap().unwrap());
    });
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    c.bench_function("token: admit without network", |b| {
        b.iter(|| {
            let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", &headers);
            let mut known = Known::at(gateway::base::clock::Moment::at_ms(NOW_MS), address);
            bench::permit(now(scene.bench.gate.decide(black_box(&head), &snapshot, &mut known)))
        });
    });
}

criterion_group!(benches, steps, reload, tokens);
criterion_main!(benches);
