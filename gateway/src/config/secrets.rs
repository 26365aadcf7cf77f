//! Secrets that the settings name by file: they are never in the settings themselves.

use std::path::Path;

use policy::Problem;

use super::{ConfigFile, Text, take};
use crate::base::digest::{Digest, Pepper, Peppers};

pub(super) fn peppers(file: &ConfigFile, folder: &Path, problems: &mut Vec<Problem>) -> Option<Peppers> {
    let read = |text: &Text, problems: &mut Vec<Problem>| take(text, problems, |path| Pepper::read(&folder.join(path)));
    let Some(text) = &file.pepper_file else {
        let first = file.policy.first().map(|p| p.span).unwrap_or_default();
        problems.push(
            Problem::at(first, "no pepper file is named")
                .help("`openssl rand -hex 32 > pepper` makes one; write `pepper_file: pepper` and keep it out of the store's backups"),
        );
        return None;
    };
    let current = read(text, problems)?;
    let previous = match &file.previous_pepper_file {
        Some(text) => Some(read(text, problems)?),
        None => None,
    };
    Some(Peppers { current, previous })
}

/// Shortest key of the management API.
const MANAGEMENT_KEY_CHARS_MIN: usize = 32;

pub(super) fn management_key(
    file: &ConfigFile,
    peppers: &Peppers,
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> Option<Digest> {
    let text = file.management_key_file.as_ref()?;
    take(text, problems, |name| {
        let path = folder.join(name);
        let key = std::fs::read_to_string(&path).map(zeroize::Zeroizing::new);
        let key = key.map_err(|e| format!("cannot read the management key file {}: {e}", path.display()))?;
        let key = key.trim();
        if key.len() < MANAGEMENT_KEY_CHARS_MIN {
            return Err(format!(
                "the management key in {} is shorter than {MANAGEMENT_KEY_CHARS_MIN} characters; \
                 `openssl rand -hex 32` makes a good one",
                path.display()
            ));
        }
        Ok(peppers.current.digest(policy::credential::Secret::new(key)))
    })
}
