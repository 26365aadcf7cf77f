//! Policy texts as tests edit them: an edit whose text is not there fails the test, so that no test goes on
//! with a policy that it did not mean.

use std::fmt;
use std::ops::Deref;

/// The policies of a world: an edit is made in each that has the text.
#[derive(Clone, Debug)]
pub struct Policies(pub(crate) Vec<String>);

impl Policies {
    /// Replaces a text wherever it stands.
    #[must_use]
    pub fn replace(&self, from: &str, to: &str) -> Self {
        self.replacen(from, to, usize::MAX)
    }

    /// Replaces the first `count` in each policy.
    #[must_use]
    pub fn replacen(&self, from: &str, to: &str, count: usize) -> Self {
        assert!(self.0.iter().any(|text| text.contains(from)), "no policy has the text to be replaced: {from:?}");
        Policies(self.0.iter().map(|text| text.replacen(from, to, count)).collect())
    }

    /// Edits the policy of one API only.
    #[must_use]
    pub fn in_api(self, api: &str, edit: impl Fn(Policies) -> Policies) -> Self {
        let is_it = |text: &String| text.contains(&format!("name: {api}\n"));
        assert_eq!(self.0.iter().filter(|text| is_it(text)).count(), 1, "one policy is that of {api}");
        let edited = |text: String| if is_it(&text) { edit(Policies(vec![text])).0.remove(0) } else { text };
        Policies(self.0.into_iter().map(edited).collect())
    }
}

/// One policy file.
#[derive(Clone, Debug)]
pub struct PolicyText(pub(crate) String);

impl PolicyText {
    /// Replaces a text wherever it stands.
    #[must_use]
    pub fn replace(&self, from: &str, to: &str) -> Self {
        assert!(self.0.contains(from), "the policy does not have the text to be replaced: {from:?}");
        PolicyText(self.0.replace(from, to))
    }
}

impl fmt::Display for PolicyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for PolicyText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<[u8]> for PolicyText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
