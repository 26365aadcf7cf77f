//! The folder of the day files: `2026-12-01.db`, and `2026-12-01.1.db` when one has grown too large.

use std::path::{Path, PathBuf};

use crate::base::clock::rfc3339;

/// Parts into which the allowed bytes are divided, so that the oldest part can go alone.
const PARTS: u64 = 10;
/// A day file is not divided below this.
const PART_BYTES_MIN: u64 = 1 << 20;
/// Day files of one day at most; the last one then grows.
const FILES_MAX: u32 = 9_999;
/// What SQLite puts beside a file.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
const DAY_MS: u64 = 86_400_000;

/// The day of an instant, `2026-12-01`.
pub fn day_of(ms: u64) -> String {
    rfc3339(ms).chars().take(10).collect()
}

/// A day file's place among the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    day: String,
    number: u32,
}

impl Place {
    fn of(path: &Path) -> Option<Self> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".db")?;
        let (day, number) = match stem.split_once('.') {
            Some((day, number)) => (day, number.parse().ok()?),
            None => (stem, 0),
        };
        let is_day = day.len() == 10 && day.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        is_day.then(|| Place { day: day.to_owned(), number })
    }

    fn name(&self) -> String {
        if self.number == 0 { format!("{}.db", self.day) } else { format!("{}.{}.db", self.day, self.number) }
    }
}

/// The day files in a folder.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Those in a folder, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        Files { folder: folder.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All of them, the oldest first; nothing when there is no folder.
    pub fn list(&self) -> std::io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found: Vec<(Place, PathBuf)> =
            entries.flatten().filter_map(|entry| Some((Place::of(&entry.path())?, entry.path()))).collect();
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// The file for what is written on a day: the day's last, or the next one when that is as large as a part of
    /// `bytes`.
    pub fn current(&self, day: &str, bytes: u64) -> std::io::Result<PathBuf> {
        let of_day = self.list()?.into_iter().filter_map(|path| Place::of(&path)).filter(|place| place.day == day);
        let mut place = of_day.max().unwrap_or_else(|| Place { day: day.to_owned(), number: 0 });
        let full = (bytes / PARTS).max(PART_BYTES_MIN);
        if size(&self.folder.join(place.name())) >= full && place.number < FILES_MAX {
            place.number += 1;
        }
        Ok(self.folder.join(place.name()))
    }

    /// Whether a day file comes before another one; names alone do not say it: `.10` stands before `.9` there.
    pub fn is_earlier(&self, path: &Path, other: &Path) -> bool {
        Place::of(path) < Place::of(other)
    }

    /// The file behind one that can no longer be used.
    pub fn next(&self, path: &Path) -> PathBuf {
        let next = Place::of(path).map(|place| Place { number: place.number + 1, ..place });
        next.map_or_else(|| path.to_owned(), |place| self.folder.join(place.name()))
    }

    /// Removes what is older than `days`, and the oldest beyond `bytes`, but never the newest. Gives what was removed.
    pub fn retain(&self, days: u32, bytes: u64, now_ms: u64) -> std::io::Result<Vec<PathBuf>> {
        let first = day_of(now_ms.saturating_sub(u64::from(days) * DAY_MS));
        let mut files = self.list()?;
        files.pop();
        let mut all: u64 = self.list()?.iter().map(|path| size(path)).sum();
        let mut removed = Vec::new();
        for path in files {
            let is_old = Place::of(&path).is_some_and(|place| place.day < first);
            if !is_old && all <= bytes {
                break;
            }
            all = all.saturating_sub(size(&path));
            remove(&path)?;
            removed.push(path);
        }
        Ok(removed)
    }
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Bytes of a day file and what is beside it; 0 when it is not there.
pub fn size(path: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    of(path) + COMPANIONS.iter().map(|suffix| of(&companion(path, suffix))).sum::<u64>()
}

fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_file(path)?;
    for suffix in COMPANIONS {
        match std::fs::remove_file(companion(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000; // 2026-09-21

    fn with(names: &[(&str, usize)]) -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in names {
            std::fs::write(folder.path().join(name), vec![0; *bytes]).unwrap();
        }
        let files = Files::new(folder.path());
        (folder, files)
    }

    fn names(files: &Files) -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.list().unwrap().into_iter().map(name).collect()
    }

    #[test]
    fn day_files_stand_in_the_order_of_their_days_and_numbers() {
        let (_folder, files) = with(&[
            ("2026-09-21.db", 1),
            ("2026-09-20.10.db", 1),
            ("2026-09-20.2.db", 1),
            ("2026-09-20.db", 1),
            ("2026-09-20.db-wal", 1),
            ("notes.db", 1),
            ("abc.running", 1),
        ]);
        assert_eq!(names(&files), ["2026-09-20.db", "2026-09-20.2.db", "2026-09-20.10.db", "2026-09-21.db"]);
    }

    #[test]
    fn a_file_comes_before_another_by_day_and_number() {
        let files = Files::new(Path::new("audit"));
        let inside = |name: &str| files.folder().join(name);
        for (earlier, later) in [
            ("2026-09-21.db", "2026-09-21.1.db"),
            ("2026-09-21.9.db", "2026-09-21.10.db"),
            ("2026-09-21.10.db", "2026-09-22.db"),
        ] {
            assert!(files.is_earlier(&inside(earlier), &inside(later)), "{earlier} {later}");
            assert!(!files.is_earlier(&inside(later), &inside(earlier)), "{later} {earlier}");
        }
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_and_the_newest_stays() {
        let all = [("2026-09-01.db", 100), ("2026-09-19.db", 100), ("2026-09-20.db", 100), ("2026-09-21.db", 100)];
        let (_folder, files) = with(&all);
        files.retain(7, 1_000, NOW_MS).unwrap();
        assert_eq!(names(&files), ["2026-09-19.db", "2026-09-20.db", "2026-09-21.db"]);
        files.retain(7, 250, NOW_MS).unwrap();
        assert_eq!(names(&files), ["2026-09-20.db", "2026-09-21.db"]);
        files.retain(7, 1, NOW_MS).unwrap();
        assert_eq!(names(&files), ["2026-09-21.db"]);
    }

    #[test]
    fn a_day_goes_on_in_another_file_when_one_is_as_large_as_a_part() {
        let (_folder, files) = with(&[("2026-09-21.db", 2 << 20), ("2026-09-20.5.db", 9 << 20)]);
        let current = |bytes| files.current("2026-09-21", bytes).unwrap();
        assert!(current(100 << 20).ends_with("2026-09-21.db"));
        assert!(current(10 << 20).ends_with("2026-09-21.1.db"));
        assert!(files.current("2026-09-22", 1).unwrap().ends_with("2026-09-22.db"));
        assert!(files.next(&current(100 << 20)).ends_with("2026-09-21.1.db"));
    }
}
