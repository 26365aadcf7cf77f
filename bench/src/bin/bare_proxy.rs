//! The floor: the same engine with no checks at all.
//! `bare-proxy PORT UPSTREAM THREADS [TLS_PORT CERTIFICATE KEY]`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot be set up should stop")]

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::modules::http::HttpModules;
use pingora::prelude::HttpPeer;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();
    fn new_ctx(&self) {}
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}
    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> pingora::Result<bool> {
        session.set_keepalive(Some(60));
        session.set_write_timeout(Some(Duration::from_secs(60)));
        Ok(false)
    }
    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.0, false, String::new());
        // The engine's own settings are those of the gateway; only the checks are missing.
        peer.options.idle_timeout = Some(Duration::from_secs(55));
        peer.options.connection_timeout = Some(Duration::from_secs(2));
        peer.options.read_timeout = Some(Duration::from_secs(60));
        peer.options.write_timeout = Some(Duration::from_secs(60));
        Ok(Box::new(peer))
    }
}

fn main() {
    gateway::edge::tls::install_provider();
    let mut arguments = std::env::args().skip(1);
    let (port, upstream) = (arguments.next().unwrap(), arguments.next().unwrap().parse().unwrap());
    let threads = arguments.next().unwrap().parse().unwrap();
    let conf = ServerConf { threads, upstream_keepalive_pool_size: 1_024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare(upstream));
    service.add_tcp(&format!("127.0.0.1:{port}"));
    if let Some(port) = arguments.next() {
        let (certificate, key) = (arguments.next().unwrap(), arguments.next().unwrap());
        let mut tls = TlsSettings::intermediate(&certificate, &key).unwrap();
        tls.enable_h2();
        service.add_tls_with_settings(&format!("127.0.0.1:{port}"), None, tls);
    }
    server.add_service(service);
    server.run_forever();
}
