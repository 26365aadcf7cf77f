//! Targets: never panic; canonicalising twice is canonicalising once; no syntax survives.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::path::{CanonicalPath, Forms};
use policy::{Bounds, Target};

fuzz_target!(|raw: &[u8]| {
    let _ = Target::parse("GET", raw, Some(b"api.example"), None, &Bounds::DEFAULT);
    let _ = Target::parse("GET", b"/", Some(raw), None, &Bounds::DEFAULT);
    if let Ok(path) = CanonicalPath::parse(raw, &Bounds::DEFAULT) {
        let once = path.as_str().to_owned();
        let twice = CanonicalPath::parse(once.as_bytes(), &Bounds::DEFAULT).expect("what was accepted is accepted again");
        assert_eq!((twice.as_str(), twice.decoded()), (&*once, path.decoded()));
        assert!(once.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        assert!(!once.contains("//") && !once.contains('\\') && !once.contains('?'));
        assert!(once.split('/').chain(path.decoded().split('/')).all(|s| s != "." && s != ".."));
        assert_eq!(once.matches('/').count(), path.decoded().matches('/').count());
        for escape in ["%2F", "%5C", "%2E", "%00", "%0D", "%0A", "%7F"] {
            assert!(!once.contains(escape));
        }
        if path.forms() == Forms::NONE {
            assert!(![";", "%3B", "%23", "%3F"].iter().any(|syntax| once.contains(syntax)));
        }
    }
});
