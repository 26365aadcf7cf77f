//! What records of requests cost on disk and how fast they are found: `records FOLDER MILLIONS`. Makes day files of
//! realistic traffic in the folder (unless they are there), and asks what people ask.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot be set up should stop")]

use std::path::Path;
use std::time::Instant;

use bench::NOW_MS;
use bench::traffic::Traffic;
use gateway::audit::block::{Builder, RECORDS_MAX, Text};
use gateway::audit::day_file::{BlockRow, Boot, DayFile};
use gateway::audit::files::{Files, day_of, size};
use gateway::audit::reader::{Filter, search};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 10_000;
/// Requests in a second of the traffic.
const PER_SECOND: u64 = 2_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(millions)) = (arguments.next(), arguments.next().and_then(|m| m.parse::<u64>().ok()))
    else {
        return println!("records FOLDER MILLIONS");
    };
    let (folder, count) = (Path::new(&folder), millions * 1_000_000);
    std::fs::create_dir_all(folder).unwrap();
    let files = Files::new(folder);
    if files.list().unwrap().is_empty() {
        make(&files, count);
    }
    let bytes: u64 = files.list().unwrap().iter().map(|path| size(path)).sum();
    println!("{:.2} bytes a record, in {} files", bytes as f64 / count as f64, files.list().unwrap().len());
    let key = |n| Filter { texts: vec![(Text::Key, Traffic::key(n))], ..Filter::default() };
    let last_ms = NOW_MS + count * 1_000 / PER_SECOND;
    let day = |filter: Filter| Filter { since_ms: last_ms - 86_400_000, ..filter };
    ask(&files, "newest 100 of a key that is used much", &key(0), 100);
    ask(&files, "newest 100 of a key that is used little", &key(KEYS - 21), 100);
    ask(&files, "newest 100 of a key that is not there", &key(u64::MAX), 100);
    ask(
        &files,
        "a day's 403 of one organization's key",
        &day(Filter { status: Some(403..=403), ..key(7) }),
        usize::MAX,
    );
    ask(&files, "a day's 429", &day(Filter { status: Some(429..=429), ..Filter::default() }), 1_000_000);
    let id = Filter { request_id: Some(format!("bench0000000{:012x}", count / 3)), ..Filter::default() };
    ask(&files, "one request by its id", &id, 10);
}

fn make(files: &Files, count: u64) {
    let (traffic, mut builder, started) = (Traffic::new(KEYS), Builder::default(), Instant::now());
    let boot = Boot {
        boot: "bench0000000".into(),
        gateway: "gw_bench".into(),
        version: String::new(),
        began_ms: NOW_MS,
        ended_ms: None,
        counted: None,
    };
    let (mut open, mut first, mut waiting) = (None, 1, Vec::new());
    for number in 1..=count {
        builder.push(&traffic.record(number, NOW_MS + number * 1_000 / PER_SECOND).record());
        if builder.records() == RECORDS_MAX || number == count {
            let day = day_of(NOW_MS + number * 1_000 / PER_SECOND);
            let path = files.folder().join(format!("{day}.db"));
            waiting.extend(BlockRow::seal(&mut builder, (&boot.boot, 0, first)));
            first = number + 1;
            if open.as_ref().is_none_or(|(open, _)| *open != path) {
                open = Some((path.clone(), DayFile::open(&path).unwrap()));
            }
            if waiting.len() == 16 || number == count {
                let (_, file) = open.as_mut().unwrap();
                file.write(&boot, &std::mem::take(&mut waiting), &[]).unwrap();
            }
        }
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    println!("made {count} records, {rate:.0} a second with what makes them up");
}

fn ask(files: &Files, what: &str, filter: &Filter, limit: usize) {
    let started = Instant::now();
    let page = search(files, filter, None, limit).unwrap();
    println!("{what}: {} found in {:.1} ms", page.hits.len(), started.elapsed().as_secs_f64() * 1_000.0);
}
