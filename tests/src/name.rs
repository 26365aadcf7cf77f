//! An address that moves from one server to another, as a service name or a proxy in front of Redis
//! does: new connections go to the new server, old ones stay where they are.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The address.
pub struct MovingName {
    pub port: u16,
    target: Arc<AtomicU16>,
}

impl MovingName {
    /// An address that leads to a port.
    pub fn of(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let now = target.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", now.load(Ordering::SeqCst))) {
                    join(client, server);
                }
            }
        });
        MovingName { port, target }
    }

    /// Leads elsewhere from here on.
    pub fn move_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// The URL of a store at this address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

fn join(client: TcpStream, server: TcpStream) {
    for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}
