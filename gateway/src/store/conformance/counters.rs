//! What every store must do with counters of quotas.

use policy::window::{Period, Tally};

use super::super::{Counter, Counters};

pub(super) async fn all(store: &dyn Counters) {
    counters_add_up_within_a_window(store).await;
}

async fn counters_add_up_within_a_window(store: &dyn Counters) {
    let at = |bucket, period, window, used| Counter { bucket, period, word: Tally { window, used }.word() };
    let (one, two) = (at(1, Period::Day, 9, 4), at(u128::MAX - 5, Period::Month, 7, 3));
    assert_eq!(store.add_counters(&[two, one]).await.unwrap(), vec![two, one]);
    let more = store.add_counters(&[at(1, Period::Day, 9, 2), two]).await.unwrap();
    assert_eq!(more, vec![at(1, Period::Day, 9, 6), at(u128::MAX - 5, Period::Month, 7, 6)]);
    let late = store.add_counters(&[at(1, Period::Day, 8, 100)]).await.unwrap();
    assert_eq!(late, vec![at(1, Period::Day, 9, 6)], "a window that has passed changes nothing");
    let new = store.add_counters(&[at(1, Period::Day, 10, 1)]).await.unwrap();
    assert_eq!(new, vec![at(1, Period::Day, 10, 1)], "a new window starts again");
    store.drop_counters(&[at(1, Period::Day, 9, 6), at(u128::MAX - 5, Period::Month, 7, 6)]).await.unwrap();
    assert_eq!(store.counters().await.unwrap(), new, "only what has not moved is dropped");
}
