//! Records, asynchronously, when a credential was used and when it was exposed.

use std::net::IpAddr;

use policy::route::CredentialKind;

use super::{Gate, Known};
use crate::admit::head::Head;
use crate::identify::{Caller, KnownKey, Unidentified};
use crate::registry::grant::REFRESH_LIFE_MS;
use crate::snapshot::Snapshot;
use crate::store::{Exposure, LastUse, Sighting, Usage};

impl Gate {
    /// Writes behind that a key was used, at most once a minute.
    pub fn note_use(&self, known: &Known, route: &str) {
        let Some((caller, _)) = &known.caller else { return };
        let now_ms = known.now.wall_ms;
        match caller {
            Caller::Key(key) if key.should_mark(now_ms) => {
                let last = LastUse { ms: now_ms, route: route.to_owned(), address: known.address.to_string() };
                self.shared.usage.push(Usage { key: key.facts.id.to_string(), sighting: Sighting::Used(last) });
            }
            Caller::Token(token, Some(grant)) if grant.should_mark(now_ms) => {
                let sighting = Sighting::GrantUsed(now_ms, token.ends_ms + REFRESH_LIFE_MS);
                self.shared.usage.push(Usage { key: token.facts.grant.to_string(), sighting });
            }
            Caller::Key(_) | Caller::Token(..) => {}
        }
    }

    /// Records that a key was seen where it should not be.
    pub fn note_exposed(&self, key: &KnownKey, how: Exposure) {
        let label = match how {
            Exposure::PlainHttp => "plain_http",
            Exposure::Browser => "browser",
        };
        self.shared.metrics.exposed_credentials.with_label_values(&[label]).inc();
        tracing::warn!(target: "tollgate::exposed", "the key {} was exposed: {label}", key.facts.id);
        let sighting = Sighting::Exposed(self.shared.clock.now_ms(), how);
        self.shared.usage.push(Usage { key: key.facts.id.to_string(), sighting });
    }

    pub(super) async fn note_exposed_over_plain_http(&self, head: &Head<'_>, address: IpAddr, snapshot: &Snapshot) {
        let Ok(Some(secret)) = head.credential() else { return };
        let Some((api, _, _)) = snapshot.policy.api_of_key(secret) else { return };
        let now_ms = self.shared.clock.now_ms();
        if api.classify(secret) == CredentialKind::Junk || self.shared.failures.is_spent(address, now_ms).is_some() {
            return;
        }
        if let Err(Unidentified::Unknown | Unidentified::Dead(_)) = self.shared.identities.identify(secret).await {
            self.shared.failures.count(address, now_ms);
        }
        if let Some(key) = self.shared.identities.peek(secret) {
            self.note_exposed(&key, Exposure::PlainHttp);
        }
    }
}
