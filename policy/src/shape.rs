//! The shape check: walks a tree along the JSON Schema and reports everything that does not fit,
//! all at once, with places and suggestions. What does not fit is cut out, as little as possible,
//! so that the compiler can still look at the rest and report its own problems in the same run.

use serde_json::Value;

use crate::problem::{Problem, nearest};
use crate::span::Span;
use crate::tree::{Kind, Node};

/// Checks the tree and returns what is left of it; `None` when nothing usable is.
pub fn check(root: Node, schema: &Value, problems: &mut Vec<Problem>) -> Option<Node> {
    Walk { schema, problems }.node(root, schema, "the policy")
}

struct Walk<'s, 'p> {
    schema: &'s Value,
    problems: &'p mut Vec<Problem>,
}

impl<'s> Walk<'s, '_> {
    fn node(&mut self, node: Node, schema: &'s Value, what: &str) -> Option<Node> {
        let schema = self.resolve(schema);
        if let Some(choices) = choices(schema) {
            return self.one_of(node, choices, what);
        }
        if let Some(allowed) = schema.get("enum").or_else(|| schema.get("const")) {
            return self.word(node, allowed, what);
        }
        match (&node.kind, types(schema).as_slice()) {
            (Kind::Null, allowed) if allowed.contains(&"null") => Some(node),
            (Kind::Map(_), allowed) if allowed.contains(&"object") => self.map(node, schema, what),
            (Kind::List(_), allowed) if allowed.contains(&"array") => self.list(node, schema, what),
            (Kind::Text(_), allowed) if allowed.contains(&"string") => Some(node),
            (Kind::Bool(_), allowed) if allowed.contains(&"boolean") => Some(node),
            (Kind::Integer(n), allowed) if allowed.contains(&"integer") => {
                let fits = *n >= schema.get("minimum").and_then(Value::as_f64).map_or(i64::MIN, |m| m as i64)
                    && u32::try_from(*n).is_ok();
                if !fits {
                    self.report(node.span, format!("`{what}` must be a whole number from 0 to {}", u32::MAX));
                }
                fits.then_some(node)
            }
            (kind, allowed) => {
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
                None
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

    fn map(&mut self, mut node: Node, schema: &'s Value, what: &str) -> Option<Node> {
        let Kind::Map(entries) = std::mem::replace(&mut node.kind, Kind::Null) else { return None };
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        let mut kept = Vec::with_capacity(entries.len());
        // Required fields whose absence was already explained by another problem.
        let mut explained: Vec<String> = Vec::new();
        for (name, span, value) in entries {
            if let Some(sub) = properties.and_then(|p| p.get(&name)).or(additional) {
                match self.node(value, sub, &name) {
                    Some(value) => kept.push((name, span, value)),
                    None => explained.push(name),
                }
                continue;
            }
            let names: Vec<&str> = properties.into_iter().flat_map(|p| p.keys()).map(String::as_str).collect();
            let problem = Problem::at(span, format!("`{what}` has no field `{}`", name.escape_debug()));
            let near = nearest(&name, names.iter().copied()).map(str::to_owned);
            self.problems.push(match &near {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem.help(format!("fields here: {}", names.join(", "))),
            });
            // What was meant is read as if it had been written right, so that its own mistakes and
            // those of its neighbours are found in the same run.
            let Some(near) = near else { continue };
            let is_free = !kept.iter().any(|(known, _, _)| *known == near);
            if let Some(sub) = properties.and_then(|p| p.get(&near)).filter(|_| is_free) {
                match self.node(value, sub, &near) {
                    Some(value) => kept.push((near, span, value)),
                    None => explained.push(near),
                }
            }
        }
        deduplicate(&mut kept);
        let required = schema.get("required").and_then(Value::as_array);
        let mut is_complete = true;
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if kept.iter().any(|(k, _, _)| k == name) {
                continue;
            }
            is_complete = false;
            if !explained.iter().any(|e| e == name) {
                self.report(node.span, format!("`{what}` needs a field `{name}`"));
            }
        }
        node.kind = Kind::Map(kept);
        is_complete.then_some(node)
    }

    fn list(&mut self, mut node: Node, schema: &'s Value, what: &str) -> Option<Node> {
        let Kind::List(items) = std::mem::replace(&mut node.kind, Kind::Null) else { return None };
        let sub = schema.get("items")?;
        let what = what.strip_suffix('s').unwrap_or(what);
        let kept = items.into_iter().filter_map(|item| self.node(item, sub, what)).collect();
        node.kind = Kind::List(kept);
        Some(node)
    }

    fn word(&mut self, node: Node, allowed: &Value, what: &str) -> Option<Node> {
        let words: Vec<&str> = match allowed.as_array() {
            Some(list) => list.iter().filter_map(Value::as_str).collect(),
            None => allowed.as_str().into_iter().collect(),
        };
        if let Kind::Text(text) = &node.kind {
            if words.contains(&text.as_str()) {
                return Some(node);
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
        None
    }

    fn one_of(&mut self, node: Node, choices: &'s [Value], what: &str) -> Option<Node> {
        // Nothing at all fits an optional value.
        let is_null = |s: &Value| types(s).as_slice() == ["null"];
        if matches!(node.kind, Kind::Null) && choices.iter().any(is_null) {
            return Some(node);
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
                return Some(node);
            }
            if !choices
                .iter()
                .any(|s| types(s).contains(&"string") && s.get("const").is_none() && s.get("enum").is_none())
            {
                let mut names: Vec<&str> = words.iter().filter_map(|w| w.as_str()).collect();
                names.extend(choices.iter().filter_map(|s| s.get("required")?.as_array()?.first()?.as_str()));
                let problem = Problem::at(node.span, format!("`{}` is not a value of `{what}`", text.escape_debug()));
                self.problems.push(match nearest(text, names.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`? Possible: {}", names.join(", "))),
                    None => problem.help(format!("possible: {}", names.join(", "))),
                });
                return None;
            }
        }
        let wanted = match node.kind {
            Kind::Map(_) => "object",
            Kind::List(_) => "array",
            Kind::Text(_) => "string",
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) => "",
        };
        if let Some(sub) = choices.iter().find(|s| types(s).contains(&wanted) && s.get("const").is_none()) {
            return self.node(node, sub, what);
        }
        let found = node.kind.name();
        let mut names: Vec<String> = words.iter().filter_map(|w| w.as_str()).map(|w| format!("`{w}`")).collect();
        names.extend(
            choices.iter().flat_map(|s| types(s)).filter(|t| *t == "object").take(1).map(|t| plain(t).to_owned()),
        );
        self.report(node.span, format!("`{what}` must be {}, but here is {found}", names.join(" or ")));
        None
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

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => Vec::new(),
    }
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
