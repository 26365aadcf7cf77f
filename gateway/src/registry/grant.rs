//! A grant: a user's consent for an application, from its code to its last refresh token.
//!
//! One record holds all of its state, and each step is one compare-and-set of that record. So a code cannot be
//! redeemed twice, a grant cannot be ended while a refresh of it succeeds, and a crash between two steps leaves
//! no token alive that should be dead. The steps are pure: time, what was presented and what was drawn are their
//! inputs.

use serde::{Deserialize, Serialize};

use super::secret::{challenge_of, same};
use crate::base::digest::Digest;

/// How long a code can be redeemed, milliseconds.
pub const CODE_LIFE_MS: u64 = 60_000;
/// How long a redeemed code is remembered, so that a replay is known for what it is.
pub const CODE_MEMORY_MS: u64 = 10 * 60_000;
/// How long refresh tokens work after the consent: absolute, a rotation does not extend it
/// (RFC 10017: a rotation must not extend a lifetime that was set).
pub const REFRESH_LIFE_MS: u64 = 90 * 86_400_000;
/// How long the parent of a refresh token gives the same child again.
pub const GRACE_MS: u64 = 10_000;
/// How long an access token works, seconds.
pub const TOKEN_LIFE_S: u64 = 3_600;
/// How long a dead grant is kept, so that people can see why it died.
const MEMORY_OF_DEAD_MS: u64 = 86_400_000;
/// Most access tokens of a grant that are revoked one by one. One more, and all that were issued
/// until then are.
const REVOKED_MAX: usize = 64;

/// Why a grant is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Its user revoked it.
    User,
    /// Its application revoked it (RFC 7009).
    App,
    /// An operator revoked it.
    Operator,
    /// Its code was redeemed twice (RFC 6749 section 4.1.2).
    CodeReplayed,
    /// A refresh token was used that had been replaced (RFC 9700 section 4.14.2).
    RefreshReused,
    /// The user gave the same application too many newer ones.
    Superseded,
}

impl Cause {
    /// Its name, for people, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::User => "user",
            Cause::App => "app",
            Cause::Operator => "operator",
            Cause::CodeReplayed => "code_replayed",
            Cause::RefreshReused => "refresh_reused",
            Cause::Superseded => "superseded",
        }
    }
}

/// A code, and what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Keyed hash of the code.
    #[serde(with = "crate::base::digest::hex")]
    pub digest: Digest,
    /// The redirect URI of the request, byte for byte.
    pub redirect_uri: String,
    /// The PKCE challenge, S256.
    pub challenge: String,
    /// First instant at which it cannot be redeemed any more.
    pub expires_ms: u64,
    /// When it was redeemed.
    pub used_ms: Option<u64>,
}

/// The newest refresh token. Its text is made from this and a key that is not in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// Random text, drawn when the code was redeemed.
    pub salt: String,
    /// How often it was rotated.
    pub generation: u32,
    /// When it was rotated last.
    pub rotated_ms: u64,
}

/// An access token that was revoked before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedToken {
    /// Its `jti`.
    pub id: String,
    /// When it is over anyway.
    pub until_ms: u64,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRecord {
    /// Its id, part of every token of it.
    pub id: String,
    /// Name of the API.
    pub api: String,
    /// The application.
    pub app: String,
    /// The user.
    pub user: String,
    /// The organization for which the user granted it.
    pub organization: String,
    /// What was granted.
    pub scopes: Vec<String>,
    /// When, Unix milliseconds.
    pub created_ms: u64,
    /// When its refresh tokens end.
    pub expires_ms: u64,
    /// Its code, until that is forgotten.
    pub code: Option<Code>,
    /// Its newest refresh token, once the code was redeemed.
    pub refresh: Option<Refresh>,
    /// When and why it ended early.
    pub dead: Option<(u64, Cause)>,
    /// Access tokens issued earlier than this, Unix seconds, are revoked.
    #[serde(default)]
    pub not_before_s: u64,
    /// Access tokens that are revoked one by one.
    #[serde(default)]
    pub revoked: Vec<RevokedToken>,
}

/// What is presented with a code at the token endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Redemption<'a> {
    /// Hashes of the code, under the pepper in force and the one before it.
    pub digests: (&'a Digest, Option<&'a Digest>),
    /// The application that asks.
    pub app: &'a str,
    /// Its redirect URI.
    pub redirect_uri: &'a str,
    /// The PKCE verifier.
    pub verifier: &'a str,
    /// Random text for the refresh tokens.
    pub salt: &'a str,
    /// Now.
    pub now_ms: u64,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A refresh token of this generation is due.
    Issue {
        /// Which.
        generation: u32,
    },
    /// Not this time, and nothing changed. The words are for the answer.
    Refused(&'static str),
    /// Not this time, and the grant is over.
    Killed(Cause),
}

impl GrantRecord {
    /// One word for people: `waiting` for its code to be redeemed, `live`, `expired` or `revoked`.
    pub fn state(&self, now_ms: u64) -> &'static str {
        match (&self.dead, &self.refresh) {
            (Some(_), _) => "revoked",
            (None, None) => "waiting",
            (None, Some(_)) if now_ms >= self.expires_ms => "expired",
            (None, Some(_)) => "live",
        }
    }

    /// When the record may be dropped.
    pub fn drop_ms(&self) -> u64 {
        match (&self.dead, &self.code) {
            (Some((at_ms, _)), _) => at_ms + MEMORY_OF_DEAD_MS,
            (None, Some(code)) if self.refresh.is_none() => code.expires_ms + CODE_MEMORY_MS,
            (None, Some(_) | None) => self.expires_ms,
        }
    }

    /// Whether it gives tokens.
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.dead.is_none() && self.refresh.is_some() && now_ms < self.expires_ms
    }

    /// Ends it. What ended it first stays on record.
    pub fn kill(&mut self, cause: Cause, now_ms: u64) {
        self.dead.get_or_insert((now_ms, cause));
        self.code = None;
    }

    /// A code is presented (RFC 6749 section 4.1.3). What fails a check burns nothing and kills
    /// nothing: whoever only knows the code must not be able to end the grant.
    pub fn redeem(&mut self, asked: &Redemption<'_>) -> Step {
        let (Some(code), None) = (&mut self.code, &self.dead) else { return Step::Refused("the code is not valid") };
        let (current, previous) = asked.digests;
        let is_it = code.digest.matches(current) || previous.is_some_and(|d| code.digest.matches(d));
        if !is_it || self.app != asked.app {
            return Step::Refused("the code is not valid");
        }
        if code.redirect_uri != asked.redirect_uri {
            return Step::Refused("redirect_uri is not the one of the authorization request");
        }
        if !same(&challenge_of(asked.verifier), &code.challenge) {
            return Step::Refused("code_verifier does not belong to the code_challenge of the authorization request");
        }
        match code.used_ms {
            Some(used_ms) if asked.now_ms < used_ms + CODE_MEMORY_MS => {
                self.kill(Cause::CodeReplayed, asked.now_ms);
                Step::Killed(Cause::CodeReplayed)
            }
            Some(_) => Step::Refused("the code is not valid"),
            None if asked.now_ms >= code.expires_ms => Step::Refused("the code has expired"),
            None => {
                code.used_ms = Some(asked.now_ms);
                self.refresh = Some(Refresh { salt: asked.salt.to_owned(), generation: 0, rotated_ms: asked.now_ms });
                Step::Issue { generation: 0 }
            }
        }
    }

    /// A refresh token of a generation is presented, by the application it was made for. The newest
    /// gives its child; its parent gives the same child again for a while, because answers get
    /// lost; anything older was stolen, here or there.
    pub fn refresh(&mut self, presented: u32, now_ms: u64) -> Step {
        if self.dead.is_some() || now_ms >= self.expires_ms {
            return Step::Refused("the refresh token has expired or was revoked");
        }
        let Some(refresh) = &mut self.refresh else { return Step::Refused("the refresh token is not valid") };
        // A newer one than the newest: its hash holds, so we made it, and the store has lost that.
        if presented >= refresh.generation {
            refresh.generation = presented.saturating_add(1);
            refresh.rotated_ms = now_ms;
            if self.code.as_ref().is_some_and(|code| code.used_ms.is_some_and(|ms| now_ms >= ms + CODE_MEMORY_MS)) {
                self.code = None;
            }
            return Step::Issue { generation: presented.saturating_add(1) };
        }
        let is_parent = presented.saturating_add(1) == refresh.generation;
        if is_parent && now_ms < refresh.rotated_ms + GRACE_MS {
            return Step::Issue { generation: refresh.generation };
        }
        self.kill(Cause::RefreshReused, now_ms);
        Step::Killed(Cause::RefreshReused)
    }

    /// Revokes one access token.
    pub fn revoke_token(&mut self, id: &str, until_ms: u64, now_ms: u64) {
        self.revoked.retain(|token| token.until_ms > now_ms && token.id != id);
        if self.revoked.len() >= REVOKED_MAX {
            self.revoked.clear();
            self.not_before_s = now_ms / 1_000 + 1;
            return;
        }
        self.revoked.push(RevokedToken { id: id.to_owned(), until_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn digest(n: u8) -> Digest {
        Digest::from_bytes([n; 32])
    }

    fn grant() -> GrantRecord {
        GrantRecord {
            id: "g".into(),
            api: "iconflow".into(),
            app: "cf_1".into(),
            user: "usr_1".into(),
            organization: "acme".into(),
            scopes: vec!["packs:read".into()],
            created_ms: 0,
            expires_ms: REFRESH_LIFE_MS,
            code: Some(Code {
                digest: digest(1),
                redirect_uri: "https://a/cb".into(),
                challenge: CHALLENGE.into(),
                expires_ms: CODE_LIFE_MS,
                used_ms: None,
            }),
            refresh: None,
            dead: None,
            not_before_s: 0,
            revoked: Vec::new(),
        }
    }

    fn asked(digest: &Digest, now_ms: u64) -> Redemption<'_> {
        Redemption {
            digests: (digest, None),
            app: "cf_1",
            redirect_uri: "https://a/cb",
            verifier: VERIFIER,
            salt: "salt",
            now_ms,
        }
    }

    #[test]
    fn a_code_works_once_and_its_replay_ends_the_grant() {
        let mut grant = grant();
        assert_eq!(grant.redeem(&asked(&digest(1), 5)), Step::Issue { generation: 0 });
        assert!(grant.is_live(6));
        assert_eq!(grant.redeem(&asked(&digest(1), 6)), Step::Killed(Cause::CodeReplayed));
        assert!(!grant.is_live(7));
        assert!(matches!(grant.refresh(0, 8), Step::Refused(_)), "nothing lives on");
    }

    #[test]
    fn a_code_that_fails_a_check_is_not_burnt_and_kills_nothing() {
        for used in [false, true] {
            let mut grant = grant();
            if used {
                grant.redeem(&asked(&digest(1), 1));
            }
            let (one, two) = (digest(1), digest(2));
            let wrong = [
                asked(&two, 2),
                Redemption { app: "cf_2", ..asked(&one, 2) },
                Redemption { redirect_uri: "https://a/cb2", ..asked(&one, 2) },
                Redemption { verifier: "D2o1jQ8n7K3mR5pT9wL4xY6zA0bC", ..asked(&one, 2) },
                Redemption { verifier: CHALLENGE, ..asked(&one, 2) },
            ];
            for asked in wrong {
                let before = grant.clone();
                assert!(matches!(grant.redeem(&asked), Step::Refused(_)));
                assert_eq!(grant, before);
            }
        }
        let mut late = grant();
        assert!(matches!(late.redeem(&asked(&digest(1), CODE_LIFE_MS)), Step::Refused(_)));
    }

    #[test]
    fn the_direct_parent_gives_the_same_child_for_ten_seconds_and_no_longer() {
        let mut grant = grant();
        grant.redeem(&asked(&digest(1), 0));
        assert_eq!(grant.refresh(0, 1_000), Step::Issue { generation: 1 });
        assert_eq!(grant.refresh(0, 1_000 + GRACE_MS - 1), Step::Issue { generation: 1 });
        let mut late = grant.clone();
        assert_eq!(late.refresh(0, 1_000 + GRACE_MS), Step::Killed(Cause::RefreshReused));
        assert_eq!(grant.refresh(1, 2_000), Step::Issue { generation: 2 }, "the child is seen");
        assert_eq!(grant.refresh(0, 2_001), Step::Killed(Cause::RefreshReused), "the grace of its parent is over");
    }

    #[test]
    fn rotation_does_not_extend_the_ninety_days() {
        let mut grant = grant();
        grant.redeem(&asked(&digest(1), 0));
        let mut now_ms = 0;
        for generation in 0..89 {
            now_ms += 86_400_000;
            assert!(matches!(grant.refresh(generation, now_ms), Step::Issue { .. }));
        }
        assert!(matches!(grant.refresh(89, REFRESH_LIFE_MS), Step::Refused(_)));
    }

    #[test]
    fn more_revoked_tokens_than_are_remembered_revoke_all_until_then() {
        let mut grant = grant();
        for n in 0..=REVOKED_MAX {
            grant.revoke_token(&n.to_string(), 100_000, 5_000);
        }
        assert_eq!((grant.revoked.len(), grant.not_before_s), (0, 6));
    }

    proptest! {
        #[test]
        fn whatever_is_presented_when_a_dead_grant_stays_dead(steps in proptest::collection::vec((0u32..6, 0u64..30_000), 1..40)) {
            let mut grant = grant();
            grant.redeem(&asked(&digest(1), 0));
            let (mut now_ms, mut newest) = (0, 0);
            for (presented, later) in steps {
                now_ms += later;
                let was_dead = grant.dead.is_some();
                match grant.refresh(presented.min(newest), now_ms) {
                    Step::Issue { generation } => {
                        prop_assert!(!was_dead);
                        prop_assert!(generation >= newest && generation <= newest + 1, "one line, no branches");
                        newest = generation;
                    }
                    Step::Killed(_) => prop_assert!(!was_dead && grant.dead.is_some()),
                    Step::Refused(_) => prop_assert!(was_dead),
                }
            }
        }
    }
}
