//! The form of a signed token: compact JWS (RFC 7515 section 7.1) with JWT claims (RFC 7519).
//!
//! Strict, because laxness here is where verifiers break: three canonical parts, JSON objects
//! without duplicate members, every claim of the right type, nothing critical that we do not know.
//! Nothing here checks a signature or a clock; nothing that is refused here gets that far.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Deepest nesting of JSON in a token.
const DEPTH_MAX: usize = 16;
/// Largest instant in a token, Unix seconds: what a double holds exactly.
const INSTANT_MAX: u64 = 1 << 53;

/// Why text is not a token that could be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwsFault {
    /// Longer than [`TOKEN_BYTES_MAX`].
    TooLong,
    /// Not three non-empty parts of canonical base64url without padding.
    Parts,
    /// A part is not a JSON object, or has a member twice, or is nested too deeply.
    Json,
    /// The header has no `alg`, or something of the wrong type.
    Header,
    /// The header has `crit`: there is no extension that we would understand.
    Critical,
    /// A claim is missing that every token must have, or has the wrong type.
    Claims,
}

/// The header, as far as it may say anything (RFC 7515 section 4). Keys and addresses of keys in it
/// are not even read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Algorithm by its own account; the key decides.
    pub alg: String,
    /// Type, such as `at+jwt`.
    pub typ: Option<String>,
    /// Which key.
    pub kid: Option<String>,
}

/// A token taken apart. Nothing in it is true yet.
pub struct Jws<'a> {
    /// The header.
    pub header: Header,
    /// What the signature is over.
    pub signed: &'a str,
    /// The signature, base64url.
    pub signature: &'a str,
    payload: Vec<u8>,
}

/// Claims of the right types (RFC 7519 section 4.1, RFC 9068 section 2.2).
#[derive(Clone, Debug)]
pub struct Claims {
    /// Issuer.
    pub iss: String,
    /// Subject.
    pub sub: String,
    /// Audiences.
    pub aud: Vec<String>,
    /// First instant at which it is over, Unix seconds.
    pub exp: u64,
    /// First instant at which it holds, Unix seconds.
    pub nbf: Option<u64>,
    /// When it was issued, Unix seconds.
    pub iat: Option<u64>,
    /// Its id.
    pub jti: Option<String>,
    /// The application that holds it.
    pub client_id: Option<String>,
    all: Map<String, Value>,
}

/// Takes a token apart.
pub fn parse(text: &str) -> Result<Jws<'_>, JwsFault> {
    if text.len() > TOKEN_BYTES_MAX {
        return Err(JwsFault::TooLong);
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(JwsFault::Parts)?;
    let (header, payload) = signed.split_once('.').ok_or(JwsFault::Parts)?;
    let decode = |part: &str| match URL_SAFE_NO_PAD.decode(part) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        Ok(_) | Err(_) => Err(JwsFault::Parts),
    };
    decode(signature)?;
    let (header, payload) = (decode(header)?, decode(payload)?);
    Ok(Jws { header: read_header(&header)?, signed, signature, payload })
}

fn read_header(bytes: &[u8]) -> Result<Header, JwsFault> {
    let mut header = object(bytes)?;
    if header.contains_key("crit") {
        return Err(JwsFault::Critical);
    }
    // `b64` (RFC 7797) changes what is signed; without `crit` it would be forbidden anyway.
    if header.contains_key("b64") {
        return Err(JwsFault::Critical);
    }
    let mut text = |name: &str| match header.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(JwsFault::Header),
    };
    Ok(Header { alg: text("alg")?.ok_or(JwsFault::Header)?, typ: text("typ")?, kid: text("kid")? })
}

impl Jws<'_> {
    /// The claims. Every one that is there has the right type; `iss`, `sub`, `aud` and `exp` are.
    pub fn claims(&self) -> Result<Claims, JwsFault> {
        Claims::read(object(&self.payload)?)
    }
}

impl Claims {
    /// Reads claims from JSON text, as an introspection endpoint gives them (RFC 7662 section 2.2).
    pub fn from_json(bytes: &[u8]) -> Result<Map<String, Value>, JwsFault> {
        object(bytes)
    }

    /// Types the members of an object.
    pub fn read(all: Map<String, Value>) -> Result<Self, JwsFault> {
        let text = |name: &str| match all.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(JwsFault::Claims),
        };
        let instant = |name: &str| match all.get(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(at) if at > 0 && at < INSTANT_MAX => Ok(Some(at)),
                Some(_) | None => Err(JwsFault::Claims),
            },
        };
        let aud = match all.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(several)) => strings(several)?,
            Some(_) | None => return Err(JwsFault::Claims),
        };
        Ok(Claims {
            iss: text("iss")?.ok_or(JwsFault::Claims)?,
            sub: text("sub")?.filter(|sub| !sub.is_empty()).ok_or(JwsFault::Claims)?,
            aud,
            exp: instant("exp")?.ok_or(JwsFault::Claims)?,
            nbf: instant("nbf")?,
            iat: instant("iat")?,
            jti: text("jti")?,
            client_id: text("client_id")?,
            all,
        })
    }

    /// All claims, for people.
    pub fn to_json(&self) -> Value {
        Value::Object(self.all.clone())
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all.get(name)?.as_str()
    }

    /// Whether there is a claim of that name.
    pub fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// A claim that is a list of names: a text with single spaces between them (RFC 8693 section
    /// 4.2), or an array of texts. Absent: none.
    pub fn names(&self, name: &str) -> Result<Vec<String>, JwsFault> {
        match self.all.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split(' ').map(str::to_owned).collect()),
            Some(Value::Array(list)) => strings(list),
            Some(_) => Err(JwsFault::Claims),
        }
    }

    /// Whether the token is for an audience.
    pub fn is_for(&self, audience: &str) -> bool {
        self.aud.iter().any(|aud| aud == audience)
    }

    /// Whether an instant, Unix seconds, lies inside its life, give or take the leeway.
    pub fn holds_at(&self, now_s: u64, leeway_s: u64) -> bool {
        now_s < self.exp.saturating_add(leeway_s)
            && self.nbf.is_none_or(|nbf| nbf <= now_s.saturating_add(leeway_s))
            && self.iat.is_none_or(|iat| iat <= now_s.saturating_add(leeway_s))
    }
}

fn strings(list: &[Value]) -> Result<Vec<String>, JwsFault> {
    list.iter().map(|v| v.as_str().map(str::to_owned).ok_or(JwsFault::Claims)).collect()
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, JwsFault> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: DEPTH_MAX }.deserialize(&mut deserializer).map_err(|_| JwsFault::Json)?;
    deserializer.end().map_err(|_| JwsFault::Json)?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(JwsFault::Json),
    }
}

/// Reads JSON, refusing members that come twice and nesting beyond a depth. The library alone
/// would keep the last of two.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Strict { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(inner)?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a member comes twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn b64(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", b64(header), b64(payload), b64("signature"))
    }

    const HEADER: &str = r#"{"alg":"RS256","typ":"at+jwt","kid":"k"}"#;
    const CLAIMS: &str = r#"{"iss":"https://a","sub":"u","aud":"https://b","exp":2000000000,"scope":"a b"}"#;

    #[test]
    fn a_good_token_comes_apart() {
        let text = token(HEADER, CLAIMS);
        let jws = parse(&text).unwrap();
        assert_eq!((jws.header.alg.as_str(), jws.header.kid.as_deref()), ("RS256", Some("k")));
        let claims = jws.claims().unwrap();
        assert!(claims.is_for("https://b") && !claims.is_for("https://c"));
        assert_eq!(claims.names("scope").unwrap(), ["a", "b"]);
        assert!(claims.holds_at(1_999_999_999, 0) && !claims.holds_at(2_000_000_000, 0));
        assert!(claims.holds_at(2_000_000_004, 5) && !claims.holds_at(2_000_000_005, 5));
    }

    #[test]
    fn a_token_with_a_second_reading_is_refused() {
        let good = token(HEADER, CLAIMS);
        let cases = [
            (good.replace('.', ""), JwsFault::Parts),
            (format!("{good}."), JwsFault::Parts),
            (format!("{good}="), JwsFault::Parts),
            (good.replacen('.', "..", 1), JwsFault::Parts),
            (format!("{} .x.eA", b64(HEADER)), JwsFault::Parts),
            // The last character of the signature has spare bits: only one spelling is canonical.
            (format!("{}.{}.eB", b64(HEADER), b64(CLAIMS)), JwsFault::Parts),
            (token(r#"{"alg":"RS256","alg":"none"}"#, CLAIMS), JwsFault::Json),
            (token(r#"["alg"]"#, CLAIMS), JwsFault::Json),
            (token(r#"{"typ":"at+jwt"}"#, CLAIMS), JwsFault::Header),
            (token(r#"{"alg":["RS256"]}"#, CLAIMS), JwsFault::Header),
            (token(r#"{"alg":"RS256","kid":7}"#, CLAIMS), JwsFault::Header),
            (token(r#"{"alg":"RS256","crit":[]}"#, CLAIMS), JwsFault::Critical),
            (token(r#"{"alg":"RS256","b64":false}"#, CLAIMS), JwsFault::Critical),
            (token(&format!("{HEADER}{HEADER}"), CLAIMS), JwsFault::Json),
            (token(&format!(r#"{{"alg":"RS256","x":{}0{}}}"#, "[".repeat(20), "]".repeat(20)), CLAIMS), JwsFault::Json),
            (token(HEADER, &"x".repeat(9_000)), JwsFault::TooLong),
        ];
        for (text, fault) in cases {
            assert_eq!(parse(&text).err(), Some(fault), "{text}");
        }
    }

    #[test]
    fn a_claim_of_the_wrong_type_does_not_count_as_absent() {
        for (from, to) in [
            (r#""iss":"https://a""#, r#""iss":["https://a"]"#),
            (r#""sub":"u""#, r#""sub":7"#),
            (r#""sub":"u""#, r#""sub":"""#),
            (r#""aud":"https://b""#, r#""aud":{"https://b":1}"#),
            (r#""aud":"https://b""#, r#""aud":["https://b",7]"#),
            (r#""exp":2000000000"#, r#""exp":"2000000000""#),
            (r#""exp":2000000000"#, r#""exp":2000000000.5"#),
            (r#""exp":2000000000"#, r#""exp":-1"#),
            (r#""exp":2000000000"#, r#""exp":1e99"#),
            (r#""exp":2000000000"#, r#""exp":18446744073709551616"#),
            (r#""exp":2000000000"#, r#""exp":null"#),
            (r#""exp":2000000000"#, r#""nbf":1"#),
            (r#""exp":2000000000"#, r#""exp":2000000000,"nbf":"1""#),
            (r#""exp":2000000000"#, r#""exp":2000000000,"iat":[1]"#),
            (r#""exp":2000000000"#, r#""exp":2000000000,"jti":1"#),
            (r#""exp":2000000000"#, r#""exp":2000000000,"exp":2000000001"#),
        ] {
            let text = token(HEADER, &CLAIMS.replace(from, to));
            let claims = parse(&text).unwrap().claims();
            assert!(matches!(claims, Err(JwsFault::Claims | JwsFault::Json)), "{to}: {claims:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[A-Za-z0-9._=-]{0,300}") {
            if let Ok(jws) = parse(&text) {
                let _ = jws.claims();
            }
        }

        #[test]
        fn no_json_makes_it_panic(header in ".{0,80}", payload in ".{0,80}") {
            if let Ok(jws) = parse(&token(&header, &payload)) {
                let _ = jws.claims();
            }
        }
    }
}
