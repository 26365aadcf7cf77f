//! Changes that their writer announces before it makes them, as is needed on a cluster.
//!
//! After such an announcement, what a gateway reads may still be the record from before. So it forgets the
//! record again with each look at the stream, until the writer says that it is done, or for as long as a writer
//! can need. A writer that dies in between leaves no change that gateways do not learn of.

use std::time::{Duration, Instant};

use crate::store::{Change, record_change};

/// Stands before the kind of a change that is about to be made.
pub(super) const BEGUN: &str = "begun:";
/// How long a writer can take at most.
const LIFE: Duration = Duration::from_secs(20);
/// Most of them at a time: with more, everything is forgotten.
const BEGUN_MAX: usize = 1_000;

/// The changes that were begun and not said to be done.
#[derive(Debug, Default)]
pub(super) struct Begun(Vec<(Change, Instant)>);

impl Begun {
    /// Takes an entry of the stream; gives what must be forgotten now.
    pub(super) fn note(&mut self, kind: &str, subject: &str, now: Instant) -> Change {
        let Some(kind) = kind.strip_prefix(BEGUN) else {
            let change = record_change(kind, subject);
            // One of several writers is done; each of them has begun.
            if let Some(at) = self.0.iter().position(|(begun, _)| *begun == change) {
                self.0.remove(at);
            }
            return change;
        };
        let change = record_change(kind, subject);
        if self.0.len() >= BEGUN_MAX {
            self.0.clear();
            self.0.push((Change::Everything, now));
            return Change::Everything;
        }
        self.0.push((change.clone(), now));
        change
    }

    /// What must be forgotten again.
    pub(super) fn under_way(&mut self, now: Instant) -> Vec<Change> {
        let list = self.0.iter().map(|(change, _)| change.clone()).collect();
        // The last time is after the end: a change may have been made right before.
        self.0.retain(|(_, since)| now.saturating_duration_since(*since) < LIFE);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_forgotten_until_it_is_done() {
        let (mut begun, now) = (Begun::default(), Instant::now());
        let change = Change::Organization("acme".to_owned());
        assert_eq!(begun.note("begun:organization", "acme", now), change);
        assert_eq!(begun.under_way(now), std::slice::from_ref(&change));
        // Two writers: one is done.
        begun.note("begun:organization", "acme", now);
        begun.note("organization", "acme", now);
        assert_eq!(begun.under_way(now), std::slice::from_ref(&change));
        begun.note("organization", "acme", now);
        assert_eq!(begun.under_way(now), []);
    }

    #[test]
    fn a_writer_that_died_is_not_waited_for_for_ever() {
        let (mut begun, now) = (Begun::default(), Instant::now());
        begun.note("begun:user", "usr_1", now);
        let change = Change::User("usr_1".to_owned());
        assert_eq!(begun.under_way(now + LIFE / 2), std::slice::from_ref(&change));
        assert_eq!(begun.under_way(now + LIFE), [change], "once more at the end");
        assert_eq!(begun.under_way(now + LIFE), []);
    }

    #[test]
    fn too_many_are_everything() {
        let (mut begun, now) = (Begun::default(), Instant::now());
        for n in 0..=BEGUN_MAX {
            begun.note("begun:grant", &n.to_string(), now);
        }
        assert_eq!(begun.under_way(now), [Change::Everything]);
    }
}
