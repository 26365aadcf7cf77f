//! What every command that lists has in common: how much is listed, and where the next list begins.

use std::io::Write as _;

use clap::Args;

use super::Failure;
use crate::store::{Cursor, Listed, PAGE_MAX, Page, StoreError};

/// How much is listed.
#[derive(Debug, Args)]
pub(super) struct Listing {
    /// At most so many.
    #[arg(long, default_value_t = 10_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where an earlier list ended; it says so itself when there is more.
    #[arg(long, value_name = "CURSOR")]
    after: Option<Cursor>,
}

impl Listing {
    /// Reads page after page until there are as many as asked for of those that are wanted. When there may
    /// be more, standard error says how to go on.
    pub(super) async fn read<T>(
        self,
        read: impl AsyncFn(Page) -> Result<Listed<T>, StoreError>,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>, Failure> {
        let (mut found, mut after) = (Vec::new(), self.after);
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        while found.len() < limit {
            let page = read(Page::of(PAGE_MAX.min(limit - found.len()), after)).await?;
            found.extend(page.list.into_iter().filter(&is_wanted));
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
        if let Some(next) = after {
            writeln!(std::io::stderr(), "there may be more: go on with --after {next}")?;
        }
        Ok(found)
    }
}
