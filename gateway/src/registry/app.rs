//! OAuth applications: what is registered, and which redirect URIs are good enough.
//!
//! A redirect URI is looked at closely once, when it is registered; after that it is compared as
//! the bytes it is made of. Anything that normalises (case, ports, dots) would give an attacker a
//! second spelling.

use serde::{Deserialize, Serialize};

use super::secret::has_digest;
use crate::base::digest::{Digest, Peppers};

/// Most redirect URIs of one application.
pub const REDIRECT_URIS_MAX: usize = 20;
/// Longest redirect URI, in bytes.
const REDIRECT_URI_BYTES_MAX: usize = 512;
/// Longest name of an application, in characters.
const NAME_CHARS_MAX: usize = 80;
/// Most secrets at a time: one in force, one that is being replaced.
const SECRETS_MAX: usize = 2;

/// Whether an application can keep a secret (RFC 6749 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppKind {
    /// In a browser or on a device: no secret.
    Public,
    /// On a server.
    Confidential,
}

impl AppKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            AppKind::Public => "public",
            AppKind::Confidential => "confidential",
        }
    }
}

/// A hashed client secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSecret {
    /// Keyed hash.
    #[serde(with = "crate::base::digest::hex")]
    pub digest: Digest,
    /// First instant at which it no longer works, once it is being replaced.
    pub not_after_ms: Option<u64>,
}

/// An application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// `cf_…`, the client id.
    pub id: String,
    /// Name of the API.
    pub api: String,
    /// Organization that registered it.
    pub organization: String,
    /// What users see.
    pub name: String,
    /// Where users are sent back to.
    pub redirect_uris: Vec<String>,
    /// What it may ask for.
    pub scopes: Vec<String>,
    /// Whether it can keep a secret.
    pub kind: AppKind,
    /// Its secrets, the newest first.
    pub secrets: Vec<AppSecret>,
    /// Who made it.
    pub created_by: String,
    /// When, Unix milliseconds.
    pub created_ms: u64,
    /// When its redirect URIs were changed last: older consents are not remembered.
    pub redirects_changed_ms: u64,
    /// Since when it is switched off.
    pub disabled_ms: Option<u64>,
}

impl AppRecord {
    /// One word for people.
    pub fn state(&self) -> &'static str {
        if self.disabled_ms.is_some() { "disabled" } else { "active" }
    }

    /// Whether a redirect URI of a request is a registered one: byte for byte, except for the port
    /// of a loopback address (RFC 8252 section 7.3).
    pub fn allows_redirect(&self, presented: &str) -> bool {
        self.redirect_uris.iter().any(|registered| {
            registered == presented
                || without_loopback_port(registered)
                    .is_some_and(|registered| without_loopback_port(presented).as_ref() == Some(&registered))
        })
    }

    /// Whether a client secret works.
    pub fn has_secret(&self, peppers: &Peppers, presented: &str, now_ms: u64) -> bool {
        let works = |secret: &&AppSecret| secret.not_after_ms.is_none_or(|end| now_ms < end);
        self.secrets.iter().filter(works).any(|secret| has_digest(peppers, presented, &secret.digest))
    }

    /// Gives it a new secret; the one before works until the end of the overlap.
    pub fn add_secret(&mut self, digest: Digest, old_not_after_ms: u64) {
        for old in &mut self.secrets {
            let end = old.not_after_ms.map_or(old_not_after_ms, |end| end.min(old_not_after_ms));
            old.not_after_ms = Some(end);
        }
        self.secrets.insert(0, AppSecret { digest, not_after_ms: None });
        self.secrets.truncate(SECRETS_MAX);
    }

    /// Whether a user is asked every time: anybody can pretend to be an application that comes back
    /// to a loopback address or a private scheme (RFC 8252 section 8.6).
    pub fn asks_every_time(&self, redirect_uri: &str) -> bool {
        !redirect_uri.starts_with("https://")
    }
}

/// `http://127.0.0.1:7000/cb` as `http://127.0.0.1` and `/cb`; `None` where a port is part of the URI.
fn without_loopback_port(uri: &str) -> Option<(&'static str, &str)> {
    for start in ["http://127.0.0.1", "http://[::1]"] {
        let Some(rest) = uri.strip_prefix(start) else { continue };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (port, path) = rest.split_at_checked(end)?;
        let is_port = port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|digits| (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
        return is_port.then_some((start, path));
    }
    None
}

/// Looks at a redirect URI that is to be registered.
pub fn check_redirect_uri(text: &str) -> Result<(), String> {
    let shown = text.escape_debug();
    if text.contains('*') {
        return Err(format!(
            "`{shown}` is a pattern. Register each redirect URI exactly as your application uses it: a wildcard \
             would let whoever controls a matching page take over your users' accounts"
        ));
    }
    let is_plain = text.bytes().all(|b| {
        b.is_ascii_graphic()
            && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | b';' | b',')
    });
    if text.is_empty() || text.len() > REDIRECT_URI_BYTES_MAX || !is_plain {
        return Err(format!("`{shown}` is not a usable URI: printable ASCII, at most {REDIRECT_URI_BYTES_MAX} bytes"));
    }
    if text.contains('#') {
        return Err(format!("`{shown}` has a fragment; a redirect URI has none (RFC 6749 section 3.1.2)"));
    }
    let parsed = url::Url::parse(text).map_err(|error| format!("`{shown}` is not an absolute URI: {error}"))?;
    if !parsed.username().is_empty() || parsed.password().is_some() || text.contains('@') {
        return Err(format!("`{shown}` has user information or `@`, which hides where it leads"));
    }
    if ["/../", "/./", "/%2e", "/%2E"].iter().any(|dots| text.contains(dots)) || text.ends_with("/..") {
        return Err(format!("`{shown}` has dot segments; write the path as it is"));
    }
    let scheme = text.split(':').next().unwrap_or_default();
    // A browser must read the same host as we do: `https:///x` and `https:x` are not what they seem.
    let authority = text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let named = parsed.host_str().filter(|host| {
        let port = authority.strip_prefix(host);
        port.is_some_and(|port| port.is_empty() || port.starts_with(':'))
    });
    match scheme {
        "https" | "http" if named.is_none_or(str::is_empty) => Err(format!(
            "`{shown}` does not say plainly which host it leads to; write `https://host/path` in lower case"
        )),
        "https" => Ok(()),
        "http" if matches!(named, Some("127.0.0.1" | "[::1]" | "localhost")) => Ok(()),
        "http" => Err(format!(
            "`{shown}` is not https; plain http is for applications on the user's own machine (`http://127.0.0.1/…`)"
        )),
        scheme
            if scheme.contains('.')
                && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-')) =>
        {
            Ok(())
        }
        _ => Err(format!(
            "`{shown}` has a scheme that is nobody's; use https, or for a native application a scheme that is your \
             domain name backwards, such as `com.example.app:/callback`"
        )),
    }
}

/// Looks at an application's name: it is shown to people who decide by it.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = name.chars().all(|c| !c.is_control() && !is_invisible(c));
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX || !is_plain || name.trim() != name {
        return Err(format!(
            "`{}` is not a usable name: 1 to {NAME_CHARS_MAX} visible characters, without space at either end",
            name.escape_debug()
        ));
    }
    Ok(())
}

/// Characters that make text read otherwise than it is written: direction marks, joiners, tags.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c), 0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(redirect_uris: &[&str]) -> AppRecord {
        AppRecord {
            id: "cf_9aB3dE7fGh2iJk".into(),
            api: "iconflow".into(),
            organization: "acme".into(),
            name: "PixelForge Design Tool".into(),
            redirect_uris: redirect_uris.iter().map(|uri| (*uri).to_owned()).collect(),
            scopes: vec!["packs:read".into()],
            kind: AppKind::Public,
            secrets: Vec::new(),
            created_by: "cli".into(),
            created_ms: 0,
            redirects_changed_ms: 0,
            disabled_ms: None,
        }
    }

    #[test]
    fn redirect_uris_are_compared_byte_for_byte() {
        let app = app(&["https://pixelforge.design/callback/iconflow"]);
        assert!(app.allows_redirect("https://pixelforge.design/callback/iconflow"));
        for other in [
            "https://pixelforge.design/callback/iconflow/",
            "https://pixelforge.design/callback/iconflow?x=1",
            "https://pixelforge.design/callback/iconflow#x",
            "https://pixelforge.design:443/callback/iconflow",
            "HTTPS://pixelforge.design/callback/iconflow",
            "https://PixelForge.design/callback/iconflow",
            "https://pixelforge.design/callback/./iconflow",
            "https://pixelforge.design/callback/%69conflow",
            "https://pixelforge.design.evil.example/callback/iconflow",
            "https://pixelforge.design\\@evil.example/callback/iconflow",
            "",
        ] {
            assert!(!app.allows_redirect(other), "{other}");
        }
    }

    #[test]
    fn only_the_port_of_a_loopback_address_may_differ() {
        let app = app(&["http://127.0.0.1/cb", "http://[::1]:9/cb", "http://localhost:3000/cb"]);
        for good in
            ["http://127.0.0.1/cb", "http://127.0.0.1:51004/cb", "http://[::1]:5/cb", "http://localhost:3000/cb"]
        {
            assert!(app.allows_redirect(good), "{good}");
        }
        for bad in [
            "http://127.0.0.1:51004/cb2",
            "http://127.0.0.1:51004@evil.example/cb",
            "http://127.0.0.1:/cb",
            "http://127.0.0.1.evil.example/cb",
            "http://127.0.0.1:999999/cb",
            "https://127.0.0.1:5/cb",
            "http://localhost:3001/cb",
            "http://127.0.0.2:5/cb",
        ] {
            assert!(!app.allows_redirect(bad), "{bad}");
        }
    }

    #[test]
    fn what_may_be_registered_is_exact_and_safe() {
        for good in [
            "https://pixelforge.design/callback/iconflow",
            "https://pixelforge.design/cb?keep=1",
            "http://127.0.0.1/cb",
            "http://[::1]:8000/cb",
            "http://localhost:3000/cb",
            "com.example.app:/cb",
        ] {
            assert_eq!(check_redirect_uri(good), Ok(()));
        }
        for bad in [
            "https://*.pixelforge.design/cb",
            "https://pixelforge.design/*",
            "http://pixelforge.design/cb",
            "https://a.example/cb#x",
            "https://user@a.example/cb",
            "https://a.example/x/../cb",
            "https:///cb",
            "javascript:alert(1)",
            "data:text/html,x",
            "myapp:/cb",
            "/cb",
            "https://a.example/c b",
            "https://a.example\\@b.example/cb",
            "https://a.example/\u{e9}",
            "",
        ] {
            assert!(check_redirect_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_reads_as_it_is_written() {
        assert!(check_name("PixelForge Design Tool").is_ok() && check_name("Café 图标").is_ok());
        for bad in ["", " ", "a\nb", "Icon\u{202e}wolF", "x\u{200b}y", " padded"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_old_secret_works_until_the_end_of_the_overlap() {
        let peppers =
            Peppers { current: crate::base::digest::Pepper::from_hex(&"1".repeat(64)).unwrap(), previous: None };
        let digest = |text| peppers.current.digest(policy::credential::Secret::new(text));
        let mut app = app(&[]);
        app.add_secret(digest("one"), 0);
        app.add_secret(digest("two"), 1_000);
        assert!(app.has_secret(&peppers, "one", 999) && !app.has_secret(&peppers, "one", 1_000));
        assert!(app.has_secret(&peppers, "two", 5_000) && !app.has_secret(&peppers, "three", 0));
    }
}
