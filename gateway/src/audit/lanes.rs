//! Where a request's thread puts what is kept of it: into the buffer of a lane, without formatting, allocation or
//! waiting for anybody but another thread of the same lane.
//!
//! Each record of a lane has a sequence number, counted from 1. A lane that is full drops what comes; its numbers are
//! used up all the same, so that the gap shows.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use super::record::{Labels, Record, RecordedId};

/// Most records that wait in a lane.
pub const LANE_RECORDS_MAX: usize = 16_384;
/// Most bytes of text that wait in a lane.
const LANE_TEXT_MAX: usize = 4 << 20;
/// Records in a lane at which the sealer is woken: half of its room.
const WAKE_AT: usize = LANE_RECORDS_MAX / 2;
/// Most of a path that is kept, bytes.
pub const PATH_BYTES_MAX: usize = 256;
/// Texts of a record: API, route, method, path, key, grant, client, user, organization, the client's id.
const TEXTS: usize = 10;

/// A record with its texts elsewhere.
#[derive(Clone, Copy, Debug)]
struct Entry {
    began_ms: u64,
    number: u64,
    bytes_in: u64,
    bytes_out: u64,
    decision_us: u64,
    upstream_us: u64,
    total_us: u64,
    address: Option<IpAddr>,
    upstream: Option<SocketAddr>,
    labels: Labels<'static>,
    lengths: [u16; TEXTS],
    status: u16,
    shadowed: bool,
}

/// What a lane has gathered.
#[derive(Debug, Default)]
pub struct Gathered {
    entries: Vec<Entry>,
    text: Vec<u8>,
    /// Sequence number of the first.
    pub first_seq: u64,
    /// How many more there were behind the last that found no room.
    pub dropped: u64,
}

impl Gathered {
    /// How many records it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has happened.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dropped == 0
    }

    fn next_seq(&self) -> u64 {
        self.first_seq + self.entries.len() as u64 + self.dropped
    }

    fn push(&mut self, record: &Record<'_, 'static>) {
        let is_full = self.entries.len() >= LANE_RECORDS_MAX || self.text.len() >= LANE_TEXT_MAX;
        if is_full || self.dropped > 0 {
            self.dropped += 1;
            return;
        }
        let (number, id) = match record.id {
            RecordedId::Ours(number) => (number, ""),
            RecordedId::Theirs(id) => (0, id),
        };
        let texts = [
            record.api,
            record.route,
            record.method,
            cut(record.path),
            record.key,
            record.grant,
            record.client,
            record.user,
            record.organization,
            id,
        ];
        let mut lengths = [0; TEXTS];
        for (text, length) in texts.into_iter().zip(&mut lengths) {
            if let (false, Ok(bytes)) = (text.is_empty(), u16::try_from(text.len())) {
                *length = bytes;
                self.text.extend_from_slice(text.as_bytes());
            }
        }
        self.entries.push(Entry {
            began_ms: record.began_ms,
            number,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            decision_us: record.decision_us,
            upstream_us: record.upstream_us,
            total_us: record.total_us,
            address: record.address,
            upstream: record.upstream,
            labels: record.labels,
            lengths,
            status: record.status,
            shadowed: record.shadowed,
        });
    }

    /// The records, in their order.
    pub fn records(&self) -> impl Iterator<Item = Record<'_, 'static>> {
        let mut rest = self.text.as_slice();
        self.entries.iter().map(move |entry| {
            let mut lengths = entry.lengths.iter();
            let mut next = || {
                let length = lengths.next().copied().unwrap_or_default();
                let (text, behind) = rest.split_at_checked(usize::from(length)).unwrap_or_default();
                rest = behind;
                std::str::from_utf8(text).unwrap_or_default()
            };
            let [api, route, method, path, key, grant, client, user, organization, id] = [(); TEXTS].map(|()| next());
            Record {
                began_ms: entry.began_ms,
                id: if entry.number == 0 { RecordedId::Theirs(id) } else { RecordedId::Ours(entry.number) },
                api,
                route,
                method,
                path,
                address: entry.address,
                key,
                grant,
                client,
                user,
                organization,
                labels: entry.labels,
                shadowed: entry.shadowed,
                status: entry.status,
                bytes_in: entry.bytes_in,
                bytes_out: entry.bytes_out,
                decision_us: entry.decision_us,
                upstream_us: entry.upstream_us,
                total_us: entry.total_us,
                upstream: entry.upstream,
            }
        })
    }
}

/// As much of a path as is kept.
fn cut(path: &str) -> &str {
    path.get(..path.floor_char_boundary(PATH_BYTES_MAX)).unwrap_or_default()
}

/// The lanes of a gateway: one for each thread that serves.
#[derive(Debug)]
pub struct Lanes {
    lanes: Box<[Mutex<Gathered>]>,
    sealer: OnceLock<Thread>,
    is_refusing: AtomicBool,
}

thread_local! {
    /// Which lane a thread uses, once it has used one.
    static LANE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn lane_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let lane = LANE.get();
    if lane != usize::MAX {
        return lane;
    }
    let lane = NEXT.fetch_add(1, Ordering::Relaxed);
    LANE.set(lane);
    lane
}

fn lock(lane: &Mutex<Gathered>) -> MutexGuard<'_, Gathered> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lanes {
    /// Empty lanes, at least one.
    pub fn new(lanes: usize) -> Self {
        let lane = || Mutex::new(Gathered { first_seq: 1, ..Gathered::default() });
        let lanes = (0..lanes.max(1)).map(|_| lane()).collect();
        Lanes { lanes, sealer: OnceLock::new(), is_refusing: AtomicBool::new(false) }
    }

    /// Puts a record on this thread's lane, if there is room.
    pub fn push(&self, record: &Record<'_, 'static>) {
        let index = lane_of_thread() % self.lanes.len();
        let Some(lane) = self.lanes.get(index) else { return };
        let mut lane = lock(lane);
        lane.push(record);
        if lane.entries.len() == WAKE_AT
            && let Some(sealer) = self.sealer.get()
        {
            sealer.unpark();
        }
    }

    /// Whether requests must be refused, because what is kept of them would be lost.
    pub fn is_refusing(&self) -> bool {
        self.is_refusing.load(Ordering::Relaxed)
    }

    /// Begins or ends refusing.
    pub fn set_refusing(&self, is_refusing: bool) {
        self.is_refusing.store(is_refusing, Ordering::Relaxed);
    }

    /// Says which thread empties them.
    pub fn sealed_by(&self, sealer: Thread) {
        let _ = self.sealer.set(sealer);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Takes what a lane has gathered, and leaves it an empty buffer: `spare`, which was taken before.
    pub fn take(&self, lane: usize, mut spare: Gathered) -> Gathered {
        spare.entries.clear();
        spare.text.clear();
        spare.dropped = 0;
        let Some(lane) = self.lanes.get(lane) else { return spare };
        let mut lane = lock(lane);
        spare.first_seq = lane.next_seq();
        std::mem::replace(&mut *lane, spare)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::sample;
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_in_its_order() {
        let lanes = Lanes::new(1);
        let token = Record {
            id: RecordedId::Theirs("order-7"),
            key: "",
            grant: "grant_1",
            client: "app_1",
            user: "user_1",
            address: None,
            upstream: None,
            shadowed: true,
            ..sample(0)
        };
        lanes.push(&sample(1));
        lanes.push(&token);
        lanes.push(&sample(2));
        let gathered = lanes.take(0, Gathered::default());
        assert_eq!(gathered.records().collect::<Vec<_>>(), [sample(1), token, sample(2)]);
        assert_eq!((gathered.first_seq, gathered.dropped), (1, 0));
        assert_eq!(lanes.take(0, gathered).first_seq, 4);
    }

    #[test]
    fn a_full_lane_counts_what_it_drops_and_goes_on_behind_it() {
        let lanes = Lanes::new(1);
        for number in 1..=(LANE_RECORDS_MAX as u64 + 5) {
            lanes.push(&sample(number));
        }
        let first = lanes.take(0, Gathered::default());
        assert_eq!((first.len(), first.dropped), (LANE_RECORDS_MAX, 5));
        lanes.push(&sample(7));
        let second = lanes.take(0, first);
        assert_eq!((second.len(), second.first_seq), (1, LANE_RECORDS_MAX as u64 + 6));
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let path = "ä".repeat(PATH_BYTES_MAX);
        let lanes = Lanes::new(1);
        lanes.push(&Record { path: &format!("/{path}"), ..sample(1) });
        let gathered = lanes.take(0, Gathered::default());
        let kept = gathered.records().next().unwrap().path.to_owned();
        assert!(kept.len() <= PATH_BYTES_MAX && kept.chars().skip(1).all(|c| c == 'ä'));
    }
}
