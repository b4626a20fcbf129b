//! A large transfer that can go on where an earlier one was broken off: a header frame, the receiver's answer from which byte
//! it wants the rest, these bytes, and a reply. For connections of [`Protocol::Snapshot`](super::Protocol::Snapshot).
//!
//! Each frame of the receiver begins with a byte that tells what it is.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};

use super::bulk::{
    BulkError, CHUNK_TIMEOUT, CODE_ANSWERED, CODE_GIVEN_UP, MAX_BULK_HEADER_BYTES, REPLY_TIMEOUT, progress,
};
use super::connection::Connection;
use super::frame::{FrameError, FrameReader, FrameWriter};

/// What a frame of the receiver is.
const WANTED_FROM: u8 = 0;
const REPLY: u8 = 1;

/// So many bytes are returned together by [`Download::next`], where so many come.
const BATCH_BYTES: usize = 256 << 10;

/// Pieces, each of one packet, that are taken from the stream at a time.
const MAX_PIECES: usize = 256;

/// What became of an offer.
#[derive(Debug)]
pub enum Answer {
    /// The receiver wants the bytes.
    Wanted(Upload),
    /// It wants none, and replies this.
    Replied(Bytes),
}

/// Offers what a header (at most 64 KiB) speaks of.
///
/// # Errors
/// [`BulkError`].
pub async fn offer(connection: &Connection, header: &[u8]) -> Result<Answer, BulkError> {
    let (send, recv) = progress(CHUNK_TIMEOUT, connection.open_bi()).await?.map_err(FrameError::from)?;
    let mut writer = FrameWriter::new(send, MAX_BULK_HEADER_BYTES);
    progress(CHUNK_TIMEOUT, writer.write(header)).await??;
    let mut answers = FrameReader::new(recv, 1 + MAX_BULK_HEADER_BYTES);
    let mut frame = progress(CHUNK_TIMEOUT, answers.next()).await??.ok_or(BulkError::NoReply)?;
    match frame.try_get_u8() {
        Ok(WANTED_FROM) => {
            let from = frame.try_get_u64_le().map_err(|_| violation("an answer to an offer is cut short"))?;
            Ok(Answer::Wanted(Upload { from, send: writer.into_inner(), answers }))
        }
        Ok(REPLY) => Ok(Answer::Replied(frame)),
        _ => Err(violation("an answer to an offer is of no known kind")),
    }
}

/// The way to send what was offered.
#[derive(Debug)]
pub struct Upload {
    from: u64,
    send: SendStream,
    answers: FrameReader,
}

impl Upload {
    /// The first byte that the receiver wants.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Sends some bytes; false once the receiver wants no more, which it has replied why.
    ///
    /// # Errors
    /// [`BulkError`].
    pub async fn send(&mut self, chunk: Bytes) -> Result<bool, BulkError> {
        match progress(CHUNK_TIMEOUT, self.send.write_chunk(chunk)).await?.map_err(FrameError::from) {
            Ok(()) => Ok(true),
            Err(FrameError::Stopped { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// All has been sent that will be; returns the receiver's reply.
    ///
    /// # Errors
    /// [`BulkError`].
    pub async fn finish(mut self) -> Result<Bytes, BulkError> {
        // An error means that the receiver has stopped reading.
        drop(self.send.finish());
        let frame = progress(REPLY_TIMEOUT, self.answers.next()).await??;
        let mut reply = frame.ok_or(BulkError::NoReply)?;
        match reply.try_get_u8() {
            Ok(REPLY) => Ok(reply),
            _ => Err(violation("a reply to an offer is of no known kind")),
        }
    }

    /// Gives up: the receiver is not to wait.
    pub fn give_up(mut self) {
        // An error means that the stream has ended anyhow.
        drop(self.send.reset(CODE_GIVEN_UP.into()));
    }
}

/// What another node offers.
#[derive(Debug)]
pub struct Offer {
    /// What it says of itself. Opaque.
    pub header: Bytes,
    early: Bytes,
    stream: RecvStream,
    reply: OfferReply,
}

/// Takes an offer from a stream that [`Connection::accept_bi`] returned.
///
/// # Errors
/// [`BulkError`].
pub async fn accept_offer((send, recv): (SendStream, RecvStream)) -> Result<Offer, BulkError> {
    let mut reader = FrameReader::new(recv, MAX_BULK_HEADER_BYTES);
    let frame = progress(CHUNK_TIMEOUT, reader.next()).await??;
    let header = frame.ok_or(FrameError::Truncated)?;
    let (early, stream) = reader.into_parts();
    let reply = OfferReply { writer: FrameWriter::new(send, 1 + MAX_BULK_HEADER_BYTES) };
    Ok(Offer { header, early, stream, reply })
}

impl Offer {
    /// Wants the bytes from `from` on, of which there are `size` more.
    ///
    /// # Errors
    /// [`BulkError`].
    pub async fn want(mut self, from: u64, size: u64) -> Result<(Download, OfferReply), BulkError> {
        let mut frame = BytesMut::with_capacity(9);
        frame.put_u8(WANTED_FROM);
        frame.put_u64_le(from);
        progress(CHUNK_TIMEOUT, self.reply.writer.write(&frame)).await??;
        let download = Download { stream: self.stream, early: self.early, size, received: 0 };
        Ok((download, self.reply))
    }

    /// Wants none of it, and says why in at most 64 KiB.
    ///
    /// # Errors
    /// [`BulkError`].
    pub async fn decline(self, reply: &[u8]) -> Result<(), BulkError> {
        self.reply.send(reply).await
    }
}

/// The bytes of an offer. Dropped before its end, it tells the sender to stop.
#[derive(Debug)]
pub struct Download {
    stream: RecvStream,
    /// What arrived together with the header.
    early: Bytes,
    size: u64,
    received: u64,
}

impl Download {
    /// The next bytes, 256 KiB or the rest, in the pieces in which they came: nothing is copied. None when exactly as many
    /// as announced have been returned.
    ///
    /// # Errors
    /// [`BulkError`] when the sender fails, stalls, or does not send as many bytes as announced.
    pub async fn next(&mut self) -> Result<Option<Vec<Bytes>>, BulkError> {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while batch_bytes < BATCH_BYTES {
            let before = batch.len();
            let has_ended = !self.read(&mut batch).await?;
            let read_bytes: usize = batch[before..].iter().map(Bytes::len).sum();
            batch_bytes += read_bytes;
            self.received += read_bytes as u64;
            let (expected, received) = (self.size, self.received);
            match received.cmp(&expected) {
                std::cmp::Ordering::Greater => return Err(BulkError::TooLong { expected }),
                std::cmp::Ordering::Less if has_ended => return Err(BulkError::TooShort { expected, received }),
                _ if has_ended => break,
                _ => {}
            }
        }
        Ok(Some(batch).filter(|batch| !batch.is_empty()))
    }

    /// Reads some pieces; false at the end of the stream.
    async fn read(&mut self, batch: &mut Vec<Bytes>) -> Result<bool, BulkError> {
        if !self.early.is_empty() {
            batch.push(std::mem::take(&mut self.early));
            return Ok(true);
        }
        let mut pieces = vec![Bytes::new(); MAX_PIECES];
        let read = progress(CHUNK_TIMEOUT, self.stream.read_chunks(&mut pieces)).await?.map_err(FrameError::from)?;
        batch.extend(pieces.drain(..read.unwrap_or(0)));
        Ok(read.is_some())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // An error means that the stream has ended anyhow.
        drop(self.stream.stop(CODE_ANSWERED.into()));
    }
}

/// The answer to an offer. Dropped without one, it tells the sender that there is none.
#[derive(Debug)]
pub struct OfferReply {
    writer: FrameWriter,
}

impl OfferReply {
    /// Answers with at most 64 KiB.
    ///
    /// # Errors
    /// [`BulkError`].
    pub async fn send(mut self, reply: &[u8]) -> Result<(), BulkError> {
        let frame = [&[REPLY], reply].concat();
        progress(CHUNK_TIMEOUT, self.writer.write(&frame)).await??;
        self.writer.finish();
        Ok(())
    }
}

fn violation(reason: &str) -> BulkError {
    FrameError::Violation { reason: reason.to_owned() }.into()
}
