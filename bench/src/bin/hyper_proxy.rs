//! The smallest proxy that hyper makes: no checks, no limits, connections to one upstream kept. For `bench/peers`,
//! which compares it with what we do in full.
//!
//! `hyper_proxy LISTEN-PORT UPSTREAM-PORT`, on loopback, one thread.
#![allow(clippy::expect_used, reason = "a measuring tool ends where it cannot measure")]

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Upstream = Client<HttpConnector, Incoming>;

async fn forward(client: Upstream, upstream: u16, mut request: Request<Incoming>) -> Result<Response<Incoming>, Error> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = format!("http://127.0.0.1:{upstream}{target}").parse::<Uri>().expect("a target");
    request.headers_mut().remove(HOST);
    client.request(request).await
}

fn main() {
    let mut ports = std::env::args().skip(1).map(|port| port.parse::<u16>().expect("a port"));
    let (Some(port), Some(upstream)) = (ports.next(), ports.next()) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Upstream = Client::builder(TokioExecutor::new()).build(connector);
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let client = client.clone();
            let service = hyper::service::service_fn(move |request| forward(client.clone(), upstream, request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}
