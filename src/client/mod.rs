//! The client library: feature `client` alone builds it, without the WebAssembly engine and the database.
//!
//! - [`Client`] keeps connections to nodes, and asks them: [`Client::status`], [`Client::create`], who the peers of a cluster
//!   are ([`Client::get_conf`]) and to change them ([`Client::set_new_conf`]), and who may do what ([`Client::access`],
//!   [`Client::set_access`]).
//! - [`LightSession`] writes to and reads from a cluster, wherever its leader is. The cluster knows nothing of it, so a write
//!   that was cut off may have been applied or not.
//! - [`Session`] is known to the cluster: its writes run exactly once and in order, its ephemeral data goes when it ends, and
//!   its triggers tell when what was read has changed. What it tells by itself comes as [`Notices`].
//! - [`Kv`] and [`KvSession`] speak the bundled key-value backend over either, and [`Typed`] any backend whose messages are
//!   Rust types.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use zraft::client::{Client, Kv, LightSession};
//! use zraft::transport::{Credentials, TlsFiles};
//!
//! let credentials = Credentials::load(&TlsFiles::in_folder("certs".as_ref(), "alice"))?;
//! let client = Client::new(credentials)?;
//! let peers = vec!["kv@10.0.0.1:7400".parse()?, "kv@10.0.0.2:7400".parse()?];
//! let kv = Kv::new(LightSession::new(client, peers));
//! kv.put("greeting", "hello").await?;
//! assert_eq!(kv.get("greeting").await?.unwrap().value, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! A lock that its holder cannot take to the grave:
//!
//! ```no_run
//! # async fn example(client: zraft::client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use zraft::client::{CompareAndSet, KvExpected, KvSession, Session};
//!
//! let peers = vec!["kv@10.0.0.1:7400".parse()?, "kv@10.0.0.2:7400".parse()?];
//! let (session, mut notices) = Session::connect(client, peers, Duration::from_secs(10)).await?;
//! let kv = KvSession::new(session);
//! loop {
//!     let mine = kv.compare_and_set_ephemeral("lock", KvExpected::Absent, Some(b"alice".to_vec())).await?;
//!     if let CompareAndSet::Done(fence) = mine {
//!         println!("the lock is mine, with fencing token {fence}");
//!         break;
//!     }
//!     if kv.watch("lock").await?.entry.is_some() {
//!         println!("it is somebody else's: {:?}", notices.next().await);
//!     }
//! }
//! kv.session().close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything is async on tokio and safe to cancel: dropping a call gives up waiting, though a write that was sent
//! may still be applied.

mod admin;
mod alarm;
mod connection;
mod creation;
mod kv;
pub mod kv_api;
mod kv_session;
mod light_session;
mod membership;
mod peers;
pub mod session;
mod typed;

pub use connection::{CallError, Client};
pub use creation::{CreateError, Created, NewCluster};
pub use kv::{CompareAndSet, Kv, KvError};
pub use kv_api::{KvCommand, KvEntry, KvExpected, KvQuery, KvReply};
pub use kv_session::{KvSession, KvWatched};
pub use light_session::{LightSession, SessionError, SessionOptions, Written};
pub use membership::MembershipError;
pub use session::{Ending, Notice, Notices, PendingWrite, Session, SessionFailure, Watched};
pub use typed::{Api, Bincode, Codec, Json, Typed, TypedError, TypedWatched};
