//! Links in an upstream's answer that lead its client back to this API.

/// Under which names a client reaches an API.
#[derive(Clone, Copy, Debug)]
pub struct OwnHosts<'a> {
    /// The API's hosts.
    pub hosts: &'a [Box<str>],
    /// Host and port as the client named them.
    pub named: &'a str,
}

impl OwnHosts<'_> {
    /// A value in which links to these hosts over plain HTTP lead to them over HTTPS: a client that
    /// followed them as they are would show its credential to the network. `None` when there are none.
    pub(super) fn over_https(&self, value: &[u8]) -> Option<String> {
        const SCHEME: &str = "http://";
        let text = std::str::from_utf8(value).ok()?;
        let mut rewritten = String::new();
        let mut rest = text;
        while let Some(at) = find_ignoring_case(rest, SCHEME) {
            let (before, link) = (rest.get(..at)?, rest.get(at + SCHEME.len()..)?);
            let end = link.find(|c: char| !(c.is_ascii_alphanumeric() || "-._:[]".contains(c))).unwrap_or(link.len());
            let (authority, after) = link.split_at_checked(end)?;
            rewritten.push_str(before);
            // What stands before an `@` is no host.
            match self.secure(authority).filter(|_| !after.starts_with('@')) {
                Some(authority) => {
                    rewritten.push_str("https://");
                    rewritten.push_str(authority);
                }
                None => rewritten.push_str(rest.get(at..at + SCHEME.len() + end)?),
            }
            rest = after;
        }
        rewritten.push_str(rest);
        (rewritten != text).then_some(rewritten)
    }

    /// The same place over HTTPS, if it is ours: as the client named it, or a host of the API.
    fn secure<'l>(&'l self, authority: &'l str) -> Option<&'l str> {
        if authority.eq_ignore_ascii_case(self.named) {
            return Some(self.named);
        }
        let host = authority.strip_suffix(":80").unwrap_or(authority);
        self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)).then_some(host)
    }
}

fn find_ignoring_case(text: &str, what: &str) -> Option<usize> {
    text.as_bytes().windows(what.len()).position(|window| window.eq_ignore_ascii_case(what.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_apis_own_hosts_lead_there_over_https() {
        let hosts: Box<[Box<str>]> = ["api.example.com".into(), "eu.example.com".into()].into();
        let own = OwnHosts { hosts: &hosts, named: "api.example.com:8443" };
        let over_https = |value: &str| own.over_https(value.as_bytes());
        for (value, rewritten) in [
            ("http://api.example.com/v2/7?x=1", Some("https://api.example.com/v2/7?x=1")),
            ("HTTP://API.example.com:80/", Some("https://API.example.com/")),
            ("http://api.example.com:8443/a", Some("https://api.example.com:8443/a")),
            ("http://api.example.com", Some("https://api.example.com")),
            ("http://api.example.com:9000/a", None),
            ("http://other.example/a", None),
            ("http://api.example.com.evil.example/a", None),
            ("http://api.example.com@evil.example/a", None),
            ("https://api.example.com/a", None),
            ("/v2/7", None),
            (
                "<http://eu.example.com/a?page=2>; rel=\"next\", <http://other.example/>; rel=\"last\"",
                Some("<https://eu.example.com/a?page=2>; rel=\"next\", <http://other.example/>; rel=\"last\""),
            ),
        ] {
            assert_eq!(over_https(value).as_deref(), rewritten, "{value}");
        }
    }
}
