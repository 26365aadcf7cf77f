//! Signed tokens: never panic; what is taken apart is canonical, and every claim has its type.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::jws::{TOKEN_BYTES_MAX, parse};

fuzz_target!(|text: &str| {
    if let Ok(token) = parse(text) {
        assert!(text.len() <= TOKEN_BYTES_MAX && text.matches('.').count() == 2);
        assert_eq!(format!("{}.{}", token.signed, token.signature), text);
        if let Ok(claims) = token.claims() {
            assert!(!claims.sub.is_empty() && claims.exp > 0);
            assert!(!claims.holds_at(claims.exp, 0));
            let _ = (claims.names("scope"), claims.is_for("x"), claims.to_json());
        }
    }
});
