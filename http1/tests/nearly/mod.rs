//! Heads that are nearly right, for the tests of requests and of responses.

use proptest::prelude::*;

/// A head with this first line; its fields and line ends may be wrong, and so may any one byte.
pub fn nearly(line: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        "[A-Za-z-]{1,8}: ?[ -~]{0,12}",
        "[!-~]{0,6}:[\t -~]{0,6}",
        "[ -~]{0,6}",
        Just("Host: a".to_owned()),
        Just("Content-Length: 5".to_owned()),
        Just("Transfer-Encoding: chunked".to_owned()),
    ];
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\n\r\n")];
    let lines = proptest::collection::vec((field, end.clone()), 0..6);
    ((line, end), lines, any::<Option<(prop::sample::Index, u8)>>()).prop_map(|((line, end), lines, change)| {
        let mut text = format!("{line}{end}");
        lines.iter().for_each(|(field, end)| text.push_str(&format!("{field}{end}")));
        let mut bytes = (text + "\r\n").into_bytes();
        if let Some((place, byte)) = change.filter(|(_, byte)| byte % 3 == 0) {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}
