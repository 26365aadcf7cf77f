//! Finds where the frames of a WebSocket end (RFC 6455 section 5). Only there can a gateway send a frame of its
//! own, such as a close. Payloads are counted, never read or kept.

/// The close frame of a WebSocket server whose client's credential has ended (RFC 6455 sections 5.5.1
/// and 7.4.1): 1008, the policy was violated.
pub const POLICY_VIOLATION: &[u8] = b"\x88\x18\x03\xf0the credential is over";
/// The close frame of a WebSocket server that stops: 1001, going away.
pub const GOING_AWAY: &[u8] = b"\x88\x19\x03\xe9the gateway is stopping";

/// Follows the frames that a WebSocket server sends, to know where one ends: between frames a close
/// frame can be put, inside one it would be taken for data.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; 10],
    have: usize,
    payload: u64,
}

impl Frames {
    /// Bytes went by.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.head.get_mut(self.have) {
                *slot = *first;
            }
            self.have += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                (self.payload, self.have) = (length, 0);
            }
        }
    }

    /// The payload's length, once the head of a frame is whole (RFC 6455 section 5.2). Servers do
    /// not mask.
    fn length(&self) -> Option<u64> {
        let [_, short, rest @ ..] = &self.head;
        match (short & 0x7f, self.have) {
            (126, 4) => Some(u64::from(u16::from_be_bytes([rest[0], rest[1]]))),
            (127, 10) => Some(u64::from_be_bytes(*rest)),
            (length @ 0..=125, 2) => Some(u64::from(length)),
            (_, _) => None,
        }
    }

    /// Whether the last frame is whole.
    pub fn is_between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0x82];
        match length {
            0..=125 => frame.push(length as u8),
            126..=65_535 => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0x88; length]);
        frame
    }

    #[test]
    fn the_close_frames_are_well_formed() {
        for (frame, code) in [(POLICY_VIOLATION, 1008), (GOING_AWAY, 1001)] {
            assert_eq!(frame.len(), 2 + usize::from(frame[1]));
            assert_eq!(u16::from_be_bytes([frame[2], frame[3]]), code);
            let mut frames = Frames::default();
            frames.pass(frame);
            assert!(frames.is_between());
        }
    }

    proptest! {
        #[test]
        fn however_frames_are_cut_their_ends_are_found(
            lengths in proptest::collection::vec(prop_oneof![0usize..130, 65_530usize..65_540], 1..5),
            cuts in proptest::collection::vec(1usize..70_000, 0..6),
        ) {
            let all: Vec<u8> = lengths.iter().flat_map(|l| frame(*l)).collect();
            let mut ends = std::collections::HashSet::from([0]);
            let mut at = 0;
            for length in &lengths {
                at += frame(*length).len();
                ends.insert(at);
            }
            let (mut frames, mut seen) = (Frames::default(), 0);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let next = seen + cut.min(all.len() - seen);
                frames.pass(&all[seen..next]);
                seen = next;
                prop_assert_eq!(frames.is_between(), ends.contains(&seen));
            }
        }
    }
}
