//! Header field names that are ours, and the aliases under which a client might smuggle them.
//!
//! A name is compared by its alias: lower case, with every byte outside `a-z 0-9` read as `-`,
//! because CGI, WSGI and PHP upstreams spell `-`, `_` and `.` alike.

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

/// Names always removed, compared by alias.
fn is_protected_name(alias: &str) -> bool {
    matches!(
        alias,
        "authorization"
            | "cf-connecting-ip"
            | "client-ip"
            | "fastly-client-ip"
            | "forwarded"
            | "proxy"
            | "proxy-authorization"
            | "proxy-connection"
            | "remote-user"
            | "true-client-ip"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-http-method"
            | "x-http-method-override"
            | "x-method-override"
            | "x-real-ip"
            | "x-remote-user"
            | "x-request-id"
            | "x-rewrite-url"
    )
}

/// Prefixes always removed, compared by alias.
const PROTECTED_PREFIXES: &[&str] = &[
    "x-tollgate-",
    "x-forwarded-",
    "x-original-",
    "x-auth-",
    "x-user-",
    "x-org-",
    "x-consumer-",
    "x-credential-",
    "x-ratelimit-",
];

/// `X-Auth*-*` of the rules: `x-auth`, then anything, then a hyphen and more.
fn is_auth_family(alias: &str) -> bool {
    alias.strip_prefix("x-auth").is_some_and(|rest| rest.contains('-'))
}

/// Whether a name in lower case, with `-` only, is protected.
pub fn is_protected(alias: &str) -> bool {
    if !matches!(alias.as_bytes().first(), Some(b'a' | b'c' | b'f' | b'p' | b'r' | b't' | b'x')) {
        return false;
    }
    is_protected_name(alias)
        || (alias.starts_with("x-")
            && (PROTECTED_PREFIXES.iter().any(|p| alias.starts_with(p)) || is_auth_family(alias)))
}

/// Decides over one field name. The name must be a token (RFC 9110 section 5.6.2).
pub fn treatment(name: &[u8]) -> Treatment {
    // One that is no text is no token.
    let Ok(name) = std::str::from_utf8(name) else { return Treatment::Refuse };
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return if is_protected(name) { Treatment::Drop } else { Treatment::Forward };
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let alias: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    match (plain, is_protected(&alias)) {
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
