//! Sessions: writes that run exactly once and in order, data that goes with its writer, and triggers.
//!
//! | file | what it is |
//! |---|---|
//! | `state` | what waits, what is armed, when the session was known to live; no sockets, no clock |
//! | `writes`, `watches`, `pulse` | its parts: numbered writes, armed triggers, pings and time |
//! | `task` | the one owner of a session: keeps a stream to the leader, and feeds `state` |
//! | `link` | one stream |

mod failure;
mod link;
mod pulse;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod watches;
mod writes;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

pub use failure::{Ending, SessionFailure};

use crate::client::{Client, SessionOptions, Written};
use crate::protocol::{MAX_DATA_BYTES, SessionSecret, TriggerId, TriggerReason};
use crate::types::{Index, PeerId, SessionId};
use task::{Call, Caller, Status, Task, Wanted};

/// Most writes of a session that wait for their answers. Below `max_unacknowledged` of a cluster's default settings.
pub const MAX_UNANSWERED_WRITES: usize = 256;
/// Most bytes of these.
pub const MAX_UNANSWERED_BYTES: usize = 8 << 20;
/// Most queries of a session that wait for their answers.
pub const MAX_UNANSWERED_QUERIES: usize = 256;

/// A session with a cluster.
///
/// ```no_run
/// # async fn example(client: zraft::client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use zraft::client::{Notice, Session};
///
/// let peers = vec!["lock@10.0.0.1:7400".parse()?, "lock@10.0.0.2:7400".parse()?];
/// let (session, mut notices) = Session::connect(client, peers, Duration::from_secs(10)).await?;
/// session.write_ephemeral("lock the door").await?;
/// let door = session.query_watch("who has the door?").await?;
/// println!("{:?} has it as of index {}", door.reply, door.index);
/// while let Some(notice) = notices.next().await {
///     match notice {
///         Notice::Fired { trigger, reason } if trigger == door.trigger => println!("look again: {reason}"),
///         Notice::Fired { .. } => {}
///         Notice::Suspended => println!("stop: the session may have expired, and the lock with it"),
///         Notice::Resumed => println!("go on: the lock was ours all the time"),
///         Notice::Ended(ending) => println!("the session {ending}, and so the lock is gone"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// - *Writes* run exactly once and in the order in which they were taken in, whatever happens to nodes and connections. Many
///   may be under way at once: up to [`MAX_UNANSWERED_WRITES`], and more wait for room.
/// - *Ephemeral* data goes when the session ends: when it is closed, or nobody hears of its client for its timeout. A
///   connection that is lost ends nothing: a task in the background finds the leader and goes on there.
/// - *Triggers* fire once, when what a query has read has changed, or may have. They come as [`Notices`].
/// - *Dropping a call* gives up waiting, not the write: one that was taken in runs all the same, once. A trigger whose query
///   is dropped as its answer comes may be armed, and its notice is to be ignored.
/// - *Dropping the session* without [`close`](Self::close) leaves it to its timeout. Writes that were not answered may run,
///   once, or not.
///
/// To share one among tasks, put it in an [`Arc`].
pub struct Session {
    calls: mpsc::Sender<Call>,
    status: watch::Receiver<Status>,
    write_room: Arc<Semaphore>,
    byte_room: Arc<Semaphore>,
    query_room: Arc<Semaphore>,
    request_timeout: Duration,
}

/// An answer to a query, and the trigger that is armed on what it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The state that was read: that after this entry.
    pub index: Index,
    /// The backend's answer.
    pub reply: Bytes,
    /// The trigger. A change behind `index` fires it, and none before.
    pub trigger: TriggerId,
}

/// What a session tells by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A trigger has fired, and is gone.
    Fired {
        /// The trigger, as in [`Watched::trigger`].
        trigger: TriggerId,
        /// Why.
        reason: TriggerReason,
    },
    /// The cluster could not be reached for the session's timeout: it may have expired, and others may have what was locked
    /// by its ephemeral data. Who acts by such a lock must stop.
    Suspended,
    /// The session is alive, and was all the time.
    Resumed,
    /// The session is over, and so is its ephemeral data. All triggers have fired, and no more notices come.
    Ended(Ending),
}

/// The notices of a session, in order. At most [`MAX_TRIGGERS`](crate::protocol::MAX_TRIGGERS) and two wait, since triggers
/// that have fired and were not noticed count as triggers. Dropping this means that they are of no interest.
pub struct Notices {
    receiver: mpsc::Receiver<Notice>,
}

impl Notices {
    /// The next notice; nothing after the session's end, or when it was dropped. Cancel safe.
    pub async fn next(&mut self) -> Option<Notice> {
        self.receiver.recv().await
    }
}

/// A write that was taken in. Await it for its answer; dropping it gives up the answer, not the write.
pub struct PendingWrite {
    answer: oneshot::Receiver<Result<Written, SessionFailure>>,
    status: watch::Receiver<Status>,
}

impl Future for PendingWrite {
    type Output = Result<Written, SessionFailure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready(answer.unwrap_or_else(|_| Err(over(&self.status))))
    }
}

impl Session {
    /// Opens a session that lives as long as its client is heard of within `timeout`. Some peers of the cluster are enough.
    ///
    /// # Errors
    /// [`SessionFailure::AllFailed`], [`SessionFailure::Failed`] or [`SessionFailure::Timeout`]: no session was opened, or one
    /// that nobody knows of and that expires by itself.
    pub async fn connect(
        client: Client,
        peers: Vec<PeerId>,
        timeout: Duration,
    ) -> Result<(Self, Notices), SessionFailure> {
        Self::connect_with(client, peers, timeout, SessionOptions::default()).await
    }

    /// As [`Session::connect`], with other timeouts for calls and attempts.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn connect_with(
        client: Client,
        peers: Vec<PeerId>,
        timeout: Duration,
        options: SessionOptions,
    ) -> Result<(Self, Notices), SessionFailure> {
        let secret = SessionSecret(random());
        let timeout_ms = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        let (calls, taken) = mpsc::channel(Self::MAX_UNTAKEN_CALLS);
        let (notifier, receiver) = mpsc::channel(1);
        let (publisher, status) = watch::channel(Status::default());
        let wanted = Wanted { client, peers, options, timeout_ms, secret };
        tokio::spawn(Task::new(wanted, taken, notifier, publisher).run());
        let session = Self {
            calls,
            status,
            write_room: Arc::new(Semaphore::new(MAX_UNANSWERED_WRITES)),
            byte_room: Arc::new(Semaphore::new(MAX_UNANSWERED_BYTES)),
            query_room: Arc::new(Semaphore::new(MAX_UNANSWERED_QUERIES)),
            request_timeout: options.request_timeout,
        };
        session.wait_until(|status| status.session.is_some()).await?;
        Ok((session, Notices { receiver }))
    }

    /// Calls that wait for the task to take them; more wait for room.
    const MAX_UNTAKEN_CALLS: usize = 64;

    /// Which session it is.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.status.borrow().session.unwrap_or_default()
    }

    /// Whether the session may have expired, as far as its client can know: see [`Notice::Suspended`].
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        let status = self.status.borrow();
        status.is_suspended || status.failure.is_some()
    }

    /// Has the cluster run a command, exactly once.
    ///
    /// # Errors
    /// [`SessionFailure`]; after [`SessionFailure::Unanswered`] the write stays queued and will still run once.
    pub async fn write(&self, data: impl Into<Bytes>) -> Result<Written, SessionFailure> {
        self.write_and_wait(data.into(), false).await
    }

    /// As [`Session::write`]; what the command writes goes when the session ends.
    ///
    /// # Errors
    /// As [`Session::write`].
    pub async fn write_ephemeral(&self, data: impl Into<Bytes>) -> Result<Written, SessionFailure> {
        self.write_and_wait(data.into(), true).await
    }

    /// Takes a write in and returns at once, so that more can follow it in order; the answer is awaited apart, for as long
    /// as one likes. Waits only for room.
    ///
    /// # Errors
    /// [`SessionFailure`]; the write was not taken in.
    pub async fn submit(&self, data: impl Into<Bytes>) -> Result<PendingWrite, SessionFailure> {
        self.submit_by(data.into(), false, self.deadline()).await
    }

    /// As [`Session::submit`]; what the command writes goes when the session ends.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub async fn submit_ephemeral(&self, data: impl Into<Bytes>) -> Result<PendingWrite, SessionFailure> {
        self.submit_by(data.into(), true, self.deadline()).await
    }

    async fn write_and_wait(&self, data: Bytes, is_ephemeral: bool) -> Result<Written, SessionFailure> {
        let deadline = self.deadline();
        let pending = self.submit_by(data, is_ephemeral, deadline).await?;
        timeout_at(deadline, pending).await.unwrap_or_else(|_| {
            Err(SessionFailure::Unanswered { after: self.request_timeout, trouble: self.trouble() })
        })
    }

    async fn submit_by(
        &self,
        data: Bytes,
        is_ephemeral: bool,
        deadline: Instant,
    ) -> Result<PendingWrite, SessionFailure> {
        check_size(&data)?;
        let (sender, answer) = oneshot::channel();
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.in_time(deadline, async {
            let room = vec![acquire(&self.write_room, 1).await, acquire(&self.byte_room, size).await];
            self.call(Call::Write { data, is_ephemeral, caller: Caller { answer: sender, _room: room } }).await
        })
        .await?;
        Ok(PendingWrite { answer, status: self.status.clone() })
    }

    /// Reads: the answer reflects every write that was acknowledged before the call.
    ///
    /// # Errors
    /// [`SessionFailure`].
    pub async fn query(&self, request: impl Into<Bytes>) -> Result<Bytes, SessionFailure> {
        Ok(self.ask(request.into(), false).await?.reply)
    }

    /// Reads, and arms a trigger on what the answer depends on. It fires once: as a [`Notice::Fired`]. If the backend refuses
    /// the query, none is armed.
    ///
    /// # Errors
    /// [`SessionFailure`].
    pub async fn query_watch(&self, request: impl Into<Bytes>) -> Result<Watched, SessionFailure> {
        self.ask(request.into(), true).await
    }

    async fn ask(&self, request: Bytes, watch: bool) -> Result<Watched, SessionFailure> {
        check_size(&request)?;
        let (sender, answer) = oneshot::channel();
        self.in_time(self.deadline(), async {
            let caller = Caller { answer: sender, _room: vec![acquire(&self.query_room, 1).await] };
            self.call(Call::Query { request, watch, caller }).await?;
            answer.await.unwrap_or_else(|_| Err(over(&self.status)))
        })
        .await
    }

    /// Gives a trigger up. A notice of it that was not taken is withdrawn, but for one that is on its way.
    ///
    /// # Errors
    /// [`SessionFailure::Ended`].
    pub async fn disarm(&self, trigger: TriggerId) -> Result<(), SessionFailure> {
        self.call(Call::Disarm(trigger)).await
    }

    /// Ends the session once all writes that were taken in are answered; its ephemeral data is gone then. Nothing can be
    /// asked of it meanwhile.
    ///
    /// # Errors
    /// [`SessionFailure::Timeout`]: it goes on trying as long as the session is not dropped.
    pub async fn close(&self) -> Result<(), SessionFailure> {
        if self.call(Call::Close).await.is_err() {
            return Ok(());
        }
        match self.wait_until(|_| false).await {
            Err(SessionFailure::Ended(Ending::Closed | Ending::Expired)) => Ok(()),
            result => result,
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    fn trouble(&self) -> Option<String> {
        self.status.borrow().trouble.clone()
    }

    async fn in_time<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, SessionFailure>>,
    ) -> Result<T, SessionFailure> {
        let timeout = |_| Err(SessionFailure::Timeout { after: self.request_timeout, trouble: self.trouble() });
        timeout_at(deadline, work).await.unwrap_or_else(timeout)
    }

    async fn call(&self, call: Call) -> Result<(), SessionFailure> {
        self.calls.send(call).await.map_err(|_| over(&self.status))
    }

    /// Waits until the session is as wished; a failure ends the wait.
    async fn wait_until(&self, is_so: impl Fn(&Status) -> bool) -> Result<(), SessionFailure> {
        let mut status = self.status.clone();
        let wait = async {
            let settled = status.wait_for(|status| is_so(status) || status.failure.is_some()).await;
            match settled.map(|status| status.failure.clone()) {
                Ok(None) => Ok(()),
                Ok(Some(failure)) => Err(failure),
                Err(_) => Err(SessionFailure::Dropped),
            }
        };
        self.in_time(self.deadline(), wait).await
    }
}

/// Why the task is gone.
fn over(status: &watch::Receiver<Status>) -> SessionFailure {
    status.borrow().failure.clone().unwrap_or(SessionFailure::Dropped)
}

fn check_size(data: &Bytes) -> Result<(), SessionFailure> {
    if data.len() > MAX_DATA_BYTES {
        return Err(SessionFailure::TooLarge { size_bytes: data.len() });
    }
    Ok(())
}

async fn acquire(room: &Arc<Semaphore>, count: u32) -> OwnedSemaphorePermit {
    Arc::clone(room).acquire_many_owned(count).await.expect("the semaphore is never closed")
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("a system on which TLS works has randomness");
    u128::from_le_bytes(bytes)
}
