//! Finding the route of a path.
//!
//! Patterns are whole segments: literal, `*` (exactly one non-empty segment) or, at the end, `**`
//! (one segment or more). The order is total: segment by segment from the left a literal beats
//! `*`, and `*` beats `**`. The path decides first and the method second: when the best pattern has
//! no route for the method, nothing matches, because falling through to a wider pattern would
//! apply rules that the narrower one was written to replace.

use memchr::memchr;

use crate::bounds::Bounds;
use crate::path::{CanonicalPath, Forms};
use crate::route::Names;
use crate::target::Method;

/// Most segments of a pattern: what a gateway can be set to take.
const SEGMENTS_MAX: usize = 256;

/// Index of a route in its API.
pub type RouteIndex = u32;

/// One pattern, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    segments: Vec<Segment>,
    /// Forms that its literals have, which its route must take.
    pub(crate) forms: Forms,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    Literal(Box<str>),
    One,
    Rest,
}

impl Pattern {
    /// Parses a pattern; a literal must be canonical already, so that what is written is matched.
    pub fn parse(s: &str) -> Result<Self, String> {
        let rest = s.strip_prefix('/').ok_or_else(|| format!("the pattern `{s}` must start with `/`"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.len() > SEGMENTS_MAX {
            return Err(format!("the pattern `{s}` has more than {SEGMENTS_MAX} segments"));
        }
        let last = parts.len() - 1;
        let mut segments = Vec::with_capacity(parts.len());
        for (i, part) in parts.iter().enumerate() {
            segments.push(match *part {
                "*" => Segment::One,
                "**" if i == last => Segment::Rest,
                "**" => return Err(format!("in `{s}`, `**` can only be the last segment")),
                literal if literal.contains('*') => {
                    return Err(format!(
                        "in `{s}`, `*` must be a whole segment; a part of a segment cannot be matched"
                    ));
                }
                literal => Segment::Literal(literal.into()),
            });
        }
        let literal: String =
            parts.iter().map(|p| if p.contains('*') { "/x".into() } else { format!("/{p}") }).collect();
        match CanonicalPath::parse(literal.as_bytes(), &Bounds { segments: SEGMENTS_MAX, ..Bounds::DEFAULT }) {
            Ok(path) if path.as_str() == literal => {
                // What is matched is decoded.
                let decoded = path.decoded().split('/').skip(1);
                for (segment, text) in segments.iter_mut().zip(decoded) {
                    if let Segment::Literal(literal) = segment {
                        *literal = text.into();
                    }
                }
                Ok(Pattern { segments, forms: path.forms() })
            }
            Ok(path) => Err(format!("the pattern `{s}` is not canonical; write `{}`", path.as_str())),
            Err(fault) => Err(format!("no request can match `{s}`: {}", fault.detail())),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    literals: Names<usize>,
    one: Option<usize>,
    rest: Option<Leaf>,
    leaf: Option<Leaf>,
}

/// Routes by method: a handful, so that a list does.
type Leaf = Vec<(Tag, Box<str>, RouteIndex)>;

/// A method in one word, by which most are told apart without comparing texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    /// The first seven bytes, and the length (in which longer methods are alike).
    fn of(method: &str) -> Self {
        let mut word = [0u8; 8];
        for (to, from) in word.iter_mut().zip(method.bytes().take(7)) {
            *to = from;
        }
        let [.., last] = &mut word;
        *last = u8::try_from(method.len()).unwrap_or(u8::MAX);
        Tag(u64::from_le_bytes(word))
    }
}

fn in_leaf(leaf: &Leaf, method: &str) -> Option<RouteIndex> {
    let (tag, is_short) = (Tag::of(method), method.len() <= 7);
    let found = leaf.iter().find(|(known, text, _)| *known == tag && (is_short || **text == *method));
    found.map(|(_, _, route)| *route)
}

/// All patterns of an API as a tree; each tree node is visited at most once per look-up.
#[derive(Clone, Debug)]
pub struct Router {
    nodes: Vec<Node>,
}

impl Default for Router {
    fn default() -> Self {
        Router { nodes: vec![Node::default()] }
    }
}

impl Router {
    /// Adds a pattern for a method; the route already there, if any, is returned and stays.
    pub fn insert(&mut self, pattern: &Pattern, method: Method<'_>, route: RouteIndex) -> Option<RouteIndex> {
        let mut at = 0usize;
        let mut is_rest = false;
        for segment in &pattern.segments {
            let fresh = self.nodes.len();
            let node = self.nodes.get_mut(at)?;
            at = match segment {
                Segment::Literal(text) => *node.literals.entry(text.clone()).or_insert(fresh),
                Segment::One => *node.one.get_or_insert(fresh),
                Segment::Rest => {
                    is_rest = true;
                    break;
                }
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
        }
        let node = self.nodes.get_mut(at)?;
        let leaf = if is_rest { &mut node.rest } else { &mut node.leaf };
        let (leaf, method) = (leaf.get_or_insert_default(), method.rule().as_str());
        let taken = in_leaf(leaf, method);
        if taken.is_none() {
            leaf.push((Tag::of(method), method.into(), route));
        }
        taken
    }

    /// The route for a decoded path (which starts with a slash) and a method.
    pub fn find(&self, path: &str, method: Option<Method<'_>>) -> Option<RouteIndex> {
        in_leaf(self.leaf(0, path.strip_prefix('/'))?, method?.rule().as_str())
    }

    /// The routes of a path by method, whatever the request's.
    pub fn methods(&self, path: &str) -> impl Iterator<Item = (&str, RouteIndex)> {
        self.leaf(0, path.strip_prefix('/')).into_iter().flatten().map(|(_, method, route)| (&**method, *route))
    }

    fn leaf(&self, at: usize, rest: Option<&str>) -> Option<&Leaf> {
        let node = self.nodes.get(at)?;
        let Some(rest) = rest else { return node.leaf.as_ref() };
        let slash = memchr(b'/', rest.as_bytes());
        let (segment, after) = slash.map_or((rest, None), |at| (rest.get(..at).unwrap_or(rest), rest.get(at + 1..)));
        let literal = node.literals.get(segment).and_then(|next| self.leaf(*next, after));
        let one = || node.one.filter(|_| !segment.is_empty()).and_then(|next| self.leaf(next, after));
        literal.or_else(one).or(node.rest.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn post() -> Method<'static> {
        Method::parse("POST").unwrap()
    }

    fn router(patterns: &[&str]) -> Router {
        let mut router = Router::default();
        for (i, pattern) in patterns.iter().enumerate() {
            let taken = router.insert(&Pattern::parse(pattern).unwrap(), Method::GET, i as u32);
            assert_eq!(taken, None, "{pattern}");
        }
        router
    }

    #[test]
    fn the_most_specific_pattern_wins_segment_by_segment() {
        let router = router(&["/v2/packs", "/v2/packs/*", "/v2/packs/**", "/v2/packs/new", "/v2/*/icons", "/**"]);
        for (path, route) in [
            ("/v2/packs", Some(0)),
            ("/v2/packs/7", Some(1)),
            ("/v2/packs/new", Some(3)),
            ("/v2/packs/7/icons", Some(2)),
            ("/v2/packs/", Some(2)),
            ("/v2/sets/icons", Some(4)),
            ("/v2/packsX", Some(5)),
            ("/", Some(5)),
        ] {
            assert_eq!(router.find(path, Some(Method::GET)), route, "{path}");
        }
    }

    #[test]
    fn the_method_never_falls_through_to_a_wider_pattern() {
        let mut router = router(&["/a/b"]);
        router.insert(&Pattern::parse("/a/*").unwrap(), post(), 9);
        assert_eq!(router.find("/a/b", Some(post())), None);
        assert_eq!(router.find("/a/c", Some(post())), Some(9));
        assert_eq!(router.find("/a/b", Some(Method::HEAD)), Some(0));
        assert_eq!(router.find("/a/b", None), None);
    }

    #[test]
    fn a_rest_pattern_does_not_match_its_own_prefix() {
        let router = router(&["/v2/billing/**"]);
        assert_eq!(router.find("/v2/billing", Some(Method::GET)), None);
        assert_eq!(router.find("/v2/billingX/1", Some(Method::GET)), None);
        assert_eq!(router.find("/v2/billing/usage/today", Some(Method::GET)), Some(0));
    }

    #[test]
    fn a_pattern_that_no_request_can_match_is_refused() {
        for pattern in ["v2", "/v2/**/x", "/v2/pa*", "/v2//x", "/v2/../x", "/v2/%70acks", "/v2/a b", "/v2/%7ex"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    /// An escape that a client is free to write must not lead round a narrower rule.
    #[test]
    fn a_literal_is_matched_however_a_client_escapes_it() {
        let router = router(&["/v2/**", "/v2/admin:reset", "/v2/a%20b", "/v2/%C3%A9"]);
        for (raw, route) in [
            ("/v2/admin:reset", Some(1)),
            ("/v2/admin%3areset", Some(1)),
            ("/v2/%61dmin%3Areset", Some(1)),
            ("/v2/a%20b", Some(2)),
            ("/v2/%c3%a9", Some(3)),
            ("/v2/other", Some(0)),
        ] {
            let path = CanonicalPath::parse(raw.as_bytes(), &Bounds::DEFAULT).unwrap();
            assert_eq!(router.find(path.decoded(), Some(Method::GET)), route, "{raw}");
        }
    }

    #[test]
    fn methods_that_begin_alike_are_told_apart() {
        let method = |text: &'static str| Method::parse(text).unwrap();
        let mut router = Router::default();
        let names = ["GET", "PUT", "MKCALENDAR", "MKCALENDAX", "MKCALEN", "VERSION-CONTROL"];
        for (at, name) in names.iter().enumerate() {
            assert_eq!(router.insert(&Pattern::parse("/a").unwrap(), method(name), at as u32), None);
        }
        for (at, name) in names.iter().enumerate() {
            assert_eq!(router.find("/a", Some(method(name))), Some(at as u32), "{name}");
        }
        assert_eq!(router.find("/a", Some(method("MKCALENDAY"))), None);
    }

    #[test]
    fn the_methods_of_a_path_are_those_of_its_best_pattern() {
        let mut router = router(&["/a/*", "/a/b"]);
        router.insert(&Pattern::parse("/a/b").unwrap(), post(), 7);
        assert_eq!(router.methods("/a/b").collect::<Vec<_>>(), [("GET", 1), ("POST", 7)]);
        assert_eq!(router.methods("/a/c").collect::<Vec<_>>(), [("GET", 0)]);
        assert_eq!(router.methods("/x").count(), 0);
    }

    proptest! {
        #[test]
        fn a_match_is_always_a_match_of_the_pattern(
            patterns in proptest::collection::vec("(/(a|b|\\*)){1,4}(/\\*\\*)?", 1..12), path in "(/(a|b|c)){1,5}",
        ) {
            let mut router = Router::default();
            for (i, p) in patterns.iter().enumerate() {
                router.insert(&Pattern::parse(p).unwrap(), Method::GET, i as u32);
            }
            let fits = |pattern: &str| {
                let (want, have): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
                let open = want.last() == Some(&"**");
                let fixed = if open { want.len() - 1 } else { want.len() };
                (if open { have.len() > fixed } else { have.len() == fixed })
                    && want.iter().take(fixed).zip(&have).all(|(w, h)| *w == "*" || w == h)
            };
            match router.find(&path, Some(Method::GET)) {
                Some(i) => prop_assert!(fits(&patterns[i as usize])),
                None => prop_assert!(!patterns.iter().any(|p| fits(p))),
            }
        }
    }
}
