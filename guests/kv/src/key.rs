//! A key as it is stored.

use std::cmp::Ordering;

/// A key. Finding one among 10,000 takes some fifteen comparisons, which are most of what a put costs; in WebAssembly bytes are
/// compared one by one. So it carries its first bytes as a number: most comparisons need no more, and do not look into
/// memory elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The first [`HEAD_BYTES`], the first one the highest; zeros where the key is shorter.
    head: u128,
    bytes: Vec<u8>,
}

const HEAD_BYTES: usize = size_of::<u128>();

impl Key {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        let mut head = [0; HEAD_BYTES];
        let length = bytes.len().min(HEAD_BYTES);
        head[..length].copy_from_slice(&bytes[..length]);
        Self { head: u128::from_be_bytes(head), bytes }
    }
}

impl From<Key> for Vec<u8> {
    fn from(key: Key) -> Self {
        key.bytes
    }
}

impl Ord for Key {
    /// The order of the bytes: where two heads differ, a zero that fills one up is less than what the other has there.
    fn cmp(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| match (self.bytes.get(HEAD_BYTES..), other.bytes.get(HEAD_BYTES..)) {
            (Some(rest), Some(of_other)) => compare(rest, of_other),
            // The bytes that one has and the other lacks are zeros.
            _ => self.bytes.len().cmp(&other.bytes.len()),
        })
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of two byte strings, found by eight bytes at a time.
fn compare(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while let (Some((word, left_rest)), Some((of_right, right_rest))) =
        (left.split_first_chunk(), right.split_first_chunk())
    {
        match u64::from_be_bytes(*word).cmp(&u64::from_be_bytes(*of_right)) {
            Ordering::Equal => (left, right) = (left_rest, right_rest),
            unequal => return unequal,
        }
    }
    left.cmp(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_bytes() {
        let mut all = vec![Vec::new()];
        // Around where the head ends, and a word behind it.
        for length in [1, 7, 15, 16, 17, 23, 24, 25, 40] {
            for fill in [0, 1, 255] {
                for last in [0, 1, 255] {
                    let mut bytes = vec![fill; length];
                    bytes[length - 1] = last;
                    all.push(bytes.clone());
                    bytes[length / 2] = 7;
                    all.push(bytes);
                }
            }
        }
        for left in &all {
            for right in &all {
                let (left_key, right_key) = (Key::from(left.clone()), Key::from(right.clone()));
                assert_eq!(left_key.cmp(&right_key), left.cmp(right), "{left:?} {right:?}");
                assert_eq!(left_key == right_key, left == right);
            }
        }
    }
}
