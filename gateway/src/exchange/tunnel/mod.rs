//! A WebSocket under way: bytes go both ways until one side ends it, its credential ends, or the
//! gateway stops. A close frame is put in only between two frames of the backend.

mod frames;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::frames::Frames;
pub use self::frames::{GOING_AWAY, POLICY_VIOLATION};

/// Room for a read while a side says little: most tunnels are quiet most of the time, and there are many of them.
const ROOM_MIN: usize = 1_024;
/// Room for a read once a side fills what it is given.
const ROOM_MAX: usize = 16 * 1024;
/// How long the backend's frame under way, and a client that takes its time, are waited for.
const GRACE: Duration = Duration::from_secs(3);
/// How long a client has to take its leave after a close frame.
const LEAVE: Duration = Duration::from_secs(1);
/// How long the backend has to end what its client has left.
const AFTERMATH: Duration = Duration::from_secs(10);

/// How many bytes have passed through a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// From the client.
    pub bytes_in: usize,
    /// To the client.
    pub bytes_out: usize,
}

/// A close frame to be put in.
#[derive(Debug, Default)]
struct Stop {
    frame: OnceLock<&'static [u8]>,
    asked: Notify,
}

/// Runs a tunnel to its end. `ahead` is what each side sent before it was one: the client, the
/// backend. `stop` says when and with which close frame it ends; `silence` is the longest time in
/// which nothing passes.
pub async fn run<C, B>(
    client: C,
    backend: B,
    ahead: (Vec<u8>, Vec<u8>),
    stop: impl Future<Output = &'static [u8]>,
    silence: Duration,
) -> Passed
where
    C: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (bytes_in, bytes_out, asked) = (AtomicUsize::new(0), AtomicUsize::new(0), Stop::default());
    let ((client_in, client_out), (backend_in, backend_out)) = (split(client), split(backend));
    let work = async {
        let up = upward(client_in, backend_out, ahead.0, &bytes_in);
        let down = downward(backend_in, client_out, ahead.1, &bytes_out, &asked);
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        tokio::select! {
            biased;
            stopped = down.as_mut() => {
                if stopped {
                    let _ = timeout(LEAVE, up).await;
                }
            }
            left = up.as_mut() => match left {
                // What the backend has said already is for its client to hear.
                End::Client | End::Backend => {
                    let _ = timeout(AFTERMATH, down).await;
                }
                End::Broken => {}
            },
        }
    };
    let mut work = std::pin::pin!(work);
    let watch = async {
        loop {
            let before = bytes_in.load(Relaxed).wrapping_add(bytes_out.load(Relaxed));
            tokio::time::sleep(silence).await;
            if before == bytes_in.load(Relaxed).wrapping_add(bytes_out.load(Relaxed)) {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = work.as_mut() => {}
        frame = stop => {
            let _ = asked.frame.set(frame);
            asked.asked.notify_one();
            let _ = timeout(GRACE, work).await;
        }
        () = watch => {}
    }
    Passed { bytes_in: bytes_in.load(Relaxed), bytes_out: bytes_out.load(Relaxed) }
}

/// Which side ended a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client, cleanly.
    Client,
    /// The backend takes no more.
    Backend,
    /// The client's connection is broken.
    Broken,
}

/// Makes room for the next read, by what the last one has brought.
fn make_room(buffer: &mut Vec<u8>) {
    let room = if buffer.len() >= ROOM_MIN { ROOM_MAX } else { ROOM_MIN };
    buffer.clear();
    buffer.shrink_to(room);
    buffer.reserve(room);
}

/// From the client to the backend, until one of them leaves.
async fn upward<C: AsyncRead, B: AsyncWrite>(
    mut client: ReadHalf<C>,
    mut backend: WriteHalf<B>,
    ahead: Vec<u8>,
    passed: &AtomicUsize,
) -> End {
    let mut buffer = ahead;
    loop {
        if !buffer.is_empty() {
            passed.fetch_add(buffer.len(), Relaxed);
            if backend.write_all(&buffer).await.is_err() || backend.flush().await.is_err() {
                return End::Backend;
            }
        }
        make_room(&mut buffer);
        match client.read_buf(&mut buffer).await {
            Ok(1..) => {}
            Ok(0) => {
                let _ = backend.shutdown().await;
                return End::Client;
            }
            Err(_) => return End::Broken,
        }
    }
}

/// From the backend to the client. Whether it ended with a close frame of ours.
async fn downward<B: AsyncRead, C: AsyncWrite>(
    mut backend: ReadHalf<B>,
    mut client: WriteHalf<C>,
    ahead: Vec<u8>,
    passed: &AtomicUsize,
    stop: &Stop,
) -> bool {
    let mut frames = Frames::default();
    let mut buffer = ahead;
    loop {
        if !buffer.is_empty() {
            frames.pass(&buffer);
            passed.fetch_add(buffer.len(), Relaxed);
            if client.write_all(&buffer).await.is_err() || client.flush().await.is_err() {
                return false;
            }
        }
        if let Some(frame) = stop.frame.get().filter(|_| frames.is_between()) {
            return client.write_all(frame).await.is_ok() && client.flush().await.is_ok();
        }
        make_room(&mut buffer);
        tokio::select! {
            biased;
            () = stop.asked.notified() => {}
            read = backend.read_buf(&mut buffer) => {
                if !matches!(read, Ok(1..)) {
                    let _ = client.shutdown().await;
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn what_came_ahead_comes_first_and_both_ends_see_the_other_leave() {
        let ((mut client, ours), (mut backend, theirs)) = (duplex(1024), duplex(1024));
        let ahead = (b"from the client, ".to_vec(), b"from the backend, ".to_vec());
        let tunnel = tokio::spawn(run(ours, theirs, ahead, std::future::pending(), SILENCE));
        client.write_all(b"more").await.unwrap();
        backend.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        let mut seen = String::new();
        backend.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "from the client, more");
        drop(backend);
        seen.clear();
        client.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "from the backend, more");
        assert_eq!(tunnel.await.unwrap(), Passed { bytes_in: 21, bytes_out: 22 });
    }

    #[tokio::test]
    async fn a_close_frame_waits_for_the_frame_under_way() {
        let ((mut client, ours), (mut backend, theirs)) = (duplex(1024), duplex(1024));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let end = async { stopped.await.unwrap() };
        let tunnel = tokio::spawn(run(ours, theirs, (Vec::new(), Vec::new()), end, SILENCE));
        backend.write_all(b"\x81\x05he").await.unwrap();
        let mut seen = vec![0; 4];
        client.read_exact(&mut seen).await.unwrap();
        stop.send(GOING_AWAY).unwrap();
        backend.write_all(b"llo").await.unwrap();
        drop(client.shutdown().await);
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, [b"\x81\x05hello", GOING_AWAY].concat());
        assert_eq!(tunnel.await.unwrap().bytes_out, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_left_after_a_while() {
        let ((_client, ours), (mut backend, theirs)) = (duplex(16), duplex(1024));
        backend.write_all(&[0x82, 100]).await.unwrap();
        backend.write_all(&[7; 100]).await.unwrap();
        let end = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            POLICY_VIOLATION
        };
        run(ours, theirs, (Vec::new(), Vec::new()), end, SILENCE).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_ends() {
        let ((_client, ours), (_backend, theirs)) = (duplex(16), duplex(16));
        run(ours, theirs, (Vec::new(), Vec::new()), std::future::pending(), SILENCE).await;
    }
}
