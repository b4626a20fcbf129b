//! The bytes of a commit round.
//!
//! ```text
//! round  = format version (1 byte), CRC-32 of the rest (4 bytes, little-endian), records
//! record = incarnation, header, number of entries (bincode), entries
//! entry  = length of the rest (4 bytes), CRC-32 of the rest (4 bytes), term, index, time, payload (bincode)
//! ```
//!
//! An entry has a checksum of its own so that it can be read, checked and moved without the rest of its round.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::raft::{Configuration, Entry, HardState, Payload, Restored, SnapshotMeta, Upgrade, Verdict};
use crate::types::{Digest, Incarnation, Index, LogPosition, Term};

/// The only format version known.
pub(super) const VERSION: u8 = 1;

/// The version and the checksum.
const PREFIX_BYTES: usize = 5;
/// The length and the checksum in front of an entry.
const ENTRY_PREFIX_BYTES: usize = 8;

/// Where an entry is: its round, and its bytes within the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) seq: u64,
    pub(super) offset: u32,
    pub(super) size_bytes: u32,
}

impl Location {
    /// The entry's bytes in the round it is in; `None` when the round is too short.
    pub(super) fn slice(self, round: &[u8]) -> Option<&[u8]> {
        let start = self.offset as usize;
        round.get(start..start + self.size_bytes as usize)
    }
}

/// What a record does to its peer, apart from the entries that follow it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Header {
    /// The peer begins. Its bootstrap is a `Write` of the same round.
    Create {
        /// The node's description of the peer.
        record: Bytes,
    },
    /// The peer and all that came before of it is forgotten.
    Remove,
    /// A [`Write`](crate::raft::Write) but for its token.
    Write {
        hard_state: Option<HardState>,
        snapshot: Option<SnapshotMeta>,
        discard_through: Option<LogPosition>,
        truncate_from: Option<Index>,
    },
    /// What a purge carries forward: the whole state of the peer before this round, and those of its entries that
    /// were in the purged rounds. The entries fill their places in the log; they truncate nothing.
    Moved {
        record: Bytes,
        #[serde(with = "RestoredFields")]
        restored: Restored,
    },
    /// The same, of a peer that has upgrades in its log.
    MovedWithUpgrades {
        record: Bytes,
        #[serde(with = "RestoredFields")]
        restored: Restored,
        upgrades: Vec<(Index, Digest)>,
    },
}

impl Header {
    /// Whether it tells all of a peer's state, so that what came before is not needed for it.
    pub(super) fn holds_state(&self) -> bool {
        match self {
            Self::Create { .. } | Self::Moved { .. } | Self::MovedWithUpgrades { .. } => true,
            Self::Remove | Self::Write { .. } => false,
        }
    }

    /// What a purge carries forward of a peer. Only one that has upgrades in its log is written in the way that versions which
    /// know of none cannot read.
    pub(super) fn moved(record: Bytes, mut restored: Restored) -> Self {
        match std::mem::take(&mut restored.upgrades) {
            upgrades if upgrades.is_empty() => Self::Moved { record, restored },
            upgrades => Self::MovedWithUpgrades { record, restored, upgrades },
        }
    }
}

/// How [`Restored`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Restored")]
struct RestoredFields {
    hard_state: HardState,
    snapshot: Option<SnapshotMeta>,
    base: LogPosition,
    last: Index,
    last_time_ms: u64,
    terms: Vec<LogPosition>,
    configurations: Vec<(Index, Configuration)>,
    verdicts: Vec<(Index, Verdict)>,
    /// Written apart: see [`Header::MovedWithUpgrades`].
    #[serde(skip)]
    upgrades: Vec<(Index, Digest)>,
}

/// A round being put together.
#[derive(Debug)]
pub(super) struct RoundBuilder {
    seq: u64,
    bytes: Vec<u8>,
}

impl RoundBuilder {
    pub(super) fn new(seq: u64) -> Self {
        let mut bytes = vec![0; PREFIX_BYTES];
        bytes[0] = VERSION;
        Self { seq, bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == PREFIX_BYTES
    }

    /// Begins a record, which `entries` entries follow. Returns its size in bytes without them.
    pub(super) fn record(&mut self, incarnation: Incarnation, header: &Header, entries: usize) -> u32 {
        let start = self.bytes.len();
        codec::encode_into(&incarnation, &mut self.bytes);
        codec::encode_into(header, &mut self.bytes);
        codec::encode_into(&(entries as u64), &mut self.bytes);
        size_u32(self.bytes.len() - start)
    }

    /// Adds an entry to the record.
    pub(super) fn entry(&mut self, entry: &Entry) -> Location {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ENTRY_PREFIX_BYTES]);
        codec::encode_into(entry, &mut self.bytes);
        let body = &self.bytes[start + ENTRY_PREFIX_BYTES..];
        let (length, checksum) = (size_u32(body.len()), crc32fast::hash(body));
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes[start + 4..start + ENTRY_PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.location_from(start)
    }

    /// Adds the bytes of an entry of an older round to the record.
    pub(super) fn moved_entry(&mut self, bytes: &[u8]) -> Location {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.location_from(start)
    }

    fn location_from(&self, start: usize) -> Location {
        Location { seq: self.seq, offset: size_u32(start), size_bytes: size_u32(self.bytes.len() - start) }
    }

    /// The finished round.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let checksum = crc32fast::hash(&self.bytes[PREFIX_BYTES..]);
        self.bytes[1..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.bytes
    }
}

fn size_u32(size: usize) -> u32 {
    u32::try_from(size).expect("the queue and the purge bound a round far below 4 GiB")
}

/// A record read back.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) incarnation: Incarnation,
    pub(super) header: Header,
    /// The record's size without its entries.
    pub(super) header_bytes: u32,
    /// Its entries without their data, which stays where it is.
    pub(super) entries: Vec<Entry>,
    /// Where they are.
    pub(super) locations: Vec<Location>,
}

/// Why the bytes of a round are not one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Version(u8),
    Content(String),
}

impl From<String> for Damage {
    fn from(reason: String) -> Self {
        Self::Content(reason)
    }
}

/// Checks a round and takes it apart.
pub(super) fn parse(seq: u64, round: &[u8]) -> Result<Vec<Record>, Damage> {
    records(seq, round)?.collect()
}

/// Checks a round, and takes it apart as it is read.
pub(super) fn records(seq: u64, round: &[u8]) -> Result<impl Iterator<Item = Result<Record, Damage>>, Damage> {
    let Some((prefix, body)) = round.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(format!("it has {} bytes", round.len()).into());
    };
    let [version, checksum @ ..] = *prefix;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    if crc32fast::hash(body) != u32::from_le_bytes(checksum) {
        return Err("its checksum does not match".to_owned().into());
    }
    Ok(Parser { seq, round, offset: PREFIX_BYTES })
}

/// Checks an entry's bytes and decodes it.
pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, String> {
    decode_checked(bytes)
}

/// An [`Entry`] whose data is not copied.
#[derive(Deserialize)]
struct Outline<'a> {
    term: Term,
    index: Index,
    time_ms: u64,
    #[serde(borrow)]
    payload: OutlinePayload<'a>,
}

/// A [`Payload`], variant by variant.
#[derive(Deserialize)]
enum OutlinePayload<'a> {
    Noop,
    Membership(Configuration),
    Data(#[expect(dead_code, reason = "skipping it is the point")] &'a [u8]),
    Verdict(Verdict),
    Upgrade(Upgrade),
}

impl From<Outline<'_>> for Entry {
    fn from(Outline { term, index, time_ms, payload }: Outline<'_>) -> Self {
        let payload = match payload {
            OutlinePayload::Noop => Payload::Noop,
            OutlinePayload::Membership(configuration) => Payload::Membership(configuration),
            OutlinePayload::Data(_) => Payload::Data(Bytes::new()),
            OutlinePayload::Verdict(verdict) => Payload::Verdict(verdict),
            OutlinePayload::Upgrade(upgrade) => Payload::Upgrade(upgrade),
        };
        Self { term, index, time_ms, payload }
    }
}

fn decode_checked<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let Some((prefix, body)) = bytes.split_first_chunk::<ENTRY_PREFIX_BYTES>() else {
        return Err(format!("an entry has {} bytes", bytes.len()));
    };
    let [_, _, _, _, checksum @ ..] = *prefix;
    if crc32fast::hash(body) != u32::from_le_bytes(checksum) {
        return Err("an entry's checksum does not match".to_owned());
    }
    codec::decode(body).map_err(|error| error.to_string())
}

struct Parser<'a> {
    seq: u64,
    round: &'a [u8],
    offset: usize,
}

impl Iterator for Parser<'_> {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset == self.round.len() {
            return None;
        }
        let record = self.record().map_err(Damage::Content);
        if record.is_err() {
            // Where the next one would begin is unknown.
            self.offset = self.round.len();
        }
        Some(record)
    }
}

impl Parser<'_> {
    fn record(&mut self) -> Result<Record, String> {
        let start = self.offset;
        let incarnation = self.value()?;
        let header = self.value()?;
        let count: u64 = self.value()?;
        let header_bytes = size_u32(self.offset - start);
        let most = (self.round.len() - self.offset) / ENTRY_PREFIX_BYTES;
        let capacity = usize::try_from(count).unwrap_or(usize::MAX).min(most);
        let (mut entries, mut locations) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        for _ in 0..count {
            let (entry, location) = self.entry()?;
            entries.push(entry);
            locations.push(location);
        }
        Ok(Record { incarnation, header, header_bytes, entries, locations })
    }

    fn value<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, String> {
        let (value, used) = codec::decode_prefix(&self.round[self.offset..]).map_err(|error| error.to_string())?;
        self.offset += used;
        Ok(value)
    }

    fn entry(&mut self) -> Result<(Entry, Location), String> {
        let rest = &self.round[self.offset..];
        let length = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize);
        let bytes = length
            .and_then(|length| rest.get(..ENTRY_PREFIX_BYTES.checked_add(length)?))
            .ok_or("an entry is cut short")?;
        let location = Location { seq: self.seq, offset: size_u32(self.offset), size_bytes: size_u32(bytes.len()) };
        self.offset += bytes.len();
        let outline: Outline = decode_checked(bytes)?;
        Ok((outline.into(), location))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Entry {
        let payload = Payload::Data(Bytes::from(vec![index as u8; 40]));
        Entry { term: Term(2), index: Index(index), time_ms: 1_000, payload }
    }

    /// The codec writes no names and no versions: another field is another format. If this fails, [`VERSION`] is to be raised.
    #[test]
    fn a_round_is_written_as_it_was_agreed_on() {
        let peers = Configuration::of(std::collections::BTreeMap::from([(Incarnation(1), "kv@h:1".parse().unwrap())]));
        let position = LogPosition::new(Term(2), Index(7));
        let restored = Restored {
            hard_state: HardState { term: Term(2), vote: Some(Incarnation(1)), commit: Index(8) },
            snapshot: Some(SnapshotMeta { position, time_ms: 1_000, configuration: peers.clone() }),
            base: position,
            last: Index(9),
            last_time_ms: 1_000,
            terms: vec![position],
            configurations: vec![(Index(7), peers.clone())],
            verdicts: vec![(Index(9), Verdict { on: Index(8), ruling: Bytes::from_static(b"r") })],
            upgrades: Vec::new(),
        };
        let write = Header::Write {
            hard_state: Some(restored.hard_state),
            snapshot: restored.snapshot.clone(),
            discard_through: Some(position),
            truncate_from: Some(Index(8)),
        };
        let mut builder = RoundBuilder::new(7);
        builder.record(Incarnation(1), &Header::Create { record: Bytes::from_static(b"one") }, 0);
        builder.record(Incarnation(1), &Header::Remove, 0);
        builder.record(Incarnation(1), &write, 2);
        for payload in [Payload::Noop, Payload::Membership(peers)] {
            builder.entry(&Entry { payload, ..entry(8) });
        }
        builder.record(Incarnation(1), &Header::Moved { record: Bytes::from_static(b"one"), restored }, 1);
        builder.entry(&Entry { payload: Payload::Data(Bytes::from_static(b"d")), ..entry(9) });
        let hex: String = builder.finish().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "012ba5a39a0100036f6e650001010001020102010108010207fbe8030101066b7640683a3100000001020701080206000000\
             1408c1110208fbe8030012000000aab8cedf0208fbe803010101066b7640683a310000000103036f6e6502010108010207fb\
             e8030101066b7640683a31000000020709fbe80301020701070101066b7640683a310000000109080172010800000083179b\
             970209fbe803020164"
        );
    }

    fn sample() -> (Vec<u8>, Location) {
        let mut builder = RoundBuilder::new(7);
        assert!(builder.is_empty());
        builder.record(Incarnation(1), &Header::Create { record: Bytes::from_static(b"one") }, 0);
        let restored =
            Restored { last: Index(9), terms: vec![LogPosition::new(Term(2), Index(4))], ..Default::default() };
        builder.record(Incarnation(2), &Header::Moved { record: Bytes::new(), restored }, 2);
        builder.entry(&entry(4));
        let location = builder.entry(&entry(5));
        builder.record(Incarnation(1), &Header::Remove, 0);
        (builder.finish(), location)
    }

    #[test]
    fn a_round_is_read_as_it_was_built_and_an_entry_on_its_own() {
        let (round, location) = sample();
        let records = parse(7, &round).unwrap();
        assert_eq!(records.iter().map(|record| record.incarnation.0).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(records[0].header, Header::Create { record: Bytes::from_static(b"one") });
        assert!(matches!(&records[1].header, Header::Moved { restored, .. } if restored.last == Index(9)));
        let outline = Entry { payload: Payload::Data(Bytes::new()), ..entry(5) };
        assert_eq!((&records[1].entries[1], records[1].locations[1]), (&outline, location));
        assert_eq!(decode_entry(location.slice(&round).unwrap()), Ok(entry(5)));
    }

    #[test]
    fn what_is_carried_forward_keeps_its_upgrades_and_is_written_as_before_without_any() {
        let restored = Restored { last: Index(9), ..Default::default() };
        let before = Header::Moved { record: Bytes::new(), restored: restored.clone() };
        assert_eq!(Header::moved(Bytes::new(), restored.clone()), before);
        let upgrades = vec![(Index(7), Digest::of(b"new"))];
        let header = Header::moved(Bytes::new(), Restored { upgrades: upgrades.clone(), ..restored });
        let read: Header = codec::decode(&codec::encode(&header)).unwrap();
        assert!(matches!(&read, Header::MovedWithUpgrades { upgrades: found, .. } if *found == upgrades), "{read:?}");
        assert!(read.holds_state());
        // Versions that know of no upgrades have written this: the fourth of the headers, and as many fields.
        assert_eq!(codec::encode(&before)[0], 3);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let (round, _) = sample();
        for at in 0..round.len() {
            let mut damaged = round.clone();
            damaged[at] ^= 0x10;
            assert!(parse(7, &damaged).is_err(), "byte {at}");
            assert!(parse(7, &round[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(parse(7, &[9, 0, 0, 0, 0]).unwrap_err(), Damage::Version(9));
    }

    #[test]
    fn an_entry_with_a_flipped_bit_is_not_decoded() {
        let (round, location) = sample();
        let bytes = location.slice(&round).unwrap();
        for at in 4..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(decode_entry(&damaged).is_err(), "byte {at}");
        }
    }
}
