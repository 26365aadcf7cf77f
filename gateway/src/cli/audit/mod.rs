//! `tollgate audit`: what is on record. Reads the day files of this machine; works without the store and while the
//! gateway is down.

mod format;
mod requests;
mod verify;

pub(super) use self::requests::since;

use std::path::Path;

use clap::Subcommand;

use super::Failure;
use crate::config::Config;

/// What is on record.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// List requests, newest first: which key made each, and how it ended.
    Requests(Box<requests::Requests>),
    /// Prove that no record of a request is missing, or say which ones are and why.
    Verify(verify::Verify),
}

impl Audit {
    pub(super) fn run(self, path: &Path, json: bool) -> Result<(), Failure> {
        let config = Config::read(path)?;
        match self {
            Audit::Requests(requests) => requests.run(&config, path, json),
            Audit::Verify(verify) => verify.run(&config, json),
        }
    }
}
