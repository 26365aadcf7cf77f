//! The raw-head linter: never panics, and what it accepts has one reading.
#![no_main]
use libfuzzer_sys::fuzz_target;
use policy::head::lint;

fuzz_target!(|raw: &[u8]| {
    if let Ok(line) = lint(raw, policy::Bounds::DEFAULT.fields) {
        assert!(raw.ends_with(b"\r\n\r\n"));
        assert!(!line.target.is_empty());
        let lower = raw.to_ascii_lowercase();
        let count = |needle: &[u8]| lower.windows(needle.len()).filter(|w| *w == needle).count();
        assert_eq!(count(b"\r\nhost:"), 1);
        assert!(count(b"\r\ncontent-length:") + count(b"\r\ntransfer-encoding:") <= 1);
        assert_eq!(raw.iter().filter(|b| **b == b'\n').count(), raw.windows(2).filter(|w| *w == b"\r\n").count());
    }
});
