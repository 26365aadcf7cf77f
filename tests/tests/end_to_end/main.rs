//! All claims about the gateway as an outsider sees it: the real binary, a real redis-server, real upstreams.
//! One binary: what it links is linked once.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod apart;
mod audit;
mod backends;
mod backends_http2;
mod cli;
mod clients;
mod demo;
mod explain;
mod failover;
mod framing;
mod grpc;
mod hostile;
mod http2;
mod icodrip_page;
mod iconflow_page;
mod limits_faults;
mod limits_gateways;
mod limits_model;
mod limits_property;
mod live;
mod oauth_clients;
mod oauth_endpoints;
mod oauth_login;
mod oauth_page;
mod oauth_races;
mod oauth_tokens;
mod outage;
mod readers;
mod reload;
mod requests;
mod setup;
mod stores;
mod streams;
mod surface;
mod tidy;
mod tunnels;
mod ways;
