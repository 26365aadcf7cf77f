//! The admin listener: `/metrics`, `/healthz`, `/readyz`, and where a bucket stands. Loopback by default.
//!
//! It answers to its own address and to `localhost` only: a web page that points a name of its own
//! at this address (DNS rebinding) gets a 421.

mod management;
mod problem;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpSocket};

use policy::limit::Charge;
use policy::window::Period;

pub use self::management::Management;
pub(crate) use self::management::view;

use crate::base::clock::Clock;
use crate::limit::Limiter;
use crate::observe::{Health, Metrics};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    /// Its address.
    pub address: SocketAddr,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Health.
    pub health: Arc<Health>,
    /// Says where a bucket stands, for the command line of a machine without Redis.
    pub limiter: Arc<dyn Limiter>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The management API, if the settings name its key.
    pub management: Option<Management>,
    /// Brings gauges up to date before they are read.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
}

impl Admin {
    /// Binds the address. Two processes may hold it at once, while one takes over from the other.
    pub fn bind(&self) -> std::io::Result<TcpListener> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(self.address)?;
        socket.listen(BACKLOG)
    }

    /// Answers until it is dropped.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let management = self.management.clone().map(Management::router).unwrap_or_default();
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/limits/{bucket}/{period}/{count}", get(limit))
            .with_state(self.clone())
            .merge(management)
            .layer(from_fn_with_state(self, check_host));
        axum::serve(listener, router).await
    }
}

async fn check_host(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = policy::target::Host::parse(host.as_bytes());
    let is_ours = name.is_ok_and(|name| {
        let bare = name.as_str().trim_matches(['[', ']']);
        name.as_str() == "localhost" || bare.parse::<std::net::IpAddr>().is_ok()
    });
    if is_ours || !admin.address.ip().is_loopback() {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "this listener answers to its address only\n").into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    (admin.refresh)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.text()).into_response()
}

/// Where one bucket stands: `/limits/<32 hexadecimal digits>/<period>/<tokens in a window>`.
async fn limit(State(admin): State<Admin>, Path((bucket, period, count)): Path<(String, String, u32)>) -> Response {
    let period = Period::ALL.into_iter().find(|known| known.word() == period);
    let (Ok(bucket), Some(period)) = (u128::from_str_radix(&bucket, 16), period) else {
        return (StatusCode::BAD_REQUEST, "write /limits/<hexadecimal bucket>/<period>/<tokens>\n").into_response();
    };
    let name: Arc<str> = Arc::from("");
    let charge = Charge { name: &name, bucket, count, period, cost: 1 };
    let seen = admin.limiter.inspect(&[charge], None, admin.clock.moment()).await;
    let Some(standing) = seen.first() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    axum::Json(serde_json::json!({
        "limit": standing.limit,
        "remaining": standing.remaining,
        "window": standing.window.index,
        "now_ms": standing.now_ms,
    }))
    .into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let readiness = admin.health.readiness();
    let status = match readiness.status {
        "ready" | "degraded" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, axum::Json(readiness)).into_response()
}
