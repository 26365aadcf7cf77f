//! The sample upstream of the demo: knows nothing of keys and echoes what it received.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::IntoResponse;
use axum::{Json, Router};
use tokio::net::TcpListener;

/// Largest body echoed, in bytes.
const ECHO_BYTES_MAX: usize = 1_024;

/// Serves until it is dropped. `name` is what it calls itself in its answers.
pub(super) async fn serve(name: &'static str, listener: TcpListener) -> std::io::Result<()> {
    let echo = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
        let fields: Vec<(String, String)> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = String::from_utf8_lossy(body.get(..body.len().min(ECHO_BYTES_MAX)).unwrap_or_default()).into_owned();
        let received = serde_json::json!({
            "upstream": name,
            "method": method.as_str(),
            "path": uri.path(),
            "query": uri.query(),
            "fields": fields.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "body": body,
        });
        Json(received).into_response()
    };
    axum::serve(listener, Router::new().fallback(echo)).await
}

/// Binds a loopback port.
pub(super) async fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await
}
