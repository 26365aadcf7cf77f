//! Records as people and programs see them: what is shown is listed, so that a field that is added later
//! is not. No view has a digest, a password or a secret.

use serde_json::{Value, json};

use super::app::AppRecord;
use super::user::UserRecord;
use crate::store::KeyRecord;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::registry::app::AppKind;
    use crate::store::conformance;

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
        let views = [key(&conformance::key("key_1", "acme", 0xAB), 1), app(&application), user(&person)];
        for view in views {
            let text = view.to_string();
            for hidden in ["digest", "password", "secret", "abababab", "argon2"] {
                assert!(!text.contains(hidden), "{hidden} in {text}");
            }
        }
    }
}
