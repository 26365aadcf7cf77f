//! Active health checks: made as traffic is made, so that they fail where it would and nowhere else.

use http::header::HOST;
use pingora::http::RequestHeader;
use tokio::time::timeout;

use super::backend::Backend;
use super::connections::Left;
use super::outbound::Framing;
use super::{Endpoint, Pool};

/// Most bodies are read to their end; of a longer one this many pieces.
const PIECES_MAX: usize = 64;

/// Whether an address answers: a connection, and with a path any 2xx.
pub(super) async fn is_healthy(pool: &Pool, endpoint: &Endpoint, path: Option<&str>) -> bool {
    // A connection, and then an answer.
    let patience = pool.upstream.connect_timeout;
    let Ok(Ok(backend)) = timeout(patience * 2, pool.connections.make(pool, endpoint, pool.is_http1())).await else {
        return false;
    };
    let mut backend = backend;
    let is_healthy = match path {
        None => true,
        Some(path) => matches!(timeout(patience, ask(pool, &mut backend, path)).await, Ok(Ok(true))),
    };
    // A stream is over, its connection is not. One of HTTP/1.1 is not kept.
    pool.connections.give_back(endpoint, backend, Left::Midway, 0).await;
    is_healthy
}

async fn ask(pool: &Pool, backend: &mut Backend, path: &str) -> pingora::Result<bool> {
    let patience = pool.upstream.connect_timeout;
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(2))?;
    request.insert_header(HOST, pool.upstream.host.as_deref().unwrap_or(&pool.host))?;
    request.insert_header("user-agent", "tollgate-health-check")?;
    backend.set_patience(patience);
    backend.send_head(request, Framing::None, (pool.is_tls(), patience)).await?;
    let status = loop {
        backend.read_head().await?;
        match backend.head().map(|head| head.status) {
            Some(status) if status.is_informational() => {}
            status => break status,
        }
    };
    // Some backends take a connection that is closed under an answer for a fault.
    for _ in 0..PIECES_MAX {
        if backend.is_done()? || backend.read_body().await?.is_none() {
            break;
        }
    }
    Ok(status.is_some_and(|status| status.is_success()))
}
