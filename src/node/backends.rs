//! The components of a node's clusters: kept as files, compiled once, shared by all peers that run them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::machine::{Genesis, Machine, StartError};
use crate::store::{Components, StoreError};
use crate::types::Digest;
use crate::wasm::{ComponentError, Wasm, WasmBackend, WasmFactory};

/// Why a component cannot be run here.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendError {
    /// The component is to blame.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The component refused the cluster's config, or died of it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// This node is to blame.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node's cache of compiled components is to blame.
    #[error("cannot tidy the compiled components: {0}")]
    Cache(#[from] std::io::Error),
}

/// The components of one node.
pub(super) struct Backends {
    wasm: Wasm,
    files: Components,
    compiled: Mutex<BTreeMap<Digest, WasmBackend>>,
}

impl Backends {
    pub(super) fn new(wasm: Wasm, files: Components) -> Self {
        Self { wasm, files, compiled: Mutex::default() }
    }

    /// Takes in a component that was sent here, compiles it, and proves that a machine of the new cluster starts.
    /// Runs guest code: on a guest thread.
    pub(super) fn prepare(&self, genesis: &Genesis, bytes: &Bytes) -> Result<(), BackendError> {
        let compiled = self.wasm.compile(bytes)?;
        Machine::start(genesis.clone(), &compiled.factory(genesis.cluster, genesis.settings.budgets))?;
        self.files.put(genesis.component, bytes)?;
        self.remember(genesis.component, compiled);
        Ok(())
    }

    /// The backend of a cluster whose component is kept here.
    pub(super) fn load(&self, genesis: &Genesis) -> Result<WasmFactory, BackendError> {
        let known = self.lock().get(&genesis.component).cloned();
        let backend = match known {
            Some(backend) => backend,
            // Two peers may compile the same component at once; the result is the same.
            None => {
                let compiled = self.wasm.compile(&self.files.get(genesis.component)?)?;
                self.remember(genesis.component, compiled.clone());
                compiled
            }
        };
        Ok(backend.factory(genesis.cluster, genesis.settings.budgets))
    }

    /// Forgets all components but those that peers of this node run.
    pub(super) fn keep_only(&self, in_use: &BTreeSet<Digest>) -> Result<(), BackendError> {
        self.lock().retain(|digest, _| in_use.contains(digest));
        self.wasm.forget_all_but(in_use)?;
        for unused in self.files.list()?.into_iter().filter(|digest| !in_use.contains(digest)) {
            self.files.remove(unused)?;
        }
        Ok(())
    }

    fn remember(&self, component: Digest, backend: WasmBackend) {
        self.lock().insert(component, backend);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, WasmBackend>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
