//! WebSockets that are opened and dropped: nothing of them stays behind.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use bytes::Bytes;
use http::Request;
use tests::{Gateway, Http2, Key, StoreKind, World, send, until};

const HOST: &str = "api.iconflow.dev";
const PACKS: &str = "https://api.iconflow.dev/v2/packs";
const HELLO: &[u8] = b"\x81\x05hello";
/// The upstream ends a WebSocket on which this comes.
const QUIT: &[u8] = b"quit";

fn open_files(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

fn open(port: u16, key: &Key) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head =
        format!("GET /v2/packs HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {}\r\n{upgrade}\r\n", key.secret);
    socket.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&seen));
    socket.write_all(HELLO).unwrap();
    let mut echo = [0; 7];
    socket.read_exact(&mut echo).unwrap();
    assert_eq!(echo, HELLO);
    socket
}

fn rest(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    // However it ends.
    let _ = socket.read_to_end(&mut rest);
}

/// So many WebSockets on streams of one connection, which ends in the middle of them.
async fn on_streams(port: u16, key: &Key, count: usize, resets: bool) {
    let client = Http2::greet(port, PACKS, key).await;
    let mut open = Vec::new();
    for _ in 0..count {
        let (answer, mut from, mut to) = client.websocket(PACKS, Some(key), &[]).await.unwrap();
        assert_eq!(answer.status(), 200);
        send(&mut to, HELLO).await.unwrap();
        assert_eq!(from.data().await.unwrap().unwrap(), Bytes::from_static(HELLO));
        open.push((to, from));
    }
    if resets {
        for (mut to, _) in open {
            to.send_reset(h2::Reason::CANCEL);
        }
        // Its connection goes on.
        let again = Request::get(PACKS).header("authorization", key.bearer()).body(()).unwrap();
        assert_eq!(client.ask(again).await.unwrap().status, 200);
    }
}

#[test]
fn two_thousand_websockets_dropped_in_every_way_leave_nothing_behind() {
    let (mut world, key) =
        World::with_admin(StoreKind::Sqlite, "bounds: { connections_per_address: 5000 }", |policy| {
            policy
                .replacen("        public_keys: true\n", "        public_keys: true\n        allow: [websocket]\n", 1)
                .replace("1000/min", "1000000/min")
                .replace("200/min", "200000/min")
        });
    let port = world.add_trusted_listener();
    let gateway = world.gateway();
    let ends: [fn(TcpStream); 5] = [
        drop,
        |socket| {
            // Bytes that nobody has read make it a reset.
            (&socket).write_all(HELLO).unwrap();
            until("the echo is there", || socket.peek(&mut [0]).unwrap() > 0);
        },
        |mut socket| {
            socket.shutdown(Shutdown::Write).unwrap();
            rest(&mut socket);
        },
        |mut socket| {
            socket.write_all(QUIT).unwrap();
            rest(&mut socket);
        },
        |mut socket| {
            // In the middle of a frame, and at once.
            socket.write_all(b"\x82\x7e\xff\xff").unwrap();
        },
    ];
    let opened = std::cell::Cell::new(0);
    let round = |count: usize| {
        for end in ends {
            opened.set(opened.get() + count);
            let sockets: Vec<TcpStream> = (0..count).map(|_| open(port, &key)).collect();
            sockets.into_iter().for_each(end);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for resets in [false, true] {
            opened.set(opened.get() + count.min(90));
            runtime.block_on(on_streams(port, &key, count.min(90), resets));
        }
        drop(runtime);
        until("all are over", || {
            let output = gateway.output();
            let records = output
                .lines()
                .filter(|line| line.contains("\"outcome\":\"forwarded\"") && !line.contains("\"bytes_in\":0,"));
            gateway.metric("tollgate_open_connections") == 0.0 && records.count() >= opened.get()
        });
    };
    round(20);
    let (files, memory) = (open_files(gateway), gateway.memory_kib("VmRSS"));
    for _ in 0..3 {
        round(100);
    }
    until("every connection is closed", || open_files(gateway) <= files + 4);
    let grown = gateway.memory_kib("VmRSS").saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB");
    assert_eq!(gateway.get(PACKS, &key).status, 200);
}
