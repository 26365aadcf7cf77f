//! The shape check: walks a tree along the JSON Schema and reports everything that does not fit,
//! all at once, with places and suggestions. What does not fit is cut out, as little as possible,
//! so that the compiler can still look at the rest and report its own problems in the same run.

use serde_json::Value;

use crate::problem::{Problem, nearest};
use crate::span::Span;
use crate::tree::{Kind, Node};

/// Checks the tree and returns what is left of it; `None` when nothing usable is.
pub fn check(mut root: Node, schema: &Value, problems: &mut Vec<Problem>) -> Option<Node> {
    Walk { schema, problems }.node(&mut root, schema, "the policy").then_some(root)
}

/// Fields that there once were, and what to write instead.
const GONE: [(&str, &str); 1] = [(
    "unicode_paths",
    "text outside ASCII is taken everywhere; for text that is not in the normal form NFC write \
     `paths_may: [other_unicode]`",
)];

struct Walk<'s, 'p> {
    schema: &'s Value,
    problems: &'p mut Vec<Problem>,
}

impl<'s> Walk<'s, '_> {
    /// Whether the node is usable, after what was not has been cut out of it.
    fn node(&mut self, node: &mut Node, schema: &'s Value, what: &str) -> bool {
        let schema = self.resolve(schema);
        if let Some(choices) = choices(schema) {
            return self.one_of(node, choices, what);
        }
        if let Some(allowed) = schema.get("enum").or_else(|| schema.get("const")) {
            return self.word(node, allowed, what);
        }
        let span = node.span;
        let allows = |name: &str| types(schema).any(|t| t == name);
        match &mut node.kind {
            Kind::Null if allows("null") => true,
            Kind::Map(entries) if allows("object") => self.map(entries, span, schema, what),
            Kind::List(items) if allows("array") => self.list(items, schema, what),
            Kind::Text(_) if allows("string") => true,
            Kind::Bool(_) if allows("boolean") => true,
            Kind::Integer(n) if allows("integer") => {
                let fits = u32::try_from(*n).is_ok();
                if !fits {
                    self.report(span, format!("`{what}` must be a whole number from 0 to {}", u32::MAX));
                }
                fits
            }
            kind @ (Kind::Null
            | Kind::Bool(_)
            | Kind::Integer(_)
            | Kind::Float(_)
            | Kind::Text(_)
            | Kind::List(_)
            | Kind::Map(_)) => {
                let allowed: Vec<&str> = types(schema).collect();
                let wanted: Vec<&str> = allowed.iter().filter(|t| **t != "null").map(|t| plain(t)).collect();
                let found = kind.name();
                let mut problem =
                    Problem::at(node.span, format!("`{what}` must be {}, but here is {found}", wanted.join(" or ")));
                if allowed.contains(&"array") {
                    problem = problem.help(format!("write it in brackets: `{what}: [...]`"));
                } else if allowed.contains(&"string") {
                    problem = problem.help("put the value in quotes");
                }
                self.problems.push(problem);
                false
            }
        }
    }

    fn report(&mut self, span: Span, message: String) {
        self.problems.push(Problem::at(span, message));
    }

    /// Follows `$ref` within the schema.
    fn resolve(&self, schema: &'s Value) -> &'s Value {
        let mut at = schema;
        for _ in 0..8 {
            let Some(pointer) = at.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) else { break };
            let Some(next) = self.schema.pointer(pointer) else { break };
            at = next;
        }
        at
    }

    fn map(&mut self, entries: &mut Vec<(String, Span, Node)>, span: Span, schema: &'s Value, what: &str) -> bool {
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        // Required fields whose absence was already explained by another problem.
        let mut explained: Vec<String> = Vec::new();
        let mut was_renamed = false;
        entries.retain_mut(|(name, at, value)| {
            let known = properties.and_then(|p| p.get(name.as_str())).or(additional);
            let sub = match known {
                Some(sub) => sub,
                None => match self.meant(name, *at, properties, what) {
                    // What was meant is read as if it had been written right, so that its own
                    // mistakes and those of its neighbours are found in the same run.
                    Some((near, sub)) => {
                        was_renamed = true;
                        near.clone_into(name);
                        sub
                    }
                    None => return false,
                },
            };
            let is_usable = self.node(value, sub, name);
            if !is_usable {
                explained.push(name.clone());
            }
            is_usable
        });
        if was_renamed {
            deduplicate(entries);
        }
        let required = schema.get("required").and_then(Value::as_array);
        let mut is_complete = true;
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if entries.iter().any(|(known, _, _)| known == name) {
                continue;
            }
            is_complete = false;
            if !explained.iter().any(|e| e == name) {
                self.report(span, format!("`{what}` needs a field `{name}`"));
            }
        }
        is_complete
    }

    /// Reports a field that does not exist, and guesses which one was meant.
    fn meant(
        &mut self,
        name: &str,
        at: Span,
        properties: Option<&'s serde_json::Map<String, Value>>,
        what: &str,
    ) -> Option<(&'s str, &'s Value)> {
        let names = || properties.into_iter().flat_map(|p| p.keys()).map(String::as_str);
        if let Some((_, instead)) = GONE.iter().find(|(gone, _)| *gone == name) {
            self.problems.push(Problem::at(at, format!("`{what}` has no field `{name}` any more")).help(*instead));
            return None;
        }
        let near = nearest(name, names());
        let problem = Problem::at(at, format!("`{what}` has no field `{}`", name.escape_debug()));
        self.problems.push(match near {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("fields here: {}", names().collect::<Vec<_>>().join(", "))),
        });
        properties?.get_key_value(near?).map(|(name, sub)| (name.as_str(), sub))
    }

    fn list(&mut self, items: &mut Vec<Node>, schema: &'s Value, what: &str) -> bool {
        let Some(sub) = schema.get("items") else { return false };
        let what = what.strip_suffix('s').unwrap_or(what);
        items.retain_mut(|item| self.node(item, sub, what));
        true
    }

    fn word(&mut self, node: &Node, allowed: &Value, what: &str) -> bool {
        let words: Vec<&str> = match allowed.as_array() {
            Some(list) => list.iter().filter_map(Value::as_str).collect(),
            None => allowed.as_str().into_iter().collect(),
        };
        if let Kind::Text(text) = &node.kind {
            if words.contains(&text.as_str()) {
                return true;
            }
            let problem = Problem::at(node.span, format!("`{}` is not a value of `{what}`", text.escape_debug()));
            self.problems.push(match nearest(text, words.iter().copied()) {
                Some(near) => problem.help(format!("did you mean `{near}`? Possible: {}", words.join(", "))),
                None => problem.help(format!("possible: {}", words.join(", "))),
            });
        } else {
            let found = node.kind.name();
            self.report(node.span, format!("`{what}` must be one of {}, but here is {found}", words.join(", ")));
        }
        false
    }

    fn one_of(&mut self, node: &mut Node, choices: &'s [Value], what: &str) -> bool {
        // Nothing at all fits an optional value.
        let is_null = |s: &Value| types(s).eq(["null"]);
        if matches!(node.kind, Kind::Null) && choices.iter().any(is_null) {
            return true;
        }
        let choices: Vec<&'s Value> = choices.iter().filter(|s| !is_null(s)).map(|s| self.resolve(s)).collect();
        if let [only] = choices.as_slice() {
            return self.node(node, only, what);
        }
        let words: Vec<&'s Value> = choices
            .iter()
            .flat_map(|s| {
                s.get("enum")
                    .and_then(Value::as_array)
                    .map_or_else(|| s.get("const").into_iter().collect(), |a| a.iter().collect::<Vec<_>>())
            })
            .collect();
        if let (Kind::Text(text), false) = (&node.kind, words.is_empty()) {
            if words.iter().any(|w| w.as_str() == Some(text.as_str())) {
                return true;
            }
            if !choices
                .iter()
                .any(|s| types(s).any(|t| t == "string") && s.get("const").is_none() && s.get("enum").is_none())
            {
                let mut names: Vec<&str> = words.iter().filter_map(|w| w.as_str()).collect();
                names.extend(choices.iter().filter_map(|s| s.get("required")?.as_array()?.first()?.as_str()));
                let problem = Problem::at(node.span, format!("`{}` is not a value of `{what}`", text.escape_debug()));
                self.problems.push(match nearest(text, names.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`? Possible: {}", names.join(", "))),
                    None => problem.help(format!("possible: {}", names.join(", "))),
                });
                return false;
            }
        }
        let wanted = match node.kind {
            Kind::Map(_) => "object",
            Kind::List(_) => "array",
            Kind::Text(_) => "string",
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => "",
        };
        let fits = |s: &&&Value| types(s).any(|t| t == wanted) && s.get("const").is_none();
        // Of several mappings, the one whose fields are there; failing that, the first is explained.
        let is_meant = |s: &&&Value| match &node.kind {
            Kind::Map(entries) => {
                entries.iter().any(|(name, _, _)| s.pointer(&format!("/properties/{name}")).is_some())
            }
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Text(_) | Kind::List(_) => false,
        };
        let meant = choices.iter().filter(fits).find(is_meant);
        if let Some(sub) = meant.or_else(|| choices.iter().find(fits)) {
            return self.node(node, sub, what);
        }
        let found = node.kind.name();
        let mut names: Vec<String> = words.iter().filter_map(|w| w.as_str()).map(|w| format!("`{w}`")).collect();
        names.extend(
            choices.iter().flat_map(|s| types(s)).filter(|t| *t == "object").take(1).map(|t| plain(t).to_owned()),
        );
        self.report(node.span, format!("`{what}` must be {}, but here is {found}", names.join(" or ")));
        false
    }
}

/// A field written right wins over one that was only meant.
fn deduplicate(entries: &mut Vec<(String, Span, Node)>) {
    let mut seen = std::collections::HashSet::new();
    entries.reverse();
    entries.retain(|(name, _, _)| seen.insert(name.clone()));
    entries.reverse();
}

fn choices(schema: &Value) -> Option<&[Value]> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array).map(Vec::as_slice)
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let of = schema.get("type");
    of.and_then(Value::as_str)
        .into_iter()
        .chain(of.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str))
}

fn plain(json_type: &str) -> &str {
    match json_type {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        other => other,
    }
}
