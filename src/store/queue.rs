//! What waits for the writer thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

use bytes::Bytes;

use super::StoreError;
use crate::raft::{Entry, Write};
use crate::types::Incarnation;

/// The most bytes that may wait for the writer. Raft's own limits on what is in flight bound the queue long before;
/// one who drives the store past this has lost count, and the store stops rather than grow without limit.
pub const MAX_QUEUED_BYTES: usize = 256 << 20;

/// What an operation takes beyond its entries and bytes when the queue is measured.
const OPERATION_BYTES: usize = 256;

/// One thing to make durable.
#[derive(Debug)]
pub enum Operation {
    /// Adds a peer with its first write, as [`Store::create_peer`](super::Store::create_peer) does.
    Create {
        /// The peer. It must not exist.
        incarnation: Incarnation,
        /// The node's description of it.
        record: Bytes,
        /// Its first write.
        bootstrap: Write,
    },
    /// Forgets a peer, as [`Store::remove_peer`](super::Store::remove_peer) does.
    Remove(Incarnation),
    /// A write of a peer, dropped if there is no such peer.
    Write(Incarnation, Write),
}

impl Operation {
    fn size_bytes(&self) -> usize {
        let entries = |write: &Write| write.entries.iter().map(Entry::size_bytes).sum::<usize>();
        OPERATION_BYTES
            + match self {
                Self::Create { record, bootstrap, .. } => record.len() + entries(bootstrap),
                Self::Remove(_) => 0,
                Self::Write(_, write) => entries(write),
            }
    }
}

/// A bounded queue with many producers, who never wait, and one consumer, who takes all that fits a round.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    operations: VecDeque<(Operation, usize)>,
    size_bytes: usize,
    end: End,
}

/// Whether the queue still takes operations.
#[derive(Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Closed,
    Overflown,
}

impl Queue {
    /// Adds an operation; drops it when the queue is closed.
    pub(super) fn push(&self, operation: Operation) {
        let size_bytes = operation.size_bytes();
        let mut waiting = self.lock();
        if waiting.end != End::Open {
            return;
        }
        if waiting.size_bytes + size_bytes > MAX_QUEUED_BYTES {
            waiting.end = End::Overflown;
        } else {
            waiting.size_bytes += size_bytes;
            waiting.operations.push_back((operation, size_bytes));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes no more operations. Those that wait are still handed out.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        if waiting.end == End::Open {
            waiting.end = End::Closed;
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes no more operations and forgets those that wait.
    pub(super) fn abandon(&self) {
        *self.lock() = Waiting { end: End::Closed, ..Waiting::default() };
    }

    /// Waits for operations and takes as many as fit `max_bytes`, at least one; `None` once the queue is closed and
    /// empty.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] once more has been added than the queue holds.
    pub(super) fn take(&self, max_bytes: usize) -> Result<Option<Vec<Operation>>, StoreError> {
        let idle = |waiting: &mut Waiting| waiting.end == End::Open && waiting.operations.is_empty();
        let mut waiting =
            self.changed.wait_while(self.lock(), idle).expect("no thread panics while it holds the queue");
        if waiting.end == End::Overflown {
            return Err(StoreError::QueueFull { max_bytes: MAX_QUEUED_BYTES });
        }
        let mut taken = Vec::new();
        let mut left_bytes = max_bytes;
        while let Some((_, size_bytes)) = waiting.operations.front() {
            if !taken.is_empty() && *size_bytes > left_bytes {
                break;
            }
            let (operation, size_bytes) = waiting.operations.pop_front().expect("the front was just seen");
            left_bytes = left_bytes.saturating_sub(size_bytes);
            waiting.size_bytes -= size_bytes;
            taken.push(operation);
        }
        Ok((!taken.is_empty()).then_some(taken))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no thread panics while it holds the queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::WriteToken;

    fn tokens(operations: Option<Vec<Operation>>) -> Option<Vec<u64>> {
        let token = |operation| match operation {
            Operation::Write(_, write) => write.token.0,
            other => panic!("{other:?}"),
        };
        operations.map(|operations| operations.into_iter().map(token).collect())
    }

    fn write(token: u64) -> Operation {
        Operation::Write(Incarnation(1), Write::new(WriteToken(token)))
    }

    #[test]
    fn a_round_takes_what_fits_and_at_least_one() {
        let queue = Queue::default();
        (1..=5).for_each(|token| queue.push(write(token)));
        assert_eq!(tokens(queue.take(2 * OPERATION_BYTES).unwrap()), Some(vec![1, 2]));
        assert_eq!(tokens(queue.take(1).unwrap()), Some(vec![3]));
        queue.close();
        queue.push(write(6));
        assert_eq!(tokens(queue.take(MAX_QUEUED_BYTES).unwrap()), Some(vec![4, 5]));
        assert_eq!(tokens(queue.take(MAX_QUEUED_BYTES).unwrap()), None);
    }

    #[test]
    fn more_than_the_bound_is_an_error_and_not_kept() {
        let queue = Queue::default();
        let record = Bytes::from(vec![0; MAX_QUEUED_BYTES / 2]);
        for _ in 0..2 {
            let bootstrap = Write::new(WriteToken(0));
            queue.push(Operation::Create { incarnation: Incarnation(1), record: record.clone(), bootstrap });
        }
        assert!(matches!(queue.take(1), Err(StoreError::QueueFull { .. })));
        assert!(queue.lock().size_bytes <= MAX_QUEUED_BYTES);
    }
}
