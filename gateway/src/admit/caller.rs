//! From a credential to its holder, if it works here and now.

use std::net::IpAddr;

use policy::credential::Secret;
use policy::route::{Api, CredentialKind};

use super::Gate;
use super::denial::Denial;
use super::known::{Known, RefusedKey};
use crate::identify::{Caller, Found, Identified, Unidentified};

impl Gate {
    /// Finds out whose credential it is.
    pub(super) async fn identify_caller(&self, api: &Api, secret: Secret<'_>, known: &mut Known) -> Result<(), Denial> {
        match self.identify(api, secret, known.address, known.now.wall_ms).await {
            Ok(identified) => {
                known.found = Some(identified.found);
                known.caller = Some((identified.caller, identified.organization));
                Ok(())
            }
            Err(denial) => {
                known.refused = self.refused_key(api, secret, &denial);
                Err(denial)
            }
        }
    }

    /// From a credential to a working one.
    async fn identify(
        &self,
        api: &Api,
        secret: Secret<'_>,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<Identified, Denial> {
        let shared = &self.shared;
        let kind = api.classify(secret);
        let cached = match kind {
            CredentialKind::Key(_) => shared.identities.identify_cached(secret, now_ms),
            CredentialKind::Token | CredentialKind::ForeignToken => {
                shared.identities.tokens.identify_cached(api, secret, now_ms)
            }
            CredentialKind::Junk => Some(Err(Unidentified::Unknown)),
        };
        let answer = match cached {
            Some(answer) => answer,
            None => {
                // A key that is only due for a refresh is no guess, whatever its neighbours did.
                let spent = shared.failures.is_spent(address, now_ms);
                let is_known = || shared.identities.is_known(secret) || shared.identities.tokens.is_known(api, secret);
                if let Some(retry_after_s) = spent.filter(|_| !is_known()) {
                    return Err(Denial::TooManyFailures { retry_after_s });
                }
                shared.metrics.store_round_trips.with_label_values(&[shared.store_kind]).inc();
                // Seldom, and large: it must not make every decision as large.
                match kind {
                    CredentialKind::Key(_) | CredentialKind::Junk => Box::pin(shared.identities.identify(secret)).await,
                    CredentialKind::Token | CredentialKind::ForeignToken => {
                        Box::pin(shared.identities.tokens.identify(api, secret)).await
                    }
                }
            }
        };
        // A key of another API is nothing here, whatever it opens elsewhere.
        let answer = answer.and_then(|found| match &found.caller {
            Caller::Key(key) if key.facts.api != api.name => Err(Unidentified::Unknown),
            Caller::Key(_) | Caller::Token(..) => Ok(found),
        });
        // A token that has ended was a good one: its holder guesses nothing.
        let is_guess = match answer {
            Err(Unidentified::Unknown) => true,
            Err(Unidentified::Dead(_)) => matches!(kind, CredentialKind::Key(_)),
            Ok(_) | Err(Unidentified::CannotKnow) => false,
        };
        if is_guess {
            shared.failures.count(address, now_ms);
        }
        self.count_lookup(&answer);
        answer.map_err(|why| match why {
            Unidentified::Unknown => Denial::InvalidCredential,
            Unidentified::Dead(fault) => Denial::DeadCredential(fault),
            Unidentified::CannotKnow => Denial::TemporarilyUnavailable,
        })
    }

    /// Who was refused, if it is a key that exists and does not work. Its record was just read.
    fn refused_key(&self, api: &Api, secret: Secret<'_>, denial: &Denial) -> Option<RefusedKey> {
        let is_key =
            matches!(denial, Denial::DeadCredential(_)) && matches!(api.classify(secret), CredentialKind::Key(_));
        let key = is_key.then(|| self.shared.identities.peek(secret)).flatten()?;
        let organization =
            key.organization.current().map_or_else(|| "".into(), |organization| organization.id.to_string());
        Some(RefusedKey { id: key.facts.id.to_string().into(), organization: organization.into() })
    }

    fn count_lookup(&self, answer: &Result<Identified, Unidentified>) {
        let label = match answer {
            Ok(identified) => found_label(identified.found),
            Err(Unidentified::Unknown) => "unknown",
            Err(Unidentified::Dead(_)) => "dead",
            Err(Unidentified::CannotKnow) => "unavailable",
        };
        match answer {
            Ok(identified) if identified.found == Found::Cached => self.shared.metrics.cached_lookups.inc(),
            Ok(_) | Err(_) => self.shared.metrics.lookups.with_label_values(&[label]).inc(),
        }
    }
}

/// Label of how a key was found.
pub fn found_label(found: Found) -> &'static str {
    match found {
        Found::Cached => "cached",
        Found::Stored => "stored",
        Found::Stale => "stale",
    }
}
