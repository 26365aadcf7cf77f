//! The state of a bucket that requests read and write, packed into one word: the window, and the tokens left.
//!
//! A request that finds enough tokens takes them with one compare-and-set. What it may show as remaining is in a
//! second word, which changes only when the `edition` of the first one does. A request that reads two different
//! editions asks the ledger instead. So the number shown always belongs to the tokens taken.

/// Most tokens a gateway holds of one bucket.
pub const TOKENS_MAX: u32 = (1 << 24) - 1;

/// Editions before they start again. A thread that is stopped between its two reads for exactly so
/// many changes shows a wrong count once; the tokens themselves are safe, they are in the same word.
const EDITIONS: u8 = 128;

/// The first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Packed {
    /// Index of the window; 0 before the first one.
    pub window: u32,
    /// The tokens are this gateway's own share, taken while Redis was away.
    pub is_share: bool,
    /// Grows with every change but the taking and putting back of tokens.
    pub edition: u8,
    /// Tokens left, at most [`TOKENS_MAX`].
    pub tokens: u32,
}

impl Packed {
    /// From the bits an atomic holds.
    pub fn from_bits(bits: u64) -> Self {
        let [w3, w2, w1, w0, flags, t2, t1, t0] = bits.to_be_bytes();
        Packed {
            window: u32::from_be_bytes([w3, w2, w1, w0]),
            is_share: flags >= EDITIONS,
            edition: flags % EDITIONS,
            tokens: u32::from_be_bytes([0, t2, t1, t0]),
        }
    }

    /// The bits an atomic holds.
    pub fn bits(self) -> u64 {
        let flags = self.edition % EDITIONS + if self.is_share { EDITIONS } else { 0 };
        u64::from(self.window) << 32 | u64::from(flags) << 24 | u64::from(self.tokens.min(TOKENS_MAX))
    }

    /// The edition after this one.
    pub fn next_edition(self) -> u8 {
        (self.edition + 1) % EDITIONS
    }
}

/// The second word: what is shown as remaining, less the tokens held. Negative when other gateways
/// are thought to have used more than is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Shown {
    /// The edition it belongs to.
    pub edition: u8,
    /// Remaining less tokens; fits 56 bits.
    pub beyond: i64,
}

impl Shown {
    /// From the bits an atomic holds.
    pub fn from_bits(bits: u64) -> Self {
        let [edition, b6, b5, b4, b3, b2, b1, b0] = bits.to_be_bytes();
        let sign = if b6 >= 0x80 { 0xff } else { 0 };
        Shown { edition, beyond: i64::from_be_bytes([sign, b6, b5, b4, b3, b2, b1, b0]) }
    }

    /// The bits an atomic holds.
    pub fn bits(self) -> u64 {
        let [_, b6, b5, b4, b3, b2, b1, b0] = self.beyond.to_be_bytes();
        u64::from_be_bytes([self.edition, b6, b5, b4, b3, b2, b1, b0])
    }

    /// What to show when so many tokens are held.
    pub fn remaining(self, tokens: u32) -> u32 {
        u32::try_from((self.beyond + i64::from(tokens)).max(0)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_come_back_from_their_bits(
            window: u32, is_share: bool, edition in 0u8..EDITIONS, tokens in 0..=TOKENS_MAX, beyond in -(1i64 << 40)..1 << 40,
        ) {
            let word = Packed { window, is_share, edition, tokens };
            prop_assert_eq!(Packed::from_bits(word.bits()), word);
            let shown = Shown { edition, beyond };
            prop_assert_eq!(Shown::from_bits(shown.bits()), shown);
        }
    }
}
