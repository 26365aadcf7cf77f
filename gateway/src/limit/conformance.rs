//! What every limiter must do: one list of tests, run over each implementation.
//!
//! A function of this list panics when a claim does not hold. It is compiled into the library so
//! that tests of other crates can run it over a real Redis. Times are those of the real clock, which
//! a limiter in Redis goes by; every bucket is chosen so that its window does not end meanwhile.
#![expect(clippy::unwrap_used, clippy::panic, reason = "this is a list of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use policy::limit::{Charges, Limit, Per, Plan};
use policy::route::Outage;
use policy::units::Rate;
use policy::window::Period;
use policy::{Environment, Key, KeyClass, Organization, Scopes};

use super::{Ask, Certainty, Limiter, Standing, Verdict};
use crate::base::clock::{Clock as _, System};

/// Runs the whole list.
pub async fn all(limiter: Arc<dyn Limiter>) {
    limiter.set_others(0);
    exactly_the_limit_is_admitted_and_remaining_counts_down(&*limiter).await;
    a_refusal_by_one_limit_takes_nothing_from_another(&*limiter).await;
    a_request_that_costs_more_than_is_left_takes_nothing(&*limiter).await;
    a_request_that_costs_more_than_the_limit_is_refused(&*limiter).await;
    looking_takes_nothing(&*limiter).await;
    callers_do_not_share_what_is_each_ones_own(&*limiter).await;
    a_raised_limit_holds_at_once(&*limiter).await;
    a_lowered_limit_admits_no_more(&*limiter).await;
    every_period_ends_where_the_calendar_says(&*limiter).await;
    many_at_once_never_pass_the_limit(limiter).await;
}

/// A caller whose minute has long to go.
fn caller() -> (Key, Organization) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let now_ms = System.now_ms();
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let subject = policy::limit::stable_number(&["conformance", &n.to_string()]);
        let (key, organization) = (key(subject), organization(subject ^ 1));
        let plan = plan("5/min", "9/min");
        let charges = plan.charges(&[], 1, &key, &organization);
        let is_long = charges
            .iter()
            .all(|charge| charge.period.window(now_ms, charge.period.phase_ms(charge.bucket)).end_ms > now_ms + 25_000);
        if is_long {
            return (key, organization);
        }
    }
}

/// A read key with this stable number, for tests and benches.
pub fn key(subject: u128) -> Key {
    Key {
        id: "key_1".into(),
        api: "a".into(),
        class: KeyClass::Read,
        environment: Environment::Live,
        scopes: Arc::new(Scopes::default()),
        not_after_ms: None,
        fault: None,
        places: None,
        limit_override: None,
        subject,
    }
}

/// An organization with this stable number, for tests and benches.
pub fn organization(subject: u128) -> Organization {
    Organization { id: "org".into(), plan: "".into(), permissions: Scopes::default(), subject, changed_ms: 0 }
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn plan(per_key: &str, per_organization: &str) -> Plan {
    let shared = Limit::new("a", "org", rate(per_organization), Per::Organization);
    Plan::new("a", "p", [rate(per_key); 4], vec![shared])
}

async fn ask(limiter: &dyn Limiter, charges: &Charges<'_>, version: u64) -> Verdict {
    let ask = Ask { charges, version, outage: Outage::Closed, now: System.moment() };
    match limiter.admit_now(&ask) {
        Some(verdict) => verdict,
        None => limiter.admit(&ask).await.unwrap_or_else(|_| panic!("the limiter cannot tell")),
    }
}

fn left(verdict: Verdict) -> Option<u32> {
    match verdict {
        Verdict::Admitted { standing, certainty } => {
            assert_eq!(certainty, Certainty::Exact);
            Some(standing.remaining)
        }
        Verdict::Over { .. } => None,
    }
}

async fn many(limiter: &dyn Limiter, charges: &Charges<'_>, version: u64, times: usize) -> Vec<Option<u32>> {
    let mut list = Vec::new();
    for _ in 0..times {
        list.push(left(ask(limiter, charges, version).await));
    }
    list
}

async fn exactly_the_limit_is_admitted_and_remaining_counts_down(limiter: &dyn Limiter) {
    let (plan, (key, organization)) = (plan("5/min", "100/min"), caller());
    let charges = plan.charges(&[], 1, &key, &organization);
    let seen = many(limiter, &charges, 1, 7).await;
    assert_eq!(seen, [Some(4), Some(3), Some(2), Some(1), Some(0), None, None]);
    let Verdict::Over { index, standing } = ask(limiter, &charges, 1).await else { panic!("it is over") };
    assert_eq!((index, standing.limit, standing.remaining), (0, 5, 0));
    let phase = Period::Minute.phase_ms(charges.first.bucket);
    assert_eq!(standing.window.end_ms, Period::Minute.window(System.now_ms(), phase).end_ms);
}

async fn a_refusal_by_one_limit_takes_nothing_from_another(limiter: &dyn Limiter) {
    let (plan, (key, organization)) = (plan("10/min", "2/min"), caller());
    let charges = plan.charges(&[], 1, &key, &organization);
    assert_eq!(many(limiter, &charges, 1, 9).await.iter().flatten().count(), 2);
    let Verdict::Over { index, standing } = ask(limiter, &charges, 1).await else { panic!("it is over") };
    assert_eq!((index, standing.limit), (1, 2), "the second limit is the one that is violated");
    assert_eq!(limiter.peek(&charges.first, System.moment()).remaining, 8);
}

async fn a_request_that_costs_more_than_is_left_takes_nothing(limiter: &dyn Limiter) {
    let (plan, (key, organization)) = (plan("5/min", "100/min"), caller());
    let (costly, cheap) = (plan.charges(&[], 3, &key, &organization), plan.charges(&[], 1, &key, &organization));
    assert_eq!(many(limiter, &costly, 1, 2).await, [Some(2), None]);
    assert_eq!(many(limiter, &cheap, 1, 3).await, [Some(1), Some(0), None], "who takes less is still served");
}

async fn a_request_that_costs_more_than_the_limit_is_refused(limiter: &dyn Limiter) {
    let (plan, (key, organization)) = (plan("5/min", "100/min"), caller());
    let charges = plan.charges(&[], 6, &key, &organization);
    assert_eq!(many(limiter, &charges, 1, 2).await, [None, None]);
}

async fn looking_takes_nothing(limiter: &dyn Limiter) {
    let (plan, (key, organization)) = (plan("5/min", "100/min"), caller());
    let charges = plan.charges(&[], 1, &key, &organization);
    let listed: Vec<_> = charges.iter().copied().collect();
    let remaining = |list: Vec<Standing>| list.iter().map(|s| (s.remaining, s.limit)).collect::<Vec<_>>();
    assert_eq!(remaining(limiter.inspect(&listed, Some(1), System.moment()).await), [(5, 5), (100, 100)]);
    assert_eq!(many(limiter, &charges, 1, 2).await, [Some(4), Some(3)]);
    assert_eq!(remaining(limiter.inspect(&listed, Some(1), System.moment()).await), [(3, 5), (98, 100)]);
    assert_eq!(limiter.peek(&charges.first, System.moment()).remaining, 3);
    assert_eq!(many(limiter, &charges, 1, 4).await, [Some(2), Some(1), Some(0), None]);
}

async fn callers_do_not_share_what_is_each_ones_own(limiter: &dyn Limiter) {
    let (plan, (one, organization), (other, _)) = (plan("2/min", "100/min"), caller(), caller());
    let (first, second) = (plan.charges(&[], 1, &one, &organization), plan.charges(&[], 1, &other, &organization));
    assert_eq!(many(limiter, &first, 1, 3).await, [Some(1), Some(0), None]);
    assert_eq!(many(limiter, &second, 1, 2).await, [Some(1), Some(0)]);
}

async fn a_raised_limit_holds_at_once(limiter: &dyn Limiter) {
    let (small, large, (key, organization)) = (plan("3/min", "100/min"), plan("5/min", "100/min"), caller());
    let before = small.charges(&[], 1, &key, &organization);
    assert_eq!(many(limiter, &before, 1, 4).await, [Some(2), Some(1), Some(0), None]);
    let after = large.charges(&[], 1, &key, &organization);
    assert_eq!(many(limiter, &after, 2, 3).await, [Some(1), Some(0), None]);
}

async fn a_lowered_limit_admits_no_more(limiter: &dyn Limiter) {
    let (large, small, (key, organization)) = (plan("9/min", "100/min"), plan("4/min", "100/min"), caller());
    let before = large.charges(&[], 1, &key, &organization);
    assert_eq!(many(limiter, &before, 1, 3).await, [Some(8), Some(7), Some(6)]);
    let after = small.charges(&[], 1, &key, &organization);
    assert_eq!(many(limiter, &after, 2, 3).await, [Some(0), None, None]);
}

async fn every_period_ends_where_the_calendar_says(limiter: &dyn Limiter) {
    for text in ["1000/s", "5/h", "5/day", "5/month"] {
        let (plan, (key, organization)) = (plan(text, "100/min"), caller());
        let charges = plan.charges(&[], 1, &key, &organization);
        let (before, verdict, after) = (System.now_ms(), ask(limiter, &charges, 1).await, System.now_ms());
        let phase = charges.first.period.phase_ms(charges.first.bucket);
        let ends = [before, after].map(|now_ms| charges.first.period.window(now_ms, phase).end_ms);
        assert!(ends.contains(&verdict.standing().window.end_ms), "{text}: {verdict:?}");
    }
}

async fn many_at_once_never_pass_the_limit(limiter: Arc<dyn Limiter>) {
    let (key, organization) = caller();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (limiter, key, organization) = (limiter.clone(), key.clone(), organization.clone());
            tokio::spawn(async move {
                let plan = plan("400/min", "300/min");
                let charges = plan.charges(&[], 1, &key, &organization);
                many(&*limiter, &charges, 1, 100).await.iter().flatten().count()
            })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        admitted += task.await.unwrap_or(0);
    }
    assert_eq!(admitted, 300);
}
