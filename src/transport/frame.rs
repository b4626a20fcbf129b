//! Frames on a stream: a length (u32, little-endian), then as many bytes. Bounded before anything is allocated.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use tokio::time::{Instant, timeout_at};

use super::budget::{Budget, Charge};
use super::error::ConnectionLost;

/// A frame that has begun must be complete within this time.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Chunks taken from the stream at once; each is at most a packet.
const CHUNKS_AT_ONCE: usize = 32;

/// What is smaller is copied into one buffer with its neighbours; the rest is sent from where it is.
const COALESCE_BELOW_BYTES: usize = 8 << 10;

const HEADER_BYTES: usize = 4;

/// Why a frame could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The sender of the frame is to blame; on the writing side that is us, and nothing was written.
    #[error("a frame of {size} bytes was to be sent, where {max} are allowed")]
    TooLarge {
        /// The announced size in bytes.
        size: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// The sender finished the stream in the middle of a frame.
    #[error("the sender finished the stream in the middle of a frame")]
    Truncated,
    /// The sender finished a stream that must stay open.
    #[error("the sender finished a stream that must stay open")]
    Finished,
    /// The sender took the stream back.
    #[error("the sender reset the stream (code {code})")]
    Reset {
        /// Its reason, of the layer above.
        code: u64,
    },
    /// The receiver does not want the rest.
    #[error("the receiver stopped the stream (code {code})")]
    Stopped {
        /// Its reason, of the layer above.
        code: u64,
    },
    /// The sender began a frame and did not go on.
    #[error("the sender began a frame and did not complete it in {after:?}")]
    Stalled {
        /// How long was waited.
        after: Duration,
    },
    /// The sender sent something else than the protocol has at this point.
    #[error("the sender broke the protocol: {reason}")]
    Violation {
        /// What it did.
        reason: String,
    },
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] ConnectionLost),
    /// The sender makes this side hold more than it may.
    #[error("more has arrived from there than may wait here")]
    OverBudget,
    /// This side used the stream after it had ended it.
    #[error("the stream was already ended by this side")]
    Ended,
}

impl From<ReadError> for FrameError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Reset { code: code.into_inner() },
            ReadError::ConnectionLost(error) => Self::Lost(error.into()),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => Self::Ended,
        }
    }
}

impl From<WriteError> for FrameError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Stopped { code: code.into_inner() },
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Ended,
        }
    }
}

/// Reads frames. Holds at most one frame and what arrived with it.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    max_bytes: usize,
    buffer: BytesMut,
    begun: Option<Instant>,
    charge: Option<Charge>,
}

impl FrameReader {
    /// Reads from `stream` frames of at most `max_bytes`, without their length.
    #[must_use]
    pub fn new(stream: RecvStream, max_bytes: usize) -> Self {
        Self { stream, max_bytes, buffer: BytesMut::new(), begun: None, charge: None }
    }

    /// Charges what arrives to a budget, until [`FrameReader::dealt_with`] or the end of the reader. Where it does not allow for
    /// more, reading fails.
    #[must_use]
    pub fn charged_to(self, budget: &Budget) -> Self {
        Self { charge: Some(budget.charge()), ..self }
    }

    /// The frames so far are not held any more.
    pub fn dealt_with(&mut self) {
        if self.buffer.is_empty() {
            // It may be the rest of a large piece of memory.
            self.buffer = BytesMut::new();
        }
        self.charge.iter_mut().for_each(Charge::clear);
    }

    /// The next frame; `None` when the sender has finished the stream after a whole frame. Waits as long as it takes for
    /// a frame to begin, but not for one to be completed. Cancel safe: dropped while waiting, it loses nothing.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is of no use afterwards.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.take()? {
                self.begun = None;
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    /// A frame that is complete already.
    fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let size = u32::from_le_bytes(*header) as usize;
        if size > self.max_bytes {
            return Err(FrameError::TooLarge { size, max: self.max_bytes });
        }
        if self.buffer.len() - HEADER_BYTES < size {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(self.buffer.split_to(size).freeze()))
    }

    /// Waits for bytes; false at the end of the stream. Room is made for bytes that are there, never for bytes that were
    /// announced.
    async fn fill(&mut self) -> Result<bool, FrameError> {
        let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
        let count = if self.buffer.is_empty() {
            self.stream.read_chunks(&mut chunks).await?
        } else {
            let deadline = *self.begun.get_or_insert_with(Instant::now) + FRAME_TIMEOUT;
            let read = timeout_at(deadline, self.stream.read_chunks(&mut chunks)).await;
            read.map_err(|_| FrameError::Stalled { after: FRAME_TIMEOUT })??
        };
        let Some(count) = count else { return Ok(false) };
        let bytes = chunks[..count].iter().map(Bytes::len).sum();
        if self.charge.as_mut().is_some_and(|charge| !charge.add(bytes)) {
            return Err(FrameError::OverBudget);
        }
        self.buffer.reserve(bytes);
        chunks[..count].iter().for_each(|chunk| self.buffer.put_slice(chunk));
        Ok(true)
    }

    /// Goes over to raw bytes: those that have arrived behind the last frame, and the stream with the rest.
    #[must_use]
    pub fn into_parts(self) -> (Bytes, RecvStream) {
        (self.buffer.freeze(), self.stream)
    }

    /// Tells the sender to stop, with a reason of the layer above.
    pub fn stop(&mut self, code: u32) {
        // An error means that there is nothing left to stop.
        drop(self.stream.stop(code.into()));
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    max_bytes: usize,
    /// What is queued: large frames and what came before them, and behind them the small ones.
    queued: Vec<Bytes>,
    queued_small: BytesMut,
}

impl FrameWriter {
    /// Writes to `stream` frames of at most `max_bytes`, without their length: what the reader allows.
    #[must_use]
    pub fn new(stream: SendStream, max_bytes: usize) -> Self {
        Self { stream, max_bytes: max_bytes.min(u32::MAX as usize), queued: Vec::new(), queued_small: BytesMut::new() }
    }

    /// Writes one frame. Waits while the receiver's window is full. Not cancel safe: dropped while waiting, it leaves
    /// half a frame behind.
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn write(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + frame.len());
        self.put_header(frame.len(), &mut bytes)?;
        bytes.put_slice(frame);
        Ok(self.stream.write_chunk(bytes.freeze()).await?)
    }

    /// Writes one frame that lies in two parts, of which the second is not copied if it is large. Otherwise as [`FrameWriter::write`].
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn write_parts(&mut self, [front, back]: [Bytes; 2]) -> Result<(), FrameError> {
        let is_copied = back.len() < COALESCE_BELOW_BYTES;
        let copied = if is_copied { back.len() } else { 0 };
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + front.len() + copied);
        self.put_header(front.len() + back.len(), &mut bytes)?;
        bytes.put_slice(&front);
        if is_copied {
            bytes.put_slice(&back);
            return Ok(self.stream.write_chunk(bytes.freeze()).await?);
        }
        Ok(self.stream.write_all_chunks(&mut [bytes.freeze(), back]).await?)
    }

    /// Writes several frames at once, which costs little more than one. Otherwise as [`FrameWriter::write`].
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn write_all(&mut self, frames: &[Bytes]) -> Result<(), FrameError> {
        frames.iter().try_for_each(|frame| self.queue(frame))?;
        self.flush().await
    }

    /// Takes a frame in for [`FrameWriter::flush`], and writes nothing yet. Other frames are to be written by other means only
    /// once all is flushed.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`].
    pub fn queue(&mut self, frame: &Bytes) -> Result<(), FrameError> {
        let mut small = std::mem::take(&mut self.queued_small);
        let queued = self.put_header(frame.len(), &mut small);
        if queued.is_ok() && frame.len() < COALESCE_BELOW_BYTES {
            small.put_slice(frame);
        } else if queued.is_ok() {
            self.queued.extend([small.split().freeze(), frame.clone()]);
        }
        self.queued_small = small;
        queued
    }

    /// Whether nothing that was queued is left to be written.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.queued.is_empty() && self.queued_small.is_empty()
    }

    /// Writes what is queued. Waits while the receiver's window is full. Cancel safe: dropped while waiting, it goes on with the next
    /// call.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is of no use afterwards.
    pub async fn flush(&mut self) -> Result<(), FrameError> {
        if !self.queued_small.is_empty() {
            self.queued.push(self.queued_small.split().freeze());
        }
        while !self.queued.is_empty() {
            // What it has written of the last chunk it takes off that.
            let written = self.stream.write_chunks(&mut self.queued).await?;
            self.queued.drain(..written.chunks);
        }
        Ok(())
    }

    /// Says that no more frames follow. What was written is still delivered.
    pub fn finish(&mut self) {
        // An error means that the receiver has stopped the stream: it knows.
        drop(self.stream.finish());
    }

    /// Returns once the receiver wants to hear no more, or cannot be reached.
    pub async fn abandoned(&self) {
        // Either way nobody hears more.
        drop(self.stream.stopped().await);
    }

    /// Takes the stream back, with a reason of the layer above: what the receiver has not read is void.
    pub fn reset(&mut self, code: u32) {
        // An error means that there is nothing left to take back.
        drop(self.stream.reset(code.into()));
    }

    /// Goes over to raw bytes.
    #[must_use]
    pub fn into_inner(self) -> SendStream {
        self.stream
    }

    fn put_header(&self, size: usize, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let too_large = FrameError::TooLarge { size, max: self.max_bytes };
        let header = u32::try_from(size).ok().filter(|_| size <= self.max_bytes).ok_or(too_large)?;
        buffer.put_u32_le(header);
        Ok(())
    }
}
