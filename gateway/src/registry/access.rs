//! The authorization server's records, typed, over any store.
//!
//! A change reads a record, applies a pure step and writes it back if nobody else did in between;
//! otherwise it begins again. What caches must forget is announced in the same step.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::app::AppRecord;
use super::grant::GrantRecord;
use super::keyring::KeyringRecord;
pub use super::records::{ConsentRecord, FlowRecord, Handed, SessionRecord};
use super::user::UserRecord;
use crate::store::{
    Change, Document, Kind, Listed, Page, Position, Store, StoreError, Swap, Swapped, json as read, text as write,
    whole,
};

/// Tries of a change before giving up: as many writers at once on one record.
const TRIES_MAX: usize = 64;
/// Id of the one ring.
const RING: &str = "ring";

/// Who an e-mail address is.
#[derive(Serialize, Deserialize)]
struct EmailRecord {
    user: String,
}

/// Whose grants.
#[derive(Clone, Copy, Debug)]
pub enum GrantsOf<'a> {
    /// Those of a user, by id.
    User(&'a str),
    /// Those of an application, by id.
    App(&'a str),
}

/// Puts grants in the order in which people read them, each once: a listing may give one twice.
pub fn newest_first(grants: &mut Vec<GrantRecord>) {
    grants.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
    grants.dedup_by(|a, b| a.id == b.id);
}

/// A record after a change.
#[derive(Clone, Debug)]
pub struct Changed<T, R> {
    /// As it is now.
    pub record: T,
    /// What the step said.
    pub result: R,
    /// Where the announcement stands, if there was one.
    pub position: Option<Position>,
}

/// Typed access to a store.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
}

impl Registry {
    /// Over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Registry { store }
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Now, by the clock that all gateways share.
    pub async fn now_ms(&self, local_ms: u64) -> Result<u64, StoreError> {
        self.store.now_ms(local_ms).await
    }

    async fn get<T: DeserializeOwned>(&self, kind: Kind, id: &str) -> Result<Option<T>, StoreError> {
        self.store.document(kind, id).await?.as_deref().map(read).transpose()
    }

    async fn page<T: DeserializeOwned>(&self, kind: Kind, list: &str, page: &Page) -> Result<Listed<T>, StoreError> {
        self.store.documents(kind, list, page).await?.map(|text| read(&text))
    }

    async fn insert<T: Serialize>(
        &self,
        kind: Kind,
        id: &str,
        lists: &[String],
        record: &T,
        expires_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        let document = Document { kind, id: id.to_owned(), lists: lists.to_vec(), record: write(record)?, expires_ms };
        match self.store.insert_document(&document).await? {
            true => Ok(()),
            false => Err(StoreError::Exists(format!("{} {id}", kind.as_str()))),
        }
    }

    /// Changes a record by a pure step; `None` when there is none. Announces the change where
    /// `tells` says so.
    async fn change<T, R>(
        &self,
        (kind, id): (Kind, &str),
        expires_ms: impl Fn(&T) -> Option<u64> + Send,
        tells: impl Fn(&T, &T) -> Option<Change> + Send,
        mut step: impl FnMut(&mut T) -> Result<R, StoreError> + Send,
    ) -> Result<Option<Changed<T, R>>, StoreError>
    where
        T: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync,
        R: Send,
    {
        for _ in 0..TRIES_MAX {
            let Some(before) = self.store.document(kind, id).await? else { return Ok(None) };
            let old: T = read(&before)?;
            let mut record = old.clone();
            let result = step(&mut record)?;
            if record == old {
                // Said again: the announcement of the first time may have been lost.
                let position = self.tell(tells(&old, &record)).await?;
                return Ok(Some(Changed { record, result, position }));
            }
            let (after, tells) = (write(&record)?, tells(&old, &record));
            let expires_ms = expires_ms(&record);
            let swap = Swap { kind, id, before: &before, after: &after, expires_ms, tells: tells.as_ref() };
            if let Swapped::Done(position) = self.store.swap_document(&swap).await? {
                return Ok(Some(Changed { record, result, position }));
            }
        }
        Err(StoreError::Unavailable(format!("{} {id} is being changed by too many writers at once", kind.as_str())))
    }

    async fn tell(&self, change: Option<Change>) -> Result<Option<Position>, StoreError> {
        match change {
            Some(change) => self.store.announce_change(&change).await.map(Some),
            None => Ok(None),
        }
    }

    /// An application.
    pub async fn app(&self, id: &str) -> Result<Option<AppRecord>, StoreError> {
        self.get(Kind::App, id).await
    }

    /// Applications of an organization, or all.
    pub async fn apps(&self, organization: Option<&str>, page: &Page) -> Result<Listed<AppRecord>, StoreError> {
        let list = organization.map_or_else(|| "all".to_owned(), |id| format!("org/{id}"));
        self.page(Kind::App, &list, page).await
    }

    /// Adds an application.
    pub async fn insert_app(&self, app: &AppRecord) -> Result<(), StoreError> {
        let lists = ["all".to_owned(), format!("org/{}", app.organization)];
        self.insert(Kind::App, &app.id, &lists, app, None).await
    }

    /// Changes an application; all gateways are told.
    pub async fn change_app<R: Send>(
        &self,
        id: &str,
        step: impl FnMut(&mut AppRecord) -> Result<R, StoreError> + Send,
    ) -> Result<Changed<AppRecord, R>, StoreError> {
        let tells = |_: &AppRecord, now: &AppRecord| Some(Change::App(now.id.clone()));
        let changed = self.change((Kind::App, id), |_| None, tells, step).await?;
        changed.ok_or_else(|| StoreError::NotFound(format!("application {id}")))
    }

    /// A user.
    pub async fn user(&self, id: &str) -> Result<Option<UserRecord>, StoreError> {
        self.get(Kind::User, id).await
    }

    /// The user with an e-mail address, in the form that `user::email` gives.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        match self.get::<EmailRecord>(Kind::Email, email).await? {
            Some(EmailRecord { user }) => self.user(&user).await,
            None => Ok(None),
        }
    }

    /// All users.
    pub async fn users(&self, page: &Page) -> Result<Listed<UserRecord>, StoreError> {
        self.page(Kind::User, "all", page).await
    }

    /// Adds a user of ours: the address must be new.
    pub async fn insert_user(&self, user: &UserRecord) -> Result<(), StoreError> {
        self.insert_foreign_user(user).await?;
        let of = EmailRecord { user: user.id.clone() };
        let taken = match self.insert(Kind::Email, &user.email, &[], &of, None).await {
            Err(taken @ StoreError::Exists(_)) => taken,
            done @ (Ok(()) | Err(_)) => return done,
        };
        // An address of nobody was left by an addition that did not come to its end.
        if self.user_by_email(&user.email).await?.is_none() {
            let (kind, id, record) = (Kind::Email, user.email.clone(), write(&of)?);
            let document = Document { kind, id, lists: Vec::new(), record, expires_ms: None };
            return self.store.put_document(&document).await;
        }
        self.store.remove_document(Kind::User, &user.id).await?;
        Err(taken)
    }

    /// Adds a user whom another system knows: the address says nothing.
    pub async fn insert_foreign_user(&self, user: &UserRecord) -> Result<(), StoreError> {
        self.insert(Kind::User, &user.id, &["all".to_owned()], user, None).await
    }

    /// Changes a user; all gateways are told.
    pub async fn change_user<R: Send>(
        &self,
        id: &str,
        step: impl FnMut(&mut UserRecord) -> Result<R, StoreError> + Send,
    ) -> Result<Changed<UserRecord, R>, StoreError> {
        let tells = |_: &UserRecord, now: &UserRecord| Some(Change::User(now.id.clone()));
        let changed = self.change((Kind::User, id), |_| None, tells, step).await?;
        changed.ok_or_else(|| StoreError::NotFound(format!("user {id}")))
    }

    /// A grant.
    pub async fn grant(&self, id: &str) -> Result<Option<GrantRecord>, StoreError> {
        self.get(Kind::Grant, id).await
    }

    /// Adds a grant.
    pub async fn insert_grant(&self, grant: &GrantRecord) -> Result<(), StoreError> {
        let lists = [format!("user/{}", grant.user), format!("app/{}", grant.app)];
        self.insert(Kind::Grant, &grant.id, &lists, grant, Some(grant.drop_ms())).await
    }

    /// Changes a grant; all gateways are told when tokens of it stop working. `None` when there is
    /// no such grant.
    pub async fn change_grant<R: Send>(
        &self,
        id: &str,
        mut step: impl FnMut(&mut GrantRecord) -> R + Send,
    ) -> Result<Option<Changed<GrantRecord, R>>, StoreError> {
        let ends = |old: &GrantRecord, now: &GrantRecord| {
            let is_less = (&old.dead, old.not_before_s, &old.revoked) != (&now.dead, now.not_before_s, &now.revoked);
            is_less.then(|| Change::Grant(now.id.clone()))
        };
        self.change((Kind::Grant, id), |g: &GrantRecord| Some(g.drop_ms()), ends, |g| Ok(step(g))).await
    }

    /// All grants of a user, newest first, dead ones among them: rules must see every one.
    pub async fn grants_of_user(&self, user: &str) -> Result<Vec<GrantRecord>, StoreError> {
        let mut grants = whole(|page| Box::pin(async move { self.grants(GrantsOf::User(user), &page).await })).await?;
        newest_first(&mut grants);
        Ok(grants)
    }

    /// Grants, dead ones among them.
    pub async fn grants(&self, of: GrantsOf<'_>, page: &Page) -> Result<Listed<GrantRecord>, StoreError> {
        let list = match of {
            GrantsOf::User(id) => format!("user/{id}"),
            GrantsOf::App(id) => format!("app/{id}"),
        };
        self.page(Kind::Grant, &list, page).await
    }

    /// When a grant was last used, Unix milliseconds.
    pub async fn grant_use(&self, id: &str) -> Result<Option<u64>, StoreError> {
        self.get(Kind::GrantUse, id).await
    }

    /// Adds or replaces a short-lived record.
    async fn put<T: Serialize>(&self, kind: Kind, id: &str, record: &T, expires_ms: u64) -> Result<(), StoreError> {
        let record = write(record)?;
        let document = Document { kind, id: id.to_owned(), lists: Vec::new(), record, expires_ms: Some(expires_ms) };
        self.store.put_document(&document).await
    }

    /// Adds or replaces a request under way.
    pub async fn put_flow(&self, flow: &FlowRecord) -> Result<(), StoreError> {
        self.put(Kind::Flow, &flow.id, flow, flow.expires_ms).await
    }

    /// A request under way.
    pub async fn flow(&self, id: &str, now_ms: u64) -> Result<Option<FlowRecord>, StoreError> {
        let flow: Option<FlowRecord> = self.get(Kind::Flow, id).await?;
        Ok(flow.filter(|flow| now_ms < flow.expires_ms))
    }

    /// Changes a request under way; `None` when it is over.
    pub async fn change_flow(
        &self,
        id: &str,
        mut step: impl FnMut(&mut FlowRecord) + Send,
    ) -> Result<Option<FlowRecord>, StoreError> {
        let ends = |flow: &FlowRecord| Some(flow.expires_ms);
        let step = |flow: &mut FlowRecord| {
            step(flow);
            Ok(())
        };
        Ok(self.change((Kind::Flow, id), ends, |_, _| None, step).await?.map(|changed| changed.record))
    }

    /// Ends a request under way; of many who try, one is told `true`.
    pub async fn end_flow(&self, id: &str) -> Result<bool, StoreError> {
        self.store.remove_document(Kind::Flow, id).await
    }

    /// Adds or replaces a session, by the hash of its cookie.
    pub async fn put_session(&self, id: &str, session: &SessionRecord) -> Result<(), StoreError> {
        self.put(Kind::Session, id, session, session.expires_ms).await
    }

    /// A session.
    pub async fn session(&self, id: &str, now_ms: u64) -> Result<Option<SessionRecord>, StoreError> {
        let session: Option<SessionRecord> = self.get(Kind::Session, id).await?;
        Ok(session.filter(|session| now_ms < session.expires_ms))
    }

    /// Moves the end of a session, unless it is over.
    pub async fn touch_session(&self, id: &str, expires_ms: u64) -> Result<(), StoreError> {
        let ends = |session: &SessionRecord| Some(session.expires_ms);
        let step = |session: &mut SessionRecord| {
            session.expires_ms = expires_ms;
            Ok(())
        };
        self.change((Kind::Session, id), ends, |_, _| None, step).await.map(|_| ())
    }

    /// Ends a session.
    pub async fn end_session(&self, id: &str) -> Result<(), StoreError> {
        self.store.remove_document(Kind::Session, id).await.map(|_| ())
    }

    /// What a user has agreed to for an application.
    pub async fn consent(&self, user: &str, app: &str) -> Result<Option<ConsentRecord>, StoreError> {
        self.get(Kind::Consent, &format!("{user}/{app}")).await
    }

    /// Remembers a consent.
    pub async fn put_consent(&self, user: &str, app: &str, consent: &ConsentRecord) -> Result<(), StoreError> {
        let expires_ms = consent.agreed_ms + super::grant::REFRESH_LIFE_MS;
        self.put(Kind::Consent, &format!("{user}/{app}"), consent, expires_ms).await
    }

    /// Forgets a consent.
    pub async fn forget_consent(&self, user: &str, app: &str) -> Result<(), StoreError> {
        self.store.remove_document(Kind::Consent, &format!("{user}/{app}")).await.map(|_| ())
    }

    /// Uses up the id of something that may be used once; `false` when it was used before.
    pub async fn spend(&self, id: &str, expires_ms: u64) -> Result<bool, StoreError> {
        let (kind, id) = (Kind::Spent, id.to_owned());
        let document = Document { kind, id, lists: Vec::new(), record: "1".into(), expires_ms: Some(expires_ms) };
        self.store.insert_document(&document).await
    }

    /// The signing keys; an empty ring when there are none yet.
    pub async fn keyring(&self) -> Result<KeyringRecord, StoreError> {
        Ok(self.get(Kind::Keyring, RING).await?.unwrap_or_default())
    }

    /// Changes the signing keys; all gateways are told.
    pub async fn change_keyring<R: Send>(
        &self,
        step: impl FnMut(&mut KeyringRecord) -> R + Send,
    ) -> Result<Changed<KeyringRecord, R>, StoreError> {
        let mut step = step;
        match self.insert(Kind::Keyring, RING, &[], &KeyringRecord::default(), None).await {
            Ok(()) | Err(StoreError::Exists(_)) => {}
            Err(other) => return Err(other),
        }
        let tells = |_: &KeyringRecord, _: &KeyringRecord| Some(Change::Keyring);
        let changed = self.change((Kind::Keyring, RING), |_| None, tells, |ring| Ok(step(ring))).await?;
        changed.ok_or_else(|| StoreError::NotFound("ring of signing keys".to_owned()))
    }
}
