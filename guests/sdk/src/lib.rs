//! Write a replicated state machine for zraft: a struct, a trait, one macro.
//!
//! ```
//! use zraft_backend::{Apply, Backend, Bincode, Query};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Counter(i64);
//!
//! impl Backend for Counter {
//!     const VERSION: &str = "counter 1";
//!     type Codec = Bincode;
//!     type Command = i64;
//!     type Query = ();
//!     type Reply = i64;
//!
//!     fn init(_config: &[u8]) -> Result<Self, String> {
//!         Ok(Counter(0))
//!     }
//!     fn apply(&mut self, by: i64, at: &mut Apply) -> Result<i64, String> {
//!         self.0 = self.0.checked_add(by).ok_or("the counter is full")?;
//!         at.changed("value");
//!         Ok(self.0)
//!     }
//!     fn query(&self, _: (), at: &mut Query) -> Result<i64, String> {
//!         at.watch("value");
//!         Ok(self.0)
//!     }
//! }
//!
//! zraft_backend::export!(Counter);
//!
//! let mut counter = Counter::init(b"").unwrap();
//! assert_eq!(counter.apply(3, &mut Apply::at(1, 0)), Ok(3));
//! assert_eq!(counter.query((), &mut Query::default()), Ok(3));
//! ```
//!
//! The crate is a library of type `cdylib`, and everything it needs besides is serde:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! serde = { version = "1", features = ["derive"] }
//! zraft-backend = "0.1"
//!
//! [profile.release]
//! lto = true
//! strip = true
//! ```
//!
//! `cargo build --release --target wasm32-wasip2` makes the component to give to zraft. On any other target the same
//! code is an ordinary library, tested by `cargo test`.
//!
//! # Testing
//!
//! [`testing::Cluster`] runs a backend in a plain `cargo test`, with sessions, time, triggers and restarts, and tells
//! whether it would survive on replicas. `zraft backend check` does the same with the component that was built; the
//! commands of a test can be handed to it ([`testing::Cluster::samples`]).
//!
//! # What every replica must agree on
//!
//! Each replica runs the same commands in the same order and must reach the same state. So a backend follows only its
//! state and the arguments of the call. It must not matter how calls are batched, nor whether a state was built by
//! commands or restored from a snapshot: do not iterate a `HashMap`, whose order depends on its history, where the order
//! shows; a `BTreeMap` has no such order. Refusing is done with `Err`: a normal answer, the same everywhere, for which the
//! state should be left as it was. A panic kills the instance and costs every replica a rebuild from its snapshot.
//!
//! Inside a zraft node, `SystemTime::now` is the time of the entry being applied, random numbers are drawn from the
//! cluster's identity and the entry's index, what is printed goes to the node's log, and there are no files or sockets.

mod calls;
mod codec;
mod context;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod export;
mod snapshot;
pub mod testing;

#[cfg(feature = "json")]
pub use codec::Json;
pub use codec::{Bincode, Decode, Encode, Raw};
pub use context::{Apply, Origin, Query};
pub use snapshot::{RecordReader, RecordWriter, SerdeReader, Snapshot};

/// A replicated state machine. The value is its state.
///
/// A state that implements serde's `Serialize` and `Deserialize` has its [`Snapshot`] made; one that is large
/// implements [`Snapshot`] itself, in place of serde.
pub trait Backend: Snapshot {
    /// Names the format of the state in snapshots. Change it when an older snapshot would be misread.
    const VERSION: &'static str;

    /// How messages become bytes: [`Bincode`], `Json` (feature `json`), or [`Raw`] when they are bytes.
    type Codec: Decode<Self::Command> + Decode<Self::Query> + Encode<Self::Reply>;
    /// What a client asks to change.
    type Command;
    /// What a client asks to read.
    type Query;
    /// What a client gets back for either.
    type Reply;

    /// The state of a new cluster. `config` is the bytes it was created with.
    ///
    /// # Errors
    /// Why the config is no good. The cluster is then not created.
    fn init(config: &[u8]) -> Result<Self, String>;

    /// Applies one command. For an ephemeral one, [`Apply::session`] names the session that what is written belongs to.
    ///
    /// # Errors
    /// The refusal that the client is told.
    fn apply(&mut self, command: Self::Command, at: &mut Apply) -> Result<Self::Reply, String>;

    /// Reads.
    ///
    /// # Errors
    /// The refusal that the client is told.
    fn query(&self, query: Self::Query, at: &mut Query) -> Result<Self::Reply, String>;

    /// Removes what belongs to a session that has ended. Does nothing unless overridden.
    fn expire_session(&mut self, session: u64, at: &mut Apply) {
        let _ = (session, at);
    }

    /// Decides, before a snapshot is read, whether this backend can read it. Unless overridden, it can when it was
    /// written by the same [`VERSION`](Self::VERSION).
    ///
    /// # Errors
    /// Why it cannot.
    fn accept(origin: &Origin) -> Result<(), String> {
        if origin.version == Self::VERSION {
            return Ok(());
        }
        Err(format!("the snapshot's format is '{}' and this backend reads '{}'", origin.version, Self::VERSION))
    }
}

/// Makes a crate's component out of a [`Backend`]: `zraft_backend::export!(MyType);`, once in a crate.
///
/// Does nothing on targets other than wasm32.
#[macro_export]
macro_rules! export {
    ($backend:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Component = $crate::export::Component<$backend>;
    $crate::export::bindings::export_backend!(Component with_types_in $crate::export::bindings);
        };
    };
}
