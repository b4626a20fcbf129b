//! The way into a node: connections become tasks, frames become events.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use crate::access::AccessRefusal;
use crate::codec;
use crate::node::departure::Doors;
use crate::node::driver::{Event, SetAccess};
use crate::node::frames::{BulkReply, BulkRequest, NodeFrame};
use crate::node::journey::Journey;
use crate::node::lifecycle::Lifecycle;
use crate::node::links;
use crate::node::network::CallError;
use crate::node::quota::{Quota, Quotas};
use crate::node::refusals::{RefusalLog, Refused};
use crate::protocol::{
    CreateCluster, MAX_COMPONENT_BYTES, MAX_DATA_BYTES, MAX_FRAME_BYTES, MAX_MIGRATION_BYTES, MAX_REQUEST_TIMEOUT_MS,
    Reply, Request, RequestError, RunCanary, SessionStart, UpgradeCluster,
};
use crate::transport::{
    Budget, BulkBody, CloseCode, Connection, FrameError, FrameReader, FrameWriter, Incoming, PeerReceiver, Protocol,
    RecvStream, Role, SendStream, accept_bulk,
};
use crate::types::NodeAddr;

/// Components that clients upload to a node at a time, and as many that other nodes hand to it: each is held in memory
/// whole. They are counted apart: clusters that are created by two nodes at once must not wait for each other.
const MAX_UPLOADS: usize = 4;
/// How long a client may take to upload a component.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Streams of one connection that are taken in before everything else on the thread has its turn: a client that opens hundreds at
/// once is not to hold up the others.
const STREAMS_PER_TURN: usize = 8;

/// How long a leader may take to find out that it still leads, before somebody is let delete its cluster, in milliseconds.
const AUTHORIZE_TIMEOUT_MS: u64 = 5_000;

/// What connections need of their node.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) lifecycle: Lifecycle,
    /// Where this node takes snapshots.
    snapshots_at: NodeAddr,
    doors: Doors,
    refusal_log: RefusalLog,
    quotas: Quotas,
    uploads: Arc<Semaphore>,
    handed_on: Arc<Semaphore>,
    /// As many that other nodes ask for.
    asked_for: Arc<Semaphore>,
}

impl Listener {
    pub(super) fn new(lifecycle: Lifecycle, snapshots_at: NodeAddr, doors: Doors, refusal_log: RefusalLog) -> Self {
        let permits = || Arc::new(Semaphore::new(MAX_UPLOADS));
        let (events, uploads, handed_on, asked_for) = (lifecycle.events.clone(), permits(), permits(), permits());
        let quotas = Quotas::default();
        Self { events, lifecycle, snapshots_at, doors, refusal_log, quotas, uploads, handed_on, asked_for }
    }

    /// Serves connections until the endpoint is closed.
    pub(super) async fn run(self) {
        while let Some(incoming) = self.lifecycle.endpoint.accept().await {
            let listener = self.clone();
            tokio::spawn(async move { listener.serve(incoming).await });
        }
    }

    async fn serve(self, incoming: Incoming) {
        let Incoming { identity, protocol, connection, .. } = incoming;
        match (protocol, identity) {
            (Protocol::Client, identity) => self.serve_client(&identity, &connection).await,
            (Protocol::Peer, Role::Node(node)) => self.serve_peer(node, connection).await,
            (Protocol::Bulk, Role::Node(node)) => self.serve_bulk(&node, &connection).await,
            // The transport has let only nodes in on these protocols, and snapshots have an endpoint of their own.
            (Protocol::Peer | Protocol::Bulk | Protocol::Snapshot, _) => {
                connection.close(CloseCode::NOT_ALLOWED, "only nodes speak this")
            }
        }
    }

    async fn serve_peer(self, from: NodeAddr, connection: Connection) {
        let Ok(mut receiver) = PeerReceiver::accept(connection.clone()).await else { return };
        if self.events.send(Event::Came { node: from.clone() }).await.is_err() {
            return;
        }
        while let Ok(frame) = receiver.recv().await {
            let from_node = from.clone();
            let event = match codec::decode::<NodeFrame>(&frame) {
                Ok(NodeFrame::Peer(frame)) if frame.snapshot().is_some() => {
                    if let Some(unlogged) = self.refusal_log.admit(&from, Refused::Malformed) {
                        tracing::warn!(node = %from, unlogged,
                            "closed a connection: a node sent a snapshot's message without the file");
                    }
                    connection.close(CloseCode::VIOLATION, "a snapshot's message without the file");
                    return;
                }
                Ok(NodeFrame::Peer(frame)) => Event::Peer { from: from_node, frame },
                Ok(NodeFrame::Standing(frame)) => Event::Standing { from: from_node, frame },
                Ok(NodeFrame::Alive { life, is_disk_full }) => Event::Alive { from: from_node, life, is_disk_full },
                Err(error) => {
                    if let Some(unlogged) = self.refusal_log.admit(&from, Refused::Malformed) {
                        tracing::warn!(node = %from, %error, unlogged, "closed a connection: a node sent what is no message");
                    }
                    connection.close(CloseCode::VIOLATION, "malformed message");
                    return;
                }
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn serve_client(self, identity: &Role, connection: &Connection) {
        let (_client, quota) = (self.doors.client(), self.quotas.of(identity));
        let mut closing = pin!(self.doors.closing());
        let mut was_told = false;
        let mut taken = 0;
        loop {
            taken += 1;
            if taken % STREAMS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
            // The transport bounds the streams of a connection, and so these tasks.
            let accepted = tokio::select! {
                accepted = connection.accept_bi() => accepted,
                () = &mut closing, if !was_told => {
                    was_told = true;
                    // Who does not hear it has gone by itself.
                    let _ = connection.go_away().await;
                    continue;
                }
            };
            let Ok((send, recv)) = accepted else { return };
            let (listener, identity, quota) = (self.clone(), identity.clone(), Arc::clone(&quota));
            tokio::spawn(async move {
                if let Err(error) = listener.serve_stream(&identity, &quota, send, recv).await {
                    tracing::debug!(client = %identity, %error, "a request ended early");
                }
            });
        }
    }

    /// Answers what comes on a stream, one request after the other: to open one for each costs more than to answer it.
    async fn serve_stream(
        &self,
        identity: &Role,
        quota: &Arc<Quota>,
        send: SendStream,
        recv: RecvStream,
    ) -> Result<(), FrameError> {
        let mut reader = FrameReader::new(recv, MAX_REQUEST_FRAME_BYTES).charged_to(quota.bytes());
        let mut writer = FrameWriter::new(send, MAX_FRAME_BYTES);
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => Some(frame),
                Ok(None) => return Ok(()),
                Err(FrameError::OverBudget) => None,
                Err(error) => return Err(error),
            };
            let _request = self.doors.request();
            let (Some(frame), Some(_turn)) = (frame, quota.turn()) else {
                writer.write(&codec::encode(&Reply::Failed(RequestError::Overloaded))).await?;
                writer.finish();
                return Ok(());
            };
            let (reply, is_last) = match codec::decode::<Request>(&frame) {
                Ok(Request::Session { peer, start }) => {
                    return self.serve_session((identity, quota.bytes()), peer, start, reader, writer).await;
                }
                Ok(request) => {
                    let (is_last, is_canary) = (!request.may_be_followed(), matches!(request, Request::Canary { .. }));
                    let answering = self.answer(identity, request, &mut reader);
                    let reply = if is_canary {
                        // It goes on for long, and nobody else is to have its report.
                        tokio::select! { reply = answering => reply?, () = writer.abandoned() => return Ok(()) }
                    } else {
                        answering.await?
                    };
                    (reply, is_last)
                }
                Err(error) => (Reply::Failed(RequestError::Invalid { reason: error.to_string() }), true),
            };
            drop(frame);
            let is_write = matches!(reply, Reply::Written { .. });
            let mut parts = bounded(reply);
            let mut charge = quota.bytes().charge();
            if !charge.add(parts.iter().map(Bytes::len).sum()) {
                // The client does not read what it has asked for.
                let error = if is_write { RequestError::Unknown } else { RequestError::TooMuch };
                parts = Reply::Failed(error).into_parts();
            }
            writer.write_parts(parts).await?;
            if is_last {
                writer.finish();
                return Ok(());
            }
            reader.dealt_with();
        }
    }

    async fn serve_session(
        &self,
        (identity, budget): (&Role, &Budget),
        peer: String,
        start: SessionStart,
        reader: FrameReader,
        mut writer: FrameWriter,
    ) -> Result<(), FrameError> {
        let (sender, receiver) = links::channel(budget);
        let identity = identity.to_string();
        let known = identity.clone();
        match self.ask(|reply| Event::Attach { peer, identity: known, start, sender, reply }).await {
            Ok(link) => links::serve((link, &identity), self.events.clone(), receiver, reader, writer).await,
            Err(_) => receiver.write_to(&mut writer).await.map(|()| writer.finish()),
        }
    }

    async fn answer(&self, identity: &Role, request: Request, reader: &mut FrameReader) -> Result<Reply, FrameError> {
        let client = match identity {
            Role::Client(name) => Some(name.clone()),
            Role::Admin(_) | Role::Node(_) => None,
        };
        let answer = match request {
            Request::Write { data, .. } | Request::Query { request: data, .. } if data.len() > MAX_DATA_BYTES => {
                Err(invalid(format!("{} bytes are more than the {MAX_DATA_BYTES} of a command or query", data.len())))
            }
            Request::Write { peer, data, timeout_ms } => {
                let timeout_ms = timeout_ms.min(MAX_REQUEST_TIMEOUT_MS);
                let journey = Journey::begin(identity, &peer, &data);
                self.ask(|reply| Event::Write { peer, client, data, timeout_ms, journey, reply }).await
            }
            Request::Query { peer, request, timeout_ms } => {
                let timeout_ms = timeout_ms.min(MAX_REQUEST_TIMEOUT_MS);
                self.ask(|reply| Event::Query { peer, client, request, timeout_ms, reply }).await
            }
            Request::Status => self.ask(|reply| Event::Status { reply }).await.map(Reply::Status),
            request if let Err(error) = self.authorize(identity, &request).await => Err(error),
            Request::Create(create) => self.create(create, reader).await?,
            Request::Members { peer } => {
                let members = self.ask(|reply| Event::Members { peer, reply }).await;
                members.and_then(|members| members).map(Reply::Members)
            }
            Request::Access { peer, timeout_ms } => {
                let timeout_ms = timeout_ms.min(MAX_REQUEST_TIMEOUT_MS);
                self.ask(|reply| Event::Access { peer, client, timeout_ms, reply }).await
            }
            Request::SetAccess { peer, expected, list, timeout_ms } => match list.check() {
                // The machine would refuse it as well, but it is not to take room in the log.
                Err(error) => Err(RequestError::AccessNotSet(AccessRefusal::Invalid(error))),
                Ok(()) => {
                    let timeout_ms = timeout_ms.min(MAX_REQUEST_TIMEOUT_MS);
                    let set = SetAccess { by: client, expected, list };
                    self.ask(|reply| Event::SetAccess { peer, set, timeout_ms, reply }).await
                }
            },
            Request::ChangeMembers { peer, change, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms.min(MAX_REQUEST_TIMEOUT_MS));
                // If the client goes away meanwhile, what was begun is still ended.
                let lifecycle = self.lifecycle.clone();
                let changing = tokio::spawn(async move { lifecycle.change_members(peer, change, timeout).await });
                let changed = changing.await.unwrap_or(Err(RequestError::Stopping));
                changed.map(|()| Reply::MembersChanged)
            }
            Request::Delete { peer, is_forced } => {
                // If the client goes away meanwhile, what was begun is still ended.
                let lifecycle = self.lifecycle.clone();
                let deleting = tokio::spawn(async move { lifecycle.delete(peer, is_forced).await });
                deleting.await.unwrap_or(Err(RequestError::Stopping)).map(|()| Reply::Deleted)
            }
            Request::Transfer { peer, to, timeout_ms } => {
                let timeout_ms = timeout_ms.min(MAX_REQUEST_TIMEOUT_MS);
                let transferred = self.ask(|reply| Event::Transfer { peer, to, timeout_ms, reply }).await;
                transferred.and_then(|leader| leader).map(|leader| Reply::Transferred { leader })
            }
            Request::Upgrade { peer, upgrade, timeout_ms } => {
                let timeout_ms = timeout_ms.min(MAX_REQUEST_TIMEOUT_MS);
                self.upgrade(peer, upgrade, timeout_ms, reader).await?
            }
            Request::Canary { peer, canary } => self.canary(peer, canary, reader).await?,
            Request::Session { .. } => Err(invalid("a session has a stream of its own".to_owned())),
        };
        Ok(answer.unwrap_or_else(Reply::Failed))
    }

    /// Whether somebody may ask this. Whom a cluster's list makes an admin may change it; to create one, to say what it runs, and to delete one whose
    /// majority need not be there to vouch for its list, a certificate is needed.
    async fn authorize(&self, identity: &Role, request: &Request) -> Result<(), RequestError> {
        let denied = || Err(RequestError::PermissionDenied { identity: identity.to_string() });
        let (peer, timeout_ms) = match request {
            Request::Create(_)
            | Request::Upgrade { .. }
            | Request::Canary { .. }
            | Request::Delete { is_forced: true, .. } => {
                return if identity.is_admin() { Ok(()) } else { denied() };
            }
            Request::ChangeMembers { peer, timeout_ms, .. } | Request::Transfer { peer, timeout_ms, .. } => {
                (peer.clone(), (*timeout_ms).min(MAX_REQUEST_TIMEOUT_MS))
            }
            Request::Delete { peer, .. } => (peer.clone(), AUTHORIZE_TIMEOUT_MS),
            // For these the replica sees to it.
            Request::Access { .. } | Request::SetAccess { .. } => {
                return if identity.is_node() { denied() } else { Ok(()) };
            }
            _ => return Ok(()),
        };
        match identity {
            Role::Admin(_) => Ok(()),
            Role::Node(_) => denied(),
            Role::Client(client) => {
                let client = Some(client.clone());
                match self.ask(|reply| Event::Access { peer, client, timeout_ms, reply }).await? {
                    Reply::Failed(error) => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn create(
        &self,
        create: CreateCluster,
        reader: &mut FrameReader,
    ) -> Result<Result<Reply, RequestError>, FrameError> {
        let (_permit, component) = match self.upload(create.component_size_bytes, reader).await? {
            Ok(uploaded) => uploaded,
            Err(error) => return Ok(Err(error)),
        };
        // If the client goes away meanwhile, the cluster is still created whole or not at all.
        let lifecycle = self.lifecycle.clone();
        let creation = tokio::spawn(async move { lifecycle.create(create, component).await });
        let created = creation.await.unwrap_or(Err(RequestError::Stopping));
        Ok(created.map(|cluster| Reply::Created { cluster }))
    }

    /// Moves a cluster to another backend. Who does not lead it says so before the component is read.
    async fn upgrade(
        &self,
        peer: String,
        upgrade: UpgradeCluster,
        timeout_ms: u64,
        reader: &mut FrameReader,
    ) -> Result<Result<Reply, RequestError>, FrameError> {
        if let Err(error) = check_migration(&upgrade) {
            return Ok(Err(error));
        }
        let plan = match self.lifecycle.plan_upgrade(&peer, timeout_ms).await {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error)),
        };
        let (_permit, component) = match self.upload(upgrade.component_size_bytes, reader).await? {
            Ok(uploaded) => uploaded,
            Err(error) => return Ok(Err(error)),
        };
        // If the client goes away meanwhile, what was begun is still ended.
        let lifecycle = self.lifecycle.clone();
        let upgrading = tokio::spawn(async move { lifecycle.upgrade(plan, upgrade, component, timeout_ms).await });
        Ok(upgrading.await.unwrap_or(Err(RequestError::Stopping)))
    }

    /// Runs a canary. Whether it may run is said before the component is read.
    async fn canary(
        &self,
        peer: String,
        canary: RunCanary,
        reader: &mut FrameReader,
    ) -> Result<Result<Reply, RequestError>, FrameError> {
        if let Err(error) = check_migration(&canary.upgrade) {
            return Ok(Err(error));
        }
        let plan = match self.lifecycle.plan_canary(&peer).await {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error)),
        };
        let component = match self.upload(canary.upgrade.component_size_bytes, reader).await? {
            // Others may upload while it runs.
            Ok((_permit, component)) => component,
            Err(error) => return Ok(Err(error)),
        };
        Ok(self.lifecycle.run_canary(plan, canary, component).await.map(Reply::Canary))
    }

    /// Reads the component behind a request. It is held in memory, so they are few: the permit is kept as long as it is needed.
    async fn upload(
        &self,
        size_bytes: u64,
        reader: &mut FrameReader,
    ) -> Result<Result<(SemaphorePermit<'_>, Bytes), RequestError>, FrameError> {
        if size_bytes > MAX_COMPONENT_BYTES {
            return Ok(Err(invalid(format!("a component has at most {MAX_COMPONENT_BYTES} bytes"))));
        }
        let permit = self.uploads.acquire().await.expect("the semaphore is never closed");
        let Ok(upload) = tokio::time::timeout(UPLOAD_TIMEOUT, read_upload(reader, size_bytes)).await else {
            return Ok(Err(invalid(format!("the component did not arrive within {} s", UPLOAD_TIMEOUT.as_secs()))));
        };
        let Some(component) = upload? else {
            return Ok(Err(invalid("the component's bytes ended early".to_owned())));
        };
        Ok(Ok((permit, component)))
    }

    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.events.send(event(reply)).await.map_err(|_| RequestError::Stopping)?;
        answer.await.map_err(|_| RequestError::Stopping)
    }

    async fn serve_bulk(self, from: &NodeAddr, connection: &Connection) {
        while let Ok(streams) = connection.accept_bi().await {
            let (listener, from) = (self.clone(), from.clone());
            tokio::spawn(async move {
                if let Err(error) = listener.serve_transfer(&from, streams).await
                    && let Some(unlogged) = listener.refusal_log.admit(&from, Refused::Transfer)
                {
                    tracing::warn!(node = %from, %error, unlogged, "a transfer from another node failed");
                }
            });
        }
    }

    async fn serve_transfer(&self, from: &NodeAddr, streams: (SendStream, RecvStream)) -> Result<(), TransferError> {
        let transfer = accept_bulk(streams).await?;
        let request = codec::decode::<BulkRequest>(&transfer.header)?;
        let mut body = transfer.body;
        let result = match request {
            BulkRequest::WhereSnapshots => {
                let at = BulkReply::SnapshotsAt(self.snapshots_at.clone());
                return Ok(transfer.reply.send(&codec::encode(&at)).await?);
            }
            BulkRequest::WantComponent(genesis) => {
                // Apart from what comes in: two nodes may want something of each other.
                let _permit = self.asked_for.acquire().await.expect("the semaphore is never closed");
                self.lifecycle.give_component(genesis, from).await.map_err(TransferError::Call)
            }
            request => {
                let _permit = self.handed_on.acquire().await.expect("the semaphore is never closed");
                match read_component(&mut body).await {
                    Ok(component) => self.lifecycle.carry_out(request, component).await.map_err(TransferError::Call),
                    Err(error) => Err(error),
                }
            }
        };
        let reply = match &result {
            Ok(()) => BulkReply::Done,
            Err(TransferError::Call(CallError::Peers(failures))) => BulkReply::Failed(failures.clone()),
            Err(error) => BulkReply::Refused(error.to_string()),
        };
        transfer.reply.send(&codec::encode(&reply)).await?;
        Ok(())
    }
}

/// Most bytes of a client's frame: a command, or a cluster's description with its config.
const MAX_REQUEST_FRAME_BYTES: usize = (MAX_DATA_BYTES) + (256 << 10);

/// Why a transfer from another node failed.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error(transparent)]
    Bulk(#[from] crate::transport::BulkError),
    #[error(transparent)]
    Header(#[from] codec::DecodeError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Refused(&'static str),
}

/// The component's bytes behind a client's request; nothing if they end early.
async fn read_upload(reader: &mut FrameReader, size_bytes: u64) -> Result<Option<Bytes>, FrameError> {
    let mut component = BytesMut::new();
    while (component.len() as u64) < size_bytes {
        let Some(chunk) = reader.next().await? else { return Ok(None) };
        // Uploads are few.
        reader.dealt_with();
        component.extend_from_slice(&chunk);
    }
    Ok(Some(component.freeze()))
}

async fn read_component(body: &mut BulkBody) -> Result<Bytes, TransferError> {
    if body.size() > MAX_COMPONENT_BYTES {
        return Err(TransferError::Refused("the component is too large"));
    }
    let mut component = BytesMut::new();
    while let Some(chunk) = body.next_chunk().await? {
        component.extend_from_slice(&chunk);
    }
    Ok(component.freeze())
}

/// Encodes a reply; one that no frame can hold becomes an error that says so.
fn bounded(reply: Reply) -> [Bytes; 2] {
    let parts = reply.into_parts();
    let size: usize = parts.iter().map(Bytes::len).sum();
    if size <= MAX_FRAME_BYTES {
        return parts;
    }
    let reason = format!("the backend's reply has {size} bytes, more than a reply may have; ask for less");
    Reply::Failed(invalid(reason)).into_parts()
}

/// Whether a backend can be told so much.
fn check_migration(upgrade: &UpgradeCluster) -> Result<(), RequestError> {
    match &upgrade.migration {
        Some(migration) if migration.len() > MAX_MIGRATION_BYTES => {
            Err(invalid(format!("what is said to the new backend has more than {MAX_MIGRATION_BYTES} bytes")))
        }
        _ => Ok(()),
    }
}

fn invalid(reason: String) -> RequestError {
    RequestError::Invalid { reason }
}
