//! Header field names that are ours, and the aliases under which a client might smuggle them.
//!
//! A name is compared by its alias: lower case, with every byte outside `a-z 0-9` read as `-`,
//! because CGI, WSGI and PHP upstreams spell `-`, `_` and `.` alike.

use http1::bytes::Class;

/// What to do with a field a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Forward it.
    Forward,
    /// Leave it out: it is one of ours, or it has a name that upstreams read in different ways.
    Drop,
    /// Refuse the request: the name is another spelling of one of ours.
    Refuse,
}

/// Names always removed, compared by alias: those under which gateways and proxies of this field tell a backend who
/// somebody is and what they may (Kong, APISIX, Authelia, oauth2-proxy and others), and those of addresses.
fn is_protected_name(alias: &[u8]) -> bool {
    matches!(
        alias,
        b"authorization"
            | b"cf-connecting-ip"
            | b"client-ip"
            | b"fastly-client-ip"
            | b"forwarded"
            | b"proxy"
            | b"proxy-authorization"
            | b"proxy-connection"
            | b"remote-email"
            | b"remote-groups"
            | b"remote-name"
            | b"remote-user"
            | b"true-client-ip"
            | b"x-accepted-oauth-scopes"
            | b"x-anonymous-consumer"
            | b"x-client-ip"
            | b"x-cluster-client-ip"
            | b"x-http-method"
            | b"x-http-method-override"
            | b"x-method-override"
            | b"x-oauth-scopes"
            | b"x-real-ip"
            | b"x-remote-groups"
            | b"x-remote-user"
            | b"x-request-id"
            | b"x-rewrite-url"
            | b"x-scope"
            | b"x-scopes"
            | b"x-token-scope"
            | b"x-token-scopes"
            | b"x-userinfo"
    )
}

/// Prefixes always removed, compared by alias.
const PROTECTED_PREFIXES: &[&[u8]] = &[
    b"x-tollgate-",
    b"x-forwarded-",
    b"x-original-",
    b"x-auth-",
    b"x-user-",
    b"x-org-",
    b"x-consumer-",
    b"x-credential-",
    b"x-ratelimit-",
    b"x-amzn-oidc-",
    b"x-goog-authenticated-user-",
    b"x-goog-iap-",
    b"x-ms-client-principal",
    b"x-pomerium-",
    b"x-webauth-",
];

/// `X-Auth*-*` of the rules: `x-auth`, then anything, then a hyphen and more.
fn is_auth_family(alias: &[u8]) -> bool {
    alias.strip_prefix(b"x-auth").is_some_and(|rest| rest.contains(&b'-'))
}

/// Whether a name in lower case, with `-` only, is protected.
pub fn is_protected(alias: &[u8]) -> bool {
    match alias.first() {
        Some(b'x') => {
            let has_prefix = |prefix: &&[u8]| alias.starts_with(prefix);
            is_protected_name(alias) || PROTECTED_PREFIXES.iter().any(has_prefix) || is_auth_family(alias)
        }
        Some(b'a' | b'c' | b'f' | b'p' | b'r' | b't') => is_protected_name(alias),
        Some(_) | None => false,
    }
}

/// Bytes of names that all programs read alike.
const PLAIN: Class = Class::LOWER.with(b"0123456789-");

/// A name as programs see it that read all punctuation alike.
pub(crate) fn alias(name: &[u8]) -> Vec<u8> {
    name.iter().map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }).collect()
}

/// Decides over one field name that has only letters in lower case, digits and `-`.
pub fn treatment_of_plain(name: &[u8]) -> Treatment {
    if is_protected(name) { Treatment::Drop } else { Treatment::Forward }
}

/// Decides over one field name. The name must be a token (RFC 9110 section 5.6.2).
pub fn treatment(name: &[u8]) -> Treatment {
    if PLAIN.has_all(name) {
        return treatment_of_plain(name);
    }
    let is_plain = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    match (is_plain, is_protected(&alias(name))) {
        (true, true) => Treatment::Drop,
        (true, false) => Treatment::Forward,
        (false, true) => Treatment::Refuse,
        (false, false) => Treatment::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_removed_in_their_own_spelling_and_refused_in_any_other() {
        for name in [
            "X-Tollgate-Key-Id",
            "x-forwarded-for",
            "Authorization",
            "X-Auth-User",
            "x-authentik-uid",
            "X-RateLimit-Limit",
            "X-Authenticated-Scope",
            "X-Scopes",
            "X-OAuth-Scopes",
            "Remote-Groups",
            "X-Ms-Client-Principal-Id",
            "X-Goog-IAP-JWT-Assertion",
        ] {
            assert_eq!(treatment(name.as_bytes()), Treatment::Drop, "{name}");
        }
        for name in [
            "X_Tollgate_Key_Id",
            "x-tollgate_key-id",
            "X.Forwarded.For",
            "remote_user",
            "x_http_method_override",
            "x_real_ip",
        ] {
            assert_eq!(treatment(name.as_bytes()), Treatment::Refuse, "{name}");
        }
    }

    #[test]
    fn an_ordinary_name_passes_and_an_ambiguous_one_is_dropped() {
        for name in ["accept", "Content-Type", "x-request-source", "X-Custom", "x-authority"] {
            assert_eq!(treatment(name.as_bytes()), Treatment::Forward, "{name}");
        }
        for name in ["my_header", "a.b", "x!y"] {
            assert_eq!(treatment(name.as_bytes()), Treatment::Drop, "{name}");
        }
    }
}
