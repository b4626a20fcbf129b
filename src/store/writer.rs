//! The writer thread: commits all that queued while the last round was synced.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::queue::Queue;
use super::rounds::Journal;
use super::{DurableSink, StoreError};

/// The body of the thread: serves the queue until it is closed and empty, or something fails.
pub(super) fn run(mut journal: Journal, max_segment_bytes: usize, queue: &Queue, mut sink: Box<dyn DurableSink>) {
    // redb panics on some damage. A writer that vanished without a word would leave the node waiting.
    let served = catch_unwind(AssertUnwindSafe(|| serve(&mut journal, max_segment_bytes, queue, sink.as_mut())));
    queue.abandon();
    journal.view().close();
    match served.unwrap_or(Err(StoreError::WriterPanicked)) {
        Ok(()) => journal.close(),
        Err(error) => sink.failed(error),
    }
}

fn serve(
    journal: &mut Journal,
    max_segment_bytes: usize,
    queue: &Queue,
    sink: &mut dyn DurableSink,
) -> Result<(), StoreError> {
    while let Some(operations) = queue.take(max_segment_bytes)? {
        let completions = journal.commit(operations)?;
        if !completions.is_empty() {
            sink.durable(completions);
        }
    }
    Ok(())
}
