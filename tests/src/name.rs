//! An address that moves from one server to another, as a service name or a proxy in front of Redis
//! does: new connections go to the new server, old ones stay where they are.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The address.
pub struct MovingName {
    pub port: u16,
    target: Arc<AtomicU16>,
}

impl MovingName {
    /// An address that leads to a port.
    pub fn of(target: u16) -> Self {
        Self::far_from(target, Duration::ZERO)
    }

    /// An address that leads to a port, and where whoever sends this command is cut off before it
    /// arrives.
    pub fn cutting(target: u16, command: &str) -> Self {
        Self::start(target, Duration::ZERO, format!("\r\n${}\r\n{command}\r\n", command.len()).into_bytes())
    }

    /// An address that leads to a port whose answers are this long on their way.
    pub fn far_from(target: u16, delay: Duration) -> Self {
        Self::start(target, delay, Vec::new())
    }

    fn start(target: u16, delay: Duration, cut: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(target));
        let now = target.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", now.load(Ordering::SeqCst))) {
                    join(client, server, delay, &cut);
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

fn join(client: TcpStream, server: TcpStream, delay: Duration, cut: &[u8]) {
    let upward = (client.try_clone().unwrap(), server.try_clone().unwrap(), Duration::ZERO, cut.to_vec());
    for (from, to, delay, cut) in [upward, (server, client, delay, Vec::new())] {
        std::thread::spawn(move || carry(from, to, delay, &cut));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, cut: &[u8]) {
    let _ = to.set_nodelay(true);
    let mut buffer = [0u8; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        std::thread::sleep(delay);
        let bytes = &buffer[..count];
        let is_cut = !cut.is_empty() && bytes.windows(cut.len()).any(|window| window == cut);
        if is_cut || to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
