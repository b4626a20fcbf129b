//! One large transfer on a stream of its own: a header frame, then bytes whose number the header frame says, then a reply
//! frame back. For connections of [`Protocol::Bulk`](super::Protocol::Bulk), so that it never delays a heartbeat.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::connection::Connection;
use super::frame::{FrameError, FrameReader, FrameWriter};

/// Bytes handed over at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Largest header and reply in bytes.
pub const MAX_BULK_HEADER_BYTES: usize = 144 << 10;

/// A transfer that makes no progress for this long is given up, by either side.
pub(super) const CHUNK_TIMEOUT: Duration = Duration::from_secs(15);

/// The receiver has this long to reply once it has everything: it may have to sync a file or compile a component.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// Reasons to end a stream early: the receiver has replied and wants no more; a side gives up.
pub(super) const CODE_ANSWERED: u32 = 0;
pub(super) const CODE_GIVEN_UP: u32 = 1;

/// Why a transfer failed. The receiver has then not got all of it, or its reply is unknown.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The stream or the connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What was to be sent cannot be read.
    #[error("cannot read what is to be sent: {0}")]
    Source(#[from] std::io::Error),
    /// What was to be sent has fewer bytes than said: it changed meanwhile, or the caller is to blame.
    #[error("there were only {found} bytes to send where {expected} were announced")]
    SourceTooShort {
        /// As announced.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// The sender finished early.
    #[error("the sender sent only {received} bytes where it announced {expected}")]
    TooShort {
        /// As announced.
        expected: u64,
        /// As received.
        received: u64,
    },
    /// The sender sent more than it announced.
    #[error("the sender sent more than the {expected} bytes that it announced")]
    TooLong {
        /// As announced.
        expected: u64,
    },
    /// The other side, or the source, made no progress.
    #[error("the transfer made no progress for {after:?}")]
    Stalled {
        /// How long was waited.
        after: Duration,
    },
    /// The receiver ended the transfer without a reply.
    #[error("the receiver gave no reply")]
    NoReply,
}

pub(super) async fn progress<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, BulkError> {
    timeout(limit, work).await.map_err(|_| BulkError::Stalled { after: limit })
}

/// Sends `header` (at most 64 KiB) and exactly `size` bytes of `source`, and returns the receiver's reply (at most
/// 64 KiB). A receiver that knows early that it does not want the rest replies at once; that is its reply.
///
/// # Errors
/// [`BulkError`].
pub async fn send_bulk(
    connection: &Connection,
    header: &[u8],
    source: impl AsyncRead + Unpin,
    size: u64,
) -> Result<Bytes, BulkError> {
    let (send, recv) = progress(CHUNK_TIMEOUT, connection.open_bi()).await?.map_err(FrameError::from)?;
    let mut frame = BytesMut::with_capacity(8 + header.len());
    frame.put_u64_le(size);
    frame.put_slice(header);
    let mut writer = FrameWriter::new(send, 8 + MAX_BULK_HEADER_BYTES);
    progress(CHUNK_TIMEOUT, writer.write(&frame)).await??;
    let mut send = writer.into_inner();
    match send_body(&mut send, source, size).await {
        // The receiver has stopped reading; whether by a reply is seen below.
        Ok(()) | Err(BulkError::Frame(FrameError::Stopped { .. })) => {}
        Err(error) => {
            drop(send.reset(CODE_GIVEN_UP.into()));
            return Err(error);
        }
    }
    // An error means that the receiver has stopped reading.
    drop(send.finish());
    let mut reply = FrameReader::new(recv, MAX_BULK_HEADER_BYTES);
    progress(REPLY_TIMEOUT, reply.next()).await??.ok_or(BulkError::NoReply)
}

async fn send_body(send: &mut SendStream, mut source: impl AsyncRead + Unpin, size: u64) -> Result<(), BulkError> {
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut chunk = BytesMut::with_capacity(want);
        while chunk.len() < want {
            let missing = want - chunk.len();
            let mut room = (&mut chunk).limit(missing);
            if progress(CHUNK_TIMEOUT, source.read_buf(&mut room)).await?? == 0 {
                return Err(BulkError::SourceTooShort { expected: size, found: size - left + chunk.len() as u64 });
            }
        }
        progress(CHUNK_TIMEOUT, send.write_chunk(chunk.freeze())).await?.map_err(FrameError::from)?;
        left -= want as u64;
    }
    Ok(())
}

/// A transfer that another node began.
#[derive(Debug)]
pub struct BulkRequest {
    /// What it says of itself. Opaque.
    pub header: Bytes,
    /// The bytes.
    pub body: BulkBody,
    /// The way to answer: before all bytes are read if they are not wanted.
    pub reply: BulkReply,
}

/// Takes a transfer from a stream that [`Connection::accept_bi`] returned.
///
/// # Errors
/// [`BulkError`].
pub async fn accept_bulk((send, recv): (SendStream, RecvStream)) -> Result<BulkRequest, BulkError> {
    let mut reader = FrameReader::new(recv, 8 + MAX_BULK_HEADER_BYTES);
    let frame = progress(CHUNK_TIMEOUT, reader.next()).await??;
    let mut header = frame.ok_or(FrameError::Truncated)?;
    let Ok(size) = header.try_get_u64_le() else {
        return Err(FrameError::Violation { reason: "the header of a transfer has no size".to_owned() }.into());
    };
    let (early, stream) = reader.into_parts();
    let body = BulkBody { stream, early, size, received: 0 };
    Ok(BulkRequest { header, body, reply: BulkReply { writer: FrameWriter::new(send, MAX_BULK_HEADER_BYTES) } })
}

/// The bytes of a transfer. Dropped before its end, it tells the sender to stop.
#[derive(Debug)]
pub struct BulkBody {
    stream: RecvStream,
    /// What arrived together with the header.
    early: Bytes,
    size: u64,
    received: u64,
}

impl BulkBody {
    /// How many bytes the sender announced. Check it against what there is room for before reading.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes: 256 KiB, or the rest; `None` when exactly as many as announced have been returned.
    ///
    /// # Errors
    /// [`BulkError`] when the sender fails, stalls, or does not send as many bytes as announced.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, BulkError> {
        let left = self.size - self.received;
        if left == 0 {
            return match self.read(1).await? {
                None => Ok(None),
                Some(_) => Err(BulkError::TooLong { expected: self.size }),
            };
        }
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut chunk = BytesMut::with_capacity(want);
        while chunk.len() < want {
            let Some(bytes) = self.read(want - chunk.len()).await? else {
                let received = self.received + chunk.len() as u64;
                return Err(BulkError::TooShort { expected: self.size, received });
            };
            chunk.put_slice(&bytes);
        }
        self.received += want as u64;
        Ok(Some(chunk.freeze()))
    }

    /// Some bytes, at most `max`; `None` at the end of the stream.
    async fn read(&mut self, max: usize) -> Result<Option<Bytes>, BulkError> {
        if !self.early.is_empty() {
            return Ok(Some(self.early.split_to(max.min(self.early.len()))));
        }
        let chunk = progress(CHUNK_TIMEOUT, self.stream.read_chunk(max, true)).await?.map_err(FrameError::from)?;
        Ok(chunk.map(|chunk| chunk.bytes))
    }
}

impl Drop for BulkBody {
    fn drop(&mut self) {
        // An error means that the stream has ended anyhow.
        drop(self.stream.stop(CODE_ANSWERED.into()));
    }
}

/// The answer to a transfer. Dropped without one, it tells the sender that there is none.
#[derive(Debug)]
pub struct BulkReply {
    writer: FrameWriter,
}

impl BulkReply {
    /// Answers with at most 64 KiB.
    ///
    /// # Errors
    /// [`BulkError`].
    pub async fn send(mut self, reply: &[u8]) -> Result<(), BulkError> {
        progress(CHUNK_TIMEOUT, self.writer.write(reply)).await??;
        self.writer.finish();
        Ok(())
    }
}
