//! The words that every layer shares, as newtypes that cannot be swapped by mistake.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The value that comes before every real one.
            pub const ZERO: Self = Self(0);

            /// The value after this one.
            ///
            /// # Panics
            /// If the counter is exhausted, which 2^64 steps cannot reach. Numbers that come from another
            /// machine must be bounded before they get here.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a 64-bit counter does not run out"))
            }

            /// The value before this one, or zero.
            #[must_use]
            pub fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A Raft term: the number of an election (thesis section 3.3). At most one leader exists in each.
    Term
}
counter! {
    /// A position in a peer's log. The first entry stands at 1.
    Index
}
counter! {
    /// A client session: the index of the entry that opened it, so no two of a cluster are the same.
    SessionId
}

/// Where an entry stands in the log and the term that made it: together they name its content (Log Matching,
/// thesis section 3.5). Ordered the way elections compare logs: by term, then by index (thesis section 3.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogPosition {
    /// The entry's term.
    pub term: Term,
    /// The entry's index.
    pub index: Index,
}

impl LogPosition {
    /// Before the first entry of every log.
    pub const ZERO: Self = Self { term: Term::ZERO, index: Index::ZERO };

    /// Pairs an index with its term.
    #[must_use]
    pub fn new(term: Term, index: Index) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

/// The roles of a peer (thesis section 3.3; pre-candidate: section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Runs in an election.
    Candidate,
    /// Leads its term.
    Leader,
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

/// Identifies one life of one peer: minted at random when the peer is created and never used again. A node that
/// has lost a peer's files cannot answer for it, because it no longer knows this number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Identifies a cluster: 128 random bits minted when it is created. Printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A SHA-256 digest (FIPS 180-4). Names components and links the hash chain. Printed as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a name or address a person typed is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not `host:port`.
    #[error("'{0}' is not an address: write host:port, for example 10.0.0.1:7400 or [::1]:7400")]
    Address(String),
    /// Not `name@host:port`.
    #[error("'{0}' is not a peer: write name@host:port, for example kv@10.0.0.1:7400")]
    Peer(String),
    /// A name with characters outside the allowed ones.
    #[error(
        "'{0}' is not a peer name: use 1 to {max} letters, digits, '-', '_' or '.', starting with a letter or digit",
        max = PeerId::MAX_NAME_LEN
    )]
    Name(String),
}

/// A node's advertised address, `host:port`: what peers and clients dial, and the node's identity. The host is a
/// DNS name or an IP address (IPv6 in brackets).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeAddr {
    /// Shared: addresses are copied with every request.
    text: Arc<str>,
    port: u16,
}

impl NodeAddr {
    /// Longest address in bytes: the longest DNS name, a colon, five digits.
    pub const MAX_LEN: usize = 253 + 1 + 5;

    /// The host without brackets, as certificates name it.
    #[must_use]
    pub fn host(&self) -> &str {
        let (host, _) = self.text.rsplit_once(':').expect("a NodeAddr contains a colon");
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for NodeAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Address(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        let host_is_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
            }
        };
        if text.len() > Self::MAX_LEN || !host_is_valid || port == 0 {
            return Err(bad());
        }
        Ok(Self { text: text.into(), port })
    }
}

impl TryFrom<String> for NodeAddr {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<NodeAddr> for String {
    fn from(addr: NodeAddr) -> Self {
        addr.text.as_ref().to_owned()
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One replica of a cluster and the node it lives on, written `name@host:port`. The name is unique on its node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId {
    name: Arc<str>,
    node: NodeAddr,
}

impl PeerId {
    /// Longest name in bytes.
    pub const MAX_NAME_LEN: usize = 64;

    /// A peer called `name` on `node`.
    ///
    /// # Errors
    /// [`ParseError::Name`] when the name is empty, too long or has other characters than a name may have.
    pub fn new(name: &str, node: NodeAddr) -> Result<Self, ParseError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !starts_well || name.len() > Self::MAX_NAME_LEN || !name.bytes().all(allowed) {
            return Err(ParseError::Name(name.to_owned()));
        }
        Ok(Self { name: name.into(), node })
    }

    /// The name, unique on its node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node the peer lives on.
    #[must_use]
    pub fn node(&self) -> &NodeAddr {
        &self.node
    }
}

impl FromStr for PeerId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (name, node) = text.split_once('@').ok_or_else(|| ParseError::Peer(text.to_owned()))?;
        Self::new(name, node.parse()?)
    }
}

impl TryFrom<String> for PeerId {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<PeerId> for String {
    fn from(peer: PeerId) -> Self {
        peer.to_string()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.node)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_written_the_way_it_is_read() {
        for text in ["kv@127.0.0.1:7400", "kv-2.a_b@node.example:1", "x@[::1]:65535"] {
            let peer: PeerId = text.parse().unwrap();
            assert_eq!(peer.to_string(), text);
        }
        let peer: PeerId = "kv@[::1]:7400".parse().unwrap();
        assert_eq!((peer.name(), peer.node().host(), peer.node().port()), ("kv", "::1", 7400));
    }

    #[test]
    fn what_is_not_a_peer_is_refused_with_the_text_in_the_message() {
        for text in ["", "kv", "@h:1", "kv@h", "kv@h:0", "kv@h:65536", "kv@:1", "-kv@h:1", "k/v@h:1", "kv@::1:7400"] {
            let error = text.parse::<PeerId>().unwrap_err();
            let blamed = text
                .split_once('@')
                .map_or(text, |(name, node)| if matches!(error, ParseError::Name(_)) { name } else { node });
            assert!(error.to_string().contains(&format!("'{blamed}'")), "{text}: {error}");
        }
        let long = format!("{}@h:1", "a".repeat(PeerId::MAX_NAME_LEN + 1));
        assert!(long.parse::<PeerId>().is_err());
    }

    #[test]
    fn digest_is_sha_256() {
        // FIPS 180-4 example: "abc".
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), expected);
    }

    #[test]
    fn positions_compare_the_way_elections_do() {
        let longer_but_older = LogPosition::new(Term(1), Index(9));
        let shorter_but_newer = LogPosition::new(Term(2), Index(3));
        assert!(shorter_but_newer > longer_but_older);
    }
}
