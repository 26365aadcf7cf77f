//! What every store must do with records of the authorization server.

use super::super::{Change, Document, Kind, Page, Store, Swap, Swapped, whole};

fn document(kind: Kind, id: &str, record: &str, lists: &[&str], expires_ms: Option<u64>) -> Document {
    let lists = lists.iter().map(|list| (*list).to_owned()).collect();
    Document { kind, id: id.into(), lists, record: record.into(), expires_ms }
}

pub(super) async fn all(store: &dyn Store) {
    let now_ms = store.now_ms(crate::base::clock::Clock::now_ms(&crate::base::clock::System)).await.unwrap();
    a_record_is_of_its_kind_and_id(store).await;
    a_swap_happens_to_what_was_read_and_to_nothing_else(store, now_ms).await;
    of_many_who_swap_or_remove_at_once_one_does(store).await;
    a_swap_tells_of_itself_and_a_conflict_of_nothing(store).await;
    lists_show_what_is_there(store, now_ms).await;
    pages_of_a_list_show_each_record_once(store, now_ms).await;
    what_has_ended_is_dropped(store, now_ms).await;
}

async fn a_record_is_of_its_kind_and_id(store: &dyn Store) {
    for kind in Kind::ALL {
        assert_eq!(store.document(kind, "a/b").await.unwrap(), None);
        assert!(store.insert_document(&document(kind, "a/b", kind.as_str(), &[], None)).await.unwrap());
        assert!(!store.insert_document(&document(kind, "a/b", "other", &[], None)).await.unwrap());
    }
    for kind in Kind::ALL {
        assert_eq!(store.document(kind, "a/b").await.unwrap().as_deref(), Some(kind.as_str()));
    }
    store.put_document(&document(Kind::Flow, "a/b", "put", &[], None)).await.unwrap();
    assert_eq!(store.document(Kind::Flow, "a/b").await.unwrap().as_deref(), Some("put"));
    assert!(store.remove_document(Kind::Flow, "a/b").await.unwrap());
    assert!(!store.remove_document(Kind::Flow, "a/b").await.unwrap());
    assert_eq!(store.document(Kind::Flow, "a/b").await.unwrap(), None);
}

async fn a_swap_happens_to_what_was_read_and_to_nothing_else(store: &dyn Store, now_ms: u64) {
    store.insert_document(&document(Kind::Grant, "g1", "one", &[], Some(now_ms + 60_000))).await.unwrap();
    let swap = |before, after| Swap {
        kind: Kind::Grant,
        id: "g1",
        before,
        after,
        expires_ms: Some(now_ms + 90_000),
        tells: None,
    };
    assert_eq!(store.swap_document(&swap("zero", "two")).await.unwrap(), Swapped::Conflict);
    assert_eq!(store.swap_document(&swap("one", "two")).await.unwrap(), Swapped::Done(None));
    assert_eq!(store.swap_document(&swap("one", "three")).await.unwrap(), Swapped::Conflict);
    assert_eq!(store.document(Kind::Grant, "g1").await.unwrap().as_deref(), Some("two"));
    let nobody = Swap { kind: Kind::Grant, id: "none", before: "", after: "x", expires_ms: None, tells: None };
    assert_eq!(store.swap_document(&nobody).await.unwrap(), Swapped::Conflict);
}

async fn a_swap_tells_of_itself_and_a_conflict_of_nothing(store: &dyn Store) {
    store.insert_document(&document(Kind::Grant, "g3", "one", &[], None)).await.unwrap();
    let (start, change) = (store.position().await.unwrap(), Change::Grant("g3".into()));
    let swap =
        |before, after| Swap { kind: Kind::Grant, id: "g3", before, after, expires_ms: None, tells: Some(&change) };
    let swapped = store.swap_document(&swap("one", "two")).await.unwrap();
    let seen = store.changes(&start).await.unwrap();
    assert_eq!(seen.list, std::slice::from_ref(&change));
    assert_eq!(swapped, Swapped::Done(Some(seen.position)));
    assert_eq!(store.swap_document(&swap("one", "three")).await.unwrap(), Swapped::Conflict);
}

async fn of_many_who_swap_or_remove_at_once_one_does(store: &dyn Store) {
    store.insert_document(&document(Kind::Grant, "g2", "start", &[], None)).await.unwrap();
    let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let swaps: Vec<Swap<'_>> = texts
        .iter()
        .map(|after| Swap { kind: Kind::Grant, id: "g2", before: "start", after, expires_ms: None, tells: None })
        .collect();
    let done = join(swaps.iter().map(|swap| store.swap_document(swap))).await;
    assert_eq!(done.into_iter().filter(|done| *done.as_ref().unwrap() == Swapped::Done(None)).count(), 1);
    let gone = join((0..20).map(|_| store.remove_document(Kind::Grant, "g2"))).await;
    assert_eq!(gone.into_iter().filter(|gone| *gone.as_ref().unwrap()).count(), 1);
}

/// Polls several futures together.
async fn join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut waiting {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if waiting.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

async fn listed(store: &dyn Store, kind: Kind, list: &str) -> Vec<String> {
    whole(|page| Box::pin(async move { store.documents(kind, list, &page).await })).await.unwrap()
}

/// Of records that end and of records that do not; while records come and go between two pages.
async fn pages_of_a_list_show_each_record_once(store: &dyn Store, now_ms: u64) {
    for (kind, end) in [(Kind::App, None), (Kind::Consent, Some(now_ms + 600_000))] {
        let add = async |id: &str| {
            assert!(store.insert_document(&document(kind, id, id, &["paged"], end)).await.unwrap());
        };
        let ids: Vec<String> = (0..25).map(|n| format!("p{n:02}")).collect();
        for id in &ids {
            add(id).await;
        }
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.documents(kind, "paged", &Page::of(10, after)).await.unwrap();
            assert!(page.list.len() <= 10);
            // What has been seen may go: the cursor does not need it.
            if let Some(last) = page.list.last() {
                store.remove_document(kind, last).await.unwrap();
            }
            add(&format!("late-{pages}")).await;
            seen.extend(page.list);
            (after, pages) = (page.next, pages + 1);
            if after.is_none() || pages > 10 {
                break;
            }
        }
        seen.retain(|id| !id.starts_with("late"));
        seen.sort();
        assert_eq!(seen, ids, "{kind:?}");
    }
}

async fn lists_show_what_is_there(store: &dyn Store, now_ms: u64) {
    let end = Some(now_ms + 60_000);
    for n in 0..5 {
        let (id, record) = (format!("l{n}"), format!("record {n}"));
        store.insert_document(&document(Kind::Grant, &id, &record, &["user/x", "app/y"], end)).await.unwrap();
    }
    store.remove_document(Kind::Grant, "l2").await.unwrap();
    for list in ["user/x", "app/y"] {
        let mut records = listed(store, Kind::Grant, list).await;
        records.sort();
        assert_eq!(records, ["record 0", "record 1", "record 3", "record 4"]);
    }
    assert_eq!(listed(store, Kind::App, "user/x").await, Vec::<String>::new());
    assert_eq!(listed(store, Kind::Grant, "user/none").await, Vec::<String>::new());
}

async fn what_has_ended_is_dropped(store: &dyn Store, now_ms: u64) {
    let short = document(Kind::Session, "short", "x", &["user/x"], Some(now_ms + 40));
    store.insert_document(&short).await.unwrap();
    store.insert_document(&document(Kind::Session, "long", "x", &["user/x"], Some(now_ms + 600_000))).await.unwrap();
    loop {
        let at = store.now_ms(crate::base::clock::Clock::now_ms(&crate::base::clock::System)).await.unwrap();
        store.sweep(at).await.unwrap();
        if store.document(Kind::Session, "short").await.unwrap().is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(store.document(Kind::Session, "long").await.unwrap().is_some());
    assert_eq!(listed(store, Kind::Session, "user/x").await.len(), 1);
}
