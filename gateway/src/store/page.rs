//! Listings in pages: how much is asked for, what is given, and where the next page begins.
//!
//! A page ends where it was told to, never silently: whoever gets a part is told where to go on. A record
//! that is there from the first page to the last is listed. One that is added or removed meanwhile may be
//! listed or not. In Redis, one whose end moves meanwhile may be listed twice.

use std::fmt;
use std::str::FromStr;

use futures_util::future::BoxFuture;

use super::StoreError;

/// Most records of one page.
pub const PAGE_MAX: usize = 1_000;
/// Most records that are read where a whole list is needed.
const WHOLE_MAX: usize = 100_000;
/// Longest id in a cursor, in bytes.
const ID_MAX: usize = 256;

/// The place of a record in a listing, such as `1764500000000:key_7Qm`. Its meaning is its store's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// What the listing is sorted by first: a time in milliseconds, or 0.
    pub(super) at: u64,
    /// The id of the record.
    pub(super) id: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.at, self.id)
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WORDS: &str = "a cursor is what an earlier page gave, such as `1764500000000:key_7Qm`";
        let (at, id) = text.split_once(':').ok_or(WORDS)?;
        let is_number = !at.is_empty() && at.bytes().all(|byte| byte.is_ascii_digit());
        let is_id = !id.is_empty() && id.len() <= ID_MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_number || !is_id {
            return Err(WORDS);
        }
        Ok(Cursor { at: at.parse().map_err(|_| WORDS)?, id: id.to_owned() })
    }
}

/// How much of a listing is asked for.
#[derive(Clone, Debug)]
pub struct Page {
    after: Option<Cursor>,
    count: usize,
}

impl Page {
    /// So many records after a place, or from the start: 1 to [`PAGE_MAX`], whatever is asked for.
    pub fn of(count: usize, after: Option<Cursor>) -> Self {
        Page { after, count: count.clamp(1, PAGE_MAX) }
    }

    /// After this place.
    pub(super) fn after(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// One record more than asked for shows that there is a next page.
    pub(super) fn count_and_one(&self) -> usize {
        self.count + 1
    }

    /// The page out of what was read with [`Page::count_and_one`].
    pub(super) fn listed<T>(&self, mut list: Vec<T>, place: impl Fn(&T) -> Cursor) -> Listed<T> {
        let has_next = list.len() > self.count;
        list.truncate(self.count);
        let next = list.last().filter(|_| has_next).map(place);
        Listed { list, next }
    }
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The records.
    pub list: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

impl<T> Listed<T> {
    /// The same page of something made from each record.
    pub fn map<U, E>(self, make: impl FnMut(T) -> Result<U, E>) -> Result<Listed<U>, E> {
        Ok(Listed { list: self.list.into_iter().map(make).collect::<Result<_, E>>()?, next: self.next })
    }
}

/// A whole listing, for rules that must see all of it.
///
/// # Errors
/// Those of the store; and more than 100,000 records, since a rule that saw only a part would be wrong.
pub async fn whole<'a, T>(
    read: impl Fn(Page) -> BoxFuture<'a, Result<Listed<T>, StoreError>>,
) -> Result<Vec<T>, StoreError> {
    let (mut all, mut after) = (Vec::new(), None);
    while all.len() < WHOLE_MAX {
        let page = read(Page::of(PAGE_MAX, after)).await?;
        all.extend(page.list);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
    Err(StoreError::Refused(format!("a list has more than {WHOLE_MAX} records")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        for text in ["0:acme", "1764500000000:key_7Qm", "18446744073709551615:a:b"] {
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for text in ["", ":", "1:", ":a", "-1:a", "+1:a", "1.5:a", "18446744073709551616:a", "1:a b", "1:\0", "a:1"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
        assert!(format!("1:{}", "x".repeat(ID_MAX + 1)).parse::<Cursor>().is_err());
    }
}
