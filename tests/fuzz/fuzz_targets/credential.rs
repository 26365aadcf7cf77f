//! Credentials: never panic; what is read is exactly one token; a form holds what it says.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::credential::{CHECKSUM_CHARS, KeyForm, bearer, checksum, key_form};

fuzz_target!(|raw: &[u8]| {
    if let Ok(Some(secret)) = bearer(std::iter::once(raw)) {
        let text = secret.expose();
        assert!(raw.ends_with(text.as_bytes()) && !text.contains(' ') && !text.contains(','));
        assert_eq!(format!("{secret:?}"), "[redacted]");
        if key_form(secret, "ifk_live_") == KeyForm::Minted {
            let (covered, sum) = text.split_at(text.len() - CHECKSUM_CHARS);
            assert_eq!(sum.as_bytes(), checksum(covered));
        }
    }
});
