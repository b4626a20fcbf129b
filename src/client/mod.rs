//! The client library: feature `client` alone builds it, without the WebAssembly engine and the database.
//!
//! - [`Client`] keeps connections to nodes, and asks them: [`Client::status`], [`Client::create`].
//! - [`LightSession`] writes to and reads from a cluster, wherever its leader is.
//! - [`Kv`] speaks the bundled key-value backend over a light session.
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
//! Everything is async on tokio and safe to cancel: dropping a call gives up waiting, though a write that was sent
//! may still be applied.

mod admin;
mod connection;
mod kv;
pub mod kv_api;
mod light_session;
mod peers;
pub mod session;

pub use admin::NewCluster;
pub use connection::{CallError, Client};
pub use kv::{CompareAndSet, Kv, KvError};
pub use kv_api::{KvCommand, KvEntry, KvExpected, KvQuery, KvReply};
pub use light_session::{LightSession, SessionError, SessionOptions, Written};
pub use session::{Ending, Notice, Notices, PendingWrite, Session, SessionFailure, Watched};
