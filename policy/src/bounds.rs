//! Bounds of a request's head that an operator may widen or narrow.

/// How large the parts of a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most fields; cookies that HTTP/2 sends in pieces are one.
    pub fields: usize,
    /// Longest request target, path and query, in bytes.
    pub target_bytes: usize,
    /// Longest path, in bytes.
    pub path_bytes: usize,
    /// Most segments of a path; bounds the work of matching.
    pub segments: usize,
}

impl Bounds {
    /// What holds when nobody says otherwise.
    pub const DEFAULT: Bounds = Bounds { fields: 100, target_bytes: 8_192, path_bytes: 2_048, segments: 64 };
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds::DEFAULT
    }
}
