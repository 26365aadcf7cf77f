//! Targets: never panic; canonicalising twice is canonicalising once; no syntax survives.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::Target;
use policy::path::CanonicalPath;

fuzz_target!(|raw: &[u8]| {
    let _ = Target::parse("GET", raw, Some(b"api.example"), None);
    let _ = Target::parse("GET", b"/", Some(raw), None);
    if let Ok(path) = CanonicalPath::parse(raw) {
        let once = path.as_str().to_owned();
        let twice = CanonicalPath::parse(once.as_bytes()).expect("what was accepted is accepted again");
        assert_eq!(twice.as_str(), once);
        assert!(once.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        assert!(!once.contains("//") && !once.contains('\\') && !once.contains(';') && !once.contains('?'));
        assert!(path.segments().all(|s| s != "." && s != ".."));
        for escape in ["%2F", "%5C", "%2E", "%25", "%3B", "%00", "%0D", "%0A", "%20"] {
            assert!(!once.contains(escape));
        }
    }
});
