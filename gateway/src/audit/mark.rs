//! Marks of running boots: a file for each, which its process keeps locked for as long as it lives. The kernel lets go
//! of a lock however a process ends, so a mark that nobody locks is that of a gateway that was killed.

use std::fs::File;
use std::path::{Path, PathBuf};

/// What the name of a mark ends in.
const SUFFIX: &str = "running";
/// Most lanes that are believed of a mark.
const LANES_MAX: u32 = 1_024;

fn path_of(folder: &Path, boot: &str) -> PathBuf {
    folder.join(format!("{boot}.{SUFFIX}"))
}

/// The mark of this process's boot.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    /// Locked until it is dropped.
    _locked: File,
}

impl Mark {
    /// Makes it, and says how many lanes the boot has.
    pub(super) fn make(folder: &Path, boot: &str, lanes: usize) -> std::io::Result<Self> {
        let path = path_of(folder, boot);
        let file = File::create(&path)?;
        file.lock()?;
        std::fs::write(&path, lanes.to_string())?;
        Ok(Mark { path, _locked: file })
    }

    /// Takes it away: the boot has ended, and everything of it is written.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// A boot whose process is gone.
#[derive(Debug)]
pub(super) struct Gone {
    /// The boot.
    pub(super) boot: String,
    /// How many lanes it had.
    pub(super) lanes: u32,
    /// Its mark.
    pub(super) mark: PathBuf,
}

/// The boots whose process is gone and whose mark is still there.
pub(super) fn gone(folder: &Path) -> std::io::Result<Vec<Gone>> {
    let paths = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let marks = paths.filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX) && !is_locked(path));
    let gone = marks.filter_map(|mark| {
        let boot = mark.file_stem()?.to_str()?.to_owned();
        let lanes = std::fs::read_to_string(&mark).unwrap_or_default().trim().parse().unwrap_or(1);
        Some(Gone { boot, lanes: lanes.min(LANES_MAX), mark })
    });
    Ok(gone.collect())
}

/// Whether the process of a boot lives.
pub(super) fn is_running(folder: &Path, boot: &str) -> bool {
    is_locked(&path_of(folder, boot))
}

/// A mark that cannot be opened says nothing: it is not locked where there is none, and left alone where it may not be
/// looked at.
fn is_locked(path: &Path) -> bool {
    match File::open(path) {
        Ok(mark) => mark.try_lock().is_err(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_gone_when_nobody_locks_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        let [lives, dies] = ["lives", "dies"].map(|boot| Mark::make(folder.path(), boot, 3).unwrap());
        assert!(gone(folder.path()).unwrap().is_empty() && is_running(folder.path(), "dies"));
        drop(dies);
        let found = gone(folder.path()).unwrap();
        assert_eq!(found.iter().map(|gone| (gone.boot.as_str(), gone.lanes)).collect::<Vec<_>>(), [("dies", 3)]);
        assert!(!is_running(folder.path(), "dies") && !is_running(folder.path(), "never was"));
        lives.remove().unwrap();
        assert!(!is_running(folder.path(), "lives"));
    }
}
