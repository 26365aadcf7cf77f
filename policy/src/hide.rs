//! Takes credentials out of texts that are kept, such as paths: somebody may have put one there.

use std::borrow::Cow;

use crate::credential::{CLIENT_SECRET_PREFIX, FOREIGN_BODY_BYTES_MIN, REFRESH_TOKEN_PREFIX, TOKEN_PREFIX};

/// What a JSON Web Token begins with: `{"` in base64url.
const JWS_PREFIX: &str = "eyJ";
/// What stands for what was taken out.
const HIDDEN: &str = "[hidden]";

/// The text without credentials: behind each of the prefixes, and those of what Tollgate issues, `[hidden]` stands
/// for what a credential consists of. Other texts are given back as they are.
pub fn hide_credentials<'t>(text: &'t str, prefixes: &[Box<str>]) -> Cow<'t, str> {
    let ours = [TOKEN_PREFIX, REFRESH_TOKEN_PREFIX, CLIENT_SECRET_PREFIX, JWS_PREFIX];
    let prefixes = || prefixes.iter().map(|prefix| &**prefix).chain(ours).filter(|prefix| !prefix.is_empty());
    let mut hidden: Option<String> = None;
    let mut rest = text;
    while let Some((start, length)) = prefixes().filter_map(|prefix| find(rest, prefix)).min() {
        let out = hidden.get_or_insert_default();
        out.push_str(rest.get(..start).unwrap_or_default());
        out.push_str(HIDDEN);
        rest = rest.get(start + length..).unwrap_or_default();
    }
    match hidden {
        Some(mut out) => {
            out.push_str(rest);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    }
}

/// Where the body of the first credential with this prefix begins, and how long it is.
fn find(text: &str, prefix: &str) -> Option<(usize, usize)> {
    let is_body = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    text.match_indices(prefix).find_map(|(at, _)| {
        let start = at + prefix.len();
        let length = text.get(start..)?.bytes().take_while(|b| is_body(*b)).count();
        (length >= FOREIGN_BODY_BYTES_MIN).then_some((start, length))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::credential::{RANDOM_CHARS, mint};

    fn prefixes() -> Vec<Box<str>> {
        ["ifk_live_", "ak_test_"].map(Into::into).into()
    }

    #[test]
    fn what_is_no_credential_stays() {
        for text in ["", "/items/42", "/ifk_live_", "/docs/ifk_live_short", "/eyJ"] {
            assert!(matches!(hide_credentials(text, &prefixes()), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn tokens_are_hidden_wherever_they_stand() {
        let hidden =
            hide_credentials("/a/eyJhbGciOiJ9.eyJzdWIi.c2ln/b/irt_0123456789/ak_test_your_key_here", &prefixes());
        assert_eq!(hidden, "/a/eyJ[hidden]/b/irt_[hidden]/ak_test_[hidden]");
    }

    proptest! {
        #[test]
        fn a_key_is_hidden_whatever_stands_around_it(
            random in proptest::collection::vec(0u8..248, RANDOM_CHARS), before in "[ -~]{0,9}", after in "[ -~]{0,9}",
        ) {
            let key = mint("ifk_live_", &random).unwrap();
            let text = format!("{before}{key}{after}");
            let hidden = hide_credentials(&text, &prefixes());
            prop_assert!(!hidden.contains(key.strip_prefix("ifk_live_").unwrap()), "{}", hidden);
        }
    }
}
