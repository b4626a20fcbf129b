//! Triggers: one-shot notices that data which a query has read has changed.
//!
//! They live where the query was answered, in memory. A change behind the answer's index fires one, a change before
//! never does. A client whose stream has ended arms its triggers again on another, with the keys and the index that it
//! was given; recent changes are remembered, so that one which nothing has touched goes on in silence. Where it is not
//! known what has changed since, it fires.
//!
//! What an entry costs depends on the keys that it changes and on the triggers on those, not on others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::machine::Key;
use crate::protocol::{TriggerId, TriggerReason};
use crate::replica::LinkId;
use crate::types::Index;

/// A trigger of one stream.
type Name = (LinkId, TriggerId);

/// The armed triggers of one replica, and what has changed of late.
#[derive(Default)]
pub(super) struct Triggers {
    armed: BTreeMap<Name, Armed>,
    by_key: BTreeMap<Key, BTreeSet<Name>>,
    recent: Recent,
}

struct Armed {
    keys: Vec<Key>,
    /// Only what changes behind this counts.
    since: Index,
}

impl Triggers {
    /// Arms a trigger, or says why it fires at once. One that is armed is replaced.
    pub(super) fn arm(&mut self, name: Name, keys: Vec<Key>, since: Index) -> Option<TriggerReason> {
        self.disarm(name);
        if let Some(reason) = self.recent.changed_since(&keys, since) {
            return Some(reason);
        }
        for key in &keys {
            self.by_key.entry(key.clone()).or_default().insert(name);
        }
        self.armed.insert(name, Armed { keys, since });
        None
    }

    /// Forgets a trigger; returns how many bytes its keys took.
    pub(super) fn disarm(&mut self, name: Name) -> usize {
        let Some(Armed { keys, .. }) = self.armed.remove(&name) else { return 0 };
        for key in &keys {
            if let Some(names) = self.by_key.get_mut(key) {
                names.remove(&name);
                if names.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        keys.iter().map(Key::len).sum()
    }

    /// Forgets the triggers of a stream.
    pub(super) fn forget(&mut self, link: LinkId) {
        let of_link = (link, TriggerId(0))..=(link, TriggerId(u64::MAX));
        let names: Vec<_> = self.armed.range(of_link).map(|(name, _)| *name).collect();
        for name in names {
            self.disarm(name);
        }
    }

    /// Forgets the triggers of all streams.
    pub(super) fn forget_all(&mut self) {
        self.armed.clear();
        self.by_key.clear();
    }

    /// Takes out all triggers that know of nothing behind `index`, with the bytes of their keys: they fire.
    pub(super) fn take_before(&mut self, index: Index) -> Vec<(Name, usize)> {
        let names: Vec<_> = self.armed.iter().filter(|(_, armed)| armed.since < index).map(|(name, _)| *name).collect();
        names.into_iter().map(|name| (name, self.disarm(name))).collect()
    }

    /// How many triggers all streams have armed.
    pub(super) fn total(&self) -> usize {
        self.armed.len()
    }

    /// How many triggers a stream has armed.
    pub(super) fn count(&self, link: LinkId) -> usize {
        self.armed.range((link, TriggerId(0))..=(link, TriggerId(u64::MAX))).count()
    }

    /// The entry at `index` has changed these keys: returns the triggers that fire, which are gone, with the bytes of
    /// their keys.
    pub(super) fn changed(&mut self, index: Index, keys: Vec<Key>) -> Vec<(Name, usize)> {
        let mut firing = BTreeSet::new();
        for key in &keys {
            let names = self.by_key.get(key).into_iter().flatten();
            firing.extend(names.filter(|name| self.armed[*name].since < index));
        }
        self.recent.add(index, keys);
        firing.into_iter().map(|name| (name, self.disarm(name))).collect()
    }

    /// What has changed up to `index` was not seen.
    pub(super) fn skip_to(&mut self, index: Index) {
        self.recent = Recent { known_after: index, ..Recent::default() };
    }
}

/// The changes of the latest entries.
///
/// Every entry adds to them, and few are ever looked for: only who arms a trigger late does. So keys are put in order when
/// somebody asks, and not before.
#[derive(Default)]
struct Recent {
    /// Changes behind this index are known.
    known_after: Index,
    changes: VecDeque<(Index, Vec<Key>)>,
    /// When each key changed last, of the oldest so many changes.
    latest: BTreeMap<Key, Index>,
    indexed: usize,
    size_bytes: usize,
}

impl Recent {
    /// Most entries with changes that are remembered.
    const MAX_ENTRIES: usize = 1 << 14;
    /// Most bytes of their keys.
    const MAX_BYTES: usize = 4 << 20;
    /// So many changes are looked through as they are. Behind most answers there are fewer.
    const MAX_SCANNED: usize = 64;

    fn add(&mut self, index: Index, keys: Vec<Key>) {
        if keys.is_empty() {
            return;
        }
        self.size_bytes += keys.iter().map(Key::len).sum::<usize>();
        self.changes.push_back((index, keys));
        while self.changes.len() > Self::MAX_ENTRIES || self.size_bytes > Self::MAX_BYTES {
            let Some((index, keys)) = self.changes.pop_front() else { return };
            self.known_after = index;
            self.size_bytes -= keys.iter().map(Key::len).sum::<usize>();
            if let Some(indexed) = self.indexed.checked_sub(1) {
                self.indexed = indexed;
                for key in keys {
                    if self.latest.get(&key) == Some(&index) {
                        self.latest.remove(&key);
                    }
                }
            }
        }
    }

    /// Why a trigger on these keys that knows of `since` fires, if it does.
    fn changed_since(&mut self, keys: &[Key], since: Index) -> Option<TriggerReason> {
        if since < self.known_after {
            return Some(TriggerReason::LeaderChanged);
        }
        let behind = self.changes.partition_point(|(index, _)| *index <= since);
        let has_changed = if self.changes.len() - behind <= Self::MAX_SCANNED {
            self.changes.range(behind..).any(|(_, changed)| changed.iter().any(|key| keys.contains(key)))
        } else {
            self.index();
            keys.iter().any(|key| self.latest.get(key).is_some_and(|latest| *latest > since))
        };
        has_changed.then_some(TriggerReason::DataChanged)
    }

    fn index(&mut self) {
        for (index, keys) in self.changes.range(self.indexed..) {
            for key in keys {
                self.latest.insert(key.clone(), *index);
            }
        }
        self.indexed = self.changes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        (LinkId(number / 10), TriggerId(number % 10))
    }

    fn keys(names: &[&'static str]) -> Vec<Key> {
        names.iter().map(|name| Key::from_static(name.as_bytes())).collect()
    }

    fn fired(triggers: &mut Triggers, index: u64, changed: &[&'static str]) -> Vec<Name> {
        triggers.changed(Index(index), keys(changed)).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_trigger_fires_once_for_a_later_change_of_one_of_its_keys() {
        let mut triggers = Triggers::default();
        assert_eq!(triggers.arm(name(11), keys(&["a", "b"]), Index(5)), None);
        assert_eq!(triggers.arm(name(12), keys(&["b"]), Index(5)), None);
        assert_eq!(fired(&mut triggers, 5, &["a"]), []);
        assert_eq!(fired(&mut triggers, 6, &["c"]), []);
        assert_eq!(fired(&mut triggers, 7, &["b", "a"]), [name(11), name(12)]);
        assert_eq!(fired(&mut triggers, 8, &["b", "a"]), []);
        assert!(triggers.armed.is_empty() && triggers.by_key.is_empty());
    }

    #[test]
    fn a_trigger_armed_again_fires_for_what_it_has_missed() {
        let mut triggers = Triggers::default();
        fired(&mut triggers, 7, &["a"]);
        assert_eq!(triggers.arm(name(11), keys(&["a"]), Index(6)), Some(TriggerReason::DataChanged));
        assert_eq!(triggers.arm(name(11), keys(&["a"]), Index(7)), None);
        triggers.skip_to(Index(20));
        assert_eq!(triggers.arm(name(12), keys(&["b"]), Index(19)), Some(TriggerReason::LeaderChanged));
        assert_eq!(triggers.arm(name(12), keys(&["b"]), Index(20)), None);
        // What is known of the future is not fired by the past.
        assert_eq!(triggers.arm(name(13), keys(&["c"]), Index(30)), None);
        assert_eq!(fired(&mut triggers, 30, &["c"]), []);
        assert_eq!(fired(&mut triggers, 31, &["c"]), [name(13)]);
    }

    #[test]
    fn beyond_the_window_a_trigger_fires_in_doubt() {
        let mut triggers = Triggers::default();
        for index in 1..=Recent::MAX_ENTRIES as u64 + 2 {
            triggers.changed(Index(index), keys(&["busy"]));
        }
        assert_eq!(triggers.arm(name(1), keys(&["quiet"]), Index(1)), Some(TriggerReason::LeaderChanged));
        assert_eq!(triggers.arm(name(1), keys(&["quiet"]), Index(2)), None);
        assert_eq!(triggers.arm(name(2), keys(&["busy"]), Index(2)), Some(TriggerReason::DataChanged));
        let large = vec![Key::from(vec![0; Recent::MAX_BYTES])];
        triggers.changed(Index(100_000), large);
        assert_eq!((triggers.recent.changes.len(), triggers.recent.latest.len()), (1, 0), "older keys gave way");
    }

    #[test]
    fn what_changed_is_found_whether_it_was_put_in_order_or_not() {
        let name_of = |number: u64| Key::from(number.to_be_bytes().to_vec());
        let mut recent = Recent::default();
        let mut changes: Vec<(u64, u64)> = Vec::new();
        for index in 1..3 * Recent::MAX_ENTRIES as u64 {
            // Some keys change over and over, others seldom.
            let key = if index % 3 == 0 { index % 7 } else { index * 7919 % 30_011 };
            recent.add(Index(index), vec![name_of(key)]);
            changes.push((index, key));
            if index % 1_009 == 0 {
                let lately = changes[changes.len().saturating_sub(4_000)].1;
                for (back, key) in [(10, 3), (70, 3), (70, key), (5_000, index), (5_000, lately)] {
                    let since = index.saturating_sub(back);
                    let from = changes.partition_point(|(at, _)| *at <= since);
                    let has_changed = changes[from..].iter().any(|(_, changed)| *changed == key);
                    let found = recent.changed_since(&[name_of(key)], Index(since));
                    assert_eq!(
                        found == Some(TriggerReason::DataChanged),
                        has_changed,
                        "{key} since {since} at {index}"
                    );
                }
            }
        }
        assert!(recent.latest.len() <= Recent::MAX_ENTRIES);
    }

    #[test]
    fn the_triggers_of_a_stream_are_forgotten_together() {
        let mut triggers = Triggers::default();
        for number in [11, 12, 21] {
            triggers.arm(name(number), keys(&["a"]), Index(1));
        }
        assert_eq!((triggers.count(LinkId(1)), triggers.count(LinkId(2))), (2, 1));
        triggers.forget(LinkId(1));
        assert_eq!(triggers.disarm(name(11)), 0);
        assert_eq!(fired(&mut triggers, 2, &["a"]), [name(21)]);
    }
}
