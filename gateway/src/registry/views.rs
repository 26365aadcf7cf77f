//! Records as people and programs see them: what is shown is listed, so that a field that is added later
//! is not. No view has a digest, a password or a secret.

use serde_json::{Value, json};

use super::app::AppRecord;
use super::grant::GrantRecord;
use super::keyring::{KeyringRecord, SigningKeyRecord};
use super::user::UserRecord;
use crate::store::{KeyRecord, OrganizationRecord};

/// A key, without its digest.
pub fn key(key: &KeyRecord, now_ms: u64) -> Value {
    let KeyRecord {
        id,
        api,
        organization,
        name,
        class,
        environment,
        scopes,
        display,
        digest: _,
        created_by,
        created_ms,
        not_after_ms,
        suspended_ms,
        revoked_ms,
        replaced_by,
        networks,
        origins,
        limit,
        last_use,
        exposed: _,
        exposure_cleared,
    } = key;
    json!({
        "id": id, "api": api, "organization": organization, "name": name, "class": class,
        "environment": environment, "scopes": scopes, "display": display, "state": key.state(now_ms),
        "created_by": created_by, "created_ms": created_ms, "not_after_ms": not_after_ms,
        "suspended_ms": suspended_ms, "revoked_ms": revoked_ms, "replaced_by": replaced_by,
        "networks": networks, "origins": origins, "limit": limit, "last_use": last_use,
        "exposed": key.exposure().map(|(ms, how)| json!({ "ms": ms, "how": how })),
        "exposure_cleared": exposure_cleared,
    })
}

/// An organization.
pub fn organization(organization: &OrganizationRecord) -> Value {
    let OrganizationRecord { id, name, plan, permissions, created_ms, changed_ms } = organization;
    json!({
        "id": id, "name": name, "plan": plan, "permissions": permissions, "created_ms": created_ms,
        "changed_ms": changed_ms,
    })
}

/// An application, without the hashes of its secrets.
pub fn app(app: &AppRecord) -> Value {
    let AppRecord {
        id,
        api,
        organization,
        name,
        redirect_uris,
        scopes,
        kind,
        secrets: _,
        created_by,
        created_ms,
        redirects_changed_ms,
        disabled_ms,
    } = app;
    json!({
        "id": id, "api": api, "organization": organization, "name": name, "redirect_uris": redirect_uris,
        "scopes": scopes, "kind": kind, "state": app.state(), "created_by": created_by, "created_ms": created_ms,
        "redirects_changed_ms": redirects_changed_ms, "disabled_ms": disabled_ms,
    })
}

/// A user, without the hash of the password.
pub fn user(user: &UserRecord) -> Value {
    let UserRecord { id, email, name, password: _, memberships, created_ms, sessions_from_ms, disabled_ms } = user;
    json!({
        "id": id, "email": email, "name": name, "memberships": memberships, "state": user.state(),
        "created_ms": created_ms, "sessions_from_ms": sessions_from_ms, "disabled_ms": disabled_ms,
    })
}

/// A grant, without its code and what its refresh tokens are made from.
pub fn grant(grant: &GrantRecord, now_ms: u64) -> Value {
    let state = grant.state(now_ms);
    let GrantRecord {
        id,
        api,
        app,
        user,
        organization,
        scopes,
        created_ms,
        expires_ms,
        code: _,
        refresh,
        dead,
        revoked,
        not_before_s: _,
    } = grant;
    json!({
        "id": id, "api": api, "app": app, "user": user, "organization": organization, "scopes": scopes,
        "created_ms": created_ms, "expires_ms": expires_ms,
        "rotations": refresh.as_ref().map(|refresh| refresh.generation),
        "state": state, "ended_ms": dead.map(|(ms, _)| ms), "ended_by": dead.map(|(_, cause)| cause.as_str()),
        "revoked_tokens": revoked.len(),
    })
}

/// The signing keys, without the private ones.
pub fn signing_keys(ring: &KeyringRecord, now_ms: u64) -> Value {
    let view = |key: &SigningKeyRecord| {
        let SigningKeyRecord { kid, created_ms, signs_from_ms, n: _, e: _, sealed: _ } = key;
        json!({
            "kid": kid, "state": ring.state(kid, now_ms), "created_ms": created_ms, "signs_from_ms": signs_from_ms,
        })
    };
    ring.keys.iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::registry::app::AppKind;
    use crate::registry::grant::{Code, Refresh};
    use crate::store::conformance;

    fn ring() -> KeyringRecord {
        KeyringRecord {
            keys: vec![SigningKeyRecord {
                kid: "k1".into(),
                n: "modulus".into(),
                e: "AQAB".into(),
                created_ms: 1,
                signs_from_ms: 1,
                sealed: "not-to-be-shown".into(),
            }],
        }
    }

    #[test]
    fn no_view_has_a_digest_a_password_or_a_secret() {
        let digest = Digest::from_bytes([0xAB; 32]);
        let mut application = AppRecord {
            id: "cf_1".into(),
            api: "iconflow".into(),
            organization: "acme".into(),
            name: "App".into(),
            redirect_uris: Vec::new(),
            scopes: Vec::new(),
            kind: AppKind::Confidential,
            secrets: Vec::new(),
            created_by: "cli".into(),
            created_ms: 1,
            redirects_changed_ms: 0,
            disabled_ms: None,
        };
        application.add_secret(digest, 0);
        let person = UserRecord {
            id: "usr_1".into(),
            email: "jo@acme.example".into(),
            name: "Jo".into(),
            password: Some("$argon2id$not-to-be-shown".into()),
            memberships: Vec::new(),
            created_ms: 1,
            sessions_from_ms: 0,
            disabled_ms: None,
        };
        let consent = GrantRecord {
            id: "gr_1".into(),
            api: "iconflow".into(),
            app: "cf_1".into(),
            user: "usr_1".into(),
            organization: "acme".into(),
            scopes: Vec::new(),
            created_ms: 1,
            expires_ms: 2,
            code: Some(Code {
                digest,
                challenge: "not-to-be-shown".into(),
                redirect_uri: "https://app.example/cb".into(),
                expires_ms: 2,
                used_ms: None,
            }),
            refresh: Some(Refresh { salt: "not-to-be-shown".into(), generation: 3, rotated_ms: 1 }),
            dead: None,
            not_before_s: 0,
            revoked: Vec::new(),
        };
        let views = [
            key(&conformance::key("key_1", "acme", 0xAB), 1),
            app(&application),
            user(&person),
            grant(&consent, 1),
            signing_keys(&ring(), 1),
        ];
        for view in views {
            let text = view.to_string();
            for hidden in
                ["digest", "password", "secret", "abababab", "argon2", "not-to-be-shown", "sealed", "challenge"]
            {
                assert!(!text.contains(hidden), "{hidden} in {text}");
            }
        }
    }
}
