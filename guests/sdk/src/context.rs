//! What a call knows besides its message, and what it reports besides its reply.

/// Where a command stands in the log, and a record of what it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apply {
    index: u64,
    time_ms: u64,
    session: Option<u64>,
    changed: Vec<Vec<u8>>,
}

impl Apply {
    /// A command at `index`, stamped `time_ms` milliseconds after the Unix epoch.
    #[must_use]
    pub fn at(index: u64, time_ms: u64) -> Self {
        Self { index, time_ms, ..Self::default() }
    }

    /// The same, ephemeral: what it writes lives as long as `session`.
    #[must_use]
    pub fn ephemeral(self, session: Option<u64>) -> Self {
        Self { session, ..self }
    }

    /// The position in the log. Grows strictly from command to command, with gaps.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Milliseconds since the Unix epoch. Never goes back.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The session that owns what is written, for an ephemeral command.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// Says that the data called `key` has changed: triggers on it fire.
    pub fn changed(&mut self, key: impl Into<Vec<u8>>) {
        self.changed.push(key.into());
    }

    /// The keys named so far.
    #[must_use]
    pub fn into_changed(self) -> Vec<Vec<u8>> {
        self.changed
    }
}

/// A record of what a query read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    watched: Vec<Vec<u8>>,
}

impl Query {
    /// Says that the reply depends on the data called `key`: a trigger fires when a command changes it.
    pub fn watch(&mut self, key: impl Into<Vec<u8>>) {
        self.watched.push(key.into());
    }

    /// The keys named so far.
    #[must_use]
    pub fn into_watched(self) -> Vec<Vec<u8>> {
        self.watched
    }
}

/// Where a snapshot being restored comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// [`VERSION`](crate::Backend::VERSION) of the backend that wrote it.
    pub version: String,
    /// The bytes that the cluster was created with.
    pub config: Vec<u8>,
    /// The operator's migration argument, when a running cluster moves to this backend.
    pub migration: Option<Vec<u8>>,
}
