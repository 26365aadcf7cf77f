//! The hot steps of a request, each so many times, for an instruction counter: `counted STEP TIMES`.
//! Only what runs inside `repeat` is to be counted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench that cannot be set up should stop"
)]

use std::hint::black_box;
use std::net::IpAddr;

use bench::traffic::{Owned, Traffic};
use bench::{Bench, NOW_MS, gate, now, policy, secret};
use gateway::admit::Known;
use gateway::admit::head::Head;
use gateway::audit::lanes::{Gathered, Lanes};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http1::framing::of_request;
use http1::head::{Bounds, RequestHead, pairs};
use policy::Target;
use policy::credential::Secret;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The steps, in the order of a request.
const STEPS: [&str; 7] = ["head", "target", "route", "key", "admit", "admit-token", "record"];

/// How many routes the step `route` looks up, one after the other.
const ROUTES_ASKED: usize = 500;
/// And how many keys the step `key`.
const KEYS_ASKED: u64 = 500;

const RAW: &[u8] = b"GET /v2/packs?page=2 HTTP/1.1\r\nHost: api.iconflow.dev\r\nAccept: application/json\r\nAccept-Encoding: gzip, br\r\nUser-Agent: an-sdk/1.4.0\r\nAuthorization: Bearer ifk_live_0123456789abcdefghijklmnopqrstuvwxyz\r\n\r\n";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(step) = arguments.next() else { return println!("{}", STEPS.join(" ")) };
    let times: u32 = arguments.next().unwrap().parse().unwrap();
    match step.as_str() {
        "head" => {
            let (mut head, mut bytes) = (RequestHead::default(), RAW.to_vec());
            let bounds = Bounds { bytes: 32 * 1024, fields: policy::Bounds::DEFAULT.fields };
            repeat(times, || {
                head.read(black_box(&mut bytes), bounds).unwrap().unwrap();
                of_request(head.version(), pairs(head.fields(), &bytes)).unwrap()
            });
        }
        "target" => repeat(times, || target("/v2/area7/things/x1234/parts9907?q=1")),
        "route" => {
            // Many routes, not one: the seed of a map is random in each process, and where one name
            // stands in its map differs by up to 6 % of the instructions. The mean does not.
            let large = policy(10_000);
            let paths = (1..=ROUTES_ASKED).map(|n| format!("/v2/area{}/things/x1234/parts{n}", n % 100).leak());
            let targets: Vec<Target<'static>> = paths.map(|path| target(path)).collect();
            let mut next = targets.iter().cycle();
            repeat(times, || large.apis[0].find(black_box(next.next().unwrap())).unwrap().index);
        }
        "key" => {
            let bench = gate(policy(10), 1_000);
            let identities = &bench.gate.shared.identities;
            // Many keys, for the reason that there are many routes.
            let texts: Vec<String> = (0..KEYS_ASKED).map(secret).collect();
            let mut next = texts.iter().cycle();
            repeat(times, || {
                let text = black_box(next.next().unwrap());
                identities.identify_cached(Secret::new(text), NOW_MS).unwrap().unwrap()
            });
        }
        "admit" => {
            let bench = gate(policy(10_000), 1_000);
            admit(&bench, &secret(432), times);
        }
        "admit-token" => {
            let scene = bench::tokens();
            let snapshot = scene.bench.keeper.load();
            let found =
                scene.bench.gate.shared.identities.tokens.identify(&snapshot.policy.apis[0], Secret::new(&scene.token));
            scene.bench.runtime.block_on(found).unwrap();
            admit(&scene.bench, &scene.token, times);
        }
        "record" => {
            let (lanes, traffic) = (Lanes::new(1), Traffic::new(1_000));
            let records: Vec<Owned> = (1..=1_000).map(|number| traffic.record(number, NOW_MS)).collect();
            let mut next = records.iter().cycle();
            // The buffers have grown before: what comes later finds them as they are.
            (0..times).for_each(|_| lanes.push(&next.next().unwrap().record()));
            let full = lanes.take(0, Gathered::default());
            lanes.take(0, full);
            repeat(times, || lanes.push(black_box(&next.next().unwrap().record())));
        }
        other => println!("no step {other}: one of {}", STEPS.join(" ")),
    }
}

fn target(text: &'static str) -> Target<'static> {
    Target::parse("GET", black_box(text.as_bytes()), Some(b"api.iconflow.dev"), None, &policy::Bounds::DEFAULT).unwrap()
}

fn admit(bench: &Bench, credential: &str, times: u32) {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {credential}").parse().unwrap());
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let snapshot = bench.keeper.load();
    repeat(times, || {
        let head = Head::of("GET", "/v2/packs", "api.iconflow.dev", black_box(&headers));
        let mut known = Known::at(gateway::base::clock::Moment::at_ms(NOW_MS), address);
        bench::permit(now(bench.gate.decide(&head, &snapshot, &mut known)))
    });
}

#[inline(never)]
fn repeat<T>(times: u32, mut step: impl FnMut() -> T) {
    for _ in 0..times {
        black_box(step());
    }
}
