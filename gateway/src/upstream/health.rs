//! Active health checks: made as traffic is made, so that they fail where it would and nowhere else.

use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use tokio::time::timeout;

use super::backend::Backend;
use super::connections::Left;
use super::fault::BackendFault;
use super::outbound::Framing;
use super::request::{BackendRequest, Upgrade};
use super::{Endpoint, Pool};
use crate::base::clock::{Clock as _, System};
use crate::base::message::is_informational;

/// Most bodies are read to their end; of a longer one this many pieces.
const PIECES_MAX: usize = 64;

/// Whether an address answers: a connection, and with a path any 2xx.
pub(super) async fn is_healthy(pool: &Pool, endpoint: &Endpoint, path: Option<&str>) -> bool {
    // A connection, and then an answer.
    let patience = pool.upstream.connect_timeout;
    let now_us = System.steady_us();
    let make = pool.connections.make(pool, endpoint, pool.is_http1(), now_us);
    let Ok(Ok(backend)) = timeout(patience * 2, make).await else { return false };
    let mut backend = backend;
    let is_healthy = match path {
        None => true,
        Some(path) => matches!(timeout(patience, ask(pool, &mut backend, path)).await, Ok(Ok(true))),
    };
    // What was made to look is not kept.
    pool.connections.give_back(endpoint, backend, Left::GoingAway, now_us);
    is_healthy
}

async fn ask(pool: &Pool, backend: &mut Backend, path: &str) -> Result<bool, BackendFault> {
    let patience = pool.upstream.connect_timeout;
    let fields = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static("tollgate-health-check"))]);
    let request = BackendRequest {
        method: "GET",
        target: path,
        host: pool.upstream.host.as_deref().unwrap_or(&pool.host).as_bytes(),
        fields: &fields,
        framing: Framing::None,
        upgrade: Upgrade::None,
    };
    backend.set_patience(patience);
    backend.send_head(&request, None, (pool.is_tls(), patience)).await?;
    let mut status = None;
    while status.is_none_or(is_informational) {
        backend.read_head().await?;
        status = backend.head().map(|head| head.status);
    }
    // Some backends take a connection that is closed under an answer for a fault.
    for _ in 0..PIECES_MAX {
        if backend.is_done()? || backend.read_body().await?.is_none() {
            break;
        }
    }
    Ok(status.is_some_and(|status| (200..300).contains(&status)))
}
