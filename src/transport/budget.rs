//! Memory that others may make this side hold: what has arrived and was not dealt with, and what they do not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes that many share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<AtomicUsize>,
}

/// Part of a budget, given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Takes bytes out; false, and nothing changes, if there are not so many left.
    #[must_use]
    pub fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    /// Puts bytes back that were taken.
    pub fn put_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A charge of nothing yet.
    #[must_use]
    pub fn charge(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }
}

impl Charge {
    /// Charges more bytes; false, and nothing changes, if there are not so many left.
    pub fn add(&mut self, bytes: usize) -> bool {
        let fits = self.budget.take(bytes);
        self.bytes += if fits { bytes } else { 0 };
        fits
    }

    /// Gives back all that was charged.
    pub fn clear(&mut self) {
        self.budget.put_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let budget = Budget::new(10);
        let (mut some, mut other) = (budget.charge(), budget.clone().charge());
        assert!(some.add(4) && other.add(6) && !some.add(1));
        drop(other);
        assert!(some.add(6) && !some.add(1));
        some.clear();
        assert!(budget.charge().add(10));
        assert!(budget.charge().add(10), "the last was given back as well");
    }
}
