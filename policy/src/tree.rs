//! The policy file as a tree in which every node knows its place.
//!
//! Reading the file in two steps (text to tree, tree to types) is what allows all mistakes to be
//! reported at once: the shape check walks the whole tree, cuts what is wrong out of it, and the
//! rest still deserializes. A node never holds an unresolved alias: the YAML library expands them
//! within its own budget.

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::problem::Problem;
use crate::span::{SPANNED, Span};

/// Largest policy file read, in bytes.
pub const POLICY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Deepest nesting of a policy file.
const DEPTH_MAX: usize = 32;

/// One value of the file and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value stood.
    pub span: Span,
    /// The value.
    pub kind: Kind,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping; the key's own place comes with it.
    Map(Vec<(String, Span, Node)>),
}

impl Kind {
    /// The kind's name as used in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a true/false value",
            Kind::Integer(_) => "a whole number",
            Kind::Float(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// Parses YAML (or JSON) text into a tree, or says where it is not YAML.
pub fn parse(file: u32, text: &str) -> Result<Node, Problem> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(Problem::at(
            Span { file, line: 1, column: 1, length: 0 },
            format!("the file has {} bytes; a policy file may have {POLICY_BYTES_MAX}", text.len()),
        )
        .help("split it into several files and name each with --policy"));
    }
    let options = serde_saphyr::options! { with_snippet: false, };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(mut root) => {
            finish(&mut root, file, 0)?;
            Ok(root)
        }
        Err(error) => {
            let at = error.location().map_or(Span { file, line: 1, column: 1, length: 0 }, |l| span_of(file, &l));
            let message = error.without_snippet().to_string();
            Err(Problem::at(at, format!("this is not readable YAML: {message}"))
                .help("check indentation, quotes and brackets around this place"))
        }
    }
}

fn span_of(file: u32, location: &serde_saphyr::Location) -> Span {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Span { file, line: small(location.line()), column: small(location.column()), length: small(location.span().len()) }
}

impl<'de> Deserialize<'de> for Node {
    /// From the YAML library only, which knows places. Which file it was is filled in afterwards.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let placed = serde_saphyr::Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Node { span: span_of(0, &placed.referenced), kind: placed.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(v))
    }
    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Kind, E> {
        i64::try_from(v).map(Kind::Integer).map_err(|_| E::custom("number too large"))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Kind, E> {
        Ok(Kind::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Kind, E> {
        Ok(Kind::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Kind, E> {
        Ok(Kind::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Kind::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<serde_saphyr::Spanned<String>, Node>()? {
            entries.push((key.value, span_of(0, &key.referenced), value));
        }
        Ok(Kind::Map(entries))
    }
}

/// Fills in which file it is, and refuses what is nested too deeply.
fn finish(node: &mut Node, file: u32, depth: usize) -> Result<(), Problem> {
    node.span.file = file;
    if depth > DEPTH_MAX {
        return Err(Problem::at(node.span, format!("nested deeper than {DEPTH_MAX} levels")));
    }
    match &mut node.kind {
        Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Text(_) => {}
        Kind::List(items) => {
            for item in items {
                finish(item, file, depth + 1)?;
            }
        }
        Kind::Map(entries) => {
            for (_, at, value) in entries {
                at.file = file;
                finish(value, file, depth + 1)?;
            }
        }
    }
    Ok(())
}

/// What a tree that passed the shape check can still get wrong when it becomes types.
pub type TreeError = serde::de::value::Error;

impl<'de> IntoDeserializer<'de, TreeError> for &'de Node {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match &self.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(v) => visitor.visit_bool(*v),
            Kind::Integer(v) => visitor.visit_i64(*v),
            Kind::Float(v) => visitor.visit_f64(*v),
            Kind::Text(v) => visitor.visit_borrowed_str(v),
            Kind::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Kind::Map(entries) => visitor
                .visit_map(MapDeserializer::new(entries.iter().map(|(k, at, v)| (KeyText { text: k, span: *at }, v)))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        match self.kind {
            Kind::Null => visitor.visit_none(),
            Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Text(_) | Kind::List(_) | Kind::Map(_) => {
                visitor.visit_some(self)
            }
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        match &self.kind {
            Kind::Text(v) => visitor.visit_enum(v.as_str().into_deserializer()),
            Kind::Map(entries) => visitor.visit_enum(MapAccessDeserializer::new(MapDeserializer::new(
                entries.iter().map(|(k, at, v)| (KeyText { text: k, span: *at }, v)),
            ))),
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::List(_) => {
                self.deserialize_any(visitor)
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        if name == SPANNED {
            return visitor.visit_map(SpannedAccess { value: self, span: self.span, step: 0 });
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// A mapping's key, which knows its place like any other value.
#[derive(Clone, Copy)]
struct KeyText<'de> {
    text: &'de str,
    span: Span,
}

impl<'de> IntoDeserializer<'de, TreeError> for KeyText<'de> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for KeyText<'de> {
    type Error = TreeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TreeError> {
        visitor.visit_borrowed_str(self.text)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        visitor.visit_enum(self.text.into_deserializer())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TreeError> {
        if name == SPANNED {
            return visitor.visit_map(SpannedAccess { value: self, span: self.span, step: 0 });
        }
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// Hands a value out together with its place.
struct SpannedAccess<D> {
    value: D,
    span: Span,
    step: u8,
}

impl<'de, D: Deserializer<'de, Error = TreeError> + Copy> MapAccess<'de> for SpannedAccess<D> {
    type Error = TreeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TreeError> {
        match self.step {
            0 => seed.deserialize("$span".into_deserializer()).map(Some),
            1 => seed.deserialize("$value".into_deserializer()).map(Some),
            _ => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TreeError> {
        self.step += 1;
        if self.step == 1 {
            let Span { file, line, column, length } = self.span;
            seed.deserialize(SeqDeserializer::new([file, line, column, length].into_iter()))
        } else {
            seed.deserialize(self.value)
        }
    }
}
