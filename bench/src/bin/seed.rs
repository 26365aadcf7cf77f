//! Fills a store with keys: `seed STORE PEPPER_FILE ORGANIZATION COUNT|FILE`; prints them, one a
//! line. Either so many new ones are made, or those of a file are taken, to have them in two stores.
//!
//! The second key may only read orders, the third has a limit of three a minute; all others may do
//! everything, as often as they like. The API is `peers` and its prefix `tk_live_`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot be set up should stop")]

use std::io::Write as _;

use gateway::base::digest::Pepper;
use gateway::store::conformance::key;
use gateway::store::{KeyRecord, RedisSettings, open};
use policy::credential::{Secret, mint};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (store, pepper) = (arguments.next().unwrap(), arguments.next().unwrap());
    let (organization, which) = (arguments.next().unwrap(), arguments.next().unwrap());
    let secrets: Vec<String> = match which.parse::<usize>() {
        Ok(count) => (0..count).map(|_| new()).collect(),
        Err(_) => std::fs::read_to_string(which).unwrap().lines().map(str::to_owned).collect(),
    };
    let pepper = Pepper::from_hex(std::fs::read_to_string(pepper).unwrap().trim()).unwrap();
    let store = open(&store, &RedisSettings::default()).await.unwrap();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (n, secret) in secrets.iter().enumerate() {
        let scopes: &[&str] = if n == 1 { &["orders:read"] } else { &["items:read", "items:write", "orders:read"] };
        let record = KeyRecord {
            id: format!("key_{n:016}"),
            api: "peers".into(),
            digest: pepper.digest(Secret::new(secret)),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            networks: Vec::new(),
            origins: Vec::new(),
            limit: Some(if n == 2 { "3/min" } else { "1000000000/min" }.to_owned()),
            ..key("", &organization, 0)
        };
        store.insert_key(&record).await.unwrap();
        writeln!(out, "{secret}").unwrap();
    }
}

fn new() -> String {
    let mut random = [0; 64];
    gateway::base::random::fill(&mut random).unwrap();
    mint("tk_live_", &random).unwrap()
}
