//! Admits a request that the tokens held here cannot answer: it waits for Redis, or falls under its route's
//! outage rule.
//!
//! Tokens are taken from all its buckets or from none. While it waits for one bucket, it holds no tokens of the
//! others that are here already. Tokens that came because it asked stay here when it is refused.

use std::sync::Arc;

use policy::limit::{CHARGES_MAX, Charge};
use policy::route::Outage;

use super::bucket::{Bucket, Take, Taken};
use super::clock::Look;
use super::ledger::Answer;
use super::server::State;
use super::{Ask, CannotTell, Certainty, Leasing, Standing, Verdict};

/// Rounds for one request with several limits: while it waited for one bucket, another may have run
/// out. Each round gains one for good.
const ROUNDS: usize = CHARGES_MAX + 1;

/// One bucket of a request, while the request is decided.
struct Place<'a> {
    charge: &'a Charge<'a>,
    bucket: Arc<Bucket>,
    taken: Option<Taken>,
    /// The tokens were waited for, and stay taken.
    is_waited: bool,
}

impl Drop for Place<'_> {
    /// A request that goes away while it waits leaves nothing taken.
    fn drop(&mut self) {
        self.put_back();
    }
}

impl Place<'_> {
    fn put_back(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.bucket.put_back(taken.window, self.charge.cost);
        }
    }
}

/// Why waiting ended a request.
enum Ended {
    /// Which place, and in which window.
    Over(usize, u32),
    CannotTell,
}

impl Leasing {
    /// See [`super::Limiter::admit`].
    pub(super) async fn admit_waiting(&self, ask: &Ask<'_>) -> Result<Verdict, CannotTell> {
        let mut places = self.places(ask);
        let mut certainty = Certainty::Exact;
        for _ in 0..ROUNDS {
            let look = self.look_now();
            if let Some((index, window)) = look.and_then(|look| dry_place(&places, look)) {
                return Ok(self.over(&places, index, window, ask));
            }
            let missing = look.map_or(places.len(), |look| self.take_here(&mut places, look));
            if missing == 0 {
                return self.admitted(&mut places, certainty, ask);
            }
            match self.wait_for_rest(&mut places, ask, &mut certainty).await {
                Ok(()) => {}
                Err(Ended::Over(index, window)) => return Ok(self.over(&places, index, window, ask)),
                Err(Ended::CannotTell) => break,
            }
            if certainty == Certainty::Open {
                // A bucket that is passed unasked holds no tokens; the others are passed with it.
                return self.opened(&places, ask);
            }
        }
        self.metrics.cannot_tell.inc();
        Err(CannotTell)
    }

    fn places<'a>(&self, ask: &'a Ask<'a>) -> Vec<Place<'a>> {
        let mut places = Vec::with_capacity(CHARGES_MAX);
        for charge in ask.charges.iter() {
            let bucket = self.bucket_of(charge, ask.version);
            places.push(Place { charge, bucket, taken: None, is_waited: false });
        }
        places
    }

    /// Takes tokens that are held here; returns how many buckets are still missing.
    fn take_here(&self, places: &mut [Place<'_>], look: Look) -> usize {
        let mut missing = 0;
        for place in places.iter_mut().filter(|place| place.taken.is_none()) {
            let (limit, _) = place.bucket.limits();
            match place.bucket.take(limit, place.charge.cost, look) {
                Take::Taken(taken) => {
                    self.refill(&place.bucket, taken);
                    place.taken = Some(taken);
                }
                Take::Missing | Take::Dry => missing += 1,
            }
        }
        missing
    }

    /// Waits for the buckets that have no tokens here, all at once.
    async fn wait_for_rest(
        &self,
        places: &mut [Place<'_>],
        ask: &Ask<'_>,
        certainty: &mut Certainty,
    ) -> Result<(), Ended> {
        let now_us = self.common.clock.steady_us();
        let mut waits = Vec::with_capacity(places.len());
        for (index, place) in places.iter_mut().enumerate() {
            if place.taken.is_some() {
                if !place.is_waited {
                    place.put_back();
                }
                continue;
            }
            let may_ask = matches!(self.state(&place.bucket, now_us), State::Up | State::Learning { .. });
            let heard = may_ask.then(|| {
                let (heard, starts) = place.bucket.wait(place.charge.cost, now_us, self.look_now());
                if starts {
                    self.drive(place.bucket.clone());
                }
                heard
            });
            waits.push((index, heard));
        }
        self.metrics.waits.inc();
        let mut ended = Ok(());
        for (index, heard) in waits {
            let answer = match heard {
                Some(heard) => heard.await.unwrap_or(Answer::CannotTell),
                None => Answer::CannotTell,
            };
            let Some(place) = places.get_mut(index) else { continue };
            match answer {
                Answer::Taken(taken) => (place.taken, place.is_waited) = (Some(taken), true),
                Answer::Over(window) => ended = Err(Ended::Over(index, window)),
                Answer::CannotTell => match (ask.outage, &ended) {
                    (_, Err(_)) => {}
                    // Only an outage opens: not a queue that is full.
                    (Outage::Open, Ok(())) if self.is_away(&place.bucket) => *certainty = Certainty::Open,
                    (Outage::Open, Ok(())) => ended = Err(Ended::CannotTell),
                    (Outage::LocalShare, Ok(())) => match self.take_share(place) {
                        Answer::Taken(taken) => {
                            (place.taken, place.is_waited) = (Some(taken), true);
                            *certainty = (*certainty).max(Certainty::LocalShare);
                        }
                        Answer::Over(window) => ended = Err(Ended::Over(index, window)),
                        Answer::CannotTell => ended = Err(Ended::CannotTell),
                    },
                    (Outage::Closed, Ok(())) => ended = Err(Ended::CannotTell),
                },
            }
        }
        self.metrics.wait_seconds.observe(self.since_us(now_us));
        ended
    }

    fn since_us(&self, then_us: u64) -> f64 {
        self.common.clock.steady_us().saturating_sub(then_us) as f64 / 1e6
    }

    /// Whether a bucket's server cannot be asked now.
    fn is_away(&self, bucket: &Bucket) -> bool {
        self.state(bucket, self.common.clock.steady_us()) != State::Up
    }

    /// Takes from this gateway's own share of a limit while the bucket's server is away: in a window
    /// that began after it went away, or when there is no other gateway that could hold tokens.
    fn take_share(&self, place: &Place<'_>) -> Answer {
        let bucket = &place.bucket;
        let Some(look) = self.look_now() else { return Answer::CannotTell };
        let State::Away { since_us } = self.state(bucket, look.now_us) else { return Answer::CannotTell };
        // Both by the latest time that it can be there. A share that is spent a moment before its
        // window begins still counts in that window; and the window may have begun so early.
        let index = bucket.index(look.hi_ms);
        let began_ms_ago = look.hi_ms.saturating_sub(bucket.window(index).start_ms);
        let began_us = look.now_us.saturating_sub(began_ms_ago * 1_000);
        let (gateways, alone_since_us) = self.company();
        if began_us >= since_us || began_us >= alone_since_us {
            bucket.take_share(index, bucket.limits().1 / gateways);
        }
        let has_all = bucket.take_rest(index, alone_since_us) || began_us >= alone_since_us;
        match bucket.take(bucket.limits().0, place.charge.cost, look) {
            Take::Taken(taken) => Answer::Taken(taken),
            // There is nobody else who could have tokens.
            Take::Missing | Take::Dry if has_all && self.is_short(place, look) => Answer::Over(index),
            Take::Missing | Take::Dry => Answer::CannotTell,
        }
    }

    /// Whether a bucket surely has too few tokens in the window that surely is now.
    fn is_short(&self, place: &Place<'_>, look: Look) -> bool {
        let (word, index) = (place.bucket.word(), place.bucket.index(look.hi_ms));
        word.window == index && place.bucket.index(look.lo_ms) == index && word.tokens < place.charge.cost
    }

    fn admitted(&self, places: &mut [Place<'_>], certainty: Certainty, ask: &Ask<'_>) -> Result<Verdict, CannotTell> {
        let is_share = |place: &Place<'_>| place.taken.is_some_and(|taken| taken.is_share);
        let certainty = if places.iter().any(is_share) { certainty.max(Certainty::LocalShare) } else { certainty };
        certainty.count(&self.metrics);
        let now_ms = self.now_ms(ask.now.wall_ms);
        let first = places.first().and_then(|place| Some(Self::standing(&place.bucket, place.taken?, now_ms)));
        // Spent: nothing of it is put back when the places go.
        places.iter_mut().for_each(|place| place.taken = None);
        first.map(|standing| Verdict::Admitted { standing, certainty }).ok_or(CannotTell)
    }

    fn opened(&self, places: &[Place<'_>], ask: &Ask<'_>) -> Result<Verdict, CannotTell> {
        Certainty::Open.count(&self.metrics);
        let place = places.first().ok_or(CannotTell)?;
        let standing = Self::known_standing(&place.bucket, place.charge, self.now_ms(ask.now.wall_ms), None);
        Ok(Verdict::Admitted { standing, certainty: Certainty::Open })
    }

    /// A refusal, told of the window in which it was decided: the next one may have begun since.
    fn over(&self, places: &[Place<'_>], index: usize, window: u32, ask: &Ask<'_>) -> Verdict {
        let now_ms = self.now_ms(ask.now.wall_ms);
        let standing = places.get(index).map(|place| {
            let window = place.bucket.window(window);
            let now_ms = now_ms.min(window.end_ms.saturating_sub(1));
            let seen = Self::known_standing(&place.bucket, place.charge, now_ms, Some(place.charge.cost));
            Standing { window, ..seen }
        });
        let first = || super::Limiter::peek(self, &ask.charges.first, ask.now);
        Verdict::Over { index, standing: standing.unwrap_or_else(first) }
    }
}

/// The first bucket that is surely used up, and in which window.
fn dry_place(places: &[Place<'_>], look: Look) -> Option<(usize, u32)> {
    let is_dry = |place: &Place<'_>| place.taken.is_none() && place.bucket.is_dry(place.charge.cost, look);
    let index = places.iter().position(is_dry)?;
    Some((index, places.get(index)?.bucket.index(look.lo_ms)))
}
