//! Forms and queries as OAuth wants them read (RFC 6749 sections 3.1 and 3.2, appendix B).
//!
//! An empty value counts as omitted, a parameter that is asked for and comes twice is an error,
//! unknown ones are nobody's business. Percent-encoding is taken strictly: each escape is whole, and
//! the result is UTF-8. Values may be secrets: they do not print, and are wiped.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Most parameters of a form or query.
const PARAMETERS_MAX: usize = 64;

/// Why text is not a form. Holds nothing that was sent but the name of a parameter we asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormFault(pub String);

/// Parameters of a form or a query.
pub struct Form(Vec<(String, Zeroizing<String>)>);

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Form([redacted])")
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(rest.next()?)? << 4 | digit(rest.next()?)?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

impl Form {
    /// Reads `a=b&c=d`.
    pub fn parse(text: &str) -> Result<Self, FormFault> {
        let mut list = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if list.len() == PARAMETERS_MAX {
                return Err(FormFault("there are too many parameters".into()));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(FormFault("a parameter is not percent-encoded UTF-8".into()));
            };
            list.push((name, Zeroizing::new(value)));
        }
        Ok(Form(list))
    }

    /// A parameter; none when it is absent or empty.
    pub fn get(&self, name: &str) -> Result<Option<&str>, FormFault> {
        let mut found = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = found.next();
        if found.next().is_some() {
            return Err(FormFault(format!("{name} comes more than once")));
        }
        Ok(first.filter(|value| !value.is_empty()))
    }
}

/// Client id and secret (RFC 6749 section 2.3.1).
pub struct Login {
    /// Client id.
    pub id: String,
    /// Client secret.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, [redacted])", self.id)
    }
}

impl Login {
    /// Reads a value of `Authorization` with the scheme Basic; both parts are form-encoded inside.
    pub fn basic(value: &[u8]) -> Result<Self, FormFault> {
        let fault = || FormFault("the Authorization field is not `Basic` with a client id and secret".into());
        let text = std::str::from_utf8(value).map_err(|_| fault())?;
        let (scheme, encoded) = text.split_once(' ').ok_or_else(fault)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(fault());
        }
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| fault())?);
        let pair = std::str::from_utf8(&bytes).map_err(|_| fault())?;
        let (id, secret) = pair.split_once(':').ok_or_else(fault)?;
        Ok(Login { id: decode(id).ok_or_else(fault)?, secret: Zeroizing::new(decode(secret).ok_or_else(fault)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(text: &str, name: &str) -> Result<Option<String>, FormFault> {
        Form::parse(text)?.get(name).map(|v| v.map(str::to_owned))
    }

    #[test]
    fn an_empty_value_is_omitted_and_a_repeated_one_is_refused() {
        assert_eq!(get("a=1&b=2", "b"), Ok(Some("2".into())));
        assert_eq!(get("a=&b=2", "a"), Ok(None));
        assert_eq!(get("b=2", "a"), Ok(None));
        assert_eq!(get("x=1&x=2&a=3", "a"), Ok(Some("3".into())), "only parameters that are asked for count");
        assert!(get("a=1&a=1", "a").is_err() && get("a=1&a=", "a").is_err());
        assert_eq!(get("a=x%20y+z%C3%A9", "a"), Ok(Some("x y z\u{e9}".into())));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=1", "a=%+1"] {
            assert!(get(bad, "a").is_err(), "{bad}");
        }
        assert!(get(&"a=1&".repeat(65), "b").is_err());
    }

    #[test]
    fn basic_is_one_id_and_one_secret_and_prints_no_secret() {
        let encode = |text: &str| format!("basic {}", STANDARD.encode(text));
        let login = Login::basic(encode("cf_1:p%3Aq+r:s").as_bytes()).unwrap();
        assert_eq!((login.id.as_str(), login.secret.as_str()), ("cf_1", "p:q r:s"));
        assert_eq!(format!("{login:?}"), "Login(cf_1, [redacted])");
        for bad in
            ["Basic", "Basic !", "Bearer x", &encode("nocolon"), &encode("a:%zz"), &encode("a:b").replace(' ', "  ")]
        {
            assert!(Login::basic(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Form::parse(&text);
            let _ = Login::basic(&bytes);
        }
    }
}
