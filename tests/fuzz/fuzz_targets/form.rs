//! Forms and client logins: never panic; a parameter is there once or not at all.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::form::{Form, Login};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(login) = Login::basic(bytes) {
        assert!(format!("{login:?}").ends_with(", [redacted])"));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(form) = Form::parse(text) {
        for name in ["client_id", "code", "a", ""] {
            if let Ok(Some(value)) = form.get(name) {
                assert!(!value.is_empty());
            }
        }
        assert_eq!(format!("{form:?}"), "Form([redacted])");
    }
});
