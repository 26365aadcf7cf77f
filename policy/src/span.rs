//! Where a value stood in the policy file, so that every problem can point at it.
//!
//! A [`Spanned`] value deserializes from [`crate::tree::Node`] and from nothing else that keeps
//! places; from any other source it deserializes as the bare value with the place unknown.

use std::borrow::Cow;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A place in a policy file. Lines and columns count from 1; 0 means "not known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Which of the files given to the compiler, in the order given.
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Length in characters on that line; 0 when unknown.
    pub length: u32,
}

/// Name of the struct that [`crate::tree`] recognises when asked for a spanned value.
pub(crate) const SPANNED: &str = "$tollgate::Spanned";
/// Its fields, in order: the packed place and the value.
pub(crate) const SPANNED_FIELDS: &[&str] = &["$span", "$value"];

/// A value and where it stood. Compared by the value alone.
#[derive(Clone, Debug, Default)]
pub struct Spanned<T> {
    /// The value itself.
    pub value: T,
    /// Where it stood.
    pub span: Span,
}

impl<T: PartialOrd> PartialOrd for Spanned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for Spanned<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T> Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PartsVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for PartsVisitor<T> {
            type Value = Spanned<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value read from a policy tree")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error;
                let missing = || A::Error::custom("a spanned value has a place and a value");
                let (_, at) = map.next_entry::<String, (u32, u32, u32, u32)>()?.ok_or_else(missing)?;
                let (_, value) = map.next_entry::<String, T>()?.ok_or_else(missing)?;
                let (file, line, column, length) = at;
                Ok(Spanned { value, span: Span { file, line, column, length } })
            }
        }
        deserializer.deserialize_struct(SPANNED, SPANNED_FIELDS, PartsVisitor(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
}
