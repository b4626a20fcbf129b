//! A backend in process: numbers under keys. Some numbers belong to sessions and go with them; some are refused; and some are
//! more than the backend can bear. What a number costs depends on the history of the instance.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use zraft::machine::{
    Backend, BackendAnswer, BackendCommand, BackendFactory, BackendOutcome, BackendReply, Budget, Fault, GuestFault,
    Key, Moment, Origin, StartError, StateReader,
};
use zraft::types::Digest;

/// Every command carries a number of its own. Multiples of this are refused.
const REFUSED: u64 = 5;
/// Items in a chunk of a snapshot.
const CHUNK: usize = 5;
/// Keys of either kind.
const KEYS: u8 = 4;
/// The keys of numbers that nobody owns come first, then those of numbers that sessions own.
pub const ALL_KEYS: [u8; 2 * KEYS as usize] = [0, 1, 2, 3, 4, 5, 6, 7];
/// An answer begins with the index and the time of the state.
pub const QUERY_HEAD_BYTES: usize = 16;
/// Asks for all that sessions own.
pub const OWNERS: [u8; 1] = [255];

/// Nobody writes numbers from here on.
const PHANTOM: u64 = 1 << 40;

/// What a call may cost.
const CONFIGURED: u64 = 1_000;
const RELAXED: u64 = 10 * CONFIGURED;

/// The latest numbers that an answer tells.
pub const RECENT: usize = 64;

/// What is under a key. Two histories of a key that end alike are the same, or owned numbers came in another order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyState {
    count: u64,
    digest: u64,
    /// The latest numbers that nobody owns.
    recent: [u64; RECENT],
}

#[derive(Default)]
pub struct Numbers {
    factory: NumbersFactory,
    /// Which numbers it bears depends on it, and every reply ends with it.
    version: u64,
    budget: Budget,
    /// Grows with what is asked of this instance, and no other has the same.
    wear: u64,
    /// It has gone wrong in such a way that it dies of what it is asked next.
    is_broken: bool,
    items: Vec<Item>,
    keys: [KeyState; ALL_KEYS.len()],
}

#[derive(Clone, Copy)]
struct Item {
    number: u64,
    /// The session that owns it; zero for nobody.
    owner: u64,
}

/// Makes backends for one node, one of which may go wrong.
#[derive(Clone, Default)]
pub struct NumbersFactory {
    /// The next number that is pushed comes with another that nobody has written.
    pub is_cursed: Arc<AtomicBool>,
}

/// What becomes of a state that is handed to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOver {
    Taken,
    Refused,
    Died,
}

/// The name of a version.
pub fn component(version: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    Digest(bytes)
}

/// The version of that name.
pub fn version_of(component: Digest) -> u64 {
    number(&component.0[..8])
}

pub fn hand_over(version: u64) -> HandOver {
    match version % 4 {
        1 => HandOver::Died,
        2 => HandOver::Refused,
        _ => HandOver::Taken,
    }
}

impl NumbersFactory {
    /// Makes backends of another version for the same node.
    pub fn of(&self, component: Digest) -> VersionFactory {
        VersionFactory { factory: self.clone(), version: version_of(component) }
    }
}

/// Makes backends of one version.
pub struct VersionFactory {
    factory: NumbersFactory,
    version: u64,
}

pub fn command(number: u64) -> Bytes {
    bytes(&[number])
}

pub fn number(command: &[u8]) -> u64 {
    u64::from_le_bytes(command.try_into().expect("a command is a number"))
}

/// Where a number goes.
pub fn key_of(number: u64, is_owned: bool) -> u8 {
    u8::try_from(number % u64::from(KEYS)).expect("few keys") + if is_owned { KEYS } else { 0 }
}

pub fn is_refused(number: u64) -> bool {
    number.is_multiple_of(REFUSED)
}

pub fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(number).collect()
}

fn bytes(words: &[u64]) -> Bytes {
    let mut bytes = Vec::with_capacity(8 * words.len());
    words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes.into()
}

impl Default for KeyState {
    fn default() -> Self {
        Self { count: 0, digest: 0, recent: [0; RECENT] }
    }
}

impl KeyState {
    pub const WORDS: usize = 2 + RECENT;

    pub fn of(words: &[u64]) -> Self {
        let recent = words[2..Self::WORDS].try_into().expect("as many words");
        Self { count: words[0], digest: words[1], recent }
    }

    fn write(&self, words: &mut Vec<u64>) {
        words.extend_from_slice(&[self.count, self.digest]);
        words.extend_from_slice(&self.recent);
    }

    /// Behind all that is there.
    #[must_use]
    pub fn push(mut self, number: u64) -> Self {
        self.recent.rotate_left(1);
        self.recent[RECENT - 1] = number;
        let digest = (self.digest ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        Self { count: self.count + 1, digest, recent: self.recent }
    }

    /// How many numbers are to come until it is `later`, as far as can be told.
    pub fn missing(self, later: Self) -> Option<u64> {
        let missing = later.count.checked_sub(self.count)?;
        let place = usize::try_from(missing).map_or(RECENT, |missing| missing.min(RECENT));
        (self.recent[place..] == later.recent[..RECENT - place]).then_some(missing)
    }

    fn own(&mut self, item: Item) {
        self.count += 1;
        self.digest = self.digest.wrapping_add(item.digest());
    }

    fn disown(&mut self, item: Item) {
        self.count -= 1;
        self.digest = self.digest.wrapping_sub(item.digest());
    }
}

impl Item {
    fn digest(self) -> u64 {
        KeyState::default().push(self.owner).push(self.number).digest
    }

    fn key(self) -> u8 {
        key_of(self.number, self.owner != 0)
    }
}

/// What a number, or the end of a session, costs on an instance with such a history. None if no instance can bear it.
fn cost(number: u64, wear: u64) -> Option<u64> {
    let scatter = |word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let share = 80 + scatter(number ^ (wear << 20)) % 41;
    match scatter(number) % 200 {
        0..4 => None,
        // Around what is configured.
        4..10 => Some(CONFIGURED * share / 100),
        // Around what is allowed when it is tried again.
        10..14 => Some(RELAXED * share / 100),
        _ => Some(0),
    }
}

fn name_of(version: u64) -> String {
    format!("numbers {version}")
}

impl Numbers {
    fn bear(&mut self, number: u64) -> Result<(), Fault> {
        if self.is_broken {
            return Err(Fault::Guest { kind: GuestFault::Trap, message: "it has gone wrong before".to_owned() });
        }
        let budget = match self.budget {
            Budget::Configured => CONFIGURED,
            Budget::Relaxed => RELAXED,
            Budget::Unlimited => u64::MAX,
        };
        let (kind, message) = match cost(number ^ (self.version << 32), self.wear) {
            None => (GuestFault::Trap, format!("nobody can bear {number}")),
            Some(cost) if cost > budget => (GuestFault::OutOfFuel, format!("{number} takes more than {budget}")),
            Some(_) => return Ok(()),
        };
        Err(Fault::Guest { kind, message })
    }

    fn push(&mut self, item: Item) -> BackendReply {
        if is_refused(item.number) {
            return Err(format!("{} is refused after {}", item.number, self.items.len()));
        }
        self.add(item);
        let mut words = Vec::with_capacity(KeyState::WORDS);
        self.keys[usize::from(item.key())].write(&mut words);
        words.push(self.version);
        Ok(bytes(&words))
    }

    fn add(&mut self, item: Item) {
        self.items.push(item);
        let state = &mut self.keys[usize::from(item.key())];
        match item.owner {
            0 => *state = state.push(item.number),
            _ => state.own(item),
        }
    }
}

impl BackendFactory for VersionFactory {
    fn init(&self, _at: Moment, _config: &[u8]) -> Result<Box<dyn Backend>, StartError> {
        Ok(Box::new(Numbers { factory: self.factory.clone(), version: self.version, ..Numbers::default() }))
    }

    fn restore(
        &self,
        at: Moment,
        origin: &Origin,
        chunks: &mut dyn FnMut() -> Result<Option<Bytes>, String>,
    ) -> Result<Box<dyn Backend>, StartError> {
        let Self { factory, version } = self;
        if let Some(migration) = &origin.migration {
            assert_eq!(number(migration), *version, "what is said to another version");
            match hand_over(*version) {
                HandOver::Taken => {}
                HandOver::Refused => return Err(StartError::Refused(format!("{version} takes nothing"))),
                HandOver::Died => {
                    let message = format!("{version} can take nothing");
                    return Err(StartError::Fault(Fault::Guest { kind: GuestFault::Trap, message }));
                }
            }
        } else {
            assert_eq!(origin.version, name_of(*version), "a snapshot is opened by the version that wrote it");
        }
        let mut numbers = Numbers { wear: at.index, factory: factory.clone(), version: *version, ..Numbers::default() };
        while let Some(chunk) = chunks().map_err(StartError::Source)? {
            for item in words(&chunk).chunks(2) {
                numbers.push(Item { number: item[0], owner: item[1] }).map_err(StartError::Refused)?;
            }
        }
        Ok(Box::new(numbers))
    }
}

impl Backend for Numbers {
    fn version(&mut self) -> Result<String, Fault> {
        Ok(name_of(self.version))
    }

    fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// The reply tells what is under the number's key then.
    fn apply(&mut self, commands: &[BackendCommand]) -> Result<Vec<BackendOutcome>, Fault> {
        self.wear += 1;
        let outcome = |command: &BackendCommand| {
            let item = Item { number: number(&command.data), owner: command.session.unwrap_or_default() };
            if !is_refused(item.number) {
                self.bear(item.number)?;
            }
            if item.owner == 0 && !is_refused(item.number) && self.factory.is_cursed.swap(false, Ordering::Relaxed) {
                self.add(Item { number: PHANTOM + u64::from(item.key()), owner: 0 });
                self.is_broken = item.number.is_multiple_of(2);
            }
            let reply = self.push(item);
            let changed = if reply.is_ok() { vec![Key::copy_from_slice(&[item.key()])] } else { vec![] };
            Ok(BackendOutcome { reply, changed })
        };
        commands.iter().map(outcome).collect()
    }

    /// Where in the log the state stands and when, and what is under each of the keys asked for, which are watched.
    fn query(&mut self, at: Moment, request: &[u8]) -> Result<BackendAnswer, Fault> {
        self.wear += 1;
        if request == OWNERS {
            let owned = self.items.iter().filter(|item| item.owner != 0);
            let reply = bytes(&owned.flat_map(|item| [item.owner, item.number]).collect::<Vec<_>>());
            return Ok(BackendAnswer { reply: Ok(reply), watched: vec![] });
        }
        let mut words = vec![at.index, at.time_ms];
        request.iter().for_each(|key| self.keys[usize::from(*key)].write(&mut words));
        let reply = bytes(&words);
        let watched = request.iter().map(|key| Key::copy_from_slice(&[*key])).collect();
        Ok(BackendAnswer { reply: Ok(reply), watched })
    }

    fn expire_session(&mut self, _at: Moment, session: u64) -> Result<Vec<Key>, Fault> {
        self.bear(session)?;
        let mut changed = BTreeSet::new();
        for item in self.items.extract_if(.., |item| item.owner == session) {
            self.keys[usize::from(item.key())].disown(item);
            changed.insert(item.key());
        }
        Ok(changed.into_iter().map(|key| Key::copy_from_slice(&[key])).collect())
    }

    fn read_state(&mut self, _at: Moment, _budget: Budget) -> Result<Box<dyn StateReader + '_>, Fault> {
        let chunk =
            |items: &[Item]| bytes(&items.iter().flat_map(|item| [item.number, item.owner]).collect::<Vec<_>>());
        Ok(Box::new(self.items.chunks(CHUNK).map(chunk)))
    }
}
